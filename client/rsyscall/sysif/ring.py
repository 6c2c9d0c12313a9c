"""The ring of a connection: its memory, and how long it pays to spin."""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from time import monotonic

from rsyscall._core import Ring
from rsyscall._raw import ffi, lib
from rsyscall_protocol import Size

__all__ = [
    "RING_SIZE",
    "SharedHalves",
    "make_ring",
    "recent_spin",
    "recent_spin_us",
    "spin_us",
]

#: Bytes of each half. Large frames pass through in pieces; small ones need no more than this.
RING_SIZE = 16384

#: How long to look for an answer, or the next call, before sleeping: about what it costs to sleep
#: and be woken.
_SPIN_US = 50
_LOOK_AGAIN_SECONDS = 1.0


class SharedHalves:
    """Memory of a ring whose both ends are in this process."""

    def __init__(self, size: int = RING_SIZE) -> None:
        """Two halves of `size` bytes and a header."""
        self.size = size
        self._memory = mmap.mmap(-1, 2 * (Size.RING_HEADER + size))
        view = ffi.from_buffer("char[]", self._memory)
        #: Where the client's half begins.
        self.address: int = int(ffi.cast("uintptr_t", view))
        ffi.release(view)

    def close(self) -> None:
        """Unmap it: nobody may use it any more."""
        self._memory.close()

    @property
    def other_address(self) -> int:
        """Where the server's half begins."""
        return self.address + Size.RING_HEADER + self.size


def make_ring(
    size: int,
    socket: int,
    next_id: int,
    frame_limit: int,
    halves: tuple[int, int] | SharedHalves,
    spin: int,
) -> Ring:
    """Map the two halves, given as file descriptors that are closed here, or as memory.

    spin: for how many microseconds it pays to spin.
    OSError if they cannot be mapped, ValueError if they are not sealed as they must be.
    """
    if isinstance(halves, SharedHalves):
        addresses = halves.address, halves.other_address
        return Ring(*addresses, size, socket, next_id, frame_limit, spin, shared=True)
    try:
        return Ring(*halves, size, socket, next_id, frame_limit, spin)
    finally:
        for fd in halves:
            os.close(fd)


def _cpu_quota() -> float:
    """How many CPUs' worth of time the cgroups above us leave us at most."""
    least = float("inf")
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            hierarchy, _, path = line.split(":", 2)
            if hierarchy != "0":
                continue
            group = Path("/sys/fs/cgroup") / path.lstrip("/")
            while group != group.parent and group != Path("/sys/fs"):
                with contextlib.suppress(OSError, ValueError):
                    quota, period = (group / "cpu.max").read_text().split()
                    if quota != "max":
                        least = min(least, int(quota) / int(period))
                group = group.parent
    return least


def spin_us() -> int:
    """How many microseconds it pays to spin at most; 0 where nobody could answer meanwhile."""
    if len(os.sched_getaffinity(0)) < 2 or _cpu_quota() <= 1:
        return 0
    return _SPIN_US


class _Recent:
    """What spin_us has said of late, and how many turns of the loop that is."""

    def __init__(self) -> None:
        self._until = float("-inf")
        self._us = 0
        self._both = -1, 0

    def us(self) -> int:
        now = monotonic()
        if now > self._until:
            self._until, self._us = now + _LOOK_AGAIN_SECONDS, spin_us()
        return self._us

    def both(self) -> tuple[int, int]:
        both = self._both
        if monotonic() > self._until or both[0] != self._us:
            us = self.us()
            self._both = both = us, lib.rs_spin_turns(us)
        return both


_recent = _Recent()


#: spin_us, looked up at most once a second.
recent_spin_us = _recent.us
#: recent_spin_us, and how many turns of the server's loop that is.
recent_spin = _recent.both

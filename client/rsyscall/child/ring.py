"""The ring of a child that is not in our memory: its parent maps it, and sends us what it is.

The child could make one itself, as every server can. But what it maps in memory that it shares, and
what it opens in a table that it shares, stays there when it ends, or is killed in the middle.
"""

from __future__ import annotations

import contextlib
import os

from rsyscall._raw import lib
from rsyscall.child.memory import ChildMemory
from rsyscall.child.steps import call, run
from rsyscall.handle import Task
from rsyscall.near.sysif import In, SyscallError
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.ring import RING_SIZE
from rsyscall_protocol import Feature, Hello, Ref, Size, Step

__all__ = ["LaidRing"]

_F_DUPFD_CLOEXEC = 1030
_MAP = lib.MAP_SHARED | lib.MAP_FIXED | lib.MAP_POPULATE
_SEALS = lib.F_SEAL_SEAL | lib.F_SEAL_SHRINK | lib.F_SEAL_GROW
_HALF = Size.RING_HEADER + RING_SIZE


def _steps(first: int, address: int, *, theirs: bool) -> list[Step]:
    """Make a half, the child's own one if it is theirs; first: the number of the first step."""
    fd = Ref(first)
    protection = lib.PROT_READ | lib.PROT_WRITE if theirs else lib.PROT_READ
    seals = _SEALS | lib.F_SEAL_FUTURE_WRITE if theirs else _SEALS
    made = lib.MFD_CLOEXEC | lib.MFD_ALLOW_SEALING
    close = (int(SYS.close), (fd,))
    return [
        call(SYS.memfd_create, In(b"rsyscall ring\0"), made, undo=close),
        call(SYS.ftruncate, fd, _HALF),
        # Before it is sealed: afterwards nobody can map theirs for writing, the child included.
        call(SYS.mmap, address, _HALF, protection, _MAP, fd, 0),
        call(SYS.fcntl, fd, lib.F_ADD_SEALS, seals),
    ]


class LaidRing:
    """Both halves, as descriptors of ours: the client's first.

    fds: they are to be closed.
    """

    def __init__(self, fds: tuple[int, int]) -> None:
        """See lay."""
        self.fds: tuple[int, int] | None = fds

    @classmethod
    async def lay(cls, parent: Task, memory: ChildMemory) -> LaidRing | None:
        """Put a ring where a child's memory has its room for it.

        None if the parent cannot; OSError if it has not the means. A checkpoint; to be shielded.
        """
        peer = getattr(parent.sysif, "peer", None)
        if isinstance(peer, Hello) and Feature.RING not in peer.features:
            return None
        memory.reusable = False
        steps = _steps(0, memory.extra, theirs=False)
        done = await run(parent.sysif, steps + _steps(4, memory.extra + _HALF, theirs=True))
        there = done.values[0], done.values[4]
        here: list[int] = []
        try:
            for number in there:
                dup = (number, _F_DUPFD_CLOEXEC, 0)
                came = (await parent.sysif.call(SYS.fcntl, dup, return_fd=True)).fd
                if came is not None:
                    here.append(came)
        except BaseException:
            for fd in here:
                os.close(fd)
            raise
        finally:
            with contextlib.suppress(SyscallError):
                await run(parent.sysif, [call(SYS.close, number) for number in there])
        if len(here) < 2:
            return None
        return cls((here[0], here[1]))

    def take(self) -> tuple[int, int]:
        """The descriptors, which are the caller's from now on."""
        fds, self.fds = self.fds, None
        if fds is None:
            raise AssertionError("a ring is taken once")
        return fds

    def close(self) -> None:
        """Close them, unless they were taken."""
        if self.fds is not None:
            for fd in self.take():
                os.close(fd)

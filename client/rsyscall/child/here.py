"""A child of this interpreter in its memory, made in one call of the compiled core."""

from __future__ import annotations

from collections.abc import Iterable
from mmap import PAGESIZE

from rsyscall._core import Ring, start_child
from rsyscall._raw import ffi, lib
from rsyscall.child.memory import EXTRA_AT, SESSION_AT, SHARED, OwnMemory
from rsyscall.near.sysif import check_reply
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.child import MOST_BYTES
from rsyscall.sysif.ring import RING_SIZE

__all__ = ["begin"]

_FLAGS = lib.CLONE_VM | 0x1000  # CLONE_PIDFD
#: Where the code is that does all of it.
_START = int(ffi.cast("uintptr_t", ffi.addressof(lib, "rs_start_child")))


def begin(
    memory: OwnMemory, flags: int, keep: Iterable[int], spin: tuple[int, int]
) -> tuple[Ring, int, int, int, int, int]:
    """Clone a child with a copy of our table, which serves through a ring in its memory.

    Returns the ring, which has our end of its socket, the child's pid, our pidfd of it, the numbers
    of its own end and its pidfd of us in its table, and what PR_GET_DUMPABLE says of our memory.

    memory: made for it, without being cleared. flags: of clone(2); CLONE_VM is added. keep: the
    numbers that are to stay open in its table. spin: see recent_spin. OSError, and then nothing is
    left over. Not a checkpoint.
    """
    made = start_child(
        _START,
        memory.address + SESSION_AT,
        memory.address + EXTRA_AT,
        memory.used,
        flags | _FLAGS,
        sorted(keep),
        RING_SIZE,
        PAGESIZE,
        SHARED,
        *spin,
        MOST_BYTES,
    )
    if len(made) == 2:
        memory.unmap(keep=True)
        check_reply(SYS(made[1]), (flags,), made[0])
        raise AssertionError("an error is no result")
    return made

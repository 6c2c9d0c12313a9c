"""A child of this interpreter in its memory, made in one call of the compiled core."""

from __future__ import annotations

from mmap import PAGESIZE

from rsyscall._core import Ring, setup_children, start_child, start_program
from rsyscall._descriptors import Held
from rsyscall._raw import ffi, lib
from rsyscall.child.memory import (
    ENVIRON_AT,
    ENVIRON_ROOM,
    EXTRA_AT,
    SESSION_AT,
    SHARED,
    give_back,
    take,
)
from rsyscall.near.sysif import check_reply
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.child import MOST_BYTES
from rsyscall.sysif.ring import RING_SIZE

__all__ = ["begin", "start_program"]

_FLAGS = lib.CLONE_VM | 0x1000  # CLONE_PIDFD


def _address(name: str) -> int:
    return int(ffi.cast("uintptr_t", ffi.addressof(lib, name)))


setup_children(
    _address("rs_start_child"),
    _address("rs_clone"),
    _address("rs_child_clear"),
    SESSION_AT,
    EXTRA_AT,
    ENVIRON_AT,
    RING_SIZE,
    ENVIRON_ROOM,
    PAGESIZE,
    SHARED,
    MOST_BYTES,
)


def begin(
    flags: int, sees_us: bool, keep: dict[int, Held], spin: tuple[int, int]
) -> tuple[int, tuple[Ring, int, int, tuple[int, int], bool]]:
    """Clone a child with a copy of our table, which serves through a ring in its memory.

    Returns the address of that, see memory.take, and the ring, which has our end of its socket, the
    child's pid, our pidfd of it, the numbers of its own end and its pidfd of us in its table, and
    whether our memory is dumpable.

    flags: of clone(2); CLONE_VM is added. sees_us: whether it certainly begins in our pid
    namespace. keep: the numbers that are to stay open in its table.
    spin: see recent_spin. OSError, and then nothing is left over. Not a checkpoint.
    """
    address, used = take()
    flags |= _FLAGS
    made = start_child(address, used, flags, sees_us, keep, spin)
    if len(made) == 2:
        give_back(address)
        number = SYS(made[1])
        check_reply(number, (flags,) if number is SYS.clone else (), made[0])
        raise AssertionError("an error is no result")
    return address, made

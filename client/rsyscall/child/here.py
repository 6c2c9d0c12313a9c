"""A child of this interpreter in its memory, made in one call of the compiled core."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rsyscall._raw import ffi, lib
from rsyscall.child.memory import SHARED, ChildMemory, OwnMemory
from rsyscall.near.sysif import check_reply
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.ring import RING_SIZE, SharedHalves

__all__ = ["Begun", "begin"]

_PIDFD = 0x1000


class Begun(NamedTuple):
    """What there is of a child that has begun to serve.

    pidfd, there: the number of one of ours, and of one in its parent's table. socket: our end.
    own: what is its own in its table. halves: its ring, as make_ring wants it.
    """

    pid: int
    pidfd: int
    there: int
    socket: int
    own: set[int]
    memory: ChildMemory
    halves: SharedHalves | tuple[int, int]


def begin(flags: int, keep: Iterable[int], page_size: int, spin: tuple[int, int]) -> Begun:
    """Clone a child with a copy of our table, which serves through a ring in its memory.

    flags: of clone(2); CLONE_VM is added. keep: the numbers that are to stay open in its table.
    spin: see recent_spin. OSError, and then nothing is left over. Not a checkpoint.
    """
    numbers = ffi.new("int32_t[]", sorted(keep))
    memory = OwnMemory()
    start = ffi.new("struct rs_start *")
    start.session, start.halves = memory.session, memory.extra
    start.flags = flags | lib.CLONE_VM | _PIDFD
    start.keep, start.kept = numbers, len(numbers)
    start.size, start.page_size, start.child_flags = RING_SIZE, page_size, SHARED
    start.spin_us, start.spin_turns = spin
    pid = lib.rs_start_child(start)
    if pid < 0:
        memory.unmap(keep=True)
        check_reply(SYS(start.failed), (flags,), pid)
    own = {start.its_socket, start.its_pidfd}
    pidfd = start.pidfd
    return Begun(pid, pidfd, pidfd, start.socket, own, memory, memory.halves())

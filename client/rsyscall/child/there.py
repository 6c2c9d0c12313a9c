"""A child of a process elsewhere, in its memory: made in three round trips.

Whatever it takes to make a ring is cheaper here than there: its memory is made here, and sent. What
the child is to find on its stack comes by way of that memory, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Collection
from typing import NamedTuple

from rsyscall._core import Frame
from rsyscall._raw import lib
from rsyscall.child.fds import gaps
from rsyscall.child.memory import RING_ROOM, SHARED, TaskMemory, start_block
from rsyscall.child.steps import Plain, call, run
from rsyscall.handle import Task
from rsyscall.near.sysif import FdArg, Out, SyscallError, check_reply
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall.sysif.ring import RING_SIZE
from rsyscall_protocol import Batch, Feature, Hello, Size, Step, StepFlag

__all__ = ["Begun", "begin_there", "can_begin"]

_PIDFD, _F_DUPFD_CLOEXEC = 0x1000, 1030
_HALF = Size.RING_HEADER + RING_SIZE
_MAP = lib.MAP_SHARED | lib.MAP_FIXED | lib.MAP_POPULATE
_SEALS = lib.F_SEAL_SEAL | lib.F_SEAL_SHRINK | lib.F_SEAL_GROW


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
    memory: TaskMemory
    halves: tuple[int, int]


def can_begin(parent: Task) -> bool:
    """Whether a child of this process can begin with a ring without a word."""
    peer = getattr(parent.sysif, "peer", None)
    features = peer.features if isinstance(peer, Hello) else Feature.NONE
    return not parent.address_space.ours and Feature.RING | Feature.BATCH in features


def _make_halves() -> tuple[int, int]:
    """Both halves of a ring as descriptors of ours, the client's first; not sealed yet."""
    made: list[int] = []
    try:
        for _ in range(2):
            made.append(os.memfd_create("rsyscall ring", lib.MFD_CLOEXEC | lib.MFD_ALLOW_SEALING))
            os.ftruncate(made[-1], _HALF)
    except BaseException:
        for fd in made:
            os.close(fd)
        raise
    return made[0], made[1]


async def begin_there(
    parent: Task,
    flags: int,
    entry: int,
    keep: Collection[int],
    page_size: int,
    spin: tuple[int, int],
) -> Begun:
    """See here.begin; entry: where it begins.

    OSError, and then nothing is left over. A checkpoint, to be shielded.
    """
    with contextlib.ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        halves = _make_halves()
        for fd in halves:
            stack.callback(os.close, fd)
        pidfd = os.pidfd_open(os.getpid())
        try:
            numbers = await _send(parent, (theirs.fileno(), pidfd, *halves))
        finally:
            os.close(pidfd)
            theirs.close()
        memory: TaskMemory | None = None
        try:
            memory = await TaskMemory.make(parent, RING_ROOM)
            own = set(numbers[:2])
            at, block = start_block(
                entry,
                memory.address,
                mask=memory.mask,
                ranges=gaps({*keep, *own}),
                flags=SHARED,
                socket=numbers[0],
                pidfd=numbers[1],
                page_size=page_size,
                size=RING_SIZE,
                spin=spin,
            )
            memory.block = at
            os.pwrite(halves[0], block, Size.RING_HEADER)
            pid, there = await _clone(parent, flags, memory, numbers, at, len(block))
            numbers = ()  # they are closed, and may be somebody else's
            check_reply(SYS.clone, (flags, at), pid)
            here = await parent.sysif.bring_pidfd(there, pid, parent.near_process.id)
        except BaseException:
            with contextlib.suppress(OSError, SyscallError):
                if numbers:
                    await run(parent.sysif, [call(SYS.close, n) for n in numbers])
                if memory is not None:
                    await memory.free()
            raise
        for fd, more in zip(halves, (0, lib.F_SEAL_FUTURE_WRITE), strict=True):
            fcntl.fcntl(fd, lib.F_ADD_SEALS, _SEALS | more)
        stack.pop_all()
    return Begun(pid, here, there, ours.detach(), own, memory, halves)


async def _send(parent: Task, fds: tuple[int, ...]) -> tuple[int, ...]:
    """Put descriptors into the task's table; their numbers there."""
    batch, steps = Plain(), list[Step]()
    for i in range(len(fds)):
        batch.syscall(SYS.fcntl, FdArg(i), _F_DUPFD_CLOEXEC, 0, on_error="continue")
        steps.append(call(SYS.fcntl, FdArg(i), _F_DUPFD_CLOEXEC, 0, more=StepFlag.CONTINUE))
    frame = batch.encode(len(fds))
    if isinstance(frame, Frame) and isinstance(parent.sysif, RemoteSyscallInterface):
        reply = await parent.sysif.batch_fds(frame, Batch(0, tuple(steps)), fds)
    else:
        reply = await parent.sysif.batch(Batch(0, tuple(steps), fds=fds))
    numbers = struct.unpack(f"{len(fds)}q", reply.values)
    if min(numbers) < 0:
        await run(parent.sysif, [call(SYS.close, number) for number in numbers if number >= 0])
        check_reply(SYS.fcntl, (FdArg(0), _F_DUPFD_CLOEXEC), min(numbers))
    return numbers


async def _clone(
    parent: Task, flags: int, memory: TaskMemory, numbers: tuple[int, ...], at: int, length: int
) -> tuple[int, int]:
    """The pid or -errno, and the number of a pidfd there. What was sent is closed then."""
    _, _, client, server = numbers
    batch = Plain()
    read = lib.PROT_READ
    batch.syscall(SYS.mmap, memory.extra, _HALF, read, _MAP, client, 0)
    both = read | lib.PROT_WRITE
    batch.syscall(SYS.mmap, memory.extra + _HALF, _HALF, both, _MAP, server, 0)
    batch.syscall(SYS.pread64, client, at, length, Size.RING_HEADER)
    args = (flags | int(lib.CLONE_VM) | _PIDFD, at, Out(4))
    clone = batch.syscall(SYS.clone, *args, on_error="continue")
    for number in numbers:
        batch.syscall(SYS.close, number, on_error="continue")
    done = await batch.run(parent.sysif)
    return done.values[clone.index], int.from_bytes(done.outs[0], "little")

"""Bringing file descriptors from one process into another."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

from rsyscall._raw import lib
from rsyscall.near.sysif import FdArg, In, Ret, SyscallHangup, SyscallSendError, check_reply
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import Batch, Ref, Step, flatten

if TYPE_CHECKING:
    from rsyscall.far import Task

__all__ = ["is_same_open_file", "push", "transfer"]

_KCMP_FILE = 0
_NAMESPACE = In(b"/proc/self/ns/pid\0")
_CLOSE_RESULT = (int(SYS.close), (Ref(0),))


async def transfer(source: Task, number: int, target: Task) -> int:
    """Have what is open in one table in another one, too; returns its number there.

    By way of us, with the connections, or else the target takes it with pidfd_getfd(2). To be
    shielded: what it has opened on the way is closed in any case, but for what is under way.
    """
    try:
        return await _through_us(source, number, target)
    except SyscallHangup:
        raise
    except (OSError, ValueError, SyscallSendError) as exc:
        try:
            return await _by_pidfd(source, number, target)
        except SyscallHangup:
            raise
        except (OSError, SyscallSendError) as other:
            exc.add_note(f"and pidfd_getfd: {other}")
            raise exc from None


async def _through_us(source: Task, number: int, target: Task) -> int:
    if source.sysif.immediate:
        return await push(number, target)
    os.close(os.eventfd(0, os.EFD_CLOEXEC))  # without room here the connection would end
    dup = (number, lib.F_DUPFD_CLOEXEC, 0)
    here = (await source.sysif.call(SYS.fcntl, dup, return_fd=True)).fd
    if here is None:
        raise OSError(errno.EOPNOTSUPP, "no file descriptor can come from there")
    if target.sysif.immediate:
        return here
    try:
        return await push(here, target)
    finally:
        os.close(here)


async def push(here: int, target: Task) -> int:
    """Send one of ours; returns its number there. To be shielded. See transfer for errors."""
    # Nor is there an answer to what there is no room for.
    room = (Step(int(SYS.eventfd2), flatten((0, 0))), Step(int(SYS.close), flatten((Ref(0),))))
    await _run(target, *room)
    dup = (FdArg(0), lib.F_DUPFD_CLOEXEC, 0)
    return (await target.sysif.call(SYS.fcntl, dup, fds=(here,))).value


async def _by_pidfd(source: Task, number: int, target: Task) -> int:
    same = source.pidns is target.pidns
    if not same and await _pid_namespace(source) != await _pid_namespace(target):
        raise OSError(errno.ESRCH, f"{source} is in another pid namespace than {target}")
    values = await _run(
        target,
        Step(int(SYS.pidfd_open), flatten((int(source.near_process), 0)), undo=_CLOSE_RESULT),
        Step(int(SYS.pidfd_getfd), flatten((Ref(0), number, 0))),
        Step(int(SYS.close), flatten((Ref(0),))),
    )
    try:
        await source.sysif.barrier()  # it lives: the pid was its own
    except BaseException:
        await target.sysif.syscall(SYS.close, values[1])
        raise
    return values[1]


async def _pid_namespace(task: Task) -> bytes:
    args = (-100, _NAMESPACE, Ret(64), 64)
    return (await task.sysif.call(SYS.readlinkat, args)).outs[0]


async def _run(task: Task, *steps: Step) -> tuple[int, ...]:
    """Make the calls; OSError of the one that failed."""
    reply = await task.sysif.batch(Batch(0, steps))
    values = struct.unpack(f"{len(reply.values) // 8}q", reply.values)
    if reply.stopped < len(steps):
        check_reply(steps[reply.stopped].nr, (), values[reply.stopped])
    return values


async def is_same_open_file(task: Task, one: int, other: int) -> bool:
    """Whether two numbers of a table mean the same open file. kcmp(2)."""
    pid = task.near_process
    return await task.sysif.syscall(SYS.kcmp, pid, pid, _KCMP_FILE, one, other) == 0

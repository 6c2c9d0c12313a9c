"""Closing the file descriptors that nobody can name any more."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rsyscall.near.sysif import SyscallHangup, SyscallSendError, SyscallSendHangup
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import Batch, Step, StepFlag

if TYPE_CHECKING:
    from rsyscall._descriptors import Held, Numbers
    from rsyscall.far import Task

__all__ = ["collect"]

#: Calls in one batch; every server takes as many.
_MANY = 512


async def collect(table: Numbers, tasks: Iterable[Task]) -> None:
    """Close the garbage of a table by these tasks, which have it: the first that can.

    What a task has made is closed by it, if it is one of them: a server in our own process closes
    nothing else. A checkpoint if there is anything to close; if cancelled, the rest is still there.
    """
    garbage = table.take_garbage()
    if not garbage:
        return
    candidates = list(tasks)
    try:
        for task in _order(garbage, candidates):
            first = [held for held in garbage.values() if held.maker is task]
            rest = [held for held in garbage.values() if held.maker not in candidates]
            await _close(task, first + rest, garbage)
        for task in candidates:
            await _close(task, list(garbage.values()), garbage)
    finally:
        table.put_back(garbage.values())


def _order(garbage: dict[int, Held], candidates: list[Task]) -> list[Task]:
    """Those who have made some of it first."""
    makers = {held.maker for held in garbage.values()}
    return [task for task in candidates if task in makers]


async def _close(task: Task, held: list[Held], garbage: dict[int, Held]) -> None:
    """Have a task close some of it, and take that out of what is left."""
    for at in range(0, len(held), _MANY):
        part = held[at : at + _MANY]
        steps = [Step(int(SYS.close), (one.number,), flags=StepFlag.CONTINUE) for one in part]
        try:
            reply = await task.sysif.batch(Batch(0, tuple(steps)))
            values: Sequence[int] = struct.unpack(f"{len(part)}q", reply.values)
        except SyscallSendHangup:
            return  # others may have the table
        except SyscallSendError:
            values = [await _close_one(task, one.number) for one in part]
        except SyscallHangup:
            values = [0] * len(part)  # nobody knows; and what is closed is not to be closed again
        for one, value in zip(part, values, strict=True):
            if value != -errno.EPERM:  # all other errors come after it was closed
                del garbage[one.number]


async def _close_one(task: Task, number: int) -> int:
    """The same for an interface without batches."""
    try:
        return await task.sysif.syscall(SYS.close, number)
    except OSError as exc:
        return -(exc.errno or 0)
    except SyscallSendError:
        return -errno.EPERM
    except SyscallHangup:
        return 0

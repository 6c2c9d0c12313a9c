"""A program that is to find nothing special, started from here: what stays the same is kept."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from rsyscall import near
from rsyscall._checkpoint import slow_checkpoint
from rsyscall._raw import lib
from rsyscall.child.here import start_program
from rsyscall.child.memory import (
    ENVIRON_AT,
    EXTRA_AT,
    RUN,
    SHARED,
    give_back,
    read,
    start_block,
    take,
)
from rsyscall.child.refusals import explain
from rsyscall.child.setup import ProgramSteps, plain_steps
from rsyscall.child.spawn import candidates, check, encode_steps
from rsyscall.child.strings import Strings
from rsyscall.handle import Task
from rsyscall.handle.process import ChildPid
from rsyscall.monitor import AsyncChildPid
from rsyscall.near.sysif import check_reply
from rsyscall.sched import CLONE
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.direct import DirectSyscallInterface

if TYPE_CHECKING:
    from rsyscall.command import Command

__all__ = ["NOTHING", "start_plain"]

#: What Process.spawn is given of what it looks at first.
NOTHING = (None,) * 14

_KEPT = 8
#: As start_program has them.
_FLAGS = int(CLONE.VM | CLONE.VFORK)
#: Where it begins.
_ADDRESS = lib.rs_child_address()


class _TooLargeError(Exception):
    """There is no room for it in the memory of a child."""


async def start_plain(task: Task, command: Command) -> AsyncChildPid | None:
    """Start a program with our environment; None if it takes more than that.

    See Process.spawn.
    """
    if not isinstance(task.sysif, DirectSyscallInterface):
        return None
    if task.timens_for_children is not task.timens:
        return None
    path = os.fspath(command.executable_path)
    argv = tuple([os.fspath(arg) for arg in command.arguments])
    where = None if "/" in path else os.environ.get("PATH", os.defpath)
    await slow_checkpoint()
    address, used = take()
    try:
        try:
            s, stack, block, data = _lay_out(address, path, where, argv)
        except _TooLargeError:
            return None
        made = start_program(address, used, stack, block, address + EXTRA_AT, data)
        if made is None:
            return None
        number, pidfd, runs = made
        if number < 0:
            try:
                check_reply(SYS.clone, (_FLAGS, stack), number)
            except OSError as exc:
                await explain(task, CLONE.NONE, exc)
                raise
        child = ChildPid(task, near.Pid(number), pidfd, pidfd)
        pid = AsyncChildPid(child)
        if not runs:
            await check(task, pid, read, stack, s)
    finally:
        give_back(address)
    child.did_it_exec, child.command = True, command
    return pid


@functools.lru_cache(_KEPT)
def _lay_out(
    memory: int, path: str, where: str | None, argv: tuple[str, ...]
) -> tuple[ProgramSteps, int, bytes, bytes]:
    """All that it takes: the steps, where the block is and what it says, and what is behind.

    where: PATH, if it is looked for there. The memory of one is that of the next, so that nothing
    of this changes when a program is started again. _TooLargeError, and then nothing is kept.
    """
    strings, extra = Strings(argv, {}), memory + EXTRA_AT
    paths = candidates(path, {} if where is None else {"PATH": where})
    s, body = encode_steps(plain_steps(), paths, extra, memory + ENVIRON_AT)
    if extra + strings.size + len(body) > memory + ENVIRON_AT:
        raise _TooLargeError
    data = strings.at(extra) + body
    stack, block = start_block(
        _ADDRESS, memory, ranges=(), flags=SHARED | RUN, data=extra + strings.size, size=len(body)
    )
    return s, stack, block, data

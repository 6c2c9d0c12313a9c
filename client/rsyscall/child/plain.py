"""A program that is to find nothing special, started from here: what stays the same is kept."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rsyscall._checkpoint import slow_checkpoint
from rsyscall._raw import lib
from rsyscall.child.memory import EXTRA_AT, RUN, SHARED, OwnMemory, start_block
from rsyscall.child.setup import ProgramSteps, Setup, plain_steps
from rsyscall.child.spawn import candidates, encode_steps, run_program, spawn
from rsyscall.child.strings import PathLike, Strings
from rsyscall.handle import Task
from rsyscall.monitor import AsyncChildPid
from rsyscall.sysif.direct import DirectSyscallInterface

if TYPE_CHECKING:
    from rsyscall.command import Command

__all__ = ["start_program"]

_KEPT = 8
#: Where it begins.
_ADDRESS = lib.rs_child_address()


async def start_program(
    task: Task, command: Command, setup: Setup, env: Mapping[str, PathLike] | None
) -> AsyncChildPid:
    """Start a program; see Process.spawn."""
    here = env is None and isinstance(task.sysif, DirectSyscallInterface)
    shared = task.timens_for_children is task.timens
    if not (here and shared and setup.is_plain()):
        return await spawn(task, command, setup, env)
    begin = _ADDRESS
    path = os.fspath(command.executable_path)
    argv = tuple([os.fspath(arg) for arg in command.arguments])
    where = None if "/" in path else os.environ.get("PATH", os.defpath)
    memory = OwnMemory()
    try:
        s, stack, block, data = _lay_out(begin, memory.address, path, where, argv, lib.rs_environ())
        if len(data) > memory.room:
            return await spawn(task, command, setup, env)
        await slow_checkpoint()
        memory.put(memory.extra, data)
        memory.put(stack, block)
        pid = await run_program(task, memory, setup, s, stack)
    finally:
        memory.unmap(keep=True, alone=True)
    pid.pid.did_exec(command)
    return pid


@functools.lru_cache(_KEPT)
def _lay_out(
    begin: int, memory: int, path: str, where: str | None, argv: tuple[str, ...], environ: int
) -> tuple[ProgramSteps, int, bytes, bytes]:
    """All that it takes: the steps, where the block is and what it says, and what is behind.

    where: PATH, if it is looked for there. The memory of one is that of the next, so that nothing
    of this changes when a program is started again.
    """
    del where  # only to tell one from another
    strings, extra = Strings(argv, {}), memory + EXTRA_AT
    s, body = encode_steps(plain_steps(), candidates(path, None), extra, environ)
    data = strings.at(extra) + body
    stack, block = start_block(
        begin, memory, ranges=(), flags=SHARED | RUN, data=extra + strings.size, size=len(body)
    )
    return s, stack, block, data

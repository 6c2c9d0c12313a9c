"""A program with all that it is to find around it, in one go.

The child does not serve: it runs one batch, which lies in its memory, and whose last step is the
exec. Its parent is suspended meanwhile (CLONE_VFORK), so that when clone(2) returns it is known
whether the program runs or which step has failed. Nothing is copied, and no descriptor is needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from rsyscall import near
from rsyscall._checkpoint import shield, slow_checkpoint
from rsyscall.child.cgroup import start_child
from rsyscall.child.dumpable import kept_dumpable
from rsyscall.child.exec import has_exec
from rsyscall.child.lent import entry, start_memory
from rsyscall.child.mappings import effective_ids, map_lines
from rsyscall.child.memory import REPLY_AT, RUN, SHARED, ChildMemory, start_block
from rsyscall.child.refusals import explain, explain_map
from rsyscall.child.setup import ProgramSteps, Setup, check_setup, setup_steps
from rsyscall.child.stdio import PIPE, Pipes
from rsyscall.child.steps import call, raise_failure
from rsyscall.child.strings import PathLike, Strings
from rsyscall.handle import Task
from rsyscall.handle.process import ChildPid
from rsyscall.monitor import AsyncChildPid
from rsyscall.near.sysif import SyscallError, SyscallHangup
from rsyscall.sched import CLONE
from rsyscall.struct import path_to_bytes
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import W
from rsyscall_protocol import (
    Batch,
    Batched,
    In,
    Limits,
    Size,
    StepFlag,
    decode,
    encode,
)

if TYPE_CHECKING:
    from rsyscall.command import Command

__all__ = ["EXECUTING", "Read", "candidates", "check", "encode_steps", "run_program", "spawn"]

#: How much of its stack a child can do without.
_WINDOW = 8192
_VM, _VFORK, _NEWTIME = int(CLONE.VM), int(CLONE.VFORK), int(CLONE.NEWTIME)

#: What reads so many bytes at an address.
Read: TypeAlias = Callable[[int, int], Awaitable[bytes]]

#: The name of the last step.
EXECUTING = "executing the program"


def candidates(path: PathLike, env: Mapping[str, PathLike] | None) -> list[bytes]:
    """Where the program may be: with a slash in its name just there, else in PATH."""
    name = path_to_bytes(path, "command")
    if b"/" in name or name == b"\0":
        return [name]
    where = os.fsencode((os.environ if env is None else env).get("PATH", os.defpath)).split(b":")
    return [os.path.join(directory or b".", name) for directory in where]


async def _mappings(task: Task, setup: Setup) -> list[tuple[str, str]]:
    """The lines that give a new user namespace our ids, or those that are wanted."""
    if not setup.unshare or CLONE.NEWUSER not in setup.unshare:
        return []
    uid, gid = await effective_ids(task)
    inside = (uid if setup.uid is None else setup.uid, gid if setup.gid is None else setup.gid)
    return map_lines(inside, (uid, gid))


async def spawn(
    task: Task, command: Command, setup: Setup, env: Mapping[str, PathLike] | None
) -> AsyncChildPid:
    """Start a program; see Process.spawn."""
    check_setup(setup)
    address = entry(task)
    # Our own environment is copied, too: another thread may change it while the child runs.
    strings = Strings(command.arguments, env)
    mappings = await _mappings(task, setup)
    piped = {n: n for n, value in setup.stdio.items() if value == PIPE}
    s = setup_steps(task, setup, mappings, piped)
    paths = candidates(command.executable_path, env)
    await slow_checkpoint()
    pipes = Pipes(task)
    with shield(not task.sysif.immediate):
        try:
            if piped:
                await pipes.open(setup.stdio)
                s = setup_steps(task, setup, mappings, pipes.theirs)
            pid = await _start(task, setup, s, paths, strings, address)
        except BaseException:
            pipes.close_ours()
            raise
        finally:
            await pipes.close_theirs()
    pid.pid.did_exec(command)
    pipes.hand_over(pid)
    return pid


async def _start(
    task: Task,
    setup: Setup,
    s: ProgramSteps,
    paths: list[bytes],
    strings: Strings,
    address: int,
) -> AsyncChildPid:
    """Lay everything out, and run it. address: where the child begins."""
    shared = _is_private(task, setup)
    memory, s, body, where = await _lay_out(task, s, paths, strings, shared=shared)
    behind = where != memory.extra
    try:
        stack, block = start_block(
            address,
            memory.address,
            mask=memory.mask,
            ranges=(),
            flags=RUN if shared else SHARED | RUN,
            data=where + strings.size,
            size=len(body),
            end=where if behind else None,
        )
        data = strings.at(where) + body
        if behind:  # in one piece
            await memory.write(stack, block + data)
        else:
            await memory.write(where, data)
            await memory.write(stack, block)
        return await run_program(task, memory, setup, s, stack)
    finally:
        with contextlib.suppress(OSError, SyscallError):  # gone, with a parent that is dead
            await memory.free()


async def _lay_out(
    task: Task,
    s: ProgramSteps,
    paths: list[bytes],
    strings: Strings,
    *,
    shared: bool,
) -> tuple[ChildMemory, ProgramSteps, bytes, int]:
    """Memory for the strings and, behind them, the batch, to which the exec is added; and where.

    That is behind all else that a child needs, or, if it is not much, right behind its block.
    """
    extra, window = strings.size, _WINDOW
    while True:
        memory = await start_memory(task, extra, shared=shared)
        where = memory.session - window if window else memory.extra
        try:
            full, body = encode_steps(s, paths, where, where + strings.envp)
        except BaseException:
            await memory.free()
            raise
        if strings.size + len(body) <= (window or memory.room):
            return memory, full, body, where
        window = 0
        await memory.free()
        if len(body) > Size.RING_MAX:
            raise ValueError(f"the set-up of a program is too large: {len(body)} bytes")
        extra = strings.size + len(body) + 64


def encode_steps(
    s: ProgramSteps, paths: Sequence[bytes], argv: int, envp: int
) -> tuple[ProgramSteps, bytes]:
    """The steps with the exec of the first program that is there, and the body of their batch."""
    full = ProgramSteps()
    full.steps += s.steps
    full.names += s.names
    for path in paths:
        step = call(SYS.execve, In(path), argv, envp)
        if path is not paths[-1]:
            step = dataclasses.replace(step, flags=StepFlag.CONTINUE)
        full.add(EXECUTING, step)
    return full, encode(Batch(1, tuple(full.steps)))


async def run_program(
    task: Task, memory: ChildMemory, setup: Setup, s: ProgramSteps, stack: int
) -> AsyncChildPid:
    """Run what is laid out in the memory of a child, and whose block is where its stack leads."""
    if not _changes_ids(setup):
        return await _begin(task, memory, setup, s, stack)
    # Whoever has the child's ids must not get at our memory by way of the child: so it is dumpable
    # again at the end, and not earlier.
    async with kept_dumpable(task):
        return await _begin(task, memory, setup, s, stack)


async def _begin(
    task: Task, memory: ChildMemory, setup: Setup, s: ProgramSteps, stack: int
) -> AsyncChildPid:
    flags = _VFORK | int(setup.unshare) & ~_NEWTIME | (0 if _is_private(task, setup) else _VM)
    try:
        first = setup.pdeathsig is not None
        number, here, there, _ = await start_child(task, flags, stack, first=first)
    except OSError as exc:
        await explain(task, setup.unshare, exc)
        raise
    pid = AsyncChildPid(ChildPid(task, near.Pid(number), here, there))
    await check(task, pid, memory.read, stack, s)
    return pid


async def check(task: Task, pid: AsyncChildPid, read: Read, stack: int, s: ProgramSteps) -> None:
    """Raise the error of the step that has failed, if one has; then it has ended.

    task: its parent. read: what reads the memory that it had.
    """
    try:
        await _check(pid, read, stack, s)
    except BaseException as exc:
        await pid.finish()
        if isinstance(exc, OSError):
            await explain_map(task, exc)
        raise


def _is_private(task: Task, setup: Setup) -> bool:
    """Whether it must have a copy of the memory: nobody is in two time namespaces with the same."""
    if task.timens_for_children is not task.timens:
        return True
    return bool(setup.unshare) and CLONE.NEWTIME in setup.unshare


def _changes_ids(setup: Setup) -> bool:
    if setup.uid is not None or setup.gid is not None:
        return True
    return bool(setup.unshare) and CLONE.NEWUSER in setup.unshare


async def _check(pid: AsyncChildPid, read: Read, stack: int, s: ProgramSteps) -> None:
    if not pid.pid.task.sysif.immediate and has_exec(pid.pid):
        return  # to read its memory takes longer
    where, length = struct.unpack("@QI", await read(stack + REPLY_AT, 12))
    if length:
        reply = decode(await read(where + Size.HEADER, length - Size.HEADER), Limits())
        if not isinstance(reply, Batched):
            raise AssertionError("a child wrote something else than a BATCHED")
        raise_failure(s.steps, _most_telling(s, reply), s.names)
    # One that is killed before its exec has ended when clone returns, or is about to; then it is as
    # if it had been killed right after.
    if pid.pid.is_dead() and has_exec(pid.pid) is False:
        state = await pid.waitpid(W.EXITED)
        raise SyscallHangup(f"the child has ended before its exec: {state}")


def _most_telling(s: ProgramSteps, reply: Batched) -> Batched:
    """Of several places where the program is not, the one where it was found to be something."""
    values = struct.unpack(f"{len(reply.values) // 8}q", reply.values)
    for i, (step, value) in enumerate(zip(s.steps, values, strict=False)):
        if step.nr == SYS.execve and value not in (-2, -20):
            return dataclasses.replace(reply, stopped=i, values=reply.values[: 8 * (i + 1)])
    return reply

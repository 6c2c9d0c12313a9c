"""A child that does not serve: see Task.clone."""

from __future__ import annotations

import contextlib
from typing import Any

from rsyscall import near
from rsyscall._checkpoint import checkpoint, shield
from rsyscall.child.cgroup import start_child
from rsyscall.child.lent import check_flags, entry
from rsyscall.child.refusals import explain
from rsyscall.handle import Pointer, Task, WrittenPointer
from rsyscall.handle.process import ProcessPid
from rsyscall.sched import CLONE, Stack
from rsyscall.sysif.direct import DirectSyscallInterface

__all__ = ["clone"]


async def clone(
    task: Task, flags: CLONE, room: Pointer[Stack[Any]], top: WrittenPointer[Stack[Any]]
) -> ProcessPid:
    """See Task.clone."""
    check_flags(flags)
    entry(task)  # whether it can have children
    await checkpoint()
    with contextlib.ExitStack() as pins, shield(not task.sysif.immediate):
        pins.enter_context(room.borrow(task))
        stack = pins.enter_context(top.borrow(task))
        top.value.borrow_with(pins, task)
        try:
            if isinstance(task.sysif, DirectSyscallInterface):
                made = task.sysif.start_bare_child(int(flags), int(stack))
            else:
                made = (await start_child(task, int(flags), int(stack)))[:3]
        except OSError as exc:
            await explain(task, flags, exc)
            raise
        number, here, there = made
        child = ProcessPid(task, near.Pid(number), here, there)
        child.keep(room, top, top.value.function)
        return child

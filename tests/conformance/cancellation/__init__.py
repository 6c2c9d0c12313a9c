"""What becomes of an asynchronous method that is cancelled: declared once for manual and test.

A row says it in words, and has a scenario in which it is seen. The scenario is run again and again,
cancelled at another point each time: before it begins, at every step of its task that ends at trio,
and before and after every call that leaves through the task's door, until it has fewer points.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import trio

import rsyscall
from leaks import threads
from rsyscall.memory.allocator import AllocatorClient
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.child import ChildInterface
from rsyscall.sysif.direct import DirectSyscallInterface
from rsyscall.sysif.remote import RemoteSyscallInterface

__all__ = ["ROWS", "Case", "Row", "at_every_point", "row", "table", "watch_the_doors"]

#: More points than any scenario has.
_MOST = 400


async def _nothing() -> None:
    return


@dataclass
class Case:
    """One run of a scenario.

    act: what is cancelled. judge: whether all is as it should be afterwards, given whether
    Cancelled was raised, and otherwise what act has returned. meanwhile: what others do in any
    case, at the same time.
    """

    act: Callable[[], Awaitable[object]]
    judge: Callable[[bool, Any], Awaitable[None]]
    meanwhile: Callable[[], Awaitable[None]] = field(default=_nothing)


Scenario: TypeAlias = Callable[[rsyscall.Process, Path], AbstractAsyncContextManager[Case]]


@dataclass
class Row:
    """Methods that behave in the same way.

    methods: their names. checkpoint: whether they are one. cancelled: what has happened if they
    raise Cancelled. always: whether they raise it if they were cancelled before they began. inside:
    whether the interpreter itself can do it.
    """

    methods: str
    checkpoint: str
    cancelled: str
    always: bool
    inside: bool
    scenario: Scenario

    @property
    def name(self) -> str:
        """Of its scenario."""
        return getattr(self.scenario, "__name__", "?")


ROWS: list[Row] = []


def row(
    methods: str, cancelled: str, *, checkpoint: str = "yes", inside: bool = True
) -> Callable[[Any], Any]:
    """Declare a row; what follows is its scenario, a generator of one Case."""

    def enter(function: Any) -> Any:
        scenario = asynccontextmanager(function)
        always = checkpoint == "yes"
        ROWS.append(Row(methods, checkpoint, cancelled, always, inside, scenario))
        return scenario

    return enter


def table() -> list[str]:
    """The lines of the manual's table."""
    lines = ["| methods | checkpoint | if cancelled |", "|---|---|---|"]
    for module in ("calls", "streams", "children"):
        lines += [
            f"| {one.methods} | {one.checkpoint} | {one.cancelled} |"
            for one in ROWS
            if one.scenario.__module__.endswith(f".{module}")
        ]
    return lines


# ---- points ----


class Injection(trio.abc.Instrument):
    """Cancels a task at one of its points."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.points = 0
        self.scope = trio.CancelScope()
        self.task: trio.lowlevel.Task | None = None

    def point(self) -> None:
        """The next one."""
        if self.points == self.at:
            self.scope.cancel()
        self.points += 1

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """It has gone to trio."""
        if task is self.task:
            self.point()

    async def run(self, act: Callable[[], Awaitable[object]]) -> object:
        """Do it, and cancel it when it comes to that point."""
        global _current
        result: object = None
        trio.lowlevel.add_instrument(self)
        _current = self
        try:
            with self.scope:
                self.point()
                self.task = trio.lowlevel.current_task()
                result = await act()
        finally:
            self.task = _current = None
            trio.lowlevel.remove_instrument(self)
        return result


_current: Injection | None = None


def _point() -> None:
    if _current is not None and _current.task is trio.lowlevel.current_task():
        _current.point()


def watch_the_doors(replace: Callable[[type, str, object], None]) -> None:
    """Have every call that leaves be a point, before and after. replace: setattr, to be undone."""

    def watched(method: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        async def through(*args: object, **options: object) -> object:
            _point()
            result = await method(*args, **options)
            _point()
            return result

        return through

    names = ("call", "syscall", "call_at_once", "batch", "batch_frame", "prepare", "run")
    more = ("unprepare", "read_memory", "write_memory", "start_child", "wait_child", "barrier")
    for door in (DirectSyscallInterface, RemoteSyscallInterface, ChildInterface):
        for name in names + more:
            if name in door.__dict__:
                replace(door, name, watched(door.__dict__[name]))


# ---- accounting ----


async def _account(process: rsyscall.Process) -> dict[str, object]:
    if not process.task.sysif.immediate:  # without the threads it keeps for calls that may block
        await process.task.sysif.syscall(SYS.setresuid, -1, -1, -1)
    there = Path(f"/proc/{int(process.pid)}")
    allocator = process.task.allocator
    assert isinstance(allocator, AllocatorClient)
    return {
        "its descriptors": set(os.listdir(there / "fd")),
        "our descriptors": set(os.listdir("/proc/self/fd")),
        "its children": "".join([p.read_text() for p in (there / "task").glob("*/children")]),
        "its tasks": len(
            threads() if int(process.pid) == os.getpid() else os.listdir(there / "task")
        ),
        "taken memory": allocator.heap.taken,
        "handles": len(process.task.fd_handles),
    }


async def _once(row: Row, process: rsyscall.Process, directory: Path, at: int) -> bool:
    """Run it, cancelled at that point; whether there was such a point."""
    injection = Injection(at)
    async with row.scenario(process, directory) as case:
        result: object = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(case.meanwhile)
            result = await injection.run(case.act)
        cancelled = injection.scope.cancelled_caught
        if at == 0 and row.always:
            assert cancelled, "it was cancelled before it began"
        await case.judge(cancelled, result)
    return injection.points > at


async def at_every_point(row: Row, process: rsyscall.Process, directory: Path) -> int:
    """See this module's documentation; returns how many points there were."""
    await _once(row, process, directory, _MOST)  # what is made when it is first needed
    gc.collect()
    before = await _account(process)
    for at in range(_MOST):
        found = await _once(row, process, directory, at)
        after = await _account(process)
        if after != before:
            gc.collect()  # what is in a cycle is not freed at once
            after = await _account(process)
        changed = {
            name: (before[name], after[name]) for name in before if after[name] != before[name]
        }
        assert not changed, f"after a cancellation at point {at}: {changed}"
        if not found:
            return at
    raise AssertionError(f"it has more than {_MOST} points")

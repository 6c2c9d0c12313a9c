"""An interrupt while a child begins, becomes a program or ends loses nothing of it."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest
import trio

from leaks import children
from process.seen import TRUE
from rsyscall import local_process
from rsyscall.child.early import EarlyChild
from rsyscall.child.stdio import PIPE
from rsyscall.handle.process import ChildPid
from rsyscall.monitor import AsyncChildPid
from rsyscall.sched import CLONE
from rsyscall.sysif.direct import DirectSyscallInterface
from rsyscall.thread import ChildProcess

Begin: TypeAlias = Callable[[], Awaitable[ChildProcess | AsyncChildPid]]


def _interrupt_after(
    monkeypatch: pytest.MonkeyPatch, where: object, name: str, told: list[str]
) -> None:
    function = getattr(where, name)

    def interrupted(*args: object, **options: object) -> object:
        result = function(*args, **options)
        told.append(name)
        signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(where, name, interrupted)


async def _fork_and_exec() -> AsyncChildPid:
    child = await local_process.fork()
    try:
        return await child.exec(TRUE)
    except KeyboardInterrupt:
        async with child:
            raise


async def _check() -> AsyncChildPid:
    program = await local_process.spawn(TRUE)
    try:
        await program.check()
    except KeyboardInterrupt:
        async with program:
            raise
    return program


BEGIN: dict[str, Begin] = {
    "fork": local_process.fork,
    "clone": lambda: local_process.clone(CLONE.FS),
    "with a copy of the memory": lambda: local_process.clone(vm=False),
    "with our table": lambda: local_process.clone(CLONE.FILES),
    "spawn": lambda: local_process.spawn(TRUE),
    "spawn with a directory": lambda: local_process.spawn(TRUE, cwd="/"),
    "spawn with a pipe": lambda: local_process.spawn(TRUE, stdout=PIPE),
    "exec": _fork_and_exec,
    "check": _check,
}


def _points() -> list[tuple[object, str]]:
    import rsyscall.child.here
    import rsyscall.child.plain

    return [
        (rsyscall.child.here, "start_child"),
        (rsyscall.child.plain, "start_program"),
        (DirectSyscallInterface, "start_child_into"),
        (ChildPid, "__init__"),
        (AsyncChildPid, "__init__"),
        (EarlyChild, "release"),
        (ChildPid, "mark_dead"),
    ]


POINTS = _points()


@pytest.mark.parametrize("point", range(len(POINTS)), ids=[name for _, name in POINTS])
@pytest.mark.parametrize("begin", BEGIN.values(), ids=BEGIN.keys())
def test_it_is_either_returned_or_gone(
    begin: Begin, point: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[str]()
    before = children()

    async def main() -> None:
        child: ChildProcess | AsyncChildPid | None = None
        where, name = POINTS[point]
        _interrupt_after(monkeypatch, where, name, told)
        try:
            child = await begin()
        except KeyboardInterrupt:
            assert told
            told.append("raised")
        finally:
            monkeypatch.undo()
        if child is None:
            assert children() == before
            return
        if told:
            with pytest.raises(KeyboardInterrupt):
                await trio.lowlevel.checkpoint()
        async with child:
            pass
        assert children() == before

    trio.run(main)


def test_the_points_are_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is interrupted above is what makes children."""
    met = set[str]()

    def count(where: object, name: str) -> None:
        function = getattr(where, name)

        def counted(*args: object, **options: object) -> object:
            met.add(name)
            return function(*args, **options)

        monkeypatch.setattr(where, name, counted)

    async def main() -> None:
        for where, name in POINTS:
            count(where, name)
        for begin in BEGIN.values():
            async with await begin():
                pass

    trio.run(main)
    assert met == {name for _, name in POINTS}

"""Two processes' tables of descriptors, against a model, and after every step against /proc."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import rsyscall
from rsyscall.far import FDTableMismatchError
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor, HandleError, InvalidHandleError, SharedHandleError
from rsyscall.sched import CLONE

T = TypeVar("T")
WHICH = st.integers(0, 1)
INDEX = st.integers(0, 10**9)


@dataclass(eq=False)
class Entry:
    """A number of a table: what it has open, and what it is a copy of."""

    file: str
    origin: Entry | None = None
    handles: list[Held] = field(default_factory=lambda: list[Held]())

    def named(self) -> bool:
        return bool(self.handles) or (self.origin is not None and self.origin.named())

    def copies(self, other: Entry) -> bool:
        return self.origin is not None and (self.origin is other or self.origin.copies(other))


@dataclass(eq=False)
class Held:
    """A handle, and what the model says that it stands for."""

    fd: FileDescriptor
    who: int
    entry: Entry


class Tables(RuleBasedStateMachine):
    """Random operations in a child and its child, which share a table at first or do not."""

    stub: rsyscall.Process

    def __init__(self) -> None:
        super().__init__()
        self.names = itertools.count()
        self.tables: list[dict[int, Entry]] = []
        self.processes: list[rsyscall.ChildProcess] = []
        self.handles: list[Held] = []
        self.first: list[FileDescriptor] = []

    def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Call it, and raise its error without the frames of trio's, which are a cycle.

        What they know would stay until Python looks for garbage, handles among it.
        """

        async def call() -> tuple[list[T], Exception | None]:
            try:
                return [await function(*args)], None
            except (HandleError, FDTableMismatchError, ValueError) as exc:
                return [], exc.with_traceback(None)

        values, error = trio.from_thread.run(call)
        try:
            if error is not None:
                raise error
        finally:
            error = None
        return values[0]

    async def clone(self, flags: CLONE) -> None:
        one = await self.stub.clone()
        await self.begin_with(one)
        self.processes = [one, await one.clone(flags)]
        await self.settle()

    async def begin_with(self, one: rsyscall.Process) -> None:
        """Open what its child is to share or inherit."""
        await one.task.getpid()
        self.first = [await one.task.memfd_create(f"first{n}") for n in range(2)]

    async def settle(self) -> None:
        for process in self.processes:
            await process.task.getpid()  # what it does not keep it has closed by now

    @initialize(shared=st.booleans())
    def begin(self, shared: bool) -> None:
        self.run(self.clone, CLONE.FILES if shared else CLONE.NONE)
        table = dict[int, Entry]()
        for n, fd in enumerate(self.first):
            entry = table[int(fd.near)] = Entry(f"/memfd:first{n} (deleted)")
            self.hold(fd, 0, entry)
        copy = {number: Entry(entry.file, entry) for number, entry in table.items()}
        self.tables = [table, table if shared else copy]
        self.first.clear()

    def teardown(self) -> None:
        self.handles.clear()
        if self.processes:
            self.run(self.processes[0].end)

    @property
    def shared(self) -> bool:
        return self.tables[0] is self.tables[1]

    def take(self, index: int) -> Held:
        return self.handles[index % len(self.handles)]

    def has(self, who: int, held: Held) -> bool:
        """Whether it is in that table, too, or is inherited there."""
        entry = self.tables[who].get(int(held.fd.near))
        return entry is not None and (entry is held.entry or entry.copies(held.entry))

    def lowest(self, who: int) -> int:
        """The number that the next descriptor has."""
        used = {0, 1, 2} | self.processes[who].task.fd_table.own | self.tables[who].keys()
        return next(n for n in itertools.count() if n not in used)

    def hold(self, fd: FileDescriptor, who: int, entry: Entry) -> None:
        held = Held(fd, who, entry)
        entry.handles.append(held)
        self.handles.append(held)

    def made(self, fd: FileDescriptor, who: int, file: str) -> None:
        assert int(fd.near) == self.lowest(who)
        entry = self.tables[who][int(fd.near)] = Entry(file)
        self.hold(fd, who, entry)

    def drop(self, held: Held) -> None:
        self.handles.remove(held)
        held.entry.handles.remove(held)

    # ---- making ----

    @rule(who=WHICH)
    def open(self, who: int) -> None:
        name = f"f{next(self.names)}"
        fd = self.run(self.processes[who].task.memfd_create, name)
        self.made(fd, who, f"/memfd:{name} (deleted)")

    @rule(who=WHICH, closed=st.booleans(), kept=st.booleans())
    def batch(self, who: int, closed: bool, kept: bool) -> None:
        """Two are made, of which one may be closed at once; they may be dropped with the batch."""
        names = [f"f{next(self.names)}" for _ in range(2)]

        async def run() -> list[FileDescriptor]:
            async with self.processes[who].batch() as b:
                first = b.memfd_create(names[0])
                if closed:
                    b.close(first)
                second = b.memfd_create(names[1])
            assert first.value.valid == (not closed)
            return [second.value] if closed else [first.value, second.value]

        before = len(self.handles)
        for fd, name in zip(self.run(run), names[1:] if closed else names, strict=True):
            self.made(fd, who, f"/memfd:{name} (deleted)")
        if not kept:
            while len(self.handles) > before:
                self.drop(self.handles[-1])

    @precondition(lambda self: self.handles)
    @rule(index=INDEX)
    def dup(self, index: int) -> None:
        held = self.take(index)
        self.made(self.run(held.fd.dup), held.who, held.entry.file)

    @precondition(lambda self: self.handles)
    @rule(index=INDEX, onto=INDEX)
    def dup3(self, index: int, onto: int) -> None:
        held, target = self.take(index), self.take(onto)
        call = held.fd.dup3
        same = self.tables[held.who] is self.tables[target.who]
        if len(target.entry.handles) > 1:
            with pytest.raises(SharedHandleError):
                self.run(call, target.fd, O.CLOEXEC)
        elif not same:
            with pytest.raises(FDTableMismatchError):
                self.run(call, target.fd, O.CLOEXEC)
        elif held.entry is target.entry:
            with pytest.raises(ValueError, match="the descriptor itself"):
                self.run(call, target.fd, O.CLOEXEC)
        else:
            assert self.run(call, target.fd, O.CLOEXEC) is target.fd
            target.entry.handles.remove(target)
            target.entry = Entry(held.entry.file, handles=[target])
            self.tables[target.who][int(target.fd.near)] = target.entry

    # ---- giving away ----

    @precondition(lambda self: self.handles)
    @rule(index=INDEX, to=WHICH, move=st.booleans())
    def same_table(self, index: int, to: int, move: bool) -> None:
        held, task = self.take(index), self.processes[to].task
        if self.tables[held.who] is not self.tables[to]:
            with pytest.raises(FDTableMismatchError):
                held.fd.for_task(task)
            return
        self.hold(held.fd.move(task) if move else held.fd.for_task(task), to, held.entry)
        assert held.fd.valid == (not move)
        if move:
            self.drop(held)

    @precondition(lambda self: self.handles)
    @rule(index=INDEX, to=WHICH)
    def inherit(self, index: int, to: int) -> None:
        # Most often one that can be: few can.
        able = [held for held in self.handles if held.who != to and self.has(to, held)]
        held = able[index % len(able)] if able and index % 4 else self.take(index)
        task, entry = self.processes[to].task, self.tables[to].get(int(held.fd.near))
        if entry is not None and self.has(to, held):
            self.hold(held.fd.inherit(task), to, entry)
        else:
            with pytest.raises(FDTableMismatchError):
                held.fd.inherit(task)

    @precondition(lambda self: self.handles)
    @rule(index=INDEX, to=WHICH)
    def send(self, index: int, to: int) -> None:
        held = self.take(index)
        there = self.tables[to].get(int(held.fd.near))

        async def send() -> FileDescriptor:
            return await held.fd.send_to(self.processes[to])

        fd = self.run(send)
        if there is not None and self.has(to, held):
            assert fd.near == held.fd.near
            self.hold(fd, to, there)
        else:
            assert int(fd.near) not in self.tables[to]
            entry = self.tables[to][int(fd.near)] = Entry(held.entry.file)
            self.hold(fd, to, entry)

    @precondition(lambda self: self.processes and self.shared)
    @rule()
    def unshare(self) -> None:
        self.run(self.processes[1].unshare_files)
        before, copy = self.tables[0], dict[int, Entry]()
        for number, entry in before.items():
            if entry.handles:
                copy[number] = Entry(entry.file, entry)
        for held in self.handles:
            if held.who == 1:
                held.entry.handles.remove(held)
                held.entry = copy[int(held.fd.near)]
                held.entry.handles.append(held)
        self.tables[1] = copy

    # ---- giving up ----

    @precondition(lambda self: self.handles)
    @rule(index=INDEX)
    def close(self, index: int) -> None:
        held = self.take(index)
        if len(held.entry.handles) > 1:
            with pytest.raises(SharedHandleError):
                self.run(held.fd.close)
            return
        self.run(held.fd.close)
        self.drop(held)
        del self.tables[held.who][int(held.fd.near)]
        with pytest.raises(InvalidHandleError):
            self.run(held.fd.close)

    @precondition(lambda self: self.handles)
    @rule(index=INDEX)
    def invalidate(self, index: int) -> None:
        held = self.take(index)
        only = len(held.entry.handles) == 1
        assert self.run(held.fd.invalidate) == only
        self.drop(held)
        if only:
            del self.tables[held.who][int(held.fd.near)]

    @precondition(lambda self: self.handles)
    @rule(index=INDEX)
    def lose(self, index: int) -> None:
        self.drop(self.take(index))

    @rule(who=WHICH, seldom=st.integers(0, 5))
    def inherit_no_more(self, who: int, seldom: int) -> None:
        if seldom:
            return
        self.processes[who].task.fd_table.remove_inherited()
        for entry in self.tables[who].values():
            entry.origin = None

    @rule(who=WHICH, by_other=st.booleans())
    def collect(self, who: int, by_other: bool) -> None:
        gc.disable()  # it takes its time, and there are no cycles
        try:
            table, task = self.processes[who].task.fd_table, self.processes[who].task
            by = self.processes[1 - who].task if by_other and self.shared else task
            self.run(table.gc_using_task, by)
        finally:
            gc.enable()
        for number, entry in list(self.tables[who].items()):
            if not entry.named():
                del self.tables[who][number]

    @invariant()
    def the_kernel_agrees(self) -> None:
        for process, table in zip(self.processes, self.tables, strict=True):
            found, own = dict[int, str](), {0, 1, 2} | process.task.fd_table.own
            directory = f"/proc/{int(process.task.near_process)}/fd"
            for name in os.listdir(directory):
                if int(name) not in own:
                    found[int(name)] = os.readlink(f"{directory}/{name}")
            assert found == {number: entry.file for number, entry in table.items()}

    @invariant()
    def the_handles_agree(self) -> None:
        for held in self.handles:
            assert held.fd.valid
            assert held.fd.is_only_handle() == (len(held.entry.handles) == 1)
            assert held.fd.task is self.processes[held.who].task

    @precondition(lambda self: self.handles)
    @rule(index=INDEX)
    def the_files_agree(self, index: int) -> None:
        held = self.take(index)
        for other in self.handles:
            assert held.fd.file.same_as(other.fd.file) == (held.entry.file == other.entry.file)


@pytest.mark.parametrize("ring", [True, False])
async def test_two_tables_against_a_model(ring: bool) -> None:
    async with rsyscall.open_process(ring=ring) as stub:

        class Machine(Tables):
            pass

        Machine.stub = stub
        await drive(Machine, 60)


async def drive(machine: type[Tables], examples: int) -> None:
    config = settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    await trio.to_thread.run_sync(
        lambda: run_state_machine_as_test(machine, settings=config)  # pyright: ignore
    )

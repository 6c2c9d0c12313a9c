"""A process that survives its connections, whoever has them, against a model."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
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
from e2e.servers import wait_for
from process.test_persistent import block, threads
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor, WrittenPointer
from rsyscall.near.sysif import SyscallHangup
from rsyscall.tasks.persistent import PersistentProcess, clone_persistent
from rsyscall.thread import Process

T = TypeVar("T")


class Connections(RuleBasedStateMachine):
    """The model: what its memory, its file and its working directory are, and who has it."""

    nursery: trio.Nursery
    ring: bool
    by: Process
    process: PersistentProcess
    other: Process
    pointer: WrittenPointer[bytes]

    def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        async def limited() -> T:
            with trio.fail_after(20):
                return await function(*args)

        return trio.from_thread.run(limited)

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "socket"
        make = partial(clone_persistent, self.by, self.path, ring=self.ring)
        self.process = self.run(make)
        self.pid = int(self.process.pid)
        self.run(self.process.make_persistent)
        self.connected = True
        self.stack: contextlib.AsyncExitStack | None = None
        self.memory, self.cwd, self.written = b"0000", "/", b""
        self.pointer = self.run(self.process.ptr, self.memory)
        self.file: FileDescriptor = self.run(
            self.process.task.open, self.path.with_name("file"), O.RDWR | O.CREAT
        )
        self.run(self.process.task.chdir, self.cwd)

    def teardown(self) -> None:
        if hasattr(self, "process"):
            if self.stack is not None:
                self.run(self.stack.aclose)
            self.run(self.process.pid.end)
            self.run(self.process.finish)
            self.directory.cleanup()

    # ---- what is done with it ----

    @rule(cwd=st.sampled_from(["/", "/usr", "/etc"]))
    def use(self, cwd: str) -> None:
        """Ours, or that of the other one, or nobody's."""
        if self.connected:
            assert self.run(self.process.task.getcwd) == self.cwd
            self.run(self.process.task.chdir, cwd)
            self.cwd = cwd
        else:
            with pytest.raises(SyscallHangup):
                self.run(self.process.task.getcwd)
        if self.stack is not None:
            assert self.run(self.other.task.getcwd) == self.cwd
            self.run(self.other.task.chdir, cwd)
            self.cwd = cwd

    @precondition(lambda self: self.connected)
    @rule(data=st.binary(min_size=4, max_size=4))
    def write(self, data: bytes) -> None:
        assert self.run(self.pointer.read) == self.memory
        self.pointer = self.run(self.pointer.write, data)
        self.run(self.file.write, data)
        self.memory, self.written = data, self.written + data
        assert self.path.with_name("file").read_bytes() == self.written

    @precondition(lambda self: self.connected)
    @rule(seconds=st.sampled_from([0, 1000]))
    def begin_a_call(self, seconds: int) -> None:
        trio.from_thread.run_sync(self.nursery.start_soon, block, self.process, seconds, 300_000)

    # ---- who has it ----

    @precondition(lambda self: self.connected)
    @rule()
    def disconnect(self) -> None:
        self.run(self.process.task.sysif.close_interface)
        self.connected = False

    @precondition(lambda self: self.stack is None)
    @rule()
    def reconnect(self) -> None:
        self.run(self.process.reconnect, self.by)
        self.connected = True

    @precondition(lambda self: self.stack is None and not self.connected)
    @rule(ring=st.booleans())
    def connect(self, ring: bool) -> None:
        stack = contextlib.AsyncExitStack()

        async def enter() -> Process:
            return await stack.enter_async_context(rsyscall.connect(f"unix:{self.path}", ring=ring))

        self.other = self.run(enter)
        self.stack = stack

    @precondition(lambda self: self.stack is not None)
    @rule()
    def leave(self) -> None:
        if self.stack is not None:
            self.run(self.stack.aclose)
        self.stack = None

    @invariant()
    def it_lives(self) -> None:
        if hasattr(self, "process"):
            assert self.process.pid.pid.death_state is None
            if not self.connected:
                wait_for(lambda: threads(self.pid) == 1, "its other threads to end")


@pytest.mark.parametrize("ring", [True, False])
async def test_connections_against_a_model(origin: Process, ring: bool) -> None:
    async with trio.open_nursery() as nursery:

        class Machine(Connections):
            pass

        Machine.nursery, Machine.ring, Machine.by = nursery, ring, origin
        config = settings(
            max_examples=8,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        )
        await trio.to_thread.run_sync(
            lambda: run_state_machine_as_test(Machine, settings=config)  # pyright: ignore
        )

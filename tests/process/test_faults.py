"""SIGKILL at every step: nothing is left over, nobody waits for ever, and the error says why."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio

import rsyscall
from process.faults import Belongings, Functions, belongings, tracer
from process.seen import TRUE
from rsyscall import Command, local_process
from rsyscall.near.sysif import SyscallHangup
from rsyscall.sched import CLONE
from rsyscall.sys.wait import CLD, ChildState, W
from rsyscall.tasks.persistent import clone_persistent
from rsyscall.tasks.stdin_bootstrap import stdin_bootstrap, stdin_bootstrap_path
from rsyscall.tasks.stub import StubServer

Scenario = Callable[[rsyscall.Process], Awaitable[ChildState]]


def clone(flags: CLONE, *, vm: bool, ring: bool) -> Scenario:
    async def scenario(parent: rsyscall.Process) -> ChildState:
        async with await parent.clone(flags, vm=vm, ring=ring) as child:
            assert await child.task.getpid() == child.task.near_process
            await child.exit()
            return await child.pid.waitpid(W.EXITED)

    return scenario


def execute(flags: CLONE, *, ring: bool) -> Scenario:
    async def scenario(parent: rsyscall.Process) -> ChildState:
        async with await parent.clone(flags, ring=ring) as child:
            return await (await child.exec(TRUE)).waitpid(W.EXITED)

    return scenario


async def change_ids(parent: rsyscall.Process) -> ChildState:
    """Whoever changes its ids ends for all who have its memory that they are dumpable."""
    async with await parent.clone(ring=False) as child:
        if os.geteuid() == 0:
            await child.task.setresuid(33, 33, 33)
        await child.exit()
        return await child.pid.waitpid(W.EXITED)


async def spawn(parent: rsyscall.Process) -> ChildState:
    async with await parent.spawn(TRUE, cwd="/", rlimits={}, session=True) as child:
        return await child.waitpid(W.EXITED)


async def bootstrap(parent: rsyscall.Process) -> ChildState:
    stub = await stdin_bootstrap_path(parent)
    child, process = await stdin_bootstrap(parent, Command(stub, [stub]))
    async with child:
        assert await process.task.getpid() == process.pid
        await process.exit()
        return await child.waitpid(W.EXITED)


async def reconnect(parent: rsyscall.Process) -> ChildState:
    path = f"/tmp/rsyscall-test-{os.getpid()}"
    try:
        async with await clone_persistent(parent, path) as process:
            await process.prep_for_reconnect()
            with suppress(ConnectionRefusedError):
                await process.reconnect(parent)
                await process.exit()
            return await process.pid.waitpid(W.EXITED)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


async def accept(parent: rsyscall.Process) -> ChildState:
    async def serve() -> None:
        with suppress(SyscallHangup):
            _, process = await server.accept()
            await process.exit()

    name = f"rsyscall-test-{os.getpid()}"
    async with (
        await StubServer.make(parent, "/tmp", name) as server,
        await parent.spawn(Command(f"/tmp/{name}", [name])) as child,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(serve)
        state = await child.waitpid(W.EXITED)
        nursery.cancel_scope.cancel()
    return state


SCENARIOS: dict[str, Scenario] = {
    "clone": clone(CLONE.NONE, vm=True, ring=True),
    "clone-no-ring": clone(CLONE.NONE, vm=True, ring=False),
    "clone-files": clone(CLONE.FILES, vm=True, ring=True),
    "clone-files-no-ring": clone(CLONE.FILES, vm=True, ring=False),
    "clone-private": clone(CLONE.NONE, vm=False, ring=True),
    "clone-private-no-ring": clone(CLONE.NONE, vm=False, ring=False),
    "clone-private-files": clone(CLONE.FILES, vm=False, ring=True),
    "exec": execute(CLONE.NONE, ring=True),
    "exec-no-ring": execute(CLONE.NONE, ring=False),
    "exec-files": execute(CLONE.FILES, ring=True),
    "spawn": spawn,
    "ids": change_ids,
    "bootstrap": bootstrap,
    "reconnect": reconnect,
    "accept": accept,
}


@asynccontextmanager
async def reached(way: str) -> AsyncGenerator[rsyscall.Process]:
    if way == "local":
        yield local_process
    else:
        async with rsyscall.open_process() as process:
            yield process


async def attempt(scenario: Scenario, parent: rsyscall.Process) -> str:
    """What came of it, with the child dead in the middle."""
    with trio.fail_after(10):
        try:
            state = await scenario(parent)
        except SyscallHangup as exc:
            return str(exc)
    if state.code in (CLD.KILLED, CLD.UNKNOWN):
        return str(state)
    assert state.clean()
    return "success"


#: Those that differ in what is to be cleared away.
BY_CALL = [("local", name) for name in SCENARIOS if name != "clone-private-files"] + [
    ("stub", name) for name in ("clone", "clone-private-files", "exec-files", "spawn")
]
BY_STEP = [
    *(("local", name) for name in ("clone", "clone-files-no-ring", "exec", "spawn", "reconnect")),
    *(("stub", name) for name in ("clone-files", "exec", "spawn")),
]


@pytest.mark.parametrize(("way", "name"), BY_CALL)
async def test_the_child_is_killed_at_each_of_its_system_calls(way: str, name: str) -> None:
    scenario = SCENARIOS[name]
    with tracer() as injector:
        async with reached(way) as parent:
            pid = int(parent.pid)
            assert await attempt(scenario, parent) == "success"
            before = await belongings(parent)
            tasks = trio.lowlevel.current_statistics().tasks_living
            for point in range(1, 1000):
                with injector.killing(pid, "child", point) as outcome:
                    said = await attempt(scenario, parent)
                assert await belongings(parent) == before, f"point {point}: {said}"
                assert trio.lowlevel.current_statistics().tasks_living == tasks
                if not outcome[1]:
                    assert said == "success"
                    assert point > 5
                    break
                assert "SIGKILL" in said, f"point {point}: {said}"
            else:
                raise AssertionError("there is no end to its system calls")


@pytest.mark.parametrize(("way", "name"), BY_STEP)
async def test_the_child_is_killed_at_each_step_of_ours(way: str, name: str) -> None:
    scenario = SCENARIOS[name]
    async with reached(way) as parent:
        pid = int(parent.pid)
        assert await attempt(scenario, parent) == "success"
        before = await belongings(parent)
        tasks = trio.lowlevel.current_statistics().tasks_living
        for point in range(1, 1000):
            functions = Functions(pid, point)
            with functions.watched():
                said = await attempt(scenario, parent)
            assert await belongings(parent) == before, f"{functions.killed}: {said}"
            assert trio.lowlevel.current_statistics().tasks_living == tasks
            if functions.killed is None:
                assert said == "success"
                assert point > 10
                break
            assert "SIGKILL" in said or said == "success", f"{functions.killed}: {said}"


@pytest.mark.parametrize("name", ["clone", "exec-files", "spawn"])
async def test_the_stub_is_killed_at_each_of_its_system_calls(name: str) -> None:
    """In the middle of what it does for us: its children end as well."""
    scenario = SCENARIOS[name]
    with tracer() as injector:
        before, tasks = Belongings.of(os.getpid()), trio.lowlevel.current_statistics().tasks_living
        for point in range(1, 1000):
            async with rsyscall.open_process() as parent:
                with injector.killing(int(parent.pid), "self", point) as outcome:
                    said = await attempt(scenario, parent)
            assert Belongings.of(os.getpid()) == before, f"point {point}: {said}"
            assert trio.lowlevel.current_statistics().tasks_living == tasks
            if not outcome[1]:
                assert said == "success"
                assert point > 20
                break
            # The child may have ended before, and with the stub went what was known of it.
            assert said == "success" or "SIGKILL" in said or "is unknown" in said, said


@pytest.mark.parametrize("ring", [False, True])
async def test_a_death_is_seen_though_a_child_has_the_same_sockets(ring: bool) -> None:
    """The end of a socket comes when nobody has it any more."""
    async with rsyscall.open_process(ring=ring) as stub, await stub.clone(ring=ring) as first:
        for process in (first, stub):
            async with await process.clone(CLONE.FILES, ring=ring) as child:
                assert await child.task.getppid() == process.task.near_process
                os.kill(int(process.pid), signal.SIGKILL)
                with trio.fail_after(10), pytest.raises(SyscallHangup, match="SIGKILL"):
                    await process.task.getpid()

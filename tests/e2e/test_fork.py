"""What a copy of the client that was made by fork has: a process of its own, and no connection."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import threading
import traceback
import warnings
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import trio

import rsyscall
from conformance.ways import WAYS
from e2e.servers import open_fds
from rsyscall import ForkedError
from rsyscall.command import Command
from rsyscall.fcntl import O
from rsyscall.handle import Task
from rsyscall.sched import CLONE
from rsyscall.sys.mman import MAP, PROT
from rsyscall.sys.wait import W
from rsyscall.tasks.pair import open_pair
from rsyscall.thread import ChildProcess


def in_child(work: Callable[[], object]) -> Any:
    """What `work` returns in a forked child, as JSON can say it."""
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        # Newer Pythons warn of threads, such as trio's idle ones and the server's.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            os.write(theirs, json.dumps([True, work()]).encode())
        except BaseException:
            os.write(theirs, json.dumps([False, traceback.format_exc()]).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        said = pipe.read()
    assert os.waitpid(pid, 0) == (pid, 0)
    succeeded, value = json.loads(said)
    assert succeeded, value
    return value


def run_anew(function: Callable[[], Awaitable[object]]) -> object:
    """trio.run, though the thread that was forked is inside of one: in another thread."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(trio.run(function)))
    thread.start()
    thread.join()
    (result,) = results
    return result


async def attempts(task: Task) -> list[str]:
    """What becomes of one call of each kind."""
    sysif, said = task.sysif, list[str]()
    for call in (
        task.getpid(),
        sysif.read_memory(1, 1),
        sysif.write_memory(1, b"1"),
        sysif.barrier(),
    ):
        try:
            await call
        except ForkedError as exc:
            said.append(str(exc))
    return said


@pytest.mark.parametrize("way", [name for name in WAYS if name != "direct"])
async def test_a_connection_is_dead_in_the_child_and_goes_on_in_the_parent(
    way: str, tmp_path: Path
) -> None:
    async with WAYS[way](tmp_path) as process:
        task = process.task
        said = in_child(lambda: run_anew(lambda: attempts(task)))
        assert said == ["the connection belongs to the process we were forked from"] * 4
        assert await task.getpid() == task.near_pid


@pytest.mark.parametrize("way", ["stub", "pair"])
async def test_nothing_of_a_connection_is_open_in_the_child(way: str) -> None:
    before = open_fds(os.getpid()).values()
    async with rsyscall.open_process() if way == "stub" else open_pair() as process:
        new = {what for what in open_fds(os.getpid()).values() if what not in before}
        theirs = in_child(lambda: list(open_fds(os.getpid()).values()))
        assert len({what for what in new if what.startswith("socket:")}) == (
            1 if way == "stub" else 2
        )
        assert not new & set(theirs)
        assert await process.task.getpid() == process.pid


async def leave(process: rsyscall.Process) -> str:
    try:
        await process.task.sysif.close_interface()
        await process.task.getpid()
    except ForkedError:
        return "forked"
    return "answered"


async def test_closing_in_the_child_says_nothing_to_the_server() -> None:
    async with rsyscall.open_process() as process:
        assert in_child(lambda: run_anew(lambda: leave(process))) == "forked"
        assert await process.task.getpid() == process.pid


def facts() -> list[bool]:
    """What local_process says of itself, each beside what is so."""
    process = rsyscall.local_process
    pid = run_anew(process.task.getpid)
    return [pid == process.pid, int(process.pid) == os.getpid()]


async def test_local_process_is_another_process_in_the_child() -> None:
    task, pid = rsyscall.local_process.task, os.getpid()

    def look() -> list[bool]:
        mine = rsyscall.local_process.task
        return [
            *facts(),
            mine is not task,
            mine.fd_table is not task.fd_table,
            mine.address_space is not task.address_space,
            rsyscall.local_process.stdin.task is mine,
            os.getpid() != pid,
        ]

    assert in_child(look) == [True] * 7
    assert rsyscall.local_process.task is task
    assert await task.getpid() == task.near_pid


async def test_a_child_opens_a_process_of_its_own() -> None:
    async def parent_of_a_stub() -> int:
        async with rsyscall.open_process() as process:
            return int(await process.task.getppid())

    async with rsyscall.open_process() as process:
        parent, child = in_child(lambda: [run_anew(parent_of_a_stub), os.getpid()])
        assert parent == child != os.getpid()
        assert await process.task.getpid() == process.pid


def report(task: Task, pipe: Connection) -> None:
    pipe.send([run_anew(lambda: attempts(task)), facts()])


async def test_multiprocessing_by_fork_is_a_fork_like_any_other() -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    async with rsyscall.open_process() as process:
        with ours:
            child = context.Process(target=report, args=(process.task, theirs))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # see in_child
                child.start()
            theirs.close()
            said, own = ours.recv()
            child.join()
        assert child.exitcode == 0
        child.close()
        assert said == ["the connection belongs to the process we were forked from"] * 4
        assert own == [True, True]
        assert await process.task.getpid() == process.pid


async def end_of(child: ChildProcess) -> list[str]:
    """What a copy of the client can do with a child that is its parent's."""
    said = [*await attempts(child.task)]
    for use in (lambda: child.pid.waitpid(W.EXITED), lambda: child.pid.kill(), child.end):
        try:
            await use()
        except ForkedError as exc:
            said.append(str(exc))
    return said


@pytest.mark.parametrize("flags", [CLONE.NONE, CLONE.FILES], ids=str)
async def test_children_are_the_parents(flags: CLONE) -> None:
    """In the copy each use of them is an error, and collecting the garbage does nothing."""
    async with await rsyscall.local_process.clone(flags) as child:
        said = in_child(lambda: run_anew(lambda: end_of(child)))
        assert len(said) == 7
        assert all("forked from" in text for text in said)

        def collect() -> bool:
            nonlocal child
            del child
            return gc.collect() >= 0

        assert in_child(collect)
        assert await child.task.getpid() == child.task.near_process
        await child.exit(4)
        assert (await child.pid.waitpid(W.EXITED)).exit_status == 4


async def spawn_one() -> bool:
    async with await rsyscall.local_process.clone() as child:
        assert await child.task.getpid() == child.task.near_process
    return (await rsyscall.local_process.run(Command("/bin/true", ["true"], {}))).clean()


async def test_the_copy_has_children_of_its_own() -> None:
    async with await rsyscall.local_process.clone() as child:
        assert in_child(lambda: run_anew(spawn_one)) is True
        assert await child.task.getpid() == child.task.near_process
    assert in_child(lambda: run_anew(spawn_one)) is True


@pytest.mark.parametrize("ring", [False, True])
async def test_the_in_process_server_makes_no_children(ring: bool) -> None:
    async with open_pair(ring=ring) as process:
        with pytest.raises(PermissionError, match="local_process does"):
            await process.clone()
        with pytest.raises(PermissionError, match="local_process does"):
            await process.spawn(Command("/bin/true", ["true"], {}))
        assert await process.task.getpid() == process.pid


async def test_memory_of_the_copy_is_written_in_the_copy() -> None:
    mapping = await rsyscall.local_process.task.mmap(4096, PROT.READ | PROT.WRITE, MAP.PRIVATE)
    await mapping.write(0, b"parent")

    async def write() -> str:
        await mapping.write(0, b"a copy")
        return (await mapping.read(0, 6)).decode()

    assert in_child(lambda: run_anew(write)) == "a copy"
    assert await mapping.read(0, 6) == b"parent"
    await mapping.munmap()


def is_open(number: int) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")


async def test_what_a_copy_loses_is_not_closed_in_it_nor_in_the_original() -> None:
    """Its numbers may be those of something else by now."""
    task = rsyscall.local_process.task
    fds = [await task.open("/dev/null", O.RDONLY) for _ in range(100)]
    lost = [int(fds.pop().near) for _ in range(80)]

    def work() -> list[bool]:
        more = [int(fds.pop().near) for _ in range(10)]
        gc.collect()

        async def use() -> bool:
            for one in (task, rsyscall.local_process.task):
                await one.run_fd_table_gc()
                await (await one.memfd_create("x")).close()
            return True

        run_anew(use)
        return [is_open(number) for number in (*lost, *more)]

    assert in_child(work) == [True] * 90
    await task.run_fd_table_gc()
    assert not any(is_open(number) for number in lost)
    for fd in fds:
        await fd.close()

"""Children of ours of which nothing was asked yet: what they are called by is made later."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rsyscall
from process.seen import SLEEP, TRUE
from rsyscall import local_process
from rsyscall.fcntl import O
from rsyscall.handle.process import DeadTaskError
from rsyscall.signal import SIG
from rsyscall.sys.wait import W

_ELSEWHERE = """
import os, trio, rsyscall
from rsyscall.sched import CLONE

async def main():
    parent = rsyscall.local_process
    before, first = parent.task.userns, await parent.fork()
    name = "/proc/{}/ns/user"
    one = os.readlink(name.format(int(first.pid)))
    await parent.unshare(CLONE.NEWUSER)
    second = await parent.fork()
    assert first.task.userns is before and first.task.fs is not parent.task.fs
    assert second.task.userns is parent.task.userns is not before
    ours, other = (os.readlink(name.format(who)) for who in ("self", int(second.pid)))
    assert one != ours == other
    await parent.end_children()

trio.run(main)
"""


def test_it_is_where_its_parent_was_and_not_where_that_is_by_now() -> None:
    # In a process of its own: this one has threads.
    subprocess.run([sys.executable, "-c", _ELSEWHERE], check=True, timeout=60)


async def test_what_was_closed_meanwhile_is_open_in_it() -> None:
    async with await local_process.task.open("/dev/null", O.RDONLY) as fd:
        child = await local_process.fork()
        its = os.readlink(f"/proc/{int(child.pid)}/fd/{int(fd.near)}")
    async with child:
        assert its == "/dev/null"
        assert await child.task.make_fd_handle(fd.near).read(1) == b""


async def test_it_can_be_called_after_an_exec_that_has_failed() -> None:
    async with await local_process.fork() as child:
        with pytest.raises(FileNotFoundError) as caught:
            await child.exec(rsyscall.Command("/nowhere", ["nowhere"]))
        assert caught.value.errno == errno.ENOENT
        assert await child.task.getpid() == child.task.near_process
        assert (await (await child.exec(TRUE)).check()).clean()


async def test_what_is_tried_once_it_has_execd() -> None:
    async with await local_process.fork() as child:
        await child.exec(SLEEP)
        with pytest.raises(DeadTaskError, match="has exec'd"):
            await child.task.getpid()
        with pytest.raises(DeadTaskError, match="has exec'd"):
            await child.exec(TRUE)


async def test_what_is_tried_once_it_was_killed() -> None:
    async with await local_process.fork() as child:
        await child.pid.kill()
        assert (await child.pid.waitpid(W.EXITED)).killed_with() is SIG.KILL
        with pytest.raises(DeadTaskError, match="was killed by SIGKILL"):
            await child.task.getpid()


async def test_an_exec_of_one_that_was_killed() -> None:
    async with await local_process.fork() as child:
        os.kill(int(child.pid), SIG.KILL)
        with pytest.raises(rsyscall.SyscallHangup, match="was killed by SIGKILL"):
            await child.exec(TRUE)


async def test_one_whose_exec_takes_long_is_waited_for() -> None:
    async with await local_process.fork() as child:
        await child.pid.kill(SIG.STOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.exec, TRUE)
            await wait_all_tasks_blocked()
            await child.pid.kill(SIG.CONT)
        assert (await child.pid.check()).clean()


async def fork_and_exec() -> None:
    child = await local_process.fork()
    assert (await (await child.exec(TRUE)).check()).clean()


async def clone_and_call() -> None:
    child = await local_process.clone()
    await child.task.getppid()
    await child.exit(0)
    assert (await child.pid.check()).clean()


async def spawn() -> None:
    assert (await (await local_process.spawn(TRUE)).check()).clean()


@pytest.mark.parametrize("live", [fork_and_exec, clone_and_call, spawn])
async def test_what_has_ended_is_freed_without_the_garbage_collector(
    live: Callable[[], Awaitable[None]],
) -> None:
    await live()
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            await live()
        found = gc.collect()
    finally:
        gc.enable()
    assert found == 0

"""Children of ours of which nothing was asked yet: what they are called by is made later."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rsyscall
from process.seen import SLEEP, TRUE
from rsyscall import local_process
from rsyscall.child.early import EarlyChild
from rsyscall.fcntl import O
from rsyscall.handle.process import DeadTaskError, children_of
from rsyscall.signal import SIG
from rsyscall.sys.wait import CLD, W
from rsyscall.sysif.remote import RemoteSyscallInterface

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


_LEFT_BEHIND = """
import ctypes, os, sys, trio, rsyscall

async def main():
    children = [await rsyscall.local_process.fork() for _ in range(2)]
    await children[1].task.getpid()
    if ctypes.CDLL(None).fork() == 0:  # without our handlers: it keeps all of our ends
        sys.stdin.read()
        os._exit(0)
    print(*[int(child.pid) for child in children], flush=True)
    await trio.sleep_forever()

trio.run(main)
"""


def test_it_ends_with_us_though_a_copy_of_us_has_our_end_of_its_socket() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _LEFT_BEHIND], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        if program.stdin is None or program.stdout is None:
            raise AssertionError("both are pipes")
        pidfds = [os.pidfd_open(int(number)) for number in program.stdout.readline().split()]
        program.kill()
        try:
            for pidfd in pidfds:  # the copy lives until our end of the pipe is closed
                assert select.select([pidfd], [], [], 60)[0]
        finally:
            for pidfd in pidfds:
                os.close(pidfd)


_NOT_SEEN = """
import ctypes, os, trio, rsyscall
from rsyscall.fcntl import O

async def main():
    if ctypes.CDLL(None, use_errno=True).unshare(0x20000000):  # NEWPID, which nobody is told of
        raise OSError(ctypes.get_errno(), "unshare")
    children = [await rsyscall.local_process.fork() for _ in range(2)]
    await children[1].task.getpid()
    for child in children:
        assert (await child.task.getppid()).id == 0
        fds = f"/proc/{int(child.pid)}/fd"
        with trio.fail_after(60):  # until it sleeps
            while len({os.readlink(f"{fds}/{number}") for number in child.task.own_fds}) != 1:
                await trio.lowlevel.checkpoint()
        opened = [await child.task.open("/dev/null", O.RDONLY) for _ in range(20)]
        numbers = {0, 1, 2, *child.task.own_fds, *[int(fd.near) for fd in opened]}
        assert len(numbers) == 25
        assert {int(number) for number in os.listdir(fds)} == numbers
    print(*[int(child.pid) for child in children], flush=True)
    await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.privileged
def test_it_serves_where_it_cannot_see_us_and_ends_with_us() -> None:
    with subprocess.Popen([sys.executable, "-c", _NOT_SEEN], stdout=subprocess.PIPE) as program:
        if program.stdout is None:
            raise AssertionError("it is a pipe")
        pidfds = [os.pidfd_open(int(number)) for number in program.stdout.readline().split()]
        program.kill()
        try:
            assert len(pidfds) == 2
            for pidfd in pidfds:
                assert select.select([pidfd], [], [], 60)[0]
        finally:
            for pidfd in pidfds:
                os.close(pidfd)


async def test_before_it_sleeps_it_has_a_pidfd_of_us_and_no_copy_of_our_end() -> None:
    async with await local_process.fork() as child:
        directory = Path(f"/proc/{int(child.pid)}/fdinfo")

        def of_us() -> list[str]:
            found = list[str]()
            for one in directory.iterdir():
                with contextlib.suppress(OSError):  # it has just been closed
                    if f"\nPid:\t{os.getpid()}\n" in one.read_text():
                        found.append(one.name)
            return found

        with trio.fail_after(60):
            while not of_us():
                await trio.lowlevel.checkpoint()
        [number] = of_us()
        for _ in range(2):
            opened = await child.task.open("/dev/null", O.RDONLY)
            assert int(opened.near) != int(number)
            assert of_us() == [number]
        fds = Path(f"/proc/{int(child.pid)}/fd")
        sockets = [one for one in fds.iterdir() if str(one.readlink()).startswith("socket:")]
        known = {str(handle) for handle in child.task.fd_table.held}
        assert len([one for one in sockets if one.name not in known]) == 1


async def test_what_was_closed_meanwhile_is_open_in_it() -> None:
    async with await local_process.task.open("/dev/null", O.RDONLY) as fd:
        child = await local_process.fork()
        its = os.readlink(f"/proc/{int(child.pid)}/fd/{int(fd.near)}")
    async with child:
        assert its == "/dev/null"
        assert await child.task.make_fd_handle(fd.near).read(1) == b""


async def test_a_ring_that_is_closed_has_no_socket_to_take() -> None:
    """Its number is somebody else's by then."""
    early = EarlyChild(local_process.task)
    try:
        ring = early.ring
        assert ring is not None
        ring.close()
        with pytest.raises(ValueError, match="closed"):
            ring.take_socket()
        with pytest.raises(ValueError, match="closed"):
            early.grow()
    finally:
        await early.finish()


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


async def test_that_it_has_execd_can_be_told_without_a_descriptor_to_spare() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with await local_process.fork() as child:
        await child.exec(SLEEP)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        try:
            with pytest.raises(DeadTaskError, match="has exec'd"):
                await child.task.getpid()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


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


async def test_a_program_that_has_ended_and_was_waited_for_by_others_has_been_execd() -> None:
    async with await local_process.fork() as child:
        await child.pid.kill(SIG.STOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.exec, TRUE)
            await wait_all_tasks_blocked()
            child.pid.pid.send_signal(SIG.CONT)
            select.select([child.pid.pid.pidfd], [], [])  # nobody here has a turn meanwhile
            assert os.waitpid(-1, 0) == (int(child.pid), 0)
        state = await child.pid.waitpid(W.EXITED)
        assert state.code in (CLD.EXITED, CLD.UNKNOWN)


async def test_of_two_who_have_it_exec_one_is_told_that_the_other_has() -> None:
    said = dict[str, object]()

    async def execute(child: rsyscall.ChildProcess, name: str, command: rsyscall.Command) -> None:
        try:
            said[name] = await child.exec(command)
        except DeadTaskError as exc:
            said[name] = str(exc)

    async with await local_process.fork() as child:
        await child.pid.kill(SIG.STOP)  # it takes long enough for the other to come
        async with trio.open_nursery() as nursery:
            nursery.start_soon(execute, child, "sleep", SLEEP)
            await wait_all_tasks_blocked()
            nursery.start_soon(execute, child, "true", TRUE)
            await wait_all_tasks_blocked()
            await child.pid.kill(SIG.CONT)
        assert child.pid.command is SLEEP
        assert said == {"sleep": child.pid, "true": f"{child.task} has exec'd"}


async def test_who_was_told_of_an_end_can_be_cancelled_all_the_same() -> None:
    async with await local_process.fork() as child:
        await (await child.exec(TRUE)).check()
        for again in (
            child.pid.check,
            lambda: child.pid.wait(),
            lambda: child.pid.waitpid(W.EXITED),
        ):
            with trio.CancelScope() as scope:
                scope.cancel()
                await again()
            assert scope.cancelled_caught


async def test_who_tries_until_it_succeeds_lets_others_run() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def relent() -> None:
        await trio.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    until, failed = trio.current_time() + 10, 0
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relent)
            await wait_all_tasks_blocked()
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
            while trio.current_time() < until:
                try:
                    child = await local_process.fork()
                except OSError:  # EMFILE
                    failed += 1
                else:
                    await child.end()
                    break
            else:
                pytest.fail("nobody else had a turn")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert failed


async def test_it_is_ours_to_end_before_anybody_else_has_a_turn() -> None:
    before = len(list(children_of(local_process.task)))

    async def end() -> None:
        while len(list(children_of(local_process.task))) == before:
            await trio.lowlevel.checkpoint()
        await local_process.end_children()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        await trio.lowlevel.checkpoint()
        until = time.perf_counter() + 0.002
        while time.perf_counter() < until:  # then a turn is due
            pass
        child = await local_process.fork()
    assert child.pid.pid.death_state is not None


@pytest.mark.parametrize(
    ("make", "call"),
    [
        (local_process.fork, "in socketpair()"),
        (lambda: local_process.spawn(TRUE), "in clone(flags=0x4100, "),
    ],
)
async def test_what_has_failed_is_named(make: Callable[[], Awaitable[object]], call: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files") as caught:
            await make()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert caught.value.__notes__[0].startswith(call)


async def look(child: rsyscall.ChildProcess) -> None:
    await child.pid.kill(0)


async def call(child: rsyscall.ChildProcess) -> None:
    with pytest.raises(DeadTaskError):
        await child.task.getpid()


@pytest.mark.parametrize("ask", [look, call])
async def test_whoever_asks_again_and_again_lets_others_run(
    ask: Callable[[rsyscall.ChildProcess], Awaitable[None]],
) -> None:
    until = trio.current_time() + 10
    async with await local_process.fork() as child:
        await child.exec(SLEEP)
        with trio.move_on_after(0.01) as scope:
            while trio.current_time() < until:
                await ask(child)
    assert scope.cancelled_caught


async def fork_and_exec() -> None:
    child = await local_process.fork()
    assert (await (await child.exec(TRUE)).check()).clean()


async def clone_and_call() -> None:
    child = await local_process.clone()
    await child.task.getppid()
    await child.exit(0)
    assert (await child.pid.check()).clean()


async def exec_and_look() -> None:
    child = await local_process.fork()
    await (await child.exec(TRUE)).check()
    assert not isinstance(child.task.sysif, RemoteSyscallInterface)


async def spawn() -> None:
    assert (await (await local_process.spawn(TRUE)).check()).clean()


@pytest.mark.parametrize("live", [fork_and_exec, clone_and_call, exec_and_look, spawn])
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


_LEFT_ALONE = """
import os, trio
from rsyscall import local_process
from rsyscall.sys.syscall import SYS

async def main():
    first = await local_process.fork()
    os.setresuid(33, 33, 0)
    assert (await first.end()).exit_status == 0  # it could not be killed
    os.setresuid(0, 0, 0)
    call = local_process.task.sysif.syscall
    await call(SYS.prctl, 4, 1)
    async with await local_process.fork() as second:
        await second.task.setresuid(33, 33, 33)
        assert await call(SYS.prctl, 3) != 1
    assert await call(SYS.prctl, 3) == 1

trio.run(main)
"""


def test_one_that_may_not_be_killed_leaves_our_memory_too() -> None:
    """What is told to end by its socket counts no more among those that share the memory."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody who may not kill its child")
    subprocess.run([sys.executable, "-c", _LEFT_ALONE], check=True, timeout=60)


_DROPPED = """
import gc, os, trio, rsyscall

async def main():
    child = await rsyscall.local_process.fork()
    pidfd = os.pidfd_open(int(child.pid))
    child.pid.detach()
    del child
    gc.collect()
    with trio.fail_after(10):
        await trio.lowlevel.wait_readable(pidfd)

trio.run(main)
"""


def test_one_that_nobody_can_name_any_more_ends() -> None:
    # In a process of its own: nobody waits for the child, nor counts it.
    subprocess.run([sys.executable, "-c", _DROPPED], check=True, timeout=60)

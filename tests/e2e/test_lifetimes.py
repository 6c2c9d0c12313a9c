"""The life of a stub of our own: what its end does to its callers, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

import rsyscall
from conformance.pipes import pipe_to
from e2e.servers import STUB, children_of, open_fds
from rsyscall.near.sysif import SyscallHangup, SyscallSendError, SyscallSendHangup
from rsyscall.sched import CLONE
from rsyscall.tasks.pair import open_pair


def kill(process: rsyscall.Process, number: int = signal.SIGKILL) -> None:
    """Kill the stub; it has ended, and is a zombie, when this returns."""
    pid = int(process.pid)
    os.kill(pid, number)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def steal_the_status(process: rsyscall.Process) -> None:
    os.waitpid(int(process.pid), 0)


def is_reaped(process: rsyscall.Process) -> bool:
    return int(process.pid) not in children_of(os.getpid())


async def fail_in_a_block_whose_stub_dies(error: Exception) -> None:
    async with rsyscall.open_process() as process:
        kill(process)
        raise error


async def hangup_of_a_blocked_call(process: rsyscall.Process, number: int) -> SyscallHangup:
    caught: list[SyscallHangup] = []

    async def read() -> None:
        with pytest.raises(SyscallHangup) as info:
            await reader.read(1)
        caught.append(info.value)

    async with pipe_to(process.task) as (reader, _), trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        kill(process, number)
    return caught[0]


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGKILL, "SIGKILL"),
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGRTMIN + 1, f"signal {signal.SIGRTMIN + 1}"),
    ],
)
async def test_a_call_under_way_ends_with_the_cause_of_death(number: int, name: str) -> None:
    async with rsyscall.open_process() as process:
        exc = await hangup_of_a_blocked_call(process, number)
        assert not isinstance(exc, SyscallSendError)  # it may have happened
        assert str(exc) == f"the stub (pid {int(process.pid)}) has ended: it was killed by {name}"


async def test_a_call_after_the_death_says_that_it_was_not_sent() -> None:
    async with rsyscall.open_process() as process:
        kill(process)
        for _ in range(2):
            with pytest.raises(SyscallSendHangup, match=r"^not sent: .* killed by SIGKILL$"):
                await process.task.getpid()


async def test_every_waiter_fails_when_the_stub_is_killed() -> None:
    """One of them reads for all, and every one of them is told why."""
    reasons: list[str] = []

    async def call() -> None:
        # Whether it was sent, a ring can tell exactly: not if the stub never came to read it.
        with pytest.raises(SyscallHangup) as info:
            await reader.read(1)
        reasons.append(str(info.value))

    async def read() -> None:
        with pytest.raises(SyscallHangup) as info:
            await reader.read(1)
        reasons.append(str(info.value))

    async with (
        rsyscall.open_process() as process,
        pipe_to(process.task) as (reader, _),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(100):
            nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        os.kill(int(process.pid), signal.SIGKILL)  # EOF may come before the zombie
    assert len(reasons) == 101
    assert {reason.rpartition(": ")[2] for reason in reasons} == {"it was killed by SIGKILL"}


async def test_a_caller_that_is_cancelled_still_learns_of_the_death() -> None:
    reasons: list[str] = []

    async def read() -> None:
        with scope:
            with pytest.raises(SyscallHangup) as info:
                await reader.read(1)
            reasons.append(str(info.value))

    scope = trio.CancelScope()
    async with (
        rsyscall.open_process() as process,
        pipe_to(process.task) as (reader, _),
        trio.open_nursery() as nursery,
    ):
        await process.unshare(CLONE.NEWPID)  # so that nobody can interrupt it
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        os.kill(int(process.pid), signal.SIGKILL)
    assert [reason.partition(": ")[2] for reason in reasons] == ["it was killed by SIGKILL"]


@pytest.mark.parametrize("told", [False, True], ids=["unnoticed", "noticed"])
async def test_leaving_after_the_death_reaps_closes_and_raises_nothing(told: bool) -> None:
    before = open_fds(os.getpid())
    async with rsyscall.open_process() as process:
        kill(process)
        if told:
            with pytest.raises(SyscallHangup):
                await process.task.getpid()
    assert open_fds(os.getpid()) == before
    assert is_reaped(process)


async def test_a_stub_that_somebody_else_has_reaped_is_no_error() -> None:
    async with rsyscall.open_process() as process:
        kill(process)
        steal_the_status(process)
        with pytest.raises(SyscallHangup, match="its status is unknown"):
            await process.task.getpid()


async def test_an_exception_of_the_block_comes_out_unchanged_after_a_death() -> None:
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        await fail_in_a_block_whose_stub_dies(error)
    assert caught.value is error


async def test_handles_of_a_block_that_was_left_refuse_without_sending() -> None:
    async with rsyscall.open_process() as process:
        fd = await process.task.memfd_create("left")
    async with rsyscall.open_process():  # in which the number is not open, and must not be tried
        for call in process.task.getpid(), fd.fstat(), fd.close():
            with pytest.raises(SyscallSendHangup, match="closed by us"):
                await call


async def test_leaving_while_calls_wait_ends_them_and_the_stub() -> None:
    ended: list[str] = []

    async def read() -> None:
        with pytest.raises(SyscallHangup, match="closed by us"):
            await reader.read(1)
        ended.append("reader")

    async def call() -> None:
        with pytest.raises(SyscallHangup, match="closed by us"):
            await reader.read(1)
        ended.append("other")

    async with trio.open_nursery() as nursery:
        async with rsyscall.open_process() as process:
            stack = contextlib.AsyncExitStack()
            reader, _ = await stack.enter_async_context(pipe_to(process.task))
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
        assert is_reaped(process)
    await stack.aclose()
    assert sorted(ended) == ["other", "reader"]


async def test_leaving_a_pair_while_a_call_waits_ends_it_and_the_thread() -> None:
    ended: list[str] = []

    async def read() -> None:
        with pytest.raises(SyscallHangup, match="closed by us"):
            await reader.read(1)
        os.write(writer, b"x")  # lets the thread go, whose call nothing else can interrupt
        ended.append("reader")

    async with trio.open_nursery() as nursery, rsyscall.open_process():
        stack = contextlib.AsyncExitStack()
        async with open_pair() as process:
            reader, writer = await stack.enter_async_context(pipe_to(process.task))
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
    assert ended == ["reader"]
    os.close(int(reader.near))  # the thread was in this process, and so is what it opened
    await stack.aclose()


async def test_a_block_that_is_cancelled_ends_its_stub() -> None:
    opened: list[rsyscall.Process] = []
    with trio.CancelScope() as scope:
        async with rsyscall.open_process() as process:
            opened.append(process)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    (process,) = opened
    assert is_reaped(process)


# ---- starting ----


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(stat.S_IRWXU)
    return path


async def opening(path: Path) -> BaseException:
    """What opening this stub raises; it must leave nothing behind."""
    before = open_fds(os.getpid())
    with pytest.raises((OSError, SyscallHangup)) as caught:
        async with rsyscall.open_process(path):
            pytest.fail("opened")
    assert open_fds(os.getpid()) == before
    assert children_of(os.getpid()) == []
    return caught.value


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("missing", FileNotFoundError),
        ("not executable", PermissionError),
        ("directory", PermissionError),
        ("no program", OSError),
    ],
)
async def test_a_stub_that_cannot_be_started_is_an_oserror_that_names_the_step(
    tmp_path: Path, kind: str, error: type[OSError]
) -> None:
    path = tmp_path / "stub"
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"\0nothing that runs")
        path.chmod(0o600 if kind == "not executable" else 0o700)
    exc = await opening(path)
    assert type(exc) is error
    assert exc.__notes__ == [f"while starting the stub {path}"]


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("exit 3", "exited with status 3"),
        ("kill -9 $$", "was killed by SIGKILL"),
        ("head -c 1 <&3 >/dev/null; exit 4", "exited with status 4"),
    ],
    ids=["exits", "is killed", "reads first"],
)
async def test_a_stub_that_ends_before_hello_is_a_hangup_with_its_status(
    tmp_path: Path, text: str, status: str
) -> None:
    exc = await opening(script(tmp_path / "stub", text))
    assert type(exc) is SyscallHangup
    assert str(exc).endswith(f" has ended: it {status}")


async def test_opening_is_cancelled_while_the_stub_says_nothing(tmp_path: Path) -> None:
    path = script(tmp_path / "stub", "exec cat <&3 >/dev/null")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()

            nursery.start_soon(cancel)
            async with rsyscall.open_process(path):
                pytest.fail("opened")
    assert scope.cancelled_caught
    assert children_of(os.getpid()) == []


async def test_no_descriptor_left_for_the_pidfd_leaves_no_child_behind() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = [os.dup(0) for _ in range(3)]
    for fd in used:
        os.close(fd)
    # Those that opening a socketpair takes are allowed, and no more.
    resource.setrlimit(resource.RLIMIT_NOFILE, (used[1] + 1, hard))
    try:
        with pytest.raises(OSError, match="Too many open files") as caught:
            async with rsyscall.open_process():
                pytest.fail("opened")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.__notes__ == [f"while opening a pidfd of the stub {STUB}"]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("missing", FileNotFoundError),
        ("refused", ConnectionRefusedError),
        ("file", ConnectionRefusedError),
        ("name", ConnectionRefusedError),
    ],
)
async def test_a_socket_that_cannot_be_connected_is_an_oserror_that_names_it(
    tmp_path: Path, kind: str, error: type[OSError]
) -> None:
    path, before = tmp_path / "socket", open_fds(os.getpid())
    if kind == "refused":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == "file":
        path.touch()
    address = f"unix:@{path}" if kind == "name" else f"unix:{path}"
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its type follows
        async with rsyscall.connect(address):
            pytest.fail("connected")
    assert type(caught.value) is error
    assert caught.value.__notes__ == [f"while connecting to {address}"]
    assert open_fds(os.getpid()) == before


async def test_a_process_that_was_left_has_ended_when_the_block_is_over() -> None:
    async with rsyscall.open_process() as process:
        pidfd = os.pidfd_open(int(process.pid))
    ready = select.select([pidfd], [], [], 0)[0]
    os.close(pidfd)
    assert ready

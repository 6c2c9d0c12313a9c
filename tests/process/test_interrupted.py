"""Calls that are blocked are cancelled, and what is told of them holds."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
from pathlib import Path

import pytest
import trio
import trio.testing

import rsyscall
from process.blocking import (
    EFD_SEMAPHORE,
    SECONDS,
    Blocked,
    cancelled_in,
    sleeping,
    tasks,
)
from rsyscall.near.sysif import Interrupted
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import (
    Batch,
    Batched,
    In,
    Out,
    Ret,
    Status,
    Step,
    flatten,
)

#: How often calls are cancelled at random instants; 100,000 times takes some minutes.
INSTANTS = int(os.environ.get("RSYSCALL_TEST_INSTANTS", "300"))
#: Other calls before the cancellation, at most; to begin a thread takes longer than to send a call.
BETWEEN, BETWEEN_HERE = 20, 150
F_SETFL, F_SETPIPE_SZ, F_GETPIPE_SZ = 4, 1031, 1032
#: What goes through a pipe, again and again: as much as one call may take, and a turn more.
STREAM = bytes(range(256)) * 64


async def test_all_are_cancelled(process: rsyscall.Process) -> None:
    sysif = process.task.sysif
    eventfd = await sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            reads = Blocked(process, eventfd, nursery)
            await reads.start(200)
            for _ in range(1000):
                await sysif.syscall(SYS.getpid)
            nursery.cancel_scope.cancel()
    assert reads.returned == 0
    # None of them is left to take this, and none is blocked.
    await reads.release(1)
    assert (await sysif.call(SYS.read, (eventfd, Ret(8), 8))).outs == ((1).to_bytes(8, "little"),)
    if not sysif.immediate:  # trio keeps its threads for a while
        await sysif.syscall(SYS.setresuid, -1, -1, -1)
        assert len(tasks(process)) == 1


async def test_the_effect_is_what_is_told(process: rsyscall.Process) -> None:
    """A call that is cancelled at a random instant has happened, or has not."""
    sysif, moments = process.task.sysif, random.Random(6)
    calls = BETWEEN_HERE if sysif.immediate else BETWEEN
    eventfd = await sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    written = taken = cancelled = 0

    async def take(scope: trio.CancelScope) -> None:
        nonlocal taken, cancelled
        with scope:
            await sysif.call(SYS.read, (eventfd, Ret(8), 8))
            taken += 1
        cancelled += scope.cancelled_caught

    with trio.fail_after(SECONDS + INSTANTS / 100):
        for _ in range(INSTANTS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take, scope := trio.CancelScope())
                for _ in range(moments.randrange(3)):
                    await trio.lowlevel.checkpoint()
                if moments.random() < 0.3:
                    await sysif.call(SYS.write, (eventfd, In((1).to_bytes(8, "little")), 8))
                    written += 1
                for _ in range(moments.randrange(calls)):
                    await sysif.syscall(SYS.getpid)
                scope.cancel()
    await sysif.syscall(SYS.fcntl, eventfd, F_SETFL, os.O_NONBLOCK)
    left = 0
    with contextlib.suppress(BlockingIOError):
        while await sysif.call(SYS.read, (eventfd, Ret(8), 8)):
            left += 1
    assert written == taken + left
    assert cancelled > INSTANTS / 10
    assert taken > INSTANTS / 10


async def test_the_bytes_of_a_pipe_are_those_that_are_told(process: rsyscall.Process) -> None:
    """Reads and writes are cancelled at random instants: each byte comes through once, in order."""
    sysif, moments = process.task.sysif, random.Random(7)
    calls = BETWEEN_HERE if sysif.immediate else BETWEEN
    reader, writer = struct.unpack("ii", (await sysif.call(SYS.pipe2, (Out(8), 0))).outs[0])
    size = await sysif.syscall(SYS.fcntl, writer, F_SETPIPE_SZ, 4096)
    sent = received = 0
    told = {"read": 0, "written": 0, "nothing read": 0, "nothing written": 0, "a part": 0}

    async def write(count: int) -> None:
        nonlocal sent
        args = (writer, In(STREAM[sent % 256 :][:count]), count)
        try:
            wrote = (await sysif.call(SYS.write, args)).value
        except trio.Cancelled:
            told["nothing written"] += 1
            raise
        sent += wrote
        told["written"] += 1
        told["a part"] += wrote < count

    async def read(count: int) -> None:
        nonlocal received
        try:
            reply = await sysif.call(SYS.read, (reader, Ret(count), count))
        except trio.Cancelled:
            told["nothing read"] += 1
            raise
        assert reply.outs[0] == STREAM[received % 256 :][: reply.value]
        received += reply.value
        told["read"] += 1

    with trio.fail_after(SECONDS + INSTANTS / 100):
        for i in range(INSTANTS):
            async with trio.open_nursery() as nursery:
                one, other = (write, read) if i // 8 % 2 else (read, write)  # it fills up, or not
                nursery.start_soon(one, moments.randrange(1, 3 * size))
                for _ in range(moments.randrange(3)):
                    await trio.lowlevel.checkpoint()
                if moments.random() < 0.5:
                    nursery.start_soon(other, moments.randrange(1, size))
                for _ in range(moments.randrange(calls)):
                    await sysif.syscall(SYS.getpid)
                nursery.cancel_scope.cancel()
    for fd in (reader, writer):
        await sysif.syscall(SYS.fcntl, fd, F_SETFL, os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            await read(size)
    assert received == sent
    assert min(told.values()) > INSTANTS / 50, told


async def test_a_part_that_was_written_counts(process: rsyscall.Process) -> None:
    """Of a write that is cancelled when the pipe is full, what is in it is told."""
    sysif = process.task.sysif
    _, writer = struct.unpack("ii", (await sysif.call(SYS.pipe2, (Out(8), 0))).outs[0])
    size = await sysif.syscall(SYS.fcntl, writer, F_GETPIPE_SZ)
    wrote: list[int] = []

    async def write() -> None:
        args = (writer, In(bytes(2 * size)), 2 * size)
        wrote.append((await sysif.call(SYS.write, args)).value)

    await cancelled_in(process, SYS.write, write)
    assert wrote == [size]


async def test_a_connect_that_goes_on(process: rsyscall.Process, tmp_path: Path) -> None:
    """EINTR is not the same as nothing there, and not told as such."""
    sysif = process.task.sysif
    path = str(tmp_path / "socket")
    address = struct.pack("H", socket.AF_UNIX) + os.fsencode(path) + b"\0"
    caught: list[Interrupted] = []
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)  # and there is no room for a second one
        fd = await sysif.syscall(SYS.socket, socket.AF_UNIX, socket.SOCK_STREAM, 0)

        async def connect() -> None:
            try:
                await sysif.call(SYS.connect, (fd, In(address), len(address)))
            except Interrupted as exc:
                caught.append(exc)

        await cancelled_in(process, SYS.connect, connect)
    assert [exc.effect for exc in caught] == ["continues"]


@pytest.mark.parametrize("undone", [True, False])
async def test_a_batch_is_cancelled_in_a_step(process: rsyscall.Process, undone: bool) -> None:
    sysif = process.task.sysif
    eventfd = await sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    before = await sysif.syscall(SYS.umask, 0o22)
    await sysif.syscall(SYS.umask, before)
    steps = (
        Step(SYS.umask, (0o77,), undo=(SYS.umask, (before,)) if undone else None),
        Step(SYS.read, flatten((eventfd, Ret(8), 8))),
        Step(SYS.umask, (0o707,)),
    )
    told: list[Batched] = []

    async def run() -> None:
        told.append(await sysif.batch(Batch(0, steps)))

    await cancelled_in(process, SYS.read, run)
    mask = await sysif.syscall(SYS.umask, before)
    if undone:  # as if it had never been sent
        assert not told
        assert mask == before
    else:
        assert mask == 0o77
        assert list(told[0].statuses) == [Status.DONE, Status.BLOCKED, Status.NOT_STARTED]
        assert told[0].stopped == 1


async def test_a_process_that_blocks_all_signals_is_interrupted(process: rsyscall.Process) -> None:
    sysif = process.task.sysif
    await sysif.call(SYS.rt_sigprocmask, (2, In(b"\xff" * 8), 0, 8))
    eventfd = await sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    for _ in range(2):

        async def read() -> None:
            await sysif.call(SYS.read, (eventfd, Ret(8), 8))

        await cancelled_in(process, SYS.read, read)


@pytest.mark.parametrize("together", [False, True])
async def test_a_server_that_is_stuck(
    process: rsyscall.Process, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process stands for a call that no signal reaches."""
    monkeypatch.setattr("rsyscall.sysif._interrupt.GRACE_SECONDS", 0.1)
    sysif, pid = process.task.sysif, int(process.pid)
    eventfd = await sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    ended: list[str] = []

    async def read(scope: trio.CancelScope) -> None:
        with scope:
            with pytest.raises(rsyscall.SyscallHangup) as caught:
                await sysif.call(SYS.read, (eventfd, Ret(8), 8))
            ended.append(str(caught.value))

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in range(3)]
            for scope in scopes:
                nursery.start_soon(read, scope)
            while sleeping(process, SYS.read) < len(scopes):
                await sysif.syscall(SYS.getpid)
            os.kill(pid, signal.SIGSTOP)
            for scope in scopes if together else scopes[:1]:
                scope.cancel()
        assert len(ended) == 3
        assert set(ended) == {
            "the server is stuck: not to be interrupted in 0.1 s: "
            f"read(fd={eventfd}, buf=<room for 8 bytes>, count=8)"
        }
        with pytest.raises(rsyscall.SyscallSendError, match="stuck"):
            await sysif.syscall(SYS.getpid)
        os.kill(pid, signal.SIGCONT)
        while Path(f"/proc/{pid}").exists() and state(pid) != "Z":
            await trio.lowlevel.checkpoint()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def test_one_that_is_only_slow_is_not_stuck(
    process: rsyscall.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsyscall.sysif._interrupt.GRACE_SECONDS", SECONDS)
    sysif, pid = process.task.sysif, int(process.pid)
    eventfd = await sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sysif.call, SYS.read, (eventfd, Ret(8), 8))
            while not sleeping(process, SYS.read):
                await sysif.syscall(SYS.getpid)
            os.kill(pid, signal.SIGSTOP)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked(0.05)
            os.kill(pid, signal.SIGCONT)
    assert nursery.cancel_scope.cancelled_caught
    assert await sysif.syscall(SYS.getpid) == pid

"""Calls that are blocked are cancelled, and what is told of them holds."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
from pathlib import Path

import pytest
import trio

import rsyscall
from process.blocking import (
    EFD_SEMAPHORE,
    SECONDS,
    Blocked,
    cancelled_in,
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

#: How often a call is cancelled at a random instant; a hundred times as often takes two minutes.
INSTANTS = int(os.environ.get("RSYSCALL_TEST_INSTANTS", "1000"))
F_SETFL, F_GETPIPE_SZ = 4, 1032


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
    await sysif.syscall(SYS.setresuid, -1, -1, -1)
    assert len(tasks(process)) == 1


async def test_the_effect_is_what_is_told(process: rsyscall.Process) -> None:
    """A call that is cancelled at a random instant has happened, or has not."""
    sysif, moments = process.task.sysif, random.Random(6)
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
                for _ in range(moments.randrange(20)):
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

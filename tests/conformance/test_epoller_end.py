"""Who waits for a descriptor is told that it, its process or the connection has come to an end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rsyscall
from conformance.async_pairs import SOME, pipe
from conformance.kernel import is_open
from conformance.ways import WAYS
from rsyscall.epoller import AsyncFileDescriptor
from rsyscall.fcntl import O
from rsyscall.near.sysif import SyscallHangup


@pytest.fixture(params=SOME)
async def some(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process:
        yield process


async def test_who_waits_is_told_that_it_is_closed(some: rsyscall.Process) -> None:
    async with pipe(some) as (reader, writer):
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await reader.read_some_bytes()

            for _ in range(3):
                nursery.start_soon(read)
            await wait_all_tasks_blocked()
            number = reader.handle
            await reader.close()
        assert not is_open(some, number)
        await reader.close()
        with pytest.raises(trio.ClosedResourceError):
            await reader.read_some_bytes()
        with pytest.raises(BrokenPipeError):
            await writer.write_all_bytes(b"x")


async def test_closing_is_done_although_cancelled(some: rsyscall.Process) -> None:
    made = await some.task.pipe(flags=O.NONBLOCK)
    fds = [await some.make_afd(fd) for fd in (made.read, made.write)]
    with trio.move_on_after(0.001):
        await fds[0].read_some_bytes()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with fds[0], fds[1]:
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert not is_open(some, made.read)
    assert not is_open(some, made.write)


async def test_who_waits_is_told_that_the_process_was_killed(apart: rsyscall.Process) -> None:
    """A hundred, promptly; and there was no call under way that would have noticed."""
    hung_up = 0

    async with contextlib.AsyncExitStack() as stack:
        pipes = [await stack.enter_async_context(pipe(apart)) for _ in range(100)]

        async def read(fd: AsyncFileDescriptor) -> None:
            nonlocal hung_up
            with pytest.raises(SyscallHangup):
                await fd.read_some_bytes()
            hung_up += 1

        async with trio.open_nursery() as nursery:
            for reader, _ in pipes:
                nursery.start_soon(read, reader)
            await wait_all_tasks_blocked()
            os.kill(int(apart.pid), signal.SIGKILL)
    assert hung_up == 100
    if apart.task.fd_table is rsyscall.local_process.task.fd_table:
        for ends in pipes:  # they are ours, too
            for end in ends:
                await end.handle.for_task(rsyscall.local_process.task).close()


async def test_who_waits_is_told_the_cause() -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(SyscallHangup, match="killed by SIGKILL")):
        async with (
            rsyscall.open_process() as process,
            pipe(process) as (reader, _),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(reader.read_some_bytes)
            await wait_all_tasks_blocked()
            os.kill(int(process.pid), signal.SIGKILL)


async def test_who_waits_is_told_that_we_have_closed_the_connection() -> None:
    async with trio.open_nursery() as nursery, rsyscall.open_process() as process:
        made = await process.task.pipe(flags=O.NONBLOCK)
        reader = await process.make_afd(made.read)

        async def read() -> None:
            with pytest.raises(SyscallHangup):
                await reader.read_some_bytes()

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
    await reader.close()

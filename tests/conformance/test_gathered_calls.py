"""What many tasks ask of one process at the same time, which is sent together."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import struct
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rsyscall
from conformance.seen import NO_FD
from conformance.ways import WAYS
from rsyscall.epoller import AsyncFileDescriptor
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor
from rsyscall.near.sysif import In, Ret, SyscallHangup
from rsyscall.sys.eventfd import EFD
from rsyscall.sys.resource import RLIMIT, Rlimit
from rsyscall.sys.socket import AF, SOCK
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.remote import RemoteSyscallInterface

ONE = struct.pack("=Q", 1)


@pytest.fixture(params=["stub", "stub-no-ring", "child"])
async def some(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process:
        yield process


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each batch that is sent, how many steps it has."""
    sent: list[int] = []
    send = RemoteSyscallInterface.batch_frame

    async def batch_frame(self: RemoteSyscallInterface, frame: object, batch: object) -> object:
        sent.append(frame.steps)  # type: ignore[attr-defined]
        return await send(self, frame, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(RemoteSyscallInterface, "batch_frame", batch_frame)
    return sent


async def count(fd: FileDescriptor) -> int:
    """What an eventfd holds; it is empty then."""
    try:
        return int(struct.unpack("=Q", await fd.read(8))[0])
    except BlockingIOError:
        return 0


async def test_each_gets_its_own_result_or_error(
    some: rsyscall.Process, batches: list[int]
) -> None:
    sysif = some.task.sysif
    got: dict[int, object] = {}
    made = await some.task.pipe(flags=O.NONBLOCK)
    await made.write.write(bytes(range(200)))

    async def call(index: int) -> None:
        try:
            if index % 4 == 0:
                got[index] = (await sysif.call_at_once(SYS.getpid)).value
            elif index % 4 == 1:
                got[index] = (await sysif.call_at_once(SYS.read, (made.read.near, Ret(1), 1))).outs
            elif index % 4 == 2:
                await sysif.call_at_once(SYS.close, (NO_FD,))
            else:
                await sysif.call_at_once(SYS.chdir, (In(b"/no/such/%d\0" % index),))
        except OSError as exc:
            got[index] = type(exc), exc.__notes__

    sysif.expect(600)
    async with made.read, made.write, trio.open_nursery() as nursery:
        for index in range(600):
            nursery.start_soon(call, index)
    assert len(got) == 600
    assert {got[i] for i in range(0, 600, 4)} == {int(some.pid)}
    assert sorted(got[i] for i in range(1, 600, 4)) == [(bytes([i]),) for i in range(150)]  # type: ignore[type-var]
    for i in range(3, 600, 4):
        assert got[i] == (FileNotFoundError, [f"in chdir(path='/no/such/{i}')"])
        assert got[i - 1] == (OSError, [f"in close(fd={int(NO_FD)})"])
    assert sum(batches) == 600
    assert len(batches) < 10


async def test_a_single_caller_is_not_kept_although_more_were_expected(
    some: rsyscall.Process, batches: list[int]
) -> None:
    some.task.sysif.expect(100)
    for _ in range(3):
        reply = await some.task.sysif.call_at_once(SYS.getpid)
        assert reply.value == int(some.pid)
    assert batches == []


async def test_what_is_probed_is_what_the_call_has_left(some: rsyscall.Process) -> None:
    made = await some.task.pipe(flags=O.NONBLOCK)
    sysif = some.task.sysif
    probed: list[int | None] = []
    await made.write.write(b"abc")
    pollfd = In(struct.pack("=ihh", int(made.read.near), 1, 0))
    probe = SYS.ppoll, (pollfd, 1, In(bytes(16)), 0, 8)

    async def read() -> None:
        args = (made.read.near, Ret(1), 1)
        probed.append((await sysif.call_at_once(SYS.read, args, probe)).probed)

    sysif.expect(3)
    async with made.read, made.write, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(read)
    assert sorted(one for one in probed if one is not None) == [0, 1, 1]


async def test_who_is_cancelled_before_it_is_sent_has_done_nothing(
    some: rsyscall.Process,
) -> None:
    """The first, who would send, and others: in each case the rest is sent all the same."""
    sysif = some.task.sysif
    async with await some.task.eventfd(0, EFD.NONBLOCK) as fd:
        for cancelled in ({0}, {3}, {0, 1, 2}, {0, 5, 9}, set(range(9)), set(range(10))):
            done: set[int] = set()
            scopes = [trio.CancelScope() for _ in range(10)]

            async def add(index: int, scope: trio.CancelScope, done: set[int]) -> None:
                with scope:
                    await sysif.call_at_once(SYS.write, (fd.near, In(ONE), 8))
                    done.add(index)

            async def cancel(scopes: list[trio.CancelScope]) -> None:
                for scope in scopes:
                    scope.cancel()

            sysif.expect(10)
            async with trio.open_nursery() as nursery:
                for index, scope in enumerate(scopes):
                    nursery.start_soon(add, index, scope, done)
                nursery.start_soon(cancel, [scopes[index] for index in cancelled])
            # Whether they had been sent by then is trio's choice, which is at random.
            assert done >= set(range(10)) - cancelled
            assert await count(fd) == len(done)
            assert {i for i in range(10) if scopes[i].cancelled_caught} == set(range(10)) - done
            assert await some.task.getpid() == some.task.near_process


async def test_all_are_told_that_the_process_was_killed() -> None:
    async with rsyscall.open_process() as process:
        sysif = process.task.sysif
        hung_up = 0

        async def kill_itself() -> None:
            nonlocal hung_up
            with pytest.raises(SyscallHangup):
                await sysif.call_at_once(SYS.kill, (int(process.pid), signal.SIGKILL))
            hung_up += 1

        sysif.expect(50)
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(kill_itself)
        assert hung_up == 50


@pytest.mark.parametrize("way", ["stub", "stub-no-ring"])
async def test_a_thousand_descriptors_echo(way: str, tmp_path: Path) -> None:
    async with WAYS[way](tmp_path) as process, contextlib.AsyncExitStack() as stack:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        await process.task.setrlimit(RLIMIT.NOFILE, Rlimit(min(hard, 4096), hard))
        clients: list[AsyncFileDescriptor] = []
        servers: list[AsyncFileDescriptor] = []
        for _ in range(500):
            made = await process.task.socketpair(AF.UNIX, SOCK.STREAM | SOCK.NONBLOCK)
            for fd, ends in ((made.first, clients), (made.second, servers)):
                end = AsyncFileDescriptor(process.epoller, fd)
                ends.append(await stack.enter_async_context(end))
        done = [0] * 500

        async def serve(fd: AsyncFileDescriptor) -> None:
            while data := await fd.read_some_bytes():
                await fd.write_all_bytes(data)

        async def ask(fd: AsyncFileDescriptor, number: int) -> None:
            for turn in range(3):
                data = b"%d %d" % (number, turn)
                await fd.write_all_bytes(data)
                assert await fd.read_some_bytes() == data
                done[number] += 1

        async with trio.open_nursery() as nursery:
            for server in servers:
                nursery.start_soon(serve, server)
            async with trio.open_nursery() as asking:
                for number, client in enumerate(clients):
                    asking.start_soon(ask, client, number)
            nursery.cancel_scope.cancel()
        assert done == [3] * 500


async def test_a_thousand_who_wait_are_cancelled_at_once(tmp_path: Path) -> None:
    async with WAYS["stub"](tmp_path) as process:
        open_before = len(os.listdir(f"/proc/{int(process.pid)}/fd"))
        fd = await process.task.eventfd(0, EFD.NONBLOCK)
        async with AsyncFileDescriptor(process.epoller, fd) as afd:
            async with trio.open_nursery() as nursery:
                for _ in range(1000):
                    nursery.start_soon(afd.read_some_bytes, 8)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            await afd.write_all_bytes(ONE)
            assert await afd.read_some_bytes(8) == ONE
        assert len(os.listdir(f"/proc/{int(process.pid)}/fd")) == open_before

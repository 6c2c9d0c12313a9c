"""Waiting for descriptors of a process reached in each way, without holding it up."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rsyscall
from conformance.async_pairs import SOME, pipe, sockets
from conformance.ways import WAYS
from rsyscall.epoller import (
    AsyncFileDescriptor,
    AsyncReadBuffer,
    EOFException,
    Epoller,
    RemovedFromEpollError,
)
from rsyscall.far import FDTableMismatchError
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor
from rsyscall.near.sysif import SyscallHangup
from rsyscall.netinet.in_ import SockaddrIn
from rsyscall.sys.epoll import EPOLL
from rsyscall.sys.eventfd import EFD
from rsyscall.sys.socket import AF, MSG, SHUT, SOCK
from rsyscall.sys.un import SockaddrUn

ONE = struct.pack("=Q", 1)


@pytest.fixture(params=SOME)
async def some(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process:
        yield process


async def test_who_waits_holds_nobody_up(process: rsyscall.Process) -> None:
    """Many wait, each gets its own, and calls go on meanwhile."""
    async with contextlib.AsyncExitStack() as stack:
        pipes = [await stack.enter_async_context(pipe(process)) for _ in range(10)]
        got: dict[int, bytes] = {}

        async def read(number: int) -> None:
            got[number] = await pipes[number][0].read_some_bytes()

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(read, number)
            await wait_all_tasks_blocked()
            assert await process.task.getpid() == process.task.near_process
            for number in reversed(range(10)):
                await pipes[number][1].write_all_bytes(b"%d" % number)
        assert got == {number: b"%d" % number for number in range(10)}


async def test_nothing_is_open_when_nothing_is_watched(some: rsyscall.Process) -> None:
    directory = Path(f"/proc/{int(some.pid)}/fd")
    await some.task.getpid()  # by then a child has closed what it does not keep
    before, ours = set(os.listdir(directory)), set(os.listdir("/proc/self/fd"))
    async with pipe(some) as (reader, _), pipe(some) as (other, _):
        for fd in (reader, other):
            with trio.move_on_after(0.001):
                await fd.read_some_bytes()
    assert set(os.listdir(directory)) == before
    assert set(os.listdir("/proc/self/fd")) == ours


async def test_as_much_as_fits_is_written_and_the_rest_later(process: rsyscall.Process) -> None:
    data = bytes(range(256)) * 1024
    async with sockets(process) as (first, second):
        got = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.write_all_bytes, data)
            while len(got) < len(data):
                got += await second.read_some_bytes(30000)
        assert got == data
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.send_all, await process.ptr(data))
            buffer = await process.malloc(bytes, len(data))
            got = b""
            while len(got) < len(data):
                filled, rest = await first.read(buffer)
                got += await filled.read()
                buffer = filled + rest
        assert got == data


async def test_several_may_wait_for_the_same(some: rsyscall.Process) -> None:
    async with await some.make_afd(await some.task.eventfd(0, EFD.NONBLOCK | EFD.SEMAPHORE)) as fd:
        got: list[bytes] = []

        async def read() -> None:
            got.append(await fd.read_some_bytes(8))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read)
            await wait_all_tasks_blocked()
            await fd.handle.write(struct.pack("=Q", 5))
        assert got == [ONE] * 5


async def test_descriptors_must_not_block(some: rsyscall.Process) -> None:
    made = await some.task.pipe()
    async with made.read, made.write:
        with pytest.raises(ValueError, match="has no O_NONBLOCK"):
            await some.make_afd(made.read)
        fd = await some.make_afd(made.read, set_nonblock=True)
        with trio.move_on_after(0.001) as scope:
            await fd.read_some_bytes()
        assert scope.cancelled_caught
        await fd.close()


async def test_a_file_is_never_waited_for(some: rsyscall.Process, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    file = await some.task.open(tmp_path / "file", O.RDWR | O.NONBLOCK)
    async with await some.make_afd(file) as fd:
        assert await fd.read_some_bytes() == b"abc"
        await fd.write_all_bytes(b"def")
        assert await fd.read_some_bytes() == b""
        with pytest.raises(PermissionError):
            await fd.wait_for_rdhup()


# ---- sockets ----


async def test_connections_are_made_and_refused(process: rsyscall.Process) -> None:
    flags = SOCK.STREAM | SOCK.NONBLOCK
    async with contextlib.AsyncExitStack() as stack:

        async def new() -> AsyncFileDescriptor:
            made = await process.make_afd(await process.task.socket(AF.INET, flags))
            return await stack.enter_async_context(made)

        server = await new()
        await server.bind(SockaddrIn(0, "127.0.0.1"))
        name = await server.handle.getsockname()
        client = await new()
        with pytest.raises(ConnectionRefusedError):
            await client.connect(name)
        await server.handle.listen(5)
        client = await new()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.connect, name)
            conn, peer = await server.accept_addr(SOCK.NONBLOCK)
        assert peer == await client.handle.getsockname()
        async with AsyncFileDescriptor(process.epoller, conn) as other:
            await client.send_all_bytes(b"abc")
            assert await other.recv(10, MSG.PEEK) == b"abc"
            assert await other.recv(10) == b"abc"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other.wait_for_rdhup)
                await wait_all_tasks_blocked()
                await client.handle.shutdown(SHUT.WR)
            assert await other.recv(1) == b""


async def test_a_full_queue_of_a_unix_socket_is_waited_out(
    some: rsyscall.Process, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(str(tmp_path / "server"))
        here.listen(0)
        name = SockaddrUn(tmp_path / "server")
        flags = SOCK.STREAM | SOCK.NONBLOCK
        first = await some.make_afd(await some.task.socket(AF.UNIX, flags))
        second = await some.make_afd(await some.task.socket(AF.UNIX, flags))
        async with first, second:
            await first.connect(name)
            with pytest.raises(BlockingIOError):
                await second.handle.connect(name)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(second.connect, name)
                await wait_all_tasks_blocked()
                here.accept()[0].close()
            here.accept()[0].close()


# ---- cancellation ----


async def test_a_cancelled_read_has_read_nothing_and_others_go_on(some: rsyscall.Process) -> None:
    """Whoever of them leads is cancelled in turn, and another has to take over."""
    async with pipe(some) as (reader, writer):
        got: list[bytes] = []

        async def read(scope: trio.CancelScope) -> None:
            with scope:
                got.append(await reader.read_some_bytes(1))

        scopes = [trio.CancelScope() for _ in range(5)]
        async with trio.open_nursery() as nursery:
            for scope in scopes:
                nursery.start_soon(read, scope)
                await wait_all_tasks_blocked()
            for scope in scopes[:4]:
                scope.cancel()
                await wait_all_tasks_blocked()
            await writer.write_all_bytes(b"ab")
        assert got == [b"a"]
        assert await reader.read_some_bytes() == b"b"


async def test_a_read_cancelled_while_it_is_answered_keeps_the_data(
    some: rsyscall.Process,
) -> None:
    """At each of its checkpoints: what is not returned is still in the pipe."""
    async with pipe(some) as (reader, writer):
        with trio.move_on_after(0.001):
            await reader.read_some_bytes()
        for passes in range(12):
            await writer.write_all_bytes(b"x")
            got = b""
            scope = trio.CancelScope()

            async def read(scope: trio.CancelScope) -> None:
                nonlocal got
                with scope:
                    got = await reader.read_some_bytes()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, scope)
                for _ in range(passes):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
            assert got in (b"", b"x")
            if not got:
                assert await reader.read_some_bytes() == b"x"


# ---- epollers ----


async def test_events_are_counted_until_they_are_consumed(some: rsyscall.Process) -> None:
    epoller = await Epoller.make_root(some.task)
    async with await some.task.eventfd(0, EFD.NONBLOCK) as fd:
        epolled = await epoller.register(fd, EPOLL.IN | EPOLL.OUT)
        await epolled.wait_for(EPOLL.OUT)
        assert epolled.get_current_events(EPOLL.IN | EPOLL.OUT) == {EPOLL.OUT: 1}
        await fd.write(ONE)
        await epolled.wait_for(EPOLL.IN)
        before = epolled.get_current_events(EPOLL.IN)
        assert before == {EPOLL.IN: 1}
        await fd.write(ONE)
        other = await epoller.register(await fd.dup(), EPOLL.IN)
        await other.wait_for(EPOLL.IN)  # takes all there is
        assert epolled.get_current_events(EPOLL.IN) == {EPOLL.IN: 2}
        epolled.consume(before)
        with epolled.get_and_discard_after(EPOLL.IN):
            assert epolled.get_current_events(EPOLL.IN) == {EPOLL.IN: 1}
        assert epolled.get_current_events(EPOLL.IN) == {}
        await epolled.modify(EPOLL.IN)
        async with epolled.wait_for_and_discard_after(EPOLL.IN):
            pass
        with pytest.raises(FileExistsError):
            await epoller.register(fd, EPOLL.IN)
        await epolled.delete()
        with pytest.raises(RemovedFromEpollError):
            await epolled.wait_for(EPOLL.IN)
        await other.delete()
        await other.fd.close()
    await epoller.close()


async def test_a_child_inherits(some: rsyscall.Process) -> None:
    epoller = await Epoller.make_root(some.task)
    async with await some.clone() as child, await child.clone() as grandchild:
        theirs = epoller.inherit(child.task)
        made = await child.task.pipe(flags=O.NONBLOCK)
        reader = await AsyncFileDescriptor.make(theirs, made.read)
        async with trio.open_nursery() as nursery, pipe(some) as (mine, _):

            async def read(fd: AsyncFileDescriptor, error: type[Exception]) -> None:
                with pytest.raises(error):
                    await fd.read_some_bytes()

            nursery.start_soon(read, reader, SyscallHangup)
            nursery.start_soon(read, mine, trio.ClosedResourceError)
            await wait_all_tasks_blocked()
            await child.pid.kill(signal.SIGKILL)
            await child.pid.wait()
            await wait_all_tasks_blocked()
            await mine.close()
        with pytest.raises(FDTableMismatchError):
            grandchild.epoller.inherit(child.task)
    await epoller.close()


async def test_an_instance_in_another_instance(some: rsyscall.Process) -> None:
    root = await Epoller.make_root(some.task)
    async with await some.task.epoll_create() as epfd:
        outer = await root.register(epfd, EPOLL.IN)

        async def wait() -> None:
            async with outer.wait_for_and_discard_after(EPOLL.IN):
                pass

        inner = Epoller.make_subsidiary(epfd, wait)
        made = await some.task.pipe(flags=O.NONBLOCK)
        async with (
            await AsyncFileDescriptor.make(inner, made.read) as reader,
            made.write as writer,
            trio.open_nursery() as nursery,
        ):

            async def read() -> None:
                assert await reader.read_some_bytes() == b"x"

            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            await writer.write(b"x")
        await inner.close()
        assert epfd.valid
    await root.close()


async def test_where_no_descriptor_can_come_it_is_asked(
    some: rsyscall.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(self: Epoller, epfd: FileDescriptor) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Epoller, "_bring", none)
    async with pipe(some) as (reader, writer), trio.open_nursery() as nursery:

        async def read() -> None:
            assert await reader.read_some_bytes() == b"x"

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        await writer.write_all_bytes(b"x")


# ---- buffers ----


async def test_a_buffer_reads_what_is_asked_for(some: rsyscall.Process) -> None:
    async with sockets(some) as (first, second):
        buffer = AsyncReadBuffer(second)

        def prefixed(data: bytes) -> bytes:
            return struct.pack("=Q", len(data)) + data

        await first.write_all_bytes(
            b"12345" + prefixed(b"abc") + prefixed(b"") + prefixed(b"A=b=c") + prefixed(b"D=")
            + b"line\nto::nowhere" + b"5:hello,0:," + b"rest"
        )  # fmt: skip
        assert await buffer.read_length(5, remove=False) == b"12345"
        assert await buffer.read_length(5) == b"12345"
        assert await buffer.read_length_prefixed_string() == b"abc"
        assert await buffer.read_length_prefixed_array(1) == [b""]
        assert await buffer.read_envp(2) == {"A": "b=c", "D": ""}
        assert await buffer.read_line() == b"line"
        assert await buffer.read_until_delimiter(b"::") == b"to"
        assert await buffer.read_length(7) == b"nowhere"
        assert await buffer.read_netstring() == b"hello"
        assert await buffer.read_netstring() == b""
        await first.handle.shutdown(SHUT.WR)
        assert await buffer.read_until_delimiter(b"\0") is None
        with pytest.raises(EOFException):
            await buffer.read_line()
        with pytest.raises(ValueError, match="no netstring begins with"):
            await buffer.read_netstring()
        assert await buffer.read_length(4) == b"rest"
        with pytest.raises(EOFException):
            await buffer.read_length(1)


def test_the_errors_are_what_trio_and_python_expect() -> None:
    assert issubclass(RemovedFromEpollError, trio.ClosedResourceError)
    assert issubclass(EOFException, EOFError)
    assert BlockingIOError(errno.EINPROGRESS, "").errno == errno.EINPROGRESS


async def test_many_echo_at_once(some: rsyscall.Process) -> None:
    """Each gets back what it has sent, whoever else is at it."""
    async with contextlib.AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(sockets(some)) for _ in range(50)]

        async def serve(fd: AsyncFileDescriptor) -> None:
            while data := await fd.read_some_bytes():
                await fd.write_all_bytes(data)

        async def ask(fd: AsyncFileDescriptor, number: int) -> None:
            for turn in range(5):
                data = b"%d %d" % (number, turn)
                await fd.write_all_bytes(data)
                assert await fd.read_some_bytes() == data
            await fd.handle.shutdown(SHUT.WR)

        async with trio.open_nursery() as nursery:
            for number, (client, server) in enumerate(pairs):
                nursery.start_soon(serve, server)
                nursery.start_soon(ask, client, number)

"""trio's own tests of streams, over pipes and sockets of a process reached in each way."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

import rsyscall
from conformance.ways import WAYS
from rsyscall.epoller import AsyncFileDescriptor
from rsyscall.fcntl import O
from rsyscall.netinet.in_ import SockaddrIn
from rsyscall.streams import RemoteListener, RemoteReceiveStream, RemoteSendStream, RemoteStream
from rsyscall.sys.socket import AF, SOCK


async def pipe(process: rsyscall.Process) -> tuple[RemoteSendStream, RemoteReceiveStream]:
    made = await process.task.pipe(flags=O.NONBLOCK)
    afd = process.make_afd
    return RemoteSendStream(await afd(made.write)), RemoteReceiveStream(await afd(made.read))


async def sockets(process: rsyscall.Process) -> tuple[RemoteStream, RemoteStream]:
    made = await process.task.socketpair(AF.UNIX, SOCK.STREAM | SOCK.NONBLOCK)
    return (
        RemoteStream(await process.make_afd(made.first)),
        RemoteStream(await process.make_afd(made.second)),
    )


async def fill(fd: AsyncFileDescriptor) -> None:
    """Until nothing more can be written."""
    try:
        while True:
            await fd.handle.write(b"x" * 65536)
    except BlockingIOError:
        pass


async def clogged_pipe(process: rsyscall.Process) -> tuple[RemoteSendStream, RemoteReceiveStream]:
    sender, receiver = await pipe(process)
    await fill(sender.fd)
    return sender, receiver


async def clogged_sockets(process: rsyscall.Process) -> tuple[RemoteStream, RemoteStream]:
    first, second = await sockets(process)
    await fill(first.fd)
    await fill(second.fd)
    return first, second


@pytest.fixture
async def listener(process: rsyscall.Process) -> AsyncGenerator[RemoteListener]:
    sock = await process.task.socket(AF.INET, SOCK.STREAM | SOCK.NONBLOCK)
    await sock.bind(SockaddrIn(0, "127.0.0.1"))
    await sock.listen(10)
    async with RemoteListener(await process.make_afd(sock)) as listener:
        yield listener


async def test_a_pipe_is_a_one_way_stream(process: rsyscall.Process) -> None:
    await trio.testing.check_one_way_stream(partial(pipe, process), partial(clogged_pipe, process))


async def test_a_socketpair_is_a_half_closeable_stream(process: rsyscall.Process) -> None:
    await trio.testing.check_half_closeable_stream(
        partial(sockets, process), partial(clogged_sockets, process)
    )


@pytest.mark.parametrize("way", ["direct", "stub", "stub-no-ring"])
async def test_a_tcp_connection_is_a_half_closeable_stream(way: str, tmp_path: Path) -> None:
    async with WAYS[way](tmp_path) as process:
        sock = await process.socket(AF.INET, SOCK.STREAM | SOCK.NONBLOCK)
        name = await process.bind_getsockname(sock, SockaddrIn(0, "127.0.0.1"))
        await sock.listen(10)
        async with RemoteListener(await process.make_afd(sock)) as listener:

            async def connected() -> tuple[RemoteStream, RemoteStream]:
                made = await process.socket(AF.INET, SOCK.STREAM | SOCK.NONBLOCK)
                client = await process.make_afd(made)
                await client.connect(name)
                return RemoteStream(client), await listener.accept()

            await trio.testing.check_half_closeable_stream(connected, None)


async def test_a_listener_takes_connections_of_its_own_process_and_of_trio(
    process: rsyscall.Process, listener: RemoteListener
) -> None:
    name = await listener.fd.handle.getsockname()
    assert isinstance(name, SockaddrIn)
    client = await process.task.socket(AF.INET, SOCK.STREAM | SOCK.NONBLOCK)
    async with await process.make_afd(client) as ours:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.connect, name)
            stream = await listener.accept()
        async with stream:
            await ours.write_all_bytes(b"hello")
            assert await stream.receive_some() == b"hello"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, echo, [listener]))
        async with await trio.open_tcp_stream("127.0.0.1", name.port) as here:
            data = bytes(range(256)) * 1000
            nursery.start_soon(here.send_all, data)
            got = b""
            while len(got) < len(data):
                got += await here.receive_some()
            assert got == data
        nursery.cancel_scope.cancel()


async def echo(stream: RemoteStream) -> None:
    async for data in stream:
        await stream.send_all(data)

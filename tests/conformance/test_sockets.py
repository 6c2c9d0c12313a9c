"""Sockets, whose other end is one of the standard library's."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Generator
from pathlib import Path

import pytest

from conformance.seen import nothing_sent, open_flags, opened
from rsyscall.handle import FileDescriptor, Task
from rsyscall.memory.allocation_interface import UseAfterFreeError
from rsyscall.netinet.in_ import IPPROTO, SockaddrIn, SockaddrIn6
from rsyscall.netinet.tcp import TCP
from rsyscall.sys.socket import (
    AF,
    MSG,
    SHUT,
    SO,
    SOCK,
    SOL,
    Sockaddr,
    SockaddrStorage,
    Sockbuf,
)
from rsyscall.sys.un import PathTooLongError, SockaddrUn
from rsyscall.thread import Process

LOCAL = {AF.INET: "127.0.0.1", AF.INET6: "::1"}


def address(family: AF, port: int = 0) -> Sockaddr:
    if family == AF.INET:
        return SockaddrIn(port, LOCAL[family])
    return SockaddrIn6(port, LOCAL[family])


@contextlib.contextmanager
def listener(family: AF, where: Path) -> Generator[tuple[socket.socket, Sockaddr]]:
    """A socket here that listens, and its address."""
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.bind(str(where) if family == AF.UNIX else (LOCAL[family], 0))
        sock.listen()
        named = SockaddrUn(where) if family == AF.UNIX else address(family, sock.getsockname()[1])
        yield sock, named


def test_the_constants_are_those_of_the_standard_library() -> None:
    for enum, prefix in ((MSG, "MSG_"), (SO, "SO_"), (TCP, "TCP_"), (IPPROTO, "IPPROTO_")):
        found = 0
        for one in enum:
            here = getattr(socket, f"{prefix}{one.name}", None)
            assert here is None or int(one) == here
            found += here is not None
        assert found >= 4


@pytest.mark.parametrize("family", [AF.UNIX, AF.INET, AF.INET6], ids=lambda family: family.name)
async def test_a_server_and_a_client(task: Task, tmp_path: Path, family: AF) -> None:
    """Each against one of the standard library."""
    async with await task.socket(family, SOCK.STREAM) as server:
        assert open_flags(opened(server)) & os.O_CLOEXEC
        path = tmp_path / "server"
        await server.bind(SockaddrUn(path) if family == AF.UNIX else address(family))
        await server.listen(5)
        with socket.socket(family, socket.SOCK_STREAM) as here:
            where = await server.getsockname()
            if isinstance(where, SockaddrUn):
                assert where.path == os.fsencode(path)
                here.connect(str(path))
            else:
                assert isinstance(where, SockaddrIn | SockaddrIn6)
                here.connect((where.addr_as_string(), where.port))
            conn, peer = await server.accept_addr(SOCK.NONBLOCK)
            async with conn:
                assert open_flags(opened(conn)) & os.O_NONBLOCK
                assert peer == await conn.getpeername()
                if isinstance(peer, SockaddrIn | SockaddrIn6):
                    assert (peer.addr_as_string(), peer.port) == here.getsockname()[:2]
                here.sendall(b"hello")
                assert await conn.recv(100) == b"hello"
                with pytest.raises(BlockingIOError):
                    await conn.recv(1)
                assert await conn.send(b"world") == 5
                await conn.shutdown(SHUT.WR)
                assert here.recv(100) + here.recv(100) == b"world"
    with listener(family, tmp_path / "here") as (sock, where):
        async with await task.socket(family, SOCK.STREAM) as client:
            await client.connect(where)
            accepted, _ = sock.accept()
            with accepted:
                assert await client.getpeername() == where
                accepted.sendall(b"abc")
                assert await client.recv(2, MSG.PEEK) == b"ab"
                filled, rest = await client.recv(await task.malloc(bytes, 8))
                assert (await filled.read(), rest.size()) == (b"abc", 5)
                sent, rest = await client.send(filled)
                assert (sent.size(), rest.size()) == (3, 0)
                assert accepted.recv(8) == b"abc"


async def test_datagrams_have_addresses(task: Task) -> None:
    async with await task.socket(AF.INET, SOCK.DGRAM) as ours:
        await ours.bind(await task.ptr(SockaddrIn(0, 0x7F000001)))
        name = await ours.getsockname()
        assert isinstance(name, SockaddrIn)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
            here.bind(("127.0.0.1", 0))
            where = SockaddrIn(here.getsockname()[1], "127.0.0.1")
            assert await ours.sendto(b"to you", MSG.NONE, where) == 6
            assert here.recvfrom(100) == (b"to you", ("127.0.0.1", name.port))
            here.sendto(b"to me", ("127.0.0.1", name.port))
            assert await ours.recvfrom(100) == (b"to me", where)
            assert await ours.sendmsg([b"a", b"", b"bc"], addr=where) == 3
            assert here.recv(100) == b"abc"
            here.sendto(b"long", ("127.0.0.1", name.port))
            got = await ours.recvmsg(2)
            assert (got.data, got.addr, got.fds) == (b"lo", where, [])
            assert got.flags & MSG.TRUNC


async def test_options(task: Task) -> None:
    async with await task.socket(AF.INET, SOCK.STREAM) as sock:
        await sock.setsockopt(IPPROTO.TCP, TCP.NODELAY, 1)
        assert await sock.getsockopt(IPPROTO.TCP, TCP.NODELAY) == struct.pack("=i", 1)
        await sock.setsockopt(SOL.SOCKET, SO.LINGER, struct.pack("=ii", 1, 5))
        assert await sock.getsockopt(SOL.SOCKET, SO.LINGER, 64) == struct.pack("=ii", 1, 5)
        await sock.setsockopt(SOL.SOCKET, SO.KEEPALIVE, await task.ptr(struct.pack("=i", 1)))
        assert await sock.getsockopt(SOL.SOCKET, SO.KEEPALIVE) == struct.pack("=i", 1)
        with pytest.raises(OSError, match=os.strerror(errno.ENOPROTOOPT)):
            await sock.getsockopt(SOL.SOCKET, 9999)
        with nothing_sent(task), pytest.raises(ValueError, match="optval: -1"):
            await sock.getsockopt(SOL.SOCKET, SO.TYPE, -1)


async def test_descriptors_travel_with_messages(task: Task) -> None:
    pair = await task.socketpair(AF.UNIX, SOCK.STREAM)
    pipe = await task.pipe()
    async with pair.first, pair.second, pipe.read, pipe.write:
        assert await pair.first.sendmsg([b"xy"], fds=[pipe.read, pipe.write]) == 2
        got = await pair.second.recvmsg(10, fds=2)
        assert (got.data, len(got.fds), got.addr) == (b"xy", 2, None)
        reader, writer = got.fds
        assert opened(reader).readlink() == opened(pipe.read).readlink()
        assert open_flags(opened(writer)) & os.O_CLOEXEC
        await writer.write(b"through")
        assert await pipe.read.read(10) == b"through"
        for fd in got.fds:
            await fd.close()
        assert await pair.first.sendmsg([b"z"], fds=[pipe.read]) == 1
        got = await pair.second.recvmsg(10)
        assert (got.data, got.fds) == (b"z", [])
        assert got.flags & MSG.CTRUNC


async def test_a_refused_connection_says_so(task: Task, tmp_path: Path) -> None:
    async with await task.socket(AF.UNIX, SOCK.STREAM) as sock:
        with pytest.raises(FileNotFoundError) as caught:
            await sock.connect(SockaddrUn(tmp_path / "nothing"))
        assert caught.value.__notes__[0].startswith("in connect(")


async def test_a_batch_makes_a_server(task: Task, tmp_path: Path) -> None:
    async with Process(task).batch() as batch:
        sock = batch.socket(AF.UNIX, SOCK.STREAM)
        batch.bind(sock, SockaddrUn(tmp_path / "server"))
        batch.listen(sock, 1)
        name = batch.getsockname(sock)
    assert name.value == SockaddrUn(tmp_path / "server")
    with socket.socket(socket.AF_UNIX) as here:
        here.connect(str(tmp_path / "server"))
        conn: FileDescriptor = await sock.value.accept()
        await conn.close()
    await sock.value.close()


def test_addresses_are_what_they_were_made_of() -> None:
    for addr in (
        SockaddrUn("/a/path"),
        SockaddrUn(b"\0abstract\0name"),
        SockaddrUn(""),
        SockaddrUn("x" * 108),
        SockaddrIn(80, "1.2.3.4"),
        SockaddrIn6(80, "fe80::1", 5, 6),
    ):
        data = addr.to_bytes()
        assert type(addr).from_bytes(data) == addr
        assert SockaddrStorage.from_bytes(data).parse() == addr
        assert len(data) <= addr.sizeof()
    strange = SockaddrStorage(99, b"abc")
    assert SockaddrStorage.from_bytes(strange.to_bytes()).parse() == strange


def test_addresses_that_cannot_be() -> None:
    with pytest.raises(PathTooLongError, match="path: 109 bytes"):
        SockaddrUn("x" * 109)
    with pytest.raises(ValueError, match="path: embedded null"):
        SockaddrUn("a\0b")
    with pytest.raises(ValueError, match="port: 65536"):
        SockaddrIn(65536, "127.0.0.1")
    with pytest.raises(ValueError, match="data: an address of family 10"):
        SockaddrIn.from_bytes(SockaddrIn6(1, "::1").to_bytes())
    with pytest.raises(ValueError, match="family: "):
        SockaddrIn.check_family(AF.UNIX)


async def test_a_name_by_pointer_is_no_longer_than_it_is(task: Task) -> None:
    (await (await task.malloc(bytes, SockaddrUn.sizeof())).write(b"Z" * SockaddrUn.sizeof())).free()
    name = SockaddrUn(b"\0" + os.urandom(8).hex().encode())
    async with await task.socket(AF.UNIX, SOCK.STREAM) as sock:
        await sock.bind(await task.ptr(name))
        assert await sock.getsockname() == name


async def test_a_datagram_that_was_longer_than_the_memory(task: Task) -> None:
    pair = await task.socketpair(AF.UNIX, SOCK.DGRAM)
    async with pair.first, pair.second:
        await pair.first.send(b"0123456789abcdef")
        got, _ = await pair.second.recv(await task.malloc(bytes, 10), MSG.TRUNC)
        assert await got.read() == b"0123456789"


async def test_no_more_descriptors_than_were_asked_for(task: Task) -> None:
    pair = await task.socketpair(AF.UNIX, SOCK.STREAM)
    async with pair.first, pair.second:
        await pair.first.sendmsg([b"x"], fds=[pair.first, pair.second, pair.second])
        got = await pair.second.recvmsg(1, fds=1)
        assert MSG.CTRUNC in MSG(got.flags)
        (fd,) = got.fds
        await fd.close()


async def test_buffers_whose_length_stands_in_memory(task: Task) -> None:
    async with (
        await task.socket(AF.INET, SOCK.STREAM) as server,
        await task.socket(AF.INET, SOCK.STREAM) as client,
    ):
        await server.bind(SockaddrIn(0, "127.0.0.1"))
        await server.listen(1)
        name = await server.getsockname()
        room = await task.ptr(Sockbuf(await task.malloc(SockaddrIn)))
        found = await (await server.getsockname(room)).read()
        assert await found.buf.read() == name
        assert found.buf_rest is not None
        assert found.buf_rest.size() == 0
        await client.connect(name)
        room = await task.ptr(Sockbuf(await task.malloc(SockaddrIn)))
        made, left = await server.accept(SOCK.NONE, room)
        async with made:
            found = await left.read()
            assert await found.buf.read() == await client.getsockname()
            room = await task.ptr(Sockbuf(await task.malloc(SockaddrIn)))
            peer = await (await made.getpeername(room)).read()
            assert await peer.buf.read() == await client.getsockname()
        option = await task.ptr(Sockbuf(await task.malloc(bytes, 100)))
        got = await (await server.getsockopt(SOL.SOCKET, SO.TYPE, option)).read()
        assert await got.buf.read() == await server.getsockopt(SOL.SOCKET, SO.TYPE)
        assert got.buf_rest is not None
        assert got.buf_rest.size() == 96
        short = await task.ptr(Sockbuf(await task.malloc(bytes, 4)))
        cut = await (await server.getsockname(short)).read()
        assert await cut.buf.read() == name.to_bytes()[:4]
        with pytest.raises(UseAfterFreeError):
            await server.getsockname(short)

"""What a process offers besides children, reached in some ways: they cannot differ in more."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rsyscall
from conformance.ways import WAYS
from rsyscall.fcntl import O
from rsyscall.netinet.in_ import SockaddrIn
from rsyscall.path import Path as FarPath
from rsyscall.sys.socket import AF, SOCK, SockaddrStorage, Sockbuf
from rsyscall.sys.un import PathTooLongError, SockaddrUn, SockaddrUnProcFd


@pytest.fixture(params=["direct", "stub", "stub-no-ring"])
async def some(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process:
        yield process


async def test_descriptors_are_made(some: rsyscall.Process) -> None:
    pipe = await some.pipe()
    pair = await some.socketpair(AF.UNIX, SOCK.STREAM)
    async with pipe.read, pipe.write, pair.first, pair.second:
        await pipe.write.write(b"pipe")
        assert await pipe.read.read(9) == b"pipe"
        await pair.first.write(b"pair")
        assert await pair.second.read(9) == b"pair"


async def test_a_socket_is_bound_to_a_port_that_is_free(some: rsyscall.Process) -> None:
    async with await some.socket(AF.INET, SOCK.STREAM) as sock:
        bound = await some.bind_getsockname(sock, SockaddrIn(0, "127.0.0.1"))
        assert bound.port != 0
        await sock.listen(1)
        socket.create_connection(("127.0.0.1", bound.port)).close()
    async with await some.socket(AF.INET, SOCK.STREAM) as sock:
        any_family = SockaddrStorage(AF.INET, SockaddrIn(0, "127.0.0.1").to_bytes()[2:])
        with pytest.raises(ValueError, match="and the socket has SockaddrIn"):
            await some.bind_getsockname(sock, any_family)


async def test_all_is_read(some: rsyscall.Process, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    async with await some.task.open(tmp_path / "file", O.RDONLY) as fd:
        assert await some.read_to_eof(fd) == data
        assert await some.read_to_eof(fd) == b""


async def test_a_text_is_written(some: rsyscall.Process, tmp_path: Path) -> None:
    path = await some.mkdir(tmp_path / "directory", 0o700)
    assert path == FarPath(tmp_path / "directory")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    file = await some.spit(path / "file", "ünïcode\udcff", 0o600)
    assert file == path / "file"
    assert Path(file).read_bytes() == os.fsencode("ünïcode\udcff")
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    large = os.urandom(3_000_000)
    assert await some.spit(file, large) == file
    assert Path(file).read_bytes() == large
    await some.spit(file, b"short")
    async with await some.task.open(file, O.WRONLY | O.APPEND) as fd:
        await some.spit(fd, b", and more")
    assert Path(file).read_bytes() == b"short, and more"
    with pytest.raises(FileNotFoundError):
        await some.spit(path / "none" / "file", b"")


async def test_the_address_of_who_connects_is_left_in_memory(some: rsyscall.Process) -> None:
    sock = await some.socket(AF.INET, SOCK.STREAM | SOCK.NONBLOCK)
    name = await some.bind_getsockname(sock, SockaddrIn(0, "127.0.0.1"))
    await sock.listen(1)
    room = await some.ptr(Sockbuf(await some.malloc(SockaddrIn)))
    async with await some.make_afd(sock) as server:
        with socket.socket() as client:

            async def connect() -> None:
                await wait_all_tasks_blocked()
                client.connect(("127.0.0.1", name.port))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(connect)
                made, left = await server.accept(SOCK.NONE, room)
            async with made:
                found = await (await left.read()).buf.read()
                assert (found.addr_as_string(), found.port) == client.getsockname()


async def test_a_path_too_long_for_an_address_goes_by_its_directory(
    some: rsyscall.Process, tmp_path: Path
) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True, exist_ok=True)
    short = await SockaddrUn.from_path(some, tmp_path / "short")
    assert short == SockaddrUn(tmp_path / "short")
    await short.close()
    address = await SockaddrUn.from_path(some, deep / "socket")
    assert isinstance(address, SockaddrUnProcFd)
    async with (
        await some.socket(AF.UNIX, SOCK.STREAM) as server,
        await some.socket(AF.UNIX, SOCK.STREAM) as client,
    ):
        await server.bind(address)
        assert stat.S_ISSOCK((deep / "socket").stat().st_mode)
        await server.listen(1)
        await client.connect(address)
        async with await server.accept():
            pass
    await address.close()
    await address.close()
    assert not address.fd.valid
    with pytest.raises(PathTooLongError, match="path: 100 bytes behind the directory, and 83 can"):
        await SockaddrUn.from_path(some, deep / ("s" * 100))
    with pytest.raises(FileNotFoundError):
        await SockaddrUn.from_path(some, deep / "none" / "socket")
    with pytest.raises(ValueError, match="whose descriptor it names"):
        SockaddrUnProcFd.from_bytes(bytes(110))

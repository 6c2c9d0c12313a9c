"""Messages that lie in memory, with what comes beside their bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import rsyscall
from conformance.seen import nothing_sent
from conformance.ways import WAYS
from rsyscall.far import FDTableMismatchError
from rsyscall.handle import InvalidHandleError
from rsyscall.sys.socket import (
    AF,
    MSG,
    SOCK,
    CmsgList,
    CmsgSCMRights,
    MsghdrFlags,
    RecvMsghdr,
    SendMsghdr,
    Sockaddr,
    SockaddrStorage,
)
from rsyscall.sys.uio import IovecList
from rsyscall.sys.un import SockaddrUn


@pytest.fixture(params=["direct", "stub", "stub-no-ring"])
async def some(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process:
        yield process


async def message(
    some: rsyscall.Process,
    *data: bytes,
    control: CmsgList | None = None,
    name: Sockaddr | None = None,
) -> SendMsghdr:
    return SendMsghdr(
        None if name is None else await some.ptr(name),
        await some.ptr(IovecList([await some.ptr(one) for one in data])),
        None if control is None else await some.ptr(control),
    )


async def room(some: rsyscall.Process, *sizes: int, control: int = 0) -> RecvMsghdr:
    return RecvMsghdr(
        await some.malloc(SockaddrStorage),
        await some.ptr(IovecList([await some.malloc(bytes, n) for n in sizes])),
        await some.malloc(CmsgList, control) if control else None,
    )


async def test_bytes_and_descriptors_arrive(some: rsyscall.Process) -> None:
    pair = await some.socketpair(AF.UNIX, SOCK.STREAM)
    async with pair.first, pair.second, await some.task.memfd_create("sent") as file:
        await file.write(b"content")
        rights = CmsgList([CmsgSCMRights([file, pair.first])])
        sent = await some.ptr(await message(some, b"ab", b"cdef", control=rights))
        done, rest = await pair.first.sendmsg(sent)
        assert ([one.size() for one in done], rest) == ([2, 4], [])
        ready = await some.ptr(await room(some, 3, 10, control=100))
        filled, rest, left = await pair.second.recvmsg(ready)
        assert [await one.read() for one in filled] == [b"abc", b"def"]
        assert [one.size() for one in rest] == [7]
        out = await left.read()
        assert out.flags == MsghdrFlags.CMSG_CLOEXEC
        assert out.control is not None
        (came,), _ = await out.control.linear_read()
        assert isinstance(came, CmsgSCMRights)
        assert len(came) == 2
        async with came[0], came[1]:
            assert await came[0].pread(100, 0) == b"content"
            await came[1].write(b"through it")
            assert await pair.second.read(100) == b"through it"


async def test_what_does_not_fit_is_said(some: rsyscall.Process) -> None:
    pair = await some.socketpair(AF.UNIX, SOCK.DGRAM)
    async with pair.first, pair.second:
        await pair.first.sendmsg(await some.ptr(await message(some, b"0123456789")))
        ready = await some.ptr(await room(some, 2, 2))
        filled, rest, left = await pair.second.recvmsg(ready, MSG.TRUNC)
        assert [await one.read() for one in filled] == [b"01", b"23"]
        assert rest == []
        out = await left.read()
        assert MSG(out.flags) & MSG.TRUNC
        assert out.control is None


async def test_from_whom_and_to_whom(some: rsyscall.Process, tmp_path: Path) -> None:
    async with (
        await some.socket(AF.UNIX, SOCK.DGRAM) as server,
        await some.socket(AF.UNIX, SOCK.DGRAM) as client,
    ):
        await server.bind(SockaddrUn(tmp_path / "server"))
        await client.bind(SockaddrUn(tmp_path / "client"))
        name = SockaddrUn(tmp_path / "server")
        await client.sendmsg(await some.ptr(await message(some, b"hello", name=name)))
        _, _, left = await server.recvmsg(await some.ptr(await room(some, 10)))
        out = await left.read()
        assert out.name is not None
        assert (await out.name.read()).parse() == SockaddrUn(tmp_path / "client")


async def test_misuse_is_refused_before_anything_is_sent(some: rsyscall.Process) -> None:
    pair = await some.socketpair(AF.UNIX, SOCK.STREAM)
    closed = await some.task.memfd_create("closed")
    rights = CmsgList([CmsgSCMRights([closed])])
    sent = await some.ptr(await message(some, b"x", control=rights))
    await closed.close()
    async with pair.first, pair.second, rsyscall.open_process() as other:
        file = await other.task.memfd_create("far")
        async with file:
            far = CmsgList([CmsgSCMRights([file])])
            wrong = await some.ptr(await message(some, b"x", control=far))
            with nothing_sent(some.task):
                with pytest.raises(InvalidHandleError):
                    await pair.first.sendmsg(sent)
                with pytest.raises(FDTableMismatchError):
                    await pair.first.sendmsg(wrong)
    with pytest.raises(ValueError, match="pointers cannot be made"):
        SendMsghdr.from_bytes(bytes(56))
    with pytest.raises(ValueError, match="pointers cannot be made"):
        RecvMsghdr.from_bytes(bytes(56))
    with pytest.raises(ValueError, match="no CmsgSCMRights"):
        CmsgSCMRights.get_serializer(some.task).from_bytes(bytes(16))

"""Reading into several pieces of memory, and writing from them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import rsyscall
from conformance.seen import nothing_sent
from conformance.ways import WAYS
from rsyscall.far import AddressSpaceMismatchError
from rsyscall.handle import Pointer, UseAfterFreeError
from rsyscall.sys.uio import RWF, IovecList, split_iovec
from rsyscall.unistd import SEEK


@pytest.fixture(params=["direct", "stub", "stub-no-ring"])
async def some(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process:
        yield process


async def pieces(process: rsyscall.Process, *data: bytes) -> IovecList:
    return IovecList([await process.ptr(one) for one in data])


async def contents(pointers: list[Pointer[bytes]]) -> list[bytes]:
    return [await one.read() for one in pointers]


@pytest.mark.parametrize("flags", [RWF.NONE, RWF.DSYNC])
async def test_what_is_written_is_read(some: rsyscall.Process, tmp_path: Path, flags: RWF) -> None:
    async with await some.task.memfd_create("file") as fd:
        data = await pieces(some, b"one", b"", b"three")
        done, middle, rest = await fd.writev(await some.ptr(data), flags)
        assert (done.value, middle, rest.value) == (data, None, [])
        assert done.size() > 0
        await fd.pwrite(b"ONE", 0)
        await fd.lseek(0, SEEK.SET)
        room = IovecList([await some.malloc(bytes, n) for n in (2, 4, 3)])
        done, middle, rest = await fd.readv(await some.ptr(room), flags)
        assert await contents(done.value) == [b"ON", b"Ethr"]
        assert middle is not None
        filled, empty = middle
        assert (await filled.read(), empty.size(), rest.value) == (b"ee", 1, [])


async def test_the_rest_is_written_later(some: rsyscall.Process) -> None:
    """As much as goes at once, and then from there on, until all is written."""
    pipe = await some.pipe()
    async with pipe.read, pipe.write:
        await pipe.write.write(b"abcdefg")
        iov = await some.ptr(IovecList([await some.malloc(bytes, 3) for _ in range(4)]))
        done, middle, rest = await pipe.read.readv(iov)
        assert await contents(done.value) == [b"abc", b"def"]
        assert middle is not None
        assert await middle[0].read() == b"g"
        assert len(rest.value) == 1
        await pipe.write.write(b"xyz")
        done, middle, none = await pipe.read.readv(rest)
        assert (await contents(done.value), middle, none.value) == ([b"xyz"], None, [])


@pytest.mark.parametrize("n", range(10))
async def test_every_split(some: rsyscall.Process, n: int) -> None:
    iov = await some.ptr(await pieces(some, b"ab", b"c", b"", b"defghi"))
    first, middle, rest = split_iovec(iov, n)
    parts = [] if middle is None else list(middle)
    before = b"".join(await contents([*first.value, *parts[:1]]))
    behind = b"".join(await contents([*parts[1:], *rest.value]))
    assert (before, behind) == (b"abcdefghi"[:n], b"abcdefghi"[n:])
    for part in (first, rest):
        assert (await some.task.sysif.read_memory(part.near, part.size()))[
            : 16 * len(part.value)
        ] == part.value.to_bytes()
    one, other = (await pieces(some, b"ab", b"c", b"", b"defghi")).split(n)
    assert b"".join(await contents(one)) == before
    assert b"".join(await contents(other)) == behind


async def test_misuse_is_refused_before_anything_is_sent(some: rsyscall.Process) -> None:
    async with await some.task.memfd_create("file") as fd:
        data = await pieces(some, b"data")
        iov = await some.ptr(data)
        many = await some.ptr(IovecList([data[0]] * 1025))
        async with rsyscall.open_process() as other:
            far = await some.ptr(await pieces(other, b"far"))
            with nothing_sent(some.task), pytest.raises(AddressSpaceMismatchError):
                await fd.writev(far)
        with nothing_sent(some.task):
            with pytest.raises(ValueError, match="iov: 1025 pieces, 1024 go into one call"):
                await fd.writev(many)
            with pytest.raises(ValueError, match="n: 5, and there are 4 bytes"):
                data.split(5)
            with pytest.raises(ValueError, match="n: -1 is negative"):
                data.split(-1)
            with pytest.raises(ValueError, match="pointers cannot be made"):
                IovecList.from_bytes(bytes(16))
            data[0].free()
            with pytest.raises(UseAfterFreeError):
                await fd.writev(iov)

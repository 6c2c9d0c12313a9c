"""Rows of calls, handles and memory."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import rsyscall
from conformance.cancellation import Case, row
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor
from rsyscall.memory.allocator import AllocatorClient
from rsyscall.netinet.in_ import SockaddrIn
from rsyscall.sys.eventfd import EFD
from rsyscall.sys.mman import MAP, PROT, MemoryMapping
from rsyscall.sys.socket import AF, SOCK
from rsyscall.unistd.io import MAX_IO

ONE = struct.pack("=Q", 1)
#: Bytes that there is no room for without another mapping.
MUCH = 16 * 2**20


@contextlib.asynccontextmanager
async def counter(process: rsyscall.Process) -> AsyncGenerator[FileDescriptor]:
    async with await process.task.eventfd(0, EFD.NONBLOCK) as fd:
        yield fd


async def count(fd: FileDescriptor) -> int:
    """What has been added; it is nothing then."""
    try:
        return int(struct.unpack("=Q", await fd.read(8))[0])
    except BlockingIOError:
        return 0


@row(
    "every method of a `Task` or a handle that makes one call; `Process.mkdir`, `mount`, `chroot`,"
    " `setns`, `AsyncFileDescriptor.bind`, `Watch.remove`",
    "nothing has happened",
)
async def one_call(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with counter(process) as fd:

        async def judge(cancelled: bool, written: Any) -> None:
            assert await count(fd) == (0 if cancelled else 1)
            assert cancelled or written == 8

        yield Case(lambda: fd.write(ONE), judge)


@row(
    "those that make a descriptor: `open`, `socket`, `socketpair`, `pipe`, `epoll_create`, ...",
    "nothing was made",
)
async def makes_descriptors(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async def judge(cancelled: bool, pipe: Any) -> None:
        if not cancelled:
            async with pipe.read, pipe.write:
                pass

    yield Case(process.task.pipe, judge)


@row("`FileDescriptor.close`, `invalidate`", "it is open, and the handle is valid")
async def closing(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    fd = await process.task.eventfd(0, EFD.NONBLOCK)

    async def judge(cancelled: bool, _: Any) -> None:
        assert fd.valid == cancelled
        if cancelled:
            await fd.write(ONE)
            await fd.close()

    yield Case(fd.close, judge)


@row("`Process.batch()`: leaving its block, `BoundBatch.run`", "no step was made")
async def a_batch(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with counter(process) as fd:

        async def act() -> None:
            async with process.batch() as b:
                for _ in range(3):
                    b.write(fd, ONE)

        async def judge(cancelled: bool, _: Any) -> None:
            assert await count(fd) == (0 if cancelled else 3)

        yield Case(act, judge)


@row("`Process.prepare`", "nothing has happened")
async def preparing(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async def act() -> object:
        b = rsyscall.Batch()
        b.getpid()
        return await process.prepare(b)

    async def judge(cancelled: bool, prepared: Any) -> None:
        if not cancelled:
            await prepared.unprepare()

    yield Case(act, judge)


@row("`PreparedBatch.run`", "no step was made")
async def running(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with counter(process) as fd:
        b = rsyscall.Batch()
        b.write(fd, ONE)
        b.write(fd, ONE)
        async with await process.prepare(b) as prepared:

            async def judge(cancelled: bool, _: Any) -> None:
                assert await count(fd) == (0 if cancelled else 2)

            yield Case(prepared.run, judge)


@row("`ptr`", "nothing is allocated")
async def allocating(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async def judge(cancelled: bool, pointer: Any) -> None:
        if not cancelled:
            assert await pointer.read() == b"data"

    yield Case(lambda: process.ptr(b"data"), judge)


@row("`PreparedBatch.unprepare`", "the process still knows it")
async def forgetting(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    b = rsyscall.Batch()
    b.getpid()
    prepared = await process.prepare(b)

    async def judge(cancelled: bool, _: Any) -> None:
        if cancelled:
            await prepared.run()
            await prepared.unprepare()

    yield Case(prepared.unprepare, judge)


@row("`malloc`", "nothing is allocated")
async def allocating_much(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async def judge(cancelled: bool, pointer: Any) -> None:
        if not cancelled:
            assert pointer.size() == MUCH

    yield Case(lambda: process.malloc(bytes, MUCH), judge)
    allocator = process.task.allocator
    assert isinstance(allocator, AllocatorClient)
    await allocator.trim()


@row("`Pointer.read`, `linear_read`, `MemoryMapping.read`", "nothing has happened")
async def reading_memory(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    pointer = await process.ptr(b"data")

    async def judge(cancelled: bool, data: Any) -> None:
        assert cancelled or data == b"data"
        assert await pointer.read() == b"data"

    yield Case(pointer.read, judge)
    pointer.free()


@row(
    "`Pointer.write`, `MemoryMapping.write`",
    "of more than a mebibyte a leading part may have been written, of less nothing",
)
async def writing_memory(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    pointer = await process.ptr(b"data")

    async def judge(cancelled: bool, written: Any) -> None:
        assert pointer.valid == cancelled
        now = pointer if cancelled else written
        assert await now.read() == (b"data" if cancelled else b"more")
        now.free()

    yield Case(lambda: pointer.write(b"more"), judge)


@row("`Pointer.write_to_end`", "the pointer is consumed, or nothing has happened")
async def writing_to_the_end(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    pointer = await process.malloc(bytes, 100)

    async def judge(cancelled: bool, parts: Any) -> None:
        if not cancelled:
            rest, end = parts
            assert (await end.read())[:4] == b"data"
            (rest + end).free()

    yield Case(lambda: pointer.write_to_end(b"data", 8), judge)
    pointer.free()


@row("`MemoryMapping.read_into`", "a leading part may have been read")
async def reading_into(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with await process.task.memfd_create("read") as fd:
        await fd.write(bytes(range(256)) * 16)
        mapping = await fd.mmap(4096, PROT.READ, MAP.SHARED)
        buffer = bytearray(4096)

        async def judge(cancelled: bool, _: Any) -> None:
            assert cancelled or buffer == bytes(range(256)) * 16

        yield Case(lambda: mapping.read_into(0, buffer), judge)
        await mapping.munmap()


@row("`mmap`", "nothing is mapped")
async def mapping(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async def judge(cancelled: bool, mapping: Any) -> None:
        if not cancelled:
            await mapping.munmap()

    yield Case(lambda: process.task.mmap(4096, PROT.READ, MAP.PRIVATE), judge)


@row(
    "`MemoryMapping.munmap`, `mprotect`, `mremap`, `madvise`, `mlock`, `munlock`, `mincore`,"
    " `msync`",
    "nothing has happened",
)
async def unmapping(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    mapping: MemoryMapping = await process.task.mmap(4096, PROT.READ, MAP.PRIVATE)

    async def judge(cancelled: bool, _: Any) -> None:
        if cancelled:
            assert await mapping.read(0, 1) == b"\0"
            await mapping.munmap()

    yield Case(mapping.munmap, judge)


@row("`Process.read_to_eof`", "what had been read is lost")
async def reading_all(process: rsyscall.Process, directory: Path) -> AsyncGenerator[Case]:
    data = bytes(MAX_IO + 10)
    (directory / "file").write_bytes(data)
    async with await process.task.open(directory / "file", O.RDONLY) as fd:

        async def judge(cancelled: bool, got: Any) -> None:
            assert cancelled or got == data

        yield Case(lambda: process.read_to_eof(fd), judge)


@row(
    "`Process.spit`",
    "the file may have been made, or be empty, or have a leading part of the text",
)
async def writing_a_file(process: rsyscall.Process, directory: Path) -> AsyncGenerator[Case]:
    path = directory / "made"
    path.unlink(missing_ok=True)

    async def judge(cancelled: bool, _: Any) -> None:
        if cancelled:
            assert not path.exists() or b"text".startswith(path.read_bytes())
        else:
            assert path.read_bytes() == b"text"

    yield Case(lambda: process.spit(path, b"text"), judge)


@row("`Process.bind_getsockname`", "it is bound, or not")
async def binding(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with await process.socket(AF.INET, SOCK.STREAM) as sock:

        async def judge(cancelled: bool, bound: Any) -> None:
            name = await sock.getsockname()
            assert cancelled or name == bound

        yield Case(lambda: process.bind_getsockname(sock, SockaddrIn(0, "127.0.0.1")), judge)

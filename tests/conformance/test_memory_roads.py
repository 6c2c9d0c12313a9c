"""Every road to far memory gives the same bytes and the same errors, and the next one is there."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
import trio

import rsyscall
from conformance.seen import nothing_sent, twin, unmapping
from conformance.ways import WAYS, ended
from rsyscall.far import AddressSpace
from rsyscall.handle import Task
from rsyscall.near.sysif import SyscallHangup
from rsyscall.sys.mman import MAP, PROT
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.memory import CHUNK, MemoryRoads

RW = PROT.READ | PROT.WRITE
_PR_SET_DUMPABLE, _CAP_SYS_PTRACE = 4, 19
ROADS = ["process_vm", "frames"]


def roads(task: Task) -> MemoryRoads:
    assert isinstance(task.sysif, MemoryRoads)
    return task.sysif


@contextlib.contextmanager
def by(task: Task, road: str) -> Generator[None]:
    """Inside the block memory that is not mapped here is reached by this road."""
    sysif = roads(task)
    if road == "process_vm":
        yield
        return
    pid, pids = sysif._pid, sysif._pids  # pyright: ignore[reportPrivateUsage]
    sysif._pid, sysif._pids = 0, None  # pyright: ignore[reportPrivateUsage]
    try:
        assert sysif.road == "frames"
        yield
    finally:
        sysif._pid, sysif._pids = pid, pids  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("road", ROADS)
async def test_bytes_are_read_and_written_exactly(task: Task, road: str) -> None:
    data = os.urandom(CHUNK + 4096 + 10)
    length = CHUNK + 8192
    async with unmapping(await task.mmap(length, RW, MAP.PRIVATE)) as mapping:
        with by(task, road):
            await mapping.write(5, data)
            assert await mapping.read(5, len(data)) == data
            buffer = bytearray(len(data))
            await mapping.read_into(5, buffer)
            assert buffer == data
            await mapping.write(7, memoryview(data)[100:5000])
            part = bytearray(9000)
            await mapping.read_into(3, memoryview(part)[1000:6000])
            expected = (bytes(5) + data[:2] + data[100:5000] + data[4902:])[3:5003]
            assert part[1000:6000] == expected
            assert part[:1000] + part[6000:] == bytes(4000)
            assert roads(task).road == road


@pytest.mark.parametrize("road", ROADS)
async def test_what_cannot_all_be_copied_is_efault(task: Task, road: str) -> None:
    async with unmapping(await task.mmap(4 * 4096, RW, MAP.PRIVATE)) as mapping:
        await mapping.write(0, b"x" * 4 * 4096)
        await mapping[3:].mprotect(PROT.NONE)
        with by(task, road):
            for offset, n in ((3 * 4096, 1), (3 * 4096 - 1, 2), (0, 4 * 4096)):
                for call in (
                    mapping.read(offset, n),
                    mapping.read_into(offset, bytearray(n)),
                    mapping.write(offset, b"y" * n),
                ):
                    with pytest.raises(OSError, match=os.strerror(errno.EFAULT)) as caught:
                        await call
                    start = mapping.near.address + offset
                    assert caught.value.__notes__ == [f"in memory {start:#x}-{start + n:x}"]
            await mapping[0:1].mprotect(PROT.READ)
            with pytest.raises(OSError, match=os.strerror(errno.EFAULT)):
                await mapping.write(0, b"z")
            assert await mapping.read(4096, 2) == b"yy"


async def test_a_stream_has_one_piece_at_a_time(task: Task) -> None:
    length = 16 * 4096
    data = os.urandom(length)
    async with unmapping(await task.mmap(length, RW, MAP.PRIVATE)) as mapping:
        await mapping.write(0, data)
        sizes: list[int] = []
        got = b""
        async for chunk in mapping.chunks(100, length - 200, size=10_000):
            sizes.append(len(chunk))
            got += chunk
        assert got == data[100:-100]
        assert sizes == [10_000] * 6 + [length - 200 - 60_000]
        with pytest.raises(ValueError, match="size: 0"):
            mapping.chunks(0, 1, size=0)
        with pytest.raises(ValueError, match="do not lie"):
            mapping.chunks(1, length)


async def test_pointers_go_by_memmove_where_the_arena_is_mapped_here_too(task: Task) -> None:
    pointer = await task.ptr(b"arena" * 100)
    views = task.address_space.views
    assert views is not None
    here = views.find(int(pointer.near), pointer.size())
    assert here is not None
    assert ctypes.string_at(here, 5) == b"arena"
    assert await pointer.read() == b"arena" * 100
    # What the far side writes is seen here, and the other way round.
    async with await task.memfd_create("seen") as fd:
        await fd.pwrite(b"kernel", 0)
        await task.sysif.syscall(SYS.pread64, fd.near, pointer.near, 6, 0)
        assert (await pointer.read())[:8] == b"kernelre"
        ctypes.memmove(here, b"memory", 6)
        await task.sysif.syscall(SYS.pwrite64, fd.near, pointer.near, 6, 0)
        assert await fd.pread(6, 0) == b"memory"
    assert views.find(int(pointer.near), 2**30) is None


async def test_a_buffer_that_cannot_be_written_is_not_filled(task: Task) -> None:
    pointer = await task.ptr(b"what is there")
    async with unmapping(await task.mmap(4096, RW, MAP.PRIVATE)) as mapping:
        for address in (pointer.near, mapping.near.as_address()):
            with nothing_sent(task), pytest.raises(ValueError, match="buffer: it cannot be writ"):
                await task.sysif.read_memory_into(address, memoryview(bytes(10)))


async def test_a_reader_of_much_memory_lets_others_run(task: Task) -> None:
    length = 32 * CHUNK
    turns = 0
    async with (
        unmapping(await task.mmap(length, RW, MAP.PRIVATE | MAP.NORESERVE)) as mapping,
        trio.open_nursery() as nursery,
    ):

        async def others() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        nursery.start_soon(others)
        buffer = memoryview(bytearray(CHUNK))
        for offset in range(0, length, CHUNK):
            await mapping.read_into(offset, buffer)
        nursery.cancel_scope.cancel()
    assert turns > 0


@pytest.fixture
def unprivileged() -> Generator[None]:
    """The thread of the test does without CAP_SYS_PTRACE, if it has it."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] = effective & ~(1 << _CAP_SYS_PTRACE)
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0


APART = ["stub", "stub-no-ring", "socket-activate", "child-private-memory", "child-of-stub"]


@pytest.fixture(params=APART)
async def other(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[rsyscall.Process]:
    """A process with a memory of its own."""
    async with WAYS[request.param](tmp_path) as process:
        yield process


async def test_the_road_is_found_once_and_leaves_no_trace(other: rsyscall.Process) -> None:
    task = other.task
    sysif = roads(task)
    async with unmapping(await task.mmap(8192, RW, MAP.PRIVATE)) as mapping:
        maps = Path(f"/proc/{int(task.near_process)}/maps").read_text()
        assert sysif.road == ""
        await mapping.read(0, 100)  # not worth while
        assert sysif.road == ""
        await mapping.read(0, 8192)
        assert sysif.road == "process_vm"
        assert Path(f"/proc/{int(task.near_process)}/maps").read_text() == maps


async def test_a_process_that_may_not_be_traced_is_reached_by_frames(
    other: rsyscall.Process, unprivileged: None
) -> None:
    """Another user's, or with yama any but a child: the kernel asks the same of all three."""
    task = other.task
    await task.sysif.syscall(SYS.prctl, _PR_SET_DUMPABLE, 0)
    data = os.urandom(8192)
    async with unmapping(await task.mmap(8192, RW, MAP.PRIVATE)) as mapping:
        await mapping.write(0, data)
        assert await mapping.read(0, 8192) == data
        assert roads(task).road == "frames"


async def test_frames_take_over_when_it_is_refused_later(
    other: rsyscall.Process, unprivileged: None
) -> None:
    task = other.task
    data = os.urandom(8192)
    async with unmapping(await task.mmap(8192, RW, MAP.PRIVATE)) as mapping:
        await mapping.write(0, data)
        assert roads(task).road == "process_vm"
        await task.sysif.syscall(SYS.prctl, _PR_SET_DUMPABLE, 0)
        assert await mapping.read(0, 8192) == data
        assert roads(task).road == "frames"
        await mapping.write(0, b"still")
        assert await mapping.read(0, 5) == b"still"


async def test_a_pid_that_is_another_process_is_not_believed(
    other: rsyscall.Process, stranger: rsyscall.Process
) -> None:
    sysif = roads(other.task)
    pids = (os.getpid(), int(stranger.pid), 2**22 + 1, None)
    sysif.reach(AddressSpace(), lambda: pids)
    async with unmapping(await other.task.mmap(8192, RW, MAP.PRIVATE)) as mapping:
        await mapping.write(0, b"x" * 8192)
        assert sysif.road == "frames"
        assert await mapping.read(0, 8192) == b"x" * 8192


async def test_a_process_that_has_died_is_no_other_process() -> None:
    async with rsyscall.open_process() as process:
        mapping = await process.task.mmap(8192, RW, MAP.PRIVATE)
        await mapping.write(0, b"x" * 8192)
        assert roads(process.task).road == "process_vm"
        pidfd = os.pidfd_open(int(process.pid))
        os.kill(int(process.pid), signal.SIGKILL)
        await ended(pidfd)  # as long as it is dying its memory is there
        with pytest.raises(SyscallHangup):
            await mapping.read(0, 8192)
        with pytest.raises(SyscallHangup):
            await mapping.write(0, b"x" * 8192)


async def test_memory_is_private_where_it_cannot_be_shared(
    other: rsyscall.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, "by a filter")

    monkeypatch.setattr(os, "memfd_create", refuse)
    task = twin(other.task)
    pointer = await task.ptr(b"private")
    assert not task.address_space.can_share
    assert task.address_space.views is None or not task.address_space.views.find(
        int(pointer.near), 1
    )
    assert await pointer.read() == b"private"


def peak() -> int:
    """The most memory that this process has had since it was last forgotten, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.parametrize(
    ("road", "length"), [("process_vm", 2**30), ("frames", 2**26)], ids=["process_vm", "frames"]
)
async def test_a_stream_takes_no_more_memory_the_longer_it_is(road: str, length: int) -> None:
    """A gibibyte, or of what is slower a part of one."""
    async with rsyscall.open_process() as stub:
        mapping = await stub.task.mmap(length, RW, MAP.PRIVATE | MAP.NORESERVE)
        with by(stub.task, road):
            await mapping.write(length - 3, b"end")
            await mapping.read(0, CHUNK)
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak
            before, got = peak(), 0
            last = b""
            async for last in mapping.chunks(0, length):
                got += len(last)
            assert peak() - before < 8 * 1024
            assert roads(stub.task).road == road
        assert got == length
        assert last.endswith(b"end")
        await mapping.munmap()

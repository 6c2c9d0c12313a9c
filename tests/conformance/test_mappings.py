"""Mapped memory: what is in it, what may be done with it, and when it is gone."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from conformance.seen import error_here, nothing_sent, permissions, recording, twin, unmapping
from rsyscall import far, near
from rsyscall.fcntl import O
from rsyscall.handle import Task
from rsyscall.sys.mman import MAP, MS, PROT, MemoryMapping, UseAfterUnmapError
from rsyscall.sys.syscall import SYS
from rsyscall.unistd import MAX_IO

RW = PROT.READ | PROT.WRITE
PAGES = b"".join(bytes([number]) * 4096 for number in range(1, 5))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(PAGES)
    return path


@pytest.mark.parametrize(
    ("prot", "flags", "shown"),
    [
        (PROT.NONE, MAP.PRIVATE, "---p"),
        (PROT.READ, MAP.PRIVATE, "r--p"),
        (RW, MAP.SHARED, "rw-s"),
        (PROT.READ | PROT.EXEC, MAP.PRIVATE, "r-xp"),
        (RW, MAP.PRIVATE | MAP.POPULATE | MAP.NORESERVE, "rw-p"),
    ],
)
async def test_a_mapping_may_be_used_as_it_was_asked_for(
    task: Task, file: Path, prot: PROT, flags: MAP, shown: str
) -> None:
    async with unmapping(await task.mmap(8192, prot, flags)) as mapping:
        assert permissions(mapping) == shown
    async with (
        await task.open(file, O.RDWR) as fd,
        unmapping(await fd.mmap(8192, prot, flags)) as mapping,
    ):
        assert permissions(mapping) == shown


async def test_a_mapped_file_is_read_through_the_mapping(task: Task, file: Path) -> None:
    for length, offset in ((4096, 0), (16384, 0), (8192, 4096), (4096, 12288), (8192, 12288)):
        async with (
            await task.open(file, O.RDONLY) as fd,
            unmapping(await fd.mmap(length, PROT.READ, MAP.PRIVATE, offset)) as mapping,
        ):
            expected = PAGES[offset : offset + length]
            assert await mapping.read(0, len(expected)) == expected
            assert await mapping.read(4000, 0) == b""
            assert await mapping.read(4000, 96) == expected[4000:4096]


async def test_what_is_written_to_a_shared_mapping_is_in_the_file(task: Task, file: Path) -> None:
    async with (
        await task.open(file, O.RDWR) as fd,
        unmapping(await fd.mmap(8192, RW, MAP.SHARED, 4096)) as mapping,
    ):
        await mapping.write(10, b"shared")
        assert file.read_bytes()[4106:4112] == b"shared"
        assert await fd.pread(6, 4106) == b"shared"
        await fd.pwrite(b"back", 4096)
        assert await mapping.read(0, 4) == b"back"


async def test_what_is_written_to_a_private_mapping_is_not_in_the_file(
    task: Task, file: Path
) -> None:
    async with (
        await task.open(file, O.RDONLY) as fd,
        unmapping(await fd.mmap(4096, RW, MAP.PRIVATE)) as mapping,
    ):
        await mapping.write(0, b"private")
        assert await mapping.read(0, 8) == b"private\x01"
        assert file.read_bytes() == PAGES


async def test_a_mapping_outlives_its_descriptor(task: Task, file: Path) -> None:
    async with await task.open(file, O.RDONLY) as fd:
        mapping = await fd.mmap(4096, PROT.READ, MAP.SHARED)
    async with unmapping(mapping):
        assert await mapping.read(0, 4096) == PAGES[:4096]


async def test_memory_of_more_than_a_frame_is_read_and_written(task: Task) -> None:
    length = MAX_IO + 3 * 4096
    data = os.urandom(length)
    async with unmapping(await task.mmap(length, RW, MAP.PRIVATE)) as mapping:
        await mapping.write(0, data)
        assert await mapping.read(0, length) == data
        await mapping.write(1, data[:-1])
        assert await mapping.read(1, length - 1) == data[:-1]


async def test_reading_and_writing_to_the_very_end(task: Task) -> None:
    async with unmapping(await task.mmap(4096, RW, MAP.PRIVATE)) as mapping:
        await mapping.write(4095, b"z")
        await mapping.write(4096, b"")
        assert await mapping.read(4095, 1) == b"z"
        assert await mapping.read(4096, 0) == b""


OUTSIDE: list[tuple[int, int, str]] = [
    (-1, 1, "offset: -1 is not from 0 to 4096"),
    (4097, 0, "offset: 4097 is not from 0 to 4096"),
    (4096, 1, "1 bytes at offset 4096 do not lie in a mapping of 4096"),
    (0, 4097, "4097 bytes at offset 0 do not lie in a mapping of 4096"),
    (4000, 97, "97 bytes at offset 4000 do not lie in a mapping of 4096"),
]


async def test_what_does_not_lie_in_the_mapping_is_refused_before_it_is_sent(task: Task) -> None:
    async with unmapping(await task.mmap(4096, RW, MAP.PRIVATE)) as mapping:
        for offset, n, message in OUTSIDE:
            with nothing_sent(task):
                with pytest.raises(ValueError, match=message):
                    await mapping.read(offset, n)
                with pytest.raises(ValueError, match=message):
                    await mapping.write(offset, bytes(n))


async def test_a_negative_count_is_refused_before_it_is_sent(task: Task) -> None:
    async with unmapping(await task.mmap(4096, RW, MAP.PRIVATE)) as mapping:
        with nothing_sent(task), pytest.raises(ValueError, match="-1 bytes"):
            await mapping.read(0, -1)


async def test_behind_the_end_of_the_file_is_efault_and_the_process_lives_on(
    task: Task, file: Path
) -> None:
    async with (
        await task.open(file, O.RDWR) as fd,
        unmapping(await fd.mmap(32768, RW, MAP.SHARED)) as mapping,
    ):
        end = mapping.near.address + len(PAGES)
        with pytest.raises(OSError, match=os.strerror(errno.EFAULT)) as caught:
            await mapping.read(len(PAGES), 1)
        assert caught.value.__notes__ == [f"in memory {end:#x}-{end + 1:x}"]
        with pytest.raises(OSError, match=os.strerror(errno.EFAULT)):
            await mapping.write(len(PAGES), b"x")
        with pytest.raises(OSError, match=os.strerror(errno.EFAULT)):  # from the last good byte on
            await mapping.read(len(PAGES) - 1, 2)
        with pytest.raises(OSError, match=os.strerror(errno.EFAULT)):
            await task.sysif.syscall(SYS.pread64, fd.near, near.Address(end), 10, 0)
        assert await task.getpid() == task.near_process
        await fd.ftruncate(len(PAGES) + 4096)
        assert await mapping.read(len(PAGES), 1) == b"\0"


async def test_mprotect_changes_what_may_be_done(task: Task) -> None:
    async with unmapping(await task.mmap(8192, RW, MAP.PRIVATE)) as mapping:
        await mapping.write(0, b"kept")
        await mapping.mprotect(PROT.READ)
        assert permissions(mapping) == "r--p"
        with pytest.raises(OSError, match=os.strerror(errno.EFAULT)):
            await mapping.write(0, b"lost")
        await mapping.mprotect(PROT.NONE)
        assert permissions(mapping) == "---p"
        with pytest.raises(OSError, match=os.strerror(errno.EFAULT)):
            await mapping.read(0, 4)
        await mapping.mprotect(RW)
        assert permissions(mapping) == "rw-p"
        assert await mapping.read(0, 4) == b"kept"


async def test_mprotect_cannot_allow_more_than_the_descriptor_does(task: Task, file: Path) -> None:
    async with (
        await task.open(file, O.RDONLY) as fd,
        unmapping(await fd.mmap(4096, PROT.READ, MAP.SHARED)) as mapping,
    ):
        with pytest.raises(PermissionError) as caught:
            await mapping.mprotect(RW)
        where = f"addr={mapping.near.address:#x}, len=4096, prot=0x3"
        assert caught.value.__notes__ == [f"in mprotect({where})"]
        assert permissions(mapping) == "r--s"


async def test_msync_is_sent_with_the_range_and_the_flags(task: Task, file: Path) -> None:
    async with (
        await task.open(file, O.RDWR) as fd,
        unmapping(await fd.mmap(8192, RW, MAP.SHARED)) as mapping,
    ):
        for flags in (MS.SYNC, MS.ASYNC, MS.SYNC | MS.INVALIDATE, MS.NONE):
            with recording(task) as recorder:
                await mapping.msync(flags)
            assert recorder.sent == [("msync", (mapping.near.address, 8192, flags, 0, 0, 0))]


async def test_msync_waits_by_default_and_reports_contradicting_flags(
    task: Task, file: Path
) -> None:
    async with (
        await task.open(file, O.RDWR) as fd,
        unmapping(await fd.mmap(4096, RW, MAP.SHARED)) as mapping,
    ):
        with recording(task) as recorder:
            await mapping.msync()
        assert recorder.sent[0][1][2] == MS.SYNC
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:
            await mapping.msync(MS.SYNC | MS.ASYNC)
        assert caught.value.__notes__[0].startswith(f"in msync(addr={mapping.near.address:#x},")


Use = Callable[[MemoryMapping], Awaitable[object]]
USES: dict[str, Use] = {
    "read": lambda mapping: mapping.read(0, 1),
    "read nothing": lambda mapping: mapping.read(0, 0),
    "write": lambda mapping: mapping.write(0, b"x"),
    "mprotect": lambda mapping: mapping.mprotect(PROT.READ),
    "msync": lambda mapping: mapping.msync(),
    "munmap": lambda mapping: mapping.munmap(),
}


async def test_no_handle_can_be_used_after_munmap(task: Task) -> None:
    mapping = await task.mmap(4096, RW, MAP.PRIVATE)
    others = [mapping.for_task(twin(task)), MemoryMapping(task, mapping.near, mapping.file)]
    await others[0].munmap()
    with nothing_sent(task):
        for use in USES.values():
            for handle in (mapping, *others):
                with pytest.raises(UseAfterUnmapError, match=rf"{mapping.near}\) was unmapped"):
                    await use(handle)


async def test_a_new_mapping_in_the_same_place_is_not_the_one_that_was_unmapped(
    task: Task,
) -> None:
    old = await task.mmap(4096, RW, MAP.PRIVATE)
    await old.munmap()
    where = near.Address(old.near.address)
    async with unmapping(
        await task.mmap(4096, RW, MAP.PRIVATE | MAP.FIXED_NOREPLACE, addr=where)
    ) as new:
        assert new.near == old.near
        await new.write(0, b"new")
        with nothing_sent(task), pytest.raises(UseAfterUnmapError):
            await old.read(0, 3)
        assert new != old


async def test_the_same_file_can_be_mapped_in_the_same_place_again(task: Task, file: Path) -> None:
    known = far.File()
    async with await task.open(file, O.RDONLY) as fd:
        old = await fd.mmap(4096, PROT.READ, MAP.SHARED, file=known)
        await old.munmap()
        flags, where = MAP.SHARED | MAP.FIXED_NOREPLACE, near.Address(old.near.address)
        again = await fd.mmap(4096, PROT.READ, flags, file=known, addr=where)
        async with unmapping(again):
            assert await again.read(0, 4096) == PAGES[:4096]


async def test_a_mapping_that_is_in_the_way_is_not_replaced(task: Task) -> None:
    async with unmapping(await task.mmap(4096, RW, MAP.PRIVATE)) as mapping:
        where = near.Address(mapping.near.address)
        with pytest.raises(FileExistsError) as caught:
            await task.mmap(4096, RW, MAP.PRIVATE | MAP.FIXED_NOREPLACE, addr=where)
        assert caught.value.__notes__[0].startswith(f"in mmap(addr={where}, ")


@pytest.mark.parametrize(
    ("name", "flags", "prot", "number"),
    [
        ("file", O.RDONLY, RW, errno.EACCES),
        ("file", O.WRONLY, PROT.READ, errno.EACCES),
        ("", O.RDONLY, PROT.READ, errno.ENODEV),
        ("file", O.PATH, PROT.READ, errno.EBADF),
    ],
)
async def test_what_cannot_be_mapped_fails_as_in_the_standard_library(
    task: Task, file: Path, name: str, flags: O, prot: PROT, number: int
) -> None:
    path = file.parent / name
    here = os.open(path, flags)
    try:
        expected = error_here(lambda: mmap.mmap(here, 4096, mmap.MAP_SHARED, prot))
    finally:
        os.close(here)
    async with await task.open(path, flags) as fd:
        with pytest.raises(type(expected)) as caught:
            await fd.mmap(4096, prot, MAP.SHARED)
        assert caught.value.errno == expected.errno == number
        assert f"fd={int(fd.near)}" in caught.value.__notes__[0]


async def test_a_mapping_of_no_length_is_refused_by_the_kernel(task: Task) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:
        await task.mmap(0, RW, MAP.PRIVATE)
    assert "length=0" in caught.value.__notes__[0]


async def test_more_than_there_is_room_for_is_enomem(task: Task) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
        await task.mmap(2**47, RW, MAP.PRIVATE)
    assert await task.getpid() == task.near_process


async def test_a_failed_munmap_leaves_the_mapping_usable(task: Task) -> None:
    async with unmapping(await task.mmap(4096, RW, MAP.PRIVATE)) as mapping:
        impossible = MemoryMapping(
            task, near.MemoryMapping(mapping.near.address, 0, 4096), mapping.file
        )
        for _ in range(2):  # it is the kernel that refuses, the second time too
            with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
                await impossible.munmap()
        await mapping.write(0, b"usable")

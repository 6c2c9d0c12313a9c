"""Parts of mappings: sliced, unmapped, moved, protected; and what is refused before any effect."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest

import rsyscall
from conformance.seen import nothing_sent, permissions, recording, unmapping
from rsyscall import far, near
from rsyscall.fcntl import O
from rsyscall.handle import DeadTaskError, Task
from rsyscall.sys.mman import (
    MADV,
    MAP,
    MLOCK,
    MREMAP,
    PROT,
    MemoryInUseError,
    MemoryMapping,
    UseAfterUnmapError,
)
from rsyscall.sys.syscall import SYS

RW = PROT.READ | PROT.WRITE
PAGE = 4096


async def rest(mapping: MemoryMapping) -> None:
    """Unmap what is left of it."""
    for part in mapping.remaining():
        await part.munmap()


async def test_a_slice_is_a_handle_of_its_pages(task: Task) -> None:
    async with unmapping(await task.mmap(4 * PAGE, RW, MAP.PRIVATE)) as mapping:
        assert mapping.pages == 4
        assert mapping[1:3].near == mapping.near[1:3]
        assert mapping[-1].near.address == mapping.near.address + 3 * PAGE
        assert mapping[1:][0].file is mapping.file
        await mapping[2].write(0, b"third")
        assert await mapping.read(2 * PAGE, 5) == b"third"
        with pytest.raises(ValueError, match="5000 bytes"):
            await mapping[1].write(0, bytes(5000))
        with pytest.raises(IndexError):
            mapping[4]
        with pytest.raises(ValueError, match="step=2"):
            mapping[::2]


async def test_what_remains_after_a_part_was_unmapped(task: Task) -> None:
    mapping = await task.mmap(5 * PAGE, RW, MAP.PRIVATE)
    first, hole, last = mapping[:2], mapping[2], mapping[3:]
    await mapping.write(0, b"first")
    with recording(task) as recorder:
        await hole.munmap()
    assert recorder.sent == [("munmap", (hole.near.address, PAGE, 0, 0, 0, 0))]
    assert [permissions(part) for part in (first, hole, last)] == ["rw-p", None, "rw-p"]
    assert mapping.remaining() == [first, last]
    assert await first.read(0, 5) == b"first"
    await last.write(0, b"last")
    with nothing_sent(task):
        for part in (mapping, hole, mapping[1:3], mapping[2:]):
            for use in (part.read(0, 1), part.munmap(), part.mprotect(RW), part.mincore()):
                with pytest.raises(UseAfterUnmapError):
                    await use
        with pytest.raises(UseAfterUnmapError, match="unmapped in part"):
            mapping.check_valid()
    await rest(mapping)
    assert mapping.remaining() == []
    assert permissions(first) is permissions(last) is None


async def test_mprotect_of_a_part_leaves_the_others(task: Task) -> None:
    mapping = await task.mmap(3 * PAGE, RW, MAP.PRIVATE)
    await mapping[1].mprotect(PROT.READ)
    assert [permissions(mapping[i]) for i in range(3)] == ["rw-p", "r--p", "rw-p"]
    with pytest.raises(OSError, match=os.strerror(errno.EFAULT)):
        await mapping.write(0, bytes(3 * PAGE))
    await mapping.munmap()


async def test_mremap_shrinks_and_grows_as_the_kernel_does(task: Task) -> None:
    mapping = await task.mmap(4 * PAGE, RW, MAP.PRIVATE)
    await mapping.write(0, b"kept")
    small = await mapping.mremap(2 * PAGE)
    assert small.near == mapping.near[:2]
    assert small == mapping[:2]
    assert permissions(mapping[2:]) is None
    with nothing_sent(task), pytest.raises(UseAfterUnmapError):
        await mapping.read(0, 1)
    # Its own pages are free again, behind it.
    large = await small.mremap(3 * PAGE, MREMAP.MAYMOVE)
    assert (await large.read(0, 4), large.near.length) == (b"kept", 3 * PAGE)
    assert permissions(large) == "rw-p"
    await large.munmap()


async def test_a_mapping_that_moves_is_not_where_it_was(task: Task) -> None:
    target = await task.mmap(2 * PAGE, PROT.NONE, MAP.PRIVATE)
    mapping = await task.mmap(2 * PAGE, RW, MAP.PRIVATE)
    await mapping.write(0, b"moved")
    where = near.Address(target.near.address)
    moved = await mapping.mremap(2 * PAGE, MREMAP.MAYMOVE | MREMAP.FIXED, addr=where)
    assert moved.near == target.near
    assert moved.file is mapping.file
    assert await moved.read(0, 5) == b"moved"
    assert permissions(mapping) is None
    with nothing_sent(task):
        for old in (mapping, mapping[1], target):
            with pytest.raises(UseAfterUnmapError):
                await old.read(0, 1)
    await moved.munmap()


async def test_what_a_moved_mapping_leaves_may_stay(task: Task) -> None:
    mapping = await task.mmap(PAGE, RW, MAP.PRIVATE)
    await mapping.write(0, b"moved")
    moved = await mapping.mremap(PAGE, MREMAP.MAYMOVE | MREMAP.DONTUNMAP)
    assert moved.near.address != mapping.near.address
    assert await moved.read(0, 5) == b"moved"
    assert await mapping.read(0, 5) == bytes(5)
    await moved.munmap()
    await mapping.munmap()


async def test_a_failed_mremap_leaves_everything(task: Task) -> None:
    mapping = await task.mmap(2 * PAGE, RW, MAP.PRIVATE)
    target = await task.mmap(2 * PAGE, RW, MAP.PRIVATE)
    await target.write(0, b"target")
    with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
        await mapping.mremap(2**46, MREMAP.MAYMOVE)
    where = near.Address(target.near.address)
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:
        await mapping.mremap(2 * PAGE, MREMAP.FIXED, addr=where)
    assert "in mremap(" in caught.value.__notes__[0]
    assert await target.read(0, 6) == b"target"
    await mapping.write(0, b"there")
    await mapping.munmap()
    await target.munmap()


async def test_fixed_placement_replaces_only_what_is_ours(task: Task) -> None:
    mapping = await task.mmap(4 * PAGE, RW, MAP.PRIVATE)
    await mapping.write(0, b"a" * 4 * PAGE)
    where = near.Address(mapping.near.address + PAGE)
    new = await task.mmap(2 * PAGE, PROT.READ, MAP.SHARED | MAP.FIXED, addr=where)
    assert await new.read(0, 2 * PAGE) == bytes(2 * PAGE)
    assert mapping.remaining() == [mapping[0], mapping[3]]
    with nothing_sent(task):
        with pytest.raises(UseAfterUnmapError):
            await mapping[1].read(0, 1)
        # Partly, or not at all, ours; or behind it is what pointers are made of.
        for length in (2 * PAGE, 8 * PAGE):
            for addr in (mapping.near.address + 3 * PAGE, 65536):
                with pytest.raises(MemoryInUseError, match=r"not all of|is in use"):
                    await task.mmap(length, RW, MAP.PRIVATE | MAP.FIXED, addr=near.Address(addr))
        with pytest.raises(ValueError, match="addr: missing"):
            await task.mmap(PAGE, RW, MAP.PRIVATE | MAP.FIXED)
    await new.munmap()
    await rest(mapping)


async def test_a_failed_fixed_mapping_leaves_what_was_there(task: Task, tmp_path: Path) -> None:
    mapping = await task.mmap(2 * PAGE, RW, MAP.PRIVATE)
    await mapping.write(0, b"there")
    where = near.Address(mapping.near.address)
    async with await task.open(tmp_path, O.RDONLY) as fd:
        with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
            await fd.mmap(2 * PAGE, PROT.READ, MAP.PRIVATE | MAP.FIXED, addr=where)
    assert await mapping.read(0, 5) == b"there"
    await mapping.munmap()


async def test_what_is_not_ours_to_change_is_refused(task: Task) -> None:
    pointer = await task.ptr(b"precious")
    arena = pointer.mapping
    maps = Path(f"/proc/{int(task.near_process)}/maps").read_text().splitlines()
    program = next(line for line in maps if "r-xp" in line and "[v" not in line)
    start, end = (int(number, 16) for number in program.split()[0].split("-"))
    code = MemoryMapping(task, near.MemoryMapping(start, end - start, PAGE), far.File())
    assert await code.read(0, 4) is not None
    with nothing_sent(task):
        for mapping, why in ((arena, "allocator"), (arena[0], "allocator"), (code, "not mapped")):
            for call in (
                mapping.munmap(),
                mapping.mprotect(PROT.READ),
                mapping.mremap(PAGE),
                mapping.madvise(MADV.DONTNEED),
            ):
                with pytest.raises(MemoryInUseError, match=why):
                    await call
            with pytest.raises(MemoryInUseError, match=r"addr: "):
                await task.mmap(
                    PAGE, RW, MAP.PRIVATE | MAP.FIXED, addr=near.Address(mapping.near.address)
                )
    assert await pointer.read() == b"precious"


async def test_a_batch_refuses_what_a_call_refuses(process: rsyscall.Process) -> None:
    task = process.task
    pointer = await task.ptr(b"precious")
    where = near.Address(pointer.mapping.near.address)
    mapping = await task.mmap(PAGE, RW, MAP.PRIVATE)
    batch = process.batch()
    with pytest.raises(MemoryInUseError):
        batch.munmap(pointer.mapping)
    with pytest.raises(MemoryInUseError):
        batch.mprotect(pointer.mapping, PROT.READ)
    with pytest.raises(MemoryInUseError):
        batch.madvise(pointer.mapping, MADV.DONTNEED)
    with pytest.raises(MemoryInUseError):
        batch.mremap(pointer.mapping, PAGE)
    with pytest.raises(ValueError, match=r"MAP\.FIXED"):
        batch.mmap(PAGE, RW, MAP.PRIVATE | MAP.FIXED, addr=where)
    with pytest.raises(ValueError, match="step of a batch"):
        batch.mremap(mapping, PAGE, MREMAP.MAYMOVE | MREMAP.DONTUNMAP)
    await mapping.munmap()


async def test_mappings_change_in_batches(process: rsyscall.Process) -> None:
    task = process.task
    mapping = await task.mmap(4 * PAGE, RW, MAP.PRIVATE)
    async with process.batch() as batch:
        made = batch.mmap(2 * PAGE, RW, MAP.PRIVATE)
        batch.mprotect(made, PROT.READ)
        batch.mlock(mapping[0])
        batch.munlock(mapping[0])
        core = batch.mincore(mapping)
        batch.madvise(mapping, MADV.DONTNEED)
        batch.munmap(mapping[3])
        smaller = batch.mremap(mapping[:3], 2 * PAGE)
    assert permissions(made.value) == "r--p"
    assert core.value == [True, False, False, False]
    assert smaller.value == mapping[:2]
    assert mapping.remaining() == [mapping[:2]]
    regions = list(task.address_space.regions.overlapping(made.value.near.address, 2**47))
    assert regions[0].prot == PROT.READ
    batch = process.batch()
    batch.mremap(smaller.value, 2**46, MREMAP.MAYMOVE)
    batch.munmap(made.value)
    with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
        await batch.run()
    await smaller.value.write(0, b"still there")
    await smaller.value.munmap()
    await made.value.munmap()


async def test_off_the_page_boundary_is_refused_before_it_is_sent(task: Task) -> None:
    mapping = await task.mmap(2 * PAGE, RW, MAP.PRIVATE)
    where = near.Address(mapping.near.address)
    fixed = MREMAP.MAYMOVE | MREMAP.FIXED
    with nothing_sent(task):
        for call, message in (
            (mapping.mremap(100), "new_length: 100"),
            (mapping.mremap(-PAGE), "new_length: -4096"),
            (mapping.mremap(0), "new_length: 0"),
            (mapping.mremap(PAGE, addr=where), "addr: given without"),
            (mapping.mremap(PAGE, fixed), "addr: given without"),
            (mapping.mremap(PAGE, fixed, addr=where + 1), "addr: "),
            (mapping.mremap(PAGE, fixed, addr=where), "too close"),
            (task.mmap(PAGE, RW, MAP.PRIVATE | MAP.HUGETLB), "page_size: with MAP.HUGETLB"),
        ):
            with pytest.raises(ValueError, match=message):
                await call
    await mapping.munmap()


async def test_huge_pages_are_asked_for_by_their_size(task: Task) -> None:
    huge = 2**21
    # There are none on most machines.
    with recording(task) as recorder, contextlib.suppress(OSError):
        mapping = await task.mmap(2 * huge, RW, MAP.PRIVATE | MAP.HUGETLB, huge)
        assert mapping.pages == 2
        await mapping[1].munmap()
        await mapping[0].munmap()
    flags = MAP.PRIVATE | MAP.HUGETLB | MAP.ANONYMOUS
    assert recorder.sent[0] == ("mmap", (0, 2 * huge, RW, int(flags) | 21 << 26, -1, 0))


async def test_what_grows_down_is_mapped_as_asked(task: Task) -> None:
    async with unmapping(await task.mmap(PAGE, RW, MAP.PRIVATE | MAP.GROWSDOWN)) as mapping:
        smaps = Path(f"/proc/{int(task.near_process)}/smaps").read_text()
        entry = smaps.partition(f"{mapping.near.address:x}-")[2]
        assert "gd" in entry.partition("VmFlags:")[2].partition("\n")[0].split()


async def test_what_grew_goes_with_the_mapping(process: rsyscall.Process) -> None:
    task = process.task

    def there() -> list[tuple[int, int]]:
        """What is mapped below the end of the mapping, where the kernel maps nothing else."""
        lines = Path(f"/proc/{int(task.near_process)}/maps").read_text().splitlines()
        ranges = [tuple(int(n, 16) for n in line.split()[0].split("-")) for line in lines]
        return [(start, stop) for start, stop in ranges if end - 64 * PAGE < start < end]

    # Where there is room: elsewhere other mappings might be too near.
    flags = MAP.PRIVATE | MAP.GROWSDOWN | MAP.FIXED_NOREPLACE
    mapping = await task.mmap(4 * PAGE, RW, flags, addr=near.Address(0x6000_0000_0000))
    start, end = mapping.near.address, mapping.near.address + 4 * PAGE
    assert there() == [(start, end)]
    with nothing_sent(task), pytest.raises(ValueError, match="has grown by"):
        await mapping.mremap(PAGE)
    with pytest.raises(ValueError, match="may have grown"):
        process.batch().munmap(mapping)
    await mapping[2].munmap()  # that is not where it grows
    async with await task.memfd_create("below") as fd:
        await fd.write(b"below")
        # A call of its own that writes there, as its program would.
        await task.sysif.syscall(SYS.pread64, fd.near, start - 3 * PAGE, 5, 0)
    assert there() == [(start - 3 * PAGE, start + 2 * PAGE), (end - PAGE, end)]
    assert await task.sysif.read_memory(start - 3 * PAGE, 5) == b"below"
    await mapping[:2].munmap()
    assert there() == [(end - PAGE, end)]
    await mapping[3].munmap()
    assert there() == []


async def test_advice_and_locks_do_what_they_say(task: Task) -> None:
    async with unmapping(await task.mmap(4 * PAGE, RW, MAP.PRIVATE)) as mapping:
        assert await mapping.mincore() == [False] * 4
        await mapping.write(0, b"x" * PAGE)
        await mapping[2].mlock()
        assert await mapping.mincore() == [True, False, True, False]
        await mapping[2].munlock()
        await mapping[:2].madvise(MADV.DONTNEED)
        assert await mapping.mincore() == [False, False, True, False]
        assert await mapping.read(0, 1) == b"\0"
        await mapping.mlock(MLOCK.ONFAULT)
        await mapping.munlock()
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:
            await mapping.madvise(MADV(12345))
        assert "in madvise(" in caught.value.__notes__[0]


async def test_a_shared_file_loses_its_pages(task: Task) -> None:
    async with await task.memfd_create("holes") as fd:
        await fd.ftruncate(2 * PAGE)
        async with unmapping(await fd.mmap(2 * PAGE, RW, MAP.SHARED)) as mapping:
            await mapping.write(0, b"x" * 2 * PAGE)
            await mapping[0].madvise(MADV.REMOVE)
            assert await fd.pread(PAGE + 1, 0) == bytes(PAGE) + b"x"


async def test_mappings_of_one_file_can_be_told_to_be_of_one(task: Task) -> None:
    async with await task.memfd_create("one") as fd, await task.memfd_create("other") as other:
        await fd.ftruncate(PAGE)
        handle = fd.for_task(task)
        assert handle.file is fd.file
        async with (
            unmapping(await fd.mmap(PAGE, RW, MAP.SHARED)) as first,
            unmapping(await handle.mmap(PAGE, RW, MAP.SHARED)) as second,
            unmapping(await other.mmap(PAGE, RW, MAP.SHARED)) as third,
        ):
            assert first.file is not second.file
            assert first.file.same_as(second.file)
            assert second.file.same_as(fd.file)
            assert not first.file.same_as(third.file)
            assert not third.file.same_as(far.File())
        await handle.invalidate()


async def test_unmapping_twice_does_not_unmap_what_came_after(task: Task) -> None:
    async with await task.memfd_create("again") as fd:
        await fd.ftruncate(PAGE)
        old = await fd.mmap(PAGE, RW, MAP.SHARED)
        await old.munmap()
        where = near.Address(old.near.address)
        async with unmapping(
            await fd.mmap(PAGE, RW, MAP.SHARED | MAP.FIXED_NOREPLACE, addr=where)
        ) as new:
            with nothing_sent(task), pytest.raises(UseAfterUnmapError):
                await old.munmap()
            assert new.near == old.near


async def test_after_an_exec_no_handle_to_the_old_memory_can_be_used() -> None:
    async with rsyscall.open_process() as parent, await parent.clone(vm=False) as child:
        mapping = await child.task.mmap(PAGE, RW, MAP.PRIVATE)
        pointer = await child.ptr(b"old")
        before = child.task.address_space.generation
        await child.execv("/bin/true", ["true"])
        assert child.task.address_space.generation == before + 1
        for call in (mapping.read(0, 1), mapping.munmap(), mapping[0].write(0, b"x")):
            with pytest.raises(UseAfterUnmapError):
                await call
        with pytest.raises(DeadTaskError):
            await pointer.read()


async def test_a_slice_without_pages_is_not_moved(task: Task) -> None:
    mapping = await task.mmap(2 * PAGE, RW, MAP.SHARED)
    with nothing_sent(task), pytest.raises(ValueError, match=r"^mapping: has no pages"):
        await mapping[0:0].mremap(2 * PAGE, MREMAP.MAYMOVE)
    await mapping.munmap()

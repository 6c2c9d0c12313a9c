"""What the founding page's calls do, in every way of reaching a process."""

from __future__ import annotations

import dataclasses
import os

import pytest

import rsyscall
from conformance.seen import (
    NO_FD,
    RecordingInterface,
    nothing_sent,
    permissions,
    recording,
    twin,
    unmapping,
)
from rsyscall import far, near
from rsyscall.handle import InvalidHandleError, Task
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.near.sysif import SyscallSendError
from rsyscall.sys.mman import (
    MAP,
    PROT,
    MappableFileDescriptor,
    MemoryMapping,
    MemoryMappingTask,
    _mmap,  # pyright: ignore[reportPrivateUsage] - on the page
    _munmap,  # pyright: ignore[reportPrivateUsage] - on the page
)

RW = PROT.READ | PROT.WRITE


async def test_a_mapping_knows_its_task_its_range_and_its_file(task: Task) -> None:
    async with unmapping(await task.mmap(8192, RW, MAP.PRIVATE)) as mapping:
        assert mapping.task is task
        assert isinstance(mapping.near, near.MemoryMapping)
        assert (mapping.near.length, mapping.near.page_size) == (8192, 4096)
        assert mapping.near.address % 4096 == 0
        assert isinstance(mapping.file, far.File)


async def test_a_mapping_is_frozen(task: Task) -> None:
    async with unmapping(await task.mmap(4096, RW, MAP.PRIVATE)) as mapping:
        for name in ("task", "near", "file"):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(mapping, name, getattr(mapping, name))


async def test_mappings_are_equal_and_hash_alike_if_all_three_are_equal(task: Task) -> None:
    async with unmapping(await task.mmap(8192, RW, MAP.PRIVATE)) as mapping:
        same = MemoryMapping(mapping.task, mapping.near, mapping.file)
        assert same == mapping
        assert hash(same) == hash(mapping)
        assert MemoryMapping(twin(task), mapping.near, mapping.file) != mapping
        assert MemoryMapping(mapping.task, mapping.near[:1], mapping.file) != mapping
        assert MemoryMapping(mapping.task, mapping.near, far.File()) != mapping


async def test_str_and_repr_of_a_mapping_name_the_task_and_the_range(task: Task) -> None:
    async with unmapping(await task.mmap(8192, RW, MAP.PRIVATE)) as mapping:
        assert str(mapping) == f"MemoryMapping({task!s}, {mapping.near!s})"
        assert repr(mapping) == str(mapping)
        start = mapping.near.address
        assert f"{start:x}-{start + 8192:x}" in str(mapping)


async def test_munmap_unmaps_exactly_the_mapping(task: Task) -> None:
    mapping = await task.mmap(8192, RW, MAP.PRIVATE)
    assert permissions(mapping) == "rw-p"
    with recording(task) as recorder:
        await mapping.munmap()
    assert recorder.sent == [("munmap", (mapping.near.address, 8192, 0, 0, 0, 0))]
    assert permissions(mapping) is None


async def test_for_task_is_the_same_mapping_of_a_task_that_shares_the_space(task: Task) -> None:
    async with unmapping(await task.mmap(4096, RW, MAP.PRIVATE)) as mapping:
        other = twin(task)
        there = mapping.for_task(other)
        assert there == MemoryMapping(other, mapping.near, mapping.file)
        await there.write(0, b"one memory")
        assert await mapping.read(0, 10) == b"one memory"


async def test_for_task_refuses_another_address_space_and_names_both(
    task: Task, stranger: rsyscall.Process
) -> None:
    async with unmapping(await task.mmap(4096, RW, MAP.PRIVATE)) as mapping:
        with pytest.raises(far.AddressSpaceMismatchError) as caught:
            mapping.for_task(stranger.task)
        for name in (mapping, task.address_space, stranger.task, stranger.task.address_space):
            assert str(name) in str(caught.value)


async def test_a_mapping_task_is_made_of_what_the_page_says(task: Task) -> None:
    made = MemoryMappingTask[BaseFileDescriptor](
        task.sysif, task.near_process, task.fd_table, task.address_space, task.pidns
    )
    for name in ("sysif", "near_process", "fd_table", "address_space", "pidns"):
        assert getattr(made, name) is getattr(task, name)
    async with unmapping(await made.mmap(4096, RW, MAP.PRIVATE)) as mapping:
        assert permissions(mapping) == "rw-p"


async def test_a_mapping_without_a_file_descriptor_is_anonymous(task: Task) -> None:
    with recording(task) as recorder:
        mapping = await task.mmap(4096, PROT.READ, MAP.SHARED)
    async with unmapping(mapping):
        flags = MAP.SHARED | MAP.ANONYMOUS
        assert recorder.sent == [("mmap", (0, 4096, PROT.READ, flags, -1, 0))]
        assert await mapping.read(0, 4096) == bytes(4096)
        assert permissions(mapping) == "r--s"


async def test_every_anonymous_mapping_has_a_file_of_its_own(task: Task) -> None:
    async with (
        unmapping(await task.mmap(4096, RW, MAP.PRIVATE)) as one,
        unmapping(await task.mmap(4096, RW, MAP.PRIVATE)) as other,
    ):
        assert one.file != other.file


async def test_the_page_size_is_kept(task: Task) -> None:
    async with unmapping(await task.mmap(16384, RW, MAP.PRIVATE, page_size=8192)) as mapping:
        assert mapping.near.page_size == 8192
        assert mapping.near.pages == 2


async def test_a_mappable_file_descriptor_is_made_of_task_near_and_valid(task: Task) -> None:
    async with await task.memfd_create("seed") as fd:
        await fd.write(b"seed")
        made = MappableFileDescriptor(task, fd.near, True)
        assert (made.task, made.near, made.valid) == (task, fd.near, True)
        async with unmapping(await made.mmap(4096, PROT.READ, MAP.SHARED)) as mapping:
            assert await mapping.read(0, 4) == b"seed"
        assert not await made.invalidate()


async def test_a_handle_that_is_not_valid_maps_nothing(task: Task) -> None:
    made = MappableFileDescriptor(task, NO_FD, False)
    with nothing_sent(task):
        with pytest.raises(InvalidHandleError, match=str(NO_FD)):
            made._validate()  # pyright: ignore[reportPrivateUsage] - on the page
        with pytest.raises(InvalidHandleError, match=str(NO_FD)):
            await made.mmap(4096, PROT.READ, MAP.SHARED)


async def test_a_file_is_mapped_from_the_offset_on(task: Task) -> None:
    async with await task.memfd_create("seed") as fd:
        await fd.pwrite(b"second page", 4096)
        with recording(task) as recorder:
            mapping = await fd.mmap(4096, PROT.READ, MAP.SHARED, 4096)
        async with unmapping(mapping):
            assert recorder.sent == [("mmap", (0, 4096, PROT.READ, MAP.SHARED, fd.near, 4096))]
            assert await mapping.read(0, 11) == b"second page"


async def test_a_mapping_has_the_file_that_was_given_or_a_new_one(task: Task) -> None:
    file = far.File()
    async with (
        await task.memfd_create("seed") as fd,
        unmapping(await fd.mmap(4096, PROT.READ, MAP.SHARED, file=file)) as one,
        unmapping(await fd.mmap(4096, PROT.READ, MAP.SHARED)) as other,
        unmapping(await fd.mmap(8192, PROT.READ, MAP.SHARED, 0, 8192, file)) as third,
    ):
        assert one.file is third.file is file
        assert other.file != file


OFF_THE_BOUNDARY: list[tuple[str, dict[str, int]]] = [
    ("length: 1 ", {"length": 1}),
    ("length: 4097 ", {"length": 4097}),
    ("length: -4096 ", {"length": -4096}),
    ("length: 4096 ", {"length": 4096, "page_size": 8192}),
    ("offset: 512 ", {"offset": 512}),
    ("offset: -4096 ", {"offset": -4096}),
    ("offset: 4096 ", {"length": 8192, "offset": 4096, "page_size": 8192}),
    ("addr: 65537 ", {"addr": 0x10001}),
    ("addr: 4096 ", {"length": 8192, "addr": 4096, "page_size": 8192}),
    ("page_size: 0 ", {"page_size": 0}),
    ("page_size: 512 ", {"page_size": 512}),
    ("page_size: 12288 ", {"length": 12288, "page_size": 12288}),
]


async def test_what_is_off_the_page_boundary_is_refused_before_it_is_sent(task: Task) -> None:
    for message, given in OFF_THE_BOUNDARY:
        length, page_size = given.get("length", 4096), given.get("page_size", 4096)
        offset = given.get("offset", 0)
        addr = near.Address(given["addr"]) if "addr" in given else None
        async with await task.memfd_create("seed") as fd:
            with nothing_sent(task):
                with pytest.raises(ValueError, match=f"^{message}"):
                    await _mmap(
                        task.sysif,
                        length,
                        RW,
                        MAP.SHARED,
                        addr,
                        fd.near,
                        offset,
                        page_size=page_size,
                    )
                with pytest.raises(ValueError, match=f"^{message}"):
                    await fd.mmap(length, RW, MAP.SHARED, offset, page_size, addr=addr)
                if not offset:
                    with pytest.raises(ValueError, match=f"^{message}"):
                        await task.mmap(length, RW, MAP.PRIVATE, page_size, addr=addr)


async def test_what_is_refused_here_is_refused_even_if_the_process_is_gone(
    stranger: rsyscall.Process,
) -> None:
    task = stranger.task
    await task.sysif.close_interface()
    with pytest.raises(SyscallSendError):
        await task.mmap(4096, RW, MAP.PRIVATE)
    with pytest.raises(ValueError, match="length"):
        await task.mmap(4095, RW, MAP.PRIVATE)


async def test_raw_mmap_and_munmap_work_on_a_syscall_interface(task: Task) -> None:
    sysif = RecordingInterface(task.sysif)
    flags = MAP.PRIVATE | MAP.ANONYMOUS
    mapped = await _mmap(sysif, 8192, RW, flags)
    handle = MemoryMapping(task, mapped, far.File())
    assert mapped == near.MemoryMapping(mapped.address, 8192, 4096)
    assert permissions(handle) == "rw-p"
    await _munmap(sysif, mapped)
    assert permissions(handle) is None
    assert [name for name, _ in sysif.sent] == ["mmap", "munmap"]
    assert sysif.sent[0][1] == (0, 8192, RW, flags, -1, 0)


async def test_raw_mmap_maps_at_the_address_that_is_wanted(task: Task) -> None:
    flags = MAP.PRIVATE | MAP.ANONYMOUS
    free = await _mmap(task.sysif, 4096, RW, flags)
    await _munmap(task.sysif, free)
    wanted = await _mmap(
        task.sysif, 4096, RW, flags | MAP.FIXED_NOREPLACE, near.Address(free.address)
    )
    assert wanted == free
    await _munmap(task.sysif, wanted)


async def test_raw_munmap_reports_the_error_of_the_call(task: Task) -> None:
    with pytest.raises(OSError, match=os.strerror(22)) as caught:
        await _munmap(task.sysif, near.MemoryMapping(4096, 0, 4096))
    assert caught.value.__notes__ == ["in munmap(addr=0x1000, length=0)"]

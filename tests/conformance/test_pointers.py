"""Typed pointers and the memory they point at."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

import rsyscall
from conformance.seen import nothing_sent, recording, twin
from rsyscall.far import AddressSpaceMismatchError
from rsyscall.fcntl import O
from rsyscall.handle import LinearPointer, Pointer, ReadablePointer, Task, WrittenPointer
from rsyscall.handle.pointer import PointerTaskMismatchError
from rsyscall.memory.allocation_interface import UseAfterFreeError
from rsyscall.memory.allocator import AllocatorClient
from rsyscall.memory.heap import Heap
from rsyscall.sys.stat import Stat
from rsyscall.unistd import MAX_IO


@pytest.fixture
def fresh(task: Task) -> Task:
    """A task whose allocator has mapped nothing yet."""
    fresh = twin(task)
    fresh.inherit_memory(AllocatorClient(fresh, Heap()))
    return fresh


async def test_malloc_gives_memory_that_can_be_written_and_read(task: Task) -> None:
    pointer = await task.malloc(bytes, 5)
    assert (type(pointer), pointer.size(), pointer.typ) == (Pointer, 5, bytes)
    written = await pointer.write(b"hello")
    assert (type(written), written.value, written.size()) == (WrittenPointer, b"hello", 5)
    assert await written.read() == b"hello"


@pytest.mark.parametrize("value", [b"", b"\0", b"bytes\xff", bytes(MAX_IO + 10)], ids=len)
async def test_ptr_holds_bytes(task: Task, value: bytes) -> None:
    pointer = await task.ptr(value)
    assert pointer.size() == len(value)
    assert await pointer.read() == pointer.value == value


async def test_ptr_holds_strings_with_their_nul(task: Task) -> None:
    for value in ("", "plain", "ünïcode", "\udcff"):
        pointer = await task.ptr(value)
        assert await pointer.read() == pointer.value == value
        raw = await task.sysif.read_memory(pointer.near, pointer.size())
        assert raw == value.encode(errors="surrogateescape") + b"\0"


async def test_a_process_has_malloc_and_ptr_too(process: rsyscall.Process) -> None:
    assert (await process.malloc(bytes, 3)).size() == 3
    assert (await process.malloc(str, 4)).typ is str
    assert (await process.malloc(Stat)).size() == Stat.sizeof()
    assert await (await process.ptr("string")).read() == "string"


async def test_a_string_with_a_nul_is_refused_before_it_is_sent(task: Task) -> None:
    with nothing_sent(task), pytest.raises(ValueError, match=r"'a\\x00b'"):
        await task.ptr("a\0b")


async def test_malloc_refuses_sizes_that_cannot_be(task: Task) -> None:
    with nothing_sent(task):
        with pytest.raises(ValueError, match="size: -1 is negative"):
            await task.malloc(bytes, -1)
        with pytest.raises(ValueError, match="size: missing, for bytes"):
            await task.malloc(bytes)  # type: ignore[type-var] # pyright: ignore
        with pytest.raises(ValueError, match="size: Stat has a size of its own"):
            await task.malloc(Stat, 144)


async def test_what_is_too_large_for_a_pointer_is_refused_before_it_is_sent(task: Task) -> None:
    pointer = await task.malloc(bytes, 4)
    with nothing_sent(task):
        with pytest.raises(ValueError, match="value: 5 bytes for a pointer to 4"):
            await pointer.write(b"12345")
        with pytest.raises(ValueError, match="data: 5 bytes for a pointer to 4"):
            await task.sysif.write(pointer, b"12345")
    assert pointer.valid
    await task.sysif.write(pointer, b"1234")
    assert await task.sysif.read(pointer) == b"1234"


async def test_writing_less_than_there_is_room_for_leaves_the_rest(task: Task) -> None:
    pointer = await (await task.malloc(bytes, 4)).write(b"abcd")
    assert await (await pointer.write(b"AB")).read() == b"ABcd"


async def test_allocations_are_aligned_and_do_not_overlap(task: Task) -> None:
    pointers = [await task.malloc(bytes, size) for size in (1, 0, 17, 16, 0, 100, 1)]
    ranges = sorted((int(p.near), int(p.near) + p.size()) for p in pointers if p.size())
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))
    assert all(int(pointer.near) % 16 == 0 for pointer in pointers)
    for number, pointer in enumerate(pointers):
        await task.sysif.write_memory(pointer.near, bytes([number]) * pointer.size())
    for number, pointer in enumerate(pointers):
        assert await pointer.read() == bytes([number]) * pointer.size()


async def test_memory_is_mapped_once_and_used_again_after_free(fresh: Task) -> None:
    with recording(fresh) as recorder:
        first = await fresh.malloc(bytes, 100)
        address = first.near
        first.free()
        first.free()  # nothing, the second time
        assert (await fresh.malloc(bytes, 100)).near == address
        del first
    assert [name for name, _ in recorder.sent] == ["mmap"]


async def test_memory_is_freed_with_the_last_reference(fresh: Task) -> None:
    pointer = await fresh.malloc(bytes, 100)
    address = pointer.near
    del pointer
    assert (await fresh.malloc(bytes, 100)).near == address


async def test_all_of_the_memory_is_free_again_after_pointers_of_no_size(fresh: Task) -> None:
    with recording(fresh) as recorder:
        pointers = [await fresh.malloc(bytes, size) for size in (1, 0)]
        length = pointers[0].mapping.near.length
        for pointer in pointers:
            pointer.free()
        whole = await fresh.malloc(bytes, length)
    assert whole.size() == length
    assert [name for name, _ in recorder.sent] == ["mmap"]


async def test_more_than_an_arena_gets_a_mapping_of_its_own(fresh: Task) -> None:
    small, large = await fresh.malloc(bytes, 1), await fresh.malloc(bytes, 2**20)
    assert small.mapping != large.mapping
    await fresh.sysif.write_memory(int(large.near) + 2**20 - 1, b"z")
    assert (await large.read())[-2:] == b"\0z"


async def test_split_and_merge_keep_what_is_there(task: Task) -> None:
    whole = await task.ptr(b"0123456789")
    first, rest = whole.split(4)
    assert (await first.read(), await rest.read()) == (b"0123", b"456789")
    middle, last = rest.split(0)
    assert (middle.size(), await last.read()) == (0, b"456789")
    merged = first + (middle + last)
    assert (merged.size(), await merged.read()) == (10, b"0123456789")
    head, tail = merged.readable_split(10)
    assert (type(head), await head.read(), tail.size()) == (ReadablePointer, b"0123456789", 0)


async def test_split_refuses_what_is_longer_and_keeps_the_pointer(task: Task) -> None:
    pointer = await task.ptr(b"0123")
    for size in (-1, 5):
        with pytest.raises(ValueError, match=f"size: {size} is not from 0 to 4"):
            pointer.split(size)
        with pytest.raises(ValueError, match=f"size: {size} is not from 0 to 4"):
            pointer.readable_split(size)
    assert await pointer.read() == b"0123"


async def test_merge_refuses_what_does_not_follow_and_keeps_both(task: Task, fresh: Task) -> None:
    first, rest = (await task.ptr(b"0123")).split(2)
    elsewhere = await fresh.ptr(b"4567")
    for left, right in ((rest, first), (first, first), (first, elsewhere)):
        with pytest.raises(ValueError, match="other"):
            left.merge(right)
    assert await (first + rest).read() == b"0123"
    assert await elsewhere.read() == b"4567"


async def test_split_parts_are_freed_each_by_itself(fresh: Task) -> None:
    first, rest = (await fresh.malloc(bytes, 64)).split(32)
    address = first.near
    first.free()
    assert (await fresh.malloc(bytes, 32)).near == address
    assert rest.valid


Consume = Callable[[Pointer[bytes]], object]
CONSUMERS: list[Consume] = [
    lambda pointer: pointer.free(),
    lambda pointer: pointer.split(1),
    lambda pointer: pointer.readable_split(1),
    lambda pointer: pointer.unsafe(),
]


@pytest.mark.parametrize("consume", CONSUMERS, ids=["free", "split", "readable_split", "unsafe"])
async def test_a_pointer_that_was_consumed_cannot_be_used(
    task: Task, tmp_path: Path, consume: Consume
) -> None:
    async with await task.open(tmp_path, O.TMPFILE | O.RDWR) as fd:
        pointer = await task.ptr(b"0123")
        other = await task.ptr(b"4567")
        kept = consume(pointer)
        with nothing_sent(task):
            for use in (
                lambda: pointer.near,
                pointer.size,
                pointer.unsafe,
                lambda: pointer.split(1),
                lambda: pointer.readable_split(1),
                lambda: pointer.merge(other),
                lambda: other.merge(pointer),
            ):
                with pytest.raises(UseAfterFreeError):
                    use()
            for call in (
                pointer.read(),
                pointer.write(b"x"),
                fd.read(pointer),
                fd.write(pointer),
                fd.pread(pointer, 0),
                fd.pwrite(pointer, 0),
            ):
                with pytest.raises(UseAfterFreeError):
                    await call
            with pytest.raises(UseAfterFreeError), pointer.borrow(task):
                pytest.fail("it was lent")
        assert other.valid
        assert repr(pointer) == "WrittenPointer(bytes, not valid)"
        del kept


async def test_a_call_consumes_its_pointer_only_if_it_succeeds(task: Task, tmp_path: Path) -> None:
    async with await task.open(tmp_path, O.RDONLY) as directory:
        buf = await task.ptr(b"0123")
        with pytest.raises(IsADirectoryError) as caught:
            await directory.read(buf)
        assert f"buf={int(buf.near):#x}, count=4" in caught.value.__notes__[0]
        assert await buf.read() == b"0123"


async def test_memory_of_another_process_is_refused_and_both_are_named(
    task: Task, tmp_path: Path, stranger: rsyscall.Process
) -> None:
    async with await task.open(tmp_path, O.TMPFILE | O.RDWR) as fd:
        buf, path = await stranger.ptr(b"theirs"), await stranger.ptr("/dev/null")
        with nothing_sent(task), nothing_sent(stranger.task):
            for call in (
                fd.read(buf),
                fd.write(buf),
                fd.pread(buf, 0),
                fd.pwrite(buf, 0),
                fd.openat(path, O.RDONLY),
                task.open(path, O.RDONLY),
            ):
                with pytest.raises(AddressSpaceMismatchError) as caught:
                    await call
                assert str(task.address_space) in str(caught.value)
                assert str(stranger.task.address_space) in str(caught.value)
            with pytest.raises(AddressSpaceMismatchError), buf.borrow(task):
                pytest.fail("it was lent")
        assert await buf.read() == b"theirs"


async def test_borrow_gives_the_address_to_a_task_of_the_same_space(task: Task) -> None:
    pointer = await task.ptr(b"ours")
    with pointer.borrow(twin(task)) as address:
        assert await task.sysif.read_memory(address, 4) == b"ours"
    assert pointer.valid


async def test_a_linear_pointer_is_read_once_and_gives_its_memory_back(task: Task) -> None:
    written = await task.ptr(b"once")
    linear = LinearPointer(written.mapping, written.serializer, written.allocation, bytes)
    written.valid = False  # its memory is the other's now
    value, memory = await linear.linear_read()
    assert (value, memory.size()) == (b"once", 4)
    with nothing_sent(task), pytest.raises(UseAfterFreeError):
        await linear.linear_read()


async def test_a_pointer_shows_its_type_address_and_size(task: Task) -> None:
    pointer = await task.malloc(str, 9)
    assert repr(pointer) == f"Pointer(str, {pointer.near}, 9 bytes)"


async def test_the_end_of_a_pointer_begins_aligned(task: Task) -> None:
    for alignment in (1, 8, 16, 64):
        pointer = await task.malloc(bytes, 201)
        begin = int(pointer.near)
        rest, end = pointer.split_from_end(50, alignment)
        assert int(end.near) % alignment == 0
        assert 50 <= end.size() < 50 + alignment
        assert (int(rest.near), rest.size() + end.size()) == (begin, 201)
        rest, written = await (rest + end).write_to_end(b"the end", alignment)
        assert (int(written.near) % alignment, written.value) == (0, b"the end")
        assert (await written.read())[:7] == b"the end"
        assert rest.size() + written.size() == 201
    pointer = await task.malloc(bytes, 16)
    with nothing_sent(task):
        with pytest.raises(ValueError, match="size: a pointer to 16 has no room for 17 bytes"):
            pointer.split_from_end(17, 1)
        with pytest.raises(ValueError, match="alignment: 0 is not positive"):
            pointer.split_from_end(1, 0)
        with pytest.raises(ValueError, match="size: -1 is negative"):
            pointer.split_from_end(-1, 1)
    assert pointer.size() == 16


async def test_a_pointer_of_another_address_space_is_a_value_error_too(
    task: Task, stranger: rsyscall.Process
) -> None:
    pointer = await stranger.ptr(b"far")
    with nothing_sent(task), pytest.raises(PointerTaskMismatchError) as caught:
        pointer.check_address_space(task)
    assert isinstance(caught.value, AddressSpaceMismatchError)
    assert isinstance(caught.value, ValueError)

"""Whose memory is whose, and what becomes of it: the allocator of an address space."""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio

import rsyscall
from conformance.seen import nothing_sent, permissions, recording, twin
from conformance.ways import WAYS
from rsyscall.handle import Pointer, Task
from rsyscall.memory.allocation_interface import (
    OutOfSpaceError,
    UnusableAllocator,
    UseAfterFreeError,
)
from rsyscall.memory.allocator import Allocation, AllocatorClient, Arena, BumpAllocator
from rsyscall.memory.heap import Heap
from rsyscall.sys.mman import MemoryMapping


#: What is allocated is decided here; what is far is only where the memory comes from.
@pytest.fixture(params=["direct", "pair", "stub", "stub-no-ring", "child-private-memory"])
async def process(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process:
        yield process


@pytest.fixture
def fresh(task: Task) -> Task:
    """A task whose allocator has mapped nothing yet."""
    fresh = twin(task)
    fresh.inherit_memory(AllocatorClient(fresh, Heap()))
    return fresh


def heap_of(task: Task) -> Heap[Arena]:
    assert isinstance(task.allocator, AllocatorClient)
    return task.allocator.heap


async def trim(task: Task) -> None:
    assert isinstance(task.allocator, AllocatorClient)
    await task.allocator.trim()


async def test_all_tasks_of_an_address_space_have_one_allocator(task: Task) -> None:
    other = twin(task)
    assert heap_of(other) is heap_of(task) is task.address_space.heap
    first = await task.malloc(bytes, 100)
    with nothing_sent(other):
        second = await other.malloc(bytes, 100)
    assert second.mapping == first.mapping.for_task(other)
    await second.write(b"other")


@pytest.mark.parametrize("way", ["direct", "stub"])
async def test_children_that_share_the_memory_share_the_allocator(way: str, tmp_path: Path) -> None:
    async with WAYS[way](tmp_path) as process, await process.clone() as child:
        assert heap_of(child.task) is heap_of(process.task)
        pointer = await child.ptr(b"shared")
        mapping = pointer.mapping.for_task(process.task)
        mine = Pointer(mapping, pointer.serializer, pointer.allocation, bytes)
        pointer.valid = False  # its memory is the other's now
        await child.end()
        assert await mine.read() == b"shared"


def is_gone(mapping: MemoryMapping) -> bool:
    """Whether an arena is unmapped; in our own memory Python has other plans with the room."""
    return mapping.task.address_space.ours or permissions(mapping) is None


async def test_allocations_of_random_sizes_leave_nothing_behind(fresh: Task) -> None:
    random_ = random.Random(7)
    pointers: list[Pointer[bytes]] = []
    for _ in range(300):
        if len(pointers) > 40:
            pointers.pop(random_.randrange(len(pointers))).free()
        pointers.append(await fresh.malloc(bytes, random_.choice((0, 1, 10, 100, 5000, 50_000))))
    mappings = {pointer.mapping for pointer in pointers}
    pointers.clear()
    heap = heap_of(fresh)
    heap.settle()
    assert heap.taken == 0
    await trim(fresh)
    assert not heap.owners
    assert all(map(is_gone, mappings))


async def test_a_million_pieces_leave_an_arena_as_it_began(tmp_path: Path) -> None:
    random_ = random.Random(5)
    taken: list[Allocation] = []
    async with WAYS["stub"](tmp_path) as process:
        arena = await BumpAllocator.make(process.task, 2**23)
        await process.task.sysif.write_memory(arena.mapping.near.address, b"x" * 4096)
        for _ in range(1_000_000):
            if len(taken) > 500:
                index = random_.randrange(len(taken))
                taken[index], taken[-1] = taken[-1], taken[index]
                taken.pop().free(arena.mapping)
            taken.append(arena.allocate(random_.randrange(1, 5000), 16))
        random_.shuffle(taken)
        while taken:
            taken.pop().free(arena.mapping)
        whole = arena.allocate(2**23, 16)  # in one piece again
        assert whole.offset() == 0
        assert await process.task.sysif.read_memory(arena.mapping.near.address, 4) == b"xxxx"
        whole.free(arena.mapping)
        await arena.close()
        assert permissions(arena.mapping) is None


async def test_empty_arenas_are_unmapped_but_for_one(fresh: Task) -> None:
    small = await fresh.malloc(bytes, 10)
    large = [await fresh.malloc(bytes, 2**21) for _ in range(2)]
    mappings = [pointer.mapping for pointer in large]
    assert len(heap_of(fresh).owners) == 3
    large.clear()
    with recording(fresh) as recorder:
        another = await fresh.malloc(bytes, 10)
    assert [name for name, _ in recorder.sent] == ["munmap", "munmap"]
    assert all(map(is_gone, mappings))
    del small, another
    with nothing_sent(fresh):  # the last one is kept
        await fresh.malloc(bytes, 10)
    await trim(fresh)


async def test_arenas_grow_so_that_there_are_few(fresh: Task) -> None:
    pointers = [await fresh.malloc(bytes, 4096) for _ in range(512)]
    assert len(heap_of(fresh).owners) < 10
    pointers.clear()
    await trim(fresh)


@pytest.mark.parametrize("alignment", [1, 16, 64, 4096, 65536, 2**21])
async def test_memory_is_aligned_as_asked(fresh: Task, alignment: int) -> None:
    pieces = [await fresh.allocator.malloc(size, alignment) for size in (1, 0, 100, 5000)]
    for mapping, piece in pieces:
        assert (mapping.near.address + piece.offset()) % alignment == 0
        if piece.size():
            assert 0 <= piece.offset() <= mapping.near.length - piece.size()
    for mapping, piece in pieces:
        piece.free(mapping)
    assert heap_of(fresh).taken == 0
    await trim(fresh)


async def test_many_are_allocated_with_one_call(fresh: Task) -> None:
    with recording(fresh) as recorder:
        pieces = await fresh.allocator.bulk_malloc([(1000, 16)] * 100 + [(10, 4096)] * 3)
    assert [name for name, _ in recorder.sent] == ["mmap"]
    assert len({piece.offset() for _, piece in pieces}) == 103
    with nothing_sent(fresh), pytest.raises(ValueError, match="size: -1"):
        await fresh.allocator.bulk_malloc([(1, 16), (-1, 16)])
    for mapping, piece in pieces:
        piece.free(mapping)
    assert heap_of(fresh).taken == 0
    await trim(fresh)


async def test_memory_that_a_call_uses_is_not_handed_out_though_it_is_freed(fresh: Task) -> None:
    pointer = await fresh.malloc(bytes, 4096)
    with pointer.borrow(fresh) as address, pointer.borrow(fresh):
        first, rest = pointer.split(1000)
        first.free()
        rest.free()
        others = [await fresh.malloc(bytes, 4096) for _ in range(20)]
        assert address not in [other.near for other in others]
        assert heap_of(fresh).taken == 21 * 4096
    assert heap_of(fresh).taken == 20 * 4096
    assert (await fresh.malloc(bytes, 1000)).near == address
    others.clear()
    await trim(fresh)


async def test_a_write_under_way_keeps_its_memory(fresh: Task) -> None:
    pointer = await fresh.malloc(bytes, 2**21)
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            with contextlib.suppress(UseAfterFreeError):  # unless it was over before
                await pointer.write(b"x" * 2**21)

        async def free() -> None:
            pointer.free()

        nursery.start_soon(write)
        nursery.start_soon(free)
    heap_of(fresh).settle()
    assert heap_of(fresh).taken == 0
    await trim(fresh)


async def test_pointers_in_a_circle_are_freed(fresh: Task) -> None:
    class Node:
        def __init__(self, pointer: Pointer[bytes]) -> None:
            self.pointer = pointer
            self.other = self

    gc.collect()
    gc.disable()
    try:
        node = Node(await fresh.malloc(bytes, 100))
        pointer = node.pointer
        pointer.serializer.owner = node  # type: ignore[attr-defined] # pyright: ignore
        del node, pointer
        assert heap_of(fresh).taken == 112
        gc.collect()
    finally:
        gc.enable()
    assert heap_of(fresh).taken == 0
    await trim(fresh)


async def test_freeing_one_part_twice_frees_it_once(fresh: Task) -> None:
    mapping, piece = await fresh.allocator.malloc(64, 16)
    first, rest = piece.split(32)
    with pytest.raises(UseAfterFreeError):
        piece.size()
    with pytest.raises(UseAfterFreeError):
        piece.split(1)
    with pytest.raises(UseAfterFreeError):
        first.merge(piece)
    for _ in range(2):
        first.free(mapping)
        piece.free(mapping)
    assert heap_of(fresh).taken == 32
    with pytest.raises(UseAfterFreeError):
        first.merge(rest)
    with pytest.raises(UseAfterFreeError):
        rest.merge(first)
    assert rest.size() == 32
    rest.free(mapping)
    assert heap_of(fresh).taken == 0
    await trim(fresh)


async def test_an_arena_in_use_is_not_closed(task: Task) -> None:
    arena = await BumpAllocator.make(task, 5000)
    assert arena.mapping.near.length == 8192
    mapping, piece = await arena.malloc(8000, 16)
    with nothing_sent(task):
        with pytest.raises(OutOfSpaceError):
            await arena.malloc(8000, 16)
        with pytest.raises(ValueError, match="in use"):
            await arena.close()
    piece.free(mapping)
    await arena.close()
    assert is_gone(mapping)
    with nothing_sent(task):
        with pytest.raises(ValueError, match="alignment: 3"):
            await task.allocator.malloc(1, 3)
        with pytest.raises(ValueError, match="size: 0"):
            await BumpAllocator.make(task, 0)
        with pytest.raises(OutOfSpaceError):
            await UnusableAllocator().malloc(1, 1)
        with pytest.raises(ValueError, match="UnusableAllocator"):
            UnusableAllocator().inherit(task)

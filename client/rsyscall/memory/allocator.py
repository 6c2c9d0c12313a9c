"""Memory in mappings of the far side: arenas."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rsyscall.memory.allocation_interface import (
    AllocationInterface,
    AllocatorInterface,
    OutOfSpaceError,
    UnusableAllocator,
    UseAfterFreeError,
)
from rsyscall.memory.heap import GRANULE, Block, Heap
from rsyscall.memory.shared import map_arena

if TYPE_CHECKING:
    from rsyscall.handle.fd import BaseFileDescriptor
    from rsyscall.sys.mman import MemoryMapping, MemoryMappingTask

__all__ = [
    "Allocation",
    "AllocatorClient",
    "Arena",
    "BumpAllocator",
    "OutOfSpaceError",
    "UnusableAllocator",
    "align",
]

_PAGE = 4096
#: Bytes of the first arena, and how large further ones become at most by themselves. An empty one
#: of that size is kept for the next allocation.
_ARENA, _LARGEST = 64 * 1024, 1024 * 1024


def align(num: int, alignment: int) -> int:
    """The smallest multiple of `alignment` that is not below `num`."""
    return -(-num // alignment) * alignment


def _check(size: int, alignment: int) -> None:
    if size < 0:
        raise ValueError(f"size: {size} is negative")
    if alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"alignment: {alignment} is no power of two")


class _Pin:
    """Keeps memory from being handed out again while a call uses it."""

    __slots__ = ("active", "freed")

    def __init__(self) -> None:
        self.active = True
        self.freed: list[Allocation] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.active = False
        for allocation in self.freed:
            allocation.release()


class Allocation(AllocationInterface):
    """Bytes [start, end) of an arena."""

    __slots__ = ("_block", "_pins", "arena", "end", "start", "valid")

    def __init__(
        self,
        arena: Arena,
        start: int,
        end: int,
        block: Block[Arena] | None,
        pins: Sequence[_Pin] = (),
    ) -> None:
        """Only an arena makes them. block: what holds the bytes, if there are any."""
        self.arena: Arena = arena
        self.start: int = start
        self.end: int = end
        self.valid: bool = True
        self._block = block
        self._pins: tuple[_Pin, ...] = tuple([pin for pin in pins if pin.active])

    def _use(self) -> None:
        if not self.valid:
            raise UseAfterFreeError(f"bytes {self.start} to {self.end} of {self.arena.mapping}")

    def offset(self) -> int:
        """Where it begins in the arena's mapping."""
        self._use()
        return self.start

    def size(self) -> int:
        """How many bytes it has."""
        self._use()
        return self.end - self.start

    def split(self, size: int) -> tuple[Allocation, Allocation]:
        """Its first `size` bytes and the rest."""
        if not 0 <= size <= self.size():
            raise ValueError(f"size: {size} is not from 0 to {self.size()}")
        middle = self.start + size
        first, rest = self._block, self._block
        if self._block is None or middle == self.end:
            rest = None
        elif size == 0:
            first = None
        else:
            rest = self.arena.heap.split(self._block, middle)
        self.valid = False
        arena, pins = self.arena, self._pins
        return (
            Allocation(arena, self.start, middle, first, pins),
            Allocation(arena, middle, self.end, rest, pins),
        )

    def merge(self, other: AllocationInterface) -> Allocation:
        """This and the one that directly follows it."""
        self._use()
        if not isinstance(other, Allocation) or other.arena is not self.arena or other is self:
            raise ValueError("other: an allocation of another arena, or the same one")
        if self.end != other.offset():
            raise ValueError("other: does not directly follow")
        block = self._block or other._block
        if self._block is not None and other._block is not None:
            self.arena.heap.join(self._block, other._block)
        self.valid = other.valid = False
        return Allocation(self.arena, self.start, other.end, block, self._pins + other._pins)

    def free(self, mapping: MemoryMapping) -> None:
        """Give it back to the arena, once no call uses it; nothing if that was done before."""
        if self.valid:
            self.valid = False
            self.release()

    def release(self) -> None:
        """Of what was freed: have it handed out again, unless a call still uses it."""
        for pin in self._pins:
            if pin.active:
                pin.freed.append(self)
                return
        block, self._block = self._block, None
        if block is not None:
            self.arena.heap.give_back(block)

    def pin(self) -> contextlib.AbstractContextManager[object]:
        """See AllocationInterface."""
        self._use()
        pin = _Pin()
        self._pins = (*[old for old in self._pins if old.active], pin)
        return pin


class Arena(AllocatorInterface):
    """One mapping, handed out in pieces."""

    def __init__(self, mapping: MemoryMapping, heap: Heap[Arena] | None = None) -> None:
        """Take over the mapping, all of it free. heap: that of further arenas, too."""
        self.mapping = mapping
        self.heap: Heap[Arena] = Heap() if heap is None else heap
        self._reserve()

    def _reserve(self) -> None:
        near = self.mapping.near
        self.mapping.task.address_space.regions.reserve(near.address, near.address + near.length)
        self.heap.add(self, near.length)

    async def malloc(self, size: int, alignment: int) -> tuple[MemoryMapping, Allocation]:
        """A piece; OutOfSpaceError if there is none. Not a checkpoint: nothing is asked."""
        return self.mapping, self.allocate(size, alignment)

    def allocate(self, size: int, alignment: int) -> Allocation:
        """A piece of it, or of another arena of its heap; OutOfSpaceError if there is none.

        ValueError for a negative size or an alignment that is no power of two.
        """
        _check(size, alignment)
        found = allocate(self.heap, self, size, alignment)
        if found is None:
            raise OutOfSpaceError(f"no {size} bytes left in {self.mapping}")
        return found

    async def close(self) -> None:
        """Unmap the memory.

        ValueError if pieces of it are in use; errors as munmap, and then it is as it was. A
        checkpoint; if cancelled, nothing has happened. munmap(2).
        """
        if not self.heap.remove(self):
            raise ValueError(f"pieces of {self.mapping} are in use")
        space, start = self.mapping.task.address_space, self.mapping.near.address
        view = space.views.remove(start) if space.views is not None else None
        space.regions.release(start)
        try:
            await self.mapping.munmap()
        except BaseException:
            if view is not None and space.views is not None:
                space.views.add(view)
            self._reserve()
            raise
        if view is not None:
            view.close()


def allocate(heap: Heap[Arena], any_arena: Arena, size: int, alignment: int) -> Allocation | None:
    """A piece, or None. any_arena: where a piece of no bytes is."""
    if size == 0:
        at = -any_arena.mapping.near.address % alignment
        return Allocation(any_arena, at, at, None)
    if alignment <= _PAGE:
        block = heap.take(size, max(alignment, GRANULE))
        if block is None:
            return None
    else:  # mappings themselves begin at a page
        block = heap.take(size + alignment, GRANULE)
        if block is None:
            return None
        gap = -(block.owner.mapping.near.address + block.start) % alignment
        if gap:
            before, block = block, heap.split(block, block.start + gap)
            heap.give_back(before)
        heap.give_back(heap.split(block, block.start + align(size, GRANULE)))
    return Allocation(block.owner, block.start, block.start + size, block)


class BumpAllocator(Arena):
    """An arena that does not grow."""

    @classmethod
    async def make(cls, task: MemoryMappingTask[BaseFileDescriptor], size: int) -> BumpAllocator:
        """Map `size` bytes, or a little more. Errors and cancellation as mmap. A checkpoint."""
        if size <= 0:
            raise ValueError(f"size: {size} is not positive")
        return cls(await map_arena(task, align(size, _PAGE)))


class AllocatorClient(AllocatorInterface):
    """The arenas of an address space, made as they are needed and shared by all its tasks."""

    def __init__(
        self,
        task: MemoryMappingTask[BaseFileDescriptor],
        heap: Heap[Arena] | None = None,
    ) -> None:
        """Nothing is mapped before it is needed. heap: another than that of the address space."""
        self.task = task
        if heap is None:
            heap = task.address_space.heap
            if heap is None:
                heap = task.address_space.heap = Heap()
        self.heap: Heap[Arena] = heap

    @classmethod
    async def make_allocator(cls, task: MemoryMappingTask[BaseFileDescriptor]) -> AllocatorClient:
        """The same as the constructor. Not a checkpoint."""
        return cls(task)

    @property
    def arenas(self) -> list[Arena]:
        """All of them."""
        return list(self.heap.owners)

    def inherit(self, task: MemoryMappingTask[BaseFileDescriptor]) -> AllocatorClient:
        """The same memory, for another task that shares the address space."""
        task.address_space.assert_is(self.task.address_space)
        return AllocatorClient(task, self.heap)

    async def malloc(self, size: int, alignment: int) -> tuple[MemoryMapping, Allocation]:
        """A piece from an arena that has room, or from a new one.

        ValueError for a negative size or an alignment that is no power of two; OSError (ENOMEM) if
        no memory can be mapped. A checkpoint if it maps, or unmaps arenas that are empty; if
        cancelled, nothing is allocated.
        """
        _check(size, alignment)
        heap = self.heap
        found = None
        if heap.owners:
            found = allocate(heap, next(iter(heap.owners)), size, alignment)
        if found is None:
            await self._grow(size + (alignment if alignment > _PAGE else 0))
            found = allocate(heap, next(reversed(heap.owners)), size, alignment)
            if found is None:  # others, who came in between, have it
                return await self.malloc(size, alignment)
        mapping = found.arena.mapping.for_task(self.task)
        if heap.empty and self._surplus():
            try:
                await self._return(self._surplus())
            except BaseException:
                found.free(mapping)
                raise
        return mapping, found

    async def bulk_malloc(
        self, sizes: list[tuple[int, int]]
    ) -> Sequence[tuple[MemoryMapping, AllocationInterface]]:
        """A piece for each size and alignment, with one call at most; see malloc."""
        for size, alignment in sizes:
            _check(size, alignment)
        total = sum([align(size, GRANULE) + alignment for size, alignment in sizes])
        if total and not self.heap.has(total):
            await self._grow(total)
        return await super().bulk_malloc(sizes)

    async def trim(self) -> None:
        """Unmap the arenas of which nothing is in use. A checkpoint; if cancelled, some are left.

        Otherwise that is done, but for one of them, by the next malloc. munmap(2).
        """
        self.heap.settle()
        await self._return(list(self.heap.empty))

    async def _grow(self, size: int) -> None:
        mapped = sum([arena.mapping.near.length for arena in self.heap.owners])
        length = max(align(size, _PAGE), min(max(mapped, _ARENA), _LARGEST))
        Arena(await map_arena(self.task, length), self.heap)

    def _surplus(self) -> list[Arena]:
        """The empty arenas but for the first that is not too large."""
        empty = sorted(self.heap.empty, key=lambda arena: arena.mapping.near.length)
        return [arena for i, arena in enumerate(empty) if i or arena.mapping.near.length > _LARGEST]

    async def _return(self, arenas: list[Arena]) -> None:
        for arena in arenas:
            with contextlib.suppress(ValueError):  # it is in use again
                mapping, arena.mapping = arena.mapping, arena.mapping.for_task(self.task)
                try:
                    await arena.close()
                except OSError:
                    arena.mapping = mapping  # it stays

"""First fit in mappings of the far side."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

from rsyscall.memory.allocation_interface import (
    AllocationInterface,
    AllocatorInterface,
    OutOfSpaceError,
    UseAfterFreeError,
)
from rsyscall.sys.mman import MAP, PROT

if TYPE_CHECKING:
    from rsyscall.handle.fd import BaseFileDescriptor
    from rsyscall.sys.mman import MemoryMapping, MemoryMappingTask

__all__ = ["Allocation", "AllocatorClient", "Arena", "OutOfSpaceError", "align"]

_PAGE = 4096
_ARENA = 64 * 1024


def align(num: int, alignment: int) -> int:
    """The smallest multiple of `alignment` that is not below `num`."""
    return -(-num // alignment) * alignment


class Allocation(AllocationInterface):
    """Bytes [start, end) of an arena."""

    def __init__(self, arena: Arena, start: int, end: int) -> None:
        """Only an arena makes them."""
        self.arena = arena
        self.start = start
        self.end = end
        self.valid: bool = True

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
        self.valid = False
        middle = self.start + size
        return (
            Allocation(self.arena, self.start, middle),
            Allocation(self.arena, middle, self.end),
        )

    def merge(self, other: AllocationInterface) -> Allocation:
        """This and the one that directly follows it."""
        if not isinstance(other, Allocation) or other.arena is not self.arena:
            raise ValueError("other: an allocation of another arena")
        if self.end != other.offset() or not self.size() >= 0:
            raise ValueError("other: does not directly follow")
        self.valid = other.valid = False
        return Allocation(self.arena, self.start, other.end)

    def free(self, mapping: MemoryMapping) -> None:
        """Give it back to the arena; nothing if that was done before."""
        if self.valid:
            self.valid = False
            self.arena.give_back(self.start, self.end)


class Arena(AllocatorInterface):
    """One mapping, handed out in pieces."""

    def __init__(self, mapping: MemoryMapping) -> None:
        """Take over the mapping, all of it free."""
        self.mapping = mapping
        #: The free ranges, ordered, never adjacent.
        self.free: list[tuple[int, int]] = [(0, mapping.near.length)]

    async def malloc(self, size: int, alignment: int) -> tuple[MemoryMapping, Allocation]:
        """A piece; OutOfSpaceError if there is none. Not a checkpoint: nothing is asked."""
        return self.mapping, self.allocate(size, alignment)

    def allocate(self, size: int, alignment: int) -> Allocation:
        """A piece; OutOfSpaceError if there is none."""
        for i, (start, end) in enumerate(self.free):
            at = align(start, alignment)
            if at + size <= end:
                if size == 0:  # nothing is taken; cutting here would leave adjacent ranges
                    return Allocation(self, at, at)
                self.free[i : i + 1] = [(a, b) for a, b in ((start, at), (at + size, end)) if a < b]
                return Allocation(self, at, at + size)
        raise OutOfSpaceError(f"no {size} bytes left in {self.mapping}")

    def give_back(self, start: int, end: int) -> None:
        """Make a range free, joining it with its neighbours."""
        if start == end:
            return
        i = bisect.bisect(self.free, (start, end))
        if i < len(self.free) and self.free[i][0] == end:
            end = self.free.pop(i)[1]
        if i > 0 and self.free[i - 1][1] == start:
            i -= 1
            start = self.free.pop(i)[0]
        self.free.insert(i, (start, end))

    async def close(self) -> None:
        """Unmap the memory. A checkpoint; if cancelled, nothing has happened. munmap(2)."""
        await self.mapping.munmap()


class AllocatorClient(AllocatorInterface):
    """Arenas of an address space, made as they are needed."""

    def __init__(self, task: MemoryMappingTask[BaseFileDescriptor]) -> None:
        """Nothing is mapped before it is needed."""
        self.task = task
        self.arenas: list[Arena] = []

    def inherit(self, task: MemoryMappingTask[BaseFileDescriptor]) -> AllocatorClient:
        """The same memory, for another task that shares the address space."""
        allocator = AllocatorClient(task)
        allocator.arenas = self.arenas
        return allocator

    async def malloc(self, size: int, alignment: int) -> tuple[MemoryMapping, Allocation]:
        """A piece from the first arena that has room, or from a new one.

        ValueError for a negative size or an alignment that is no power of two; OSError (ENOMEM) if
        no memory can be mapped. A checkpoint if it maps; if cancelled, nothing is allocated.
        """
        if size < 0:
            raise ValueError(f"size: {size} is negative")
        if alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"alignment: {alignment} is no power of two")
        for arena in self.arenas:
            try:
                mapping, allocation = await arena.malloc(size, alignment)
                return mapping.for_task(self.task), allocation
            except OutOfSpaceError:
                continue
        length = max(_ARENA, align(size + alignment, _PAGE))
        mapping = await self.task.mmap(length, PROT.READ | PROT.WRITE, MAP.PRIVATE)
        self.arenas.append(Arena(mapping))
        return await self.arenas[-1].malloc(size, alignment)

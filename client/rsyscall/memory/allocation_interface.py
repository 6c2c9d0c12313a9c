"""What a pointer needs of an allocation, and a task of an allocator."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsyscall.handle.fd import BaseFileDescriptor
    from rsyscall.sys.mman import MemoryMapping, MemoryMappingTask

__all__ = [
    "AllocationInterface",
    "AllocatorInterface",
    "OutOfSpaceError",
    "UnusableAllocator",
    "UseAfterFreeError",
]


class UseAfterFreeError(Exception):
    """Memory was used that was freed, split or merged away, or unmapped."""


class OutOfSpaceError(Exception):
    """An allocator that does not grow has no room left."""


class AllocationInterface(abc.ABC):
    """A piece of memory inside a mapping."""

    __slots__ = ()

    @abc.abstractmethod
    def offset(self) -> int:
        """Where it begins, in bytes from the beginning of the mapping."""

    @abc.abstractmethod
    def size(self) -> int:
        """How many bytes it has."""

    @abc.abstractmethod
    def split(self, size: int) -> tuple[AllocationInterface, AllocationInterface]:
        """Its first `size` bytes and the rest; this one is no longer valid."""

    @abc.abstractmethod
    def merge(self, other: AllocationInterface) -> AllocationInterface:
        """This and the one that directly follows it, as one; neither is valid any more."""

    @abc.abstractmethod
    def free(self, mapping: MemoryMapping) -> None:
        """Give it back. Makes no call: it may run in a finalizer."""

    def pin(self) -> contextlib.AbstractContextManager[object]:
        """While the block runs, nobody else gets the memory, even if it is freed meanwhile."""
        return contextlib.nullcontext()


class AllocatorInterface(abc.ABC):
    """Hands out memory of one address space."""

    @abc.abstractmethod
    async def malloc(self, size: int, alignment: int) -> tuple[MemoryMapping, AllocationInterface]:
        """A piece of `size` bytes, beginning at a multiple of `alignment`. A checkpoint."""

    async def bulk_malloc(
        self, sizes: list[tuple[int, int]]
    ) -> Sequence[tuple[MemoryMapping, AllocationInterface]]:
        """A piece for each size and alignment; errors as malloc, and then there is none."""
        pieces: list[tuple[MemoryMapping, AllocationInterface]] = []
        try:
            for size, alignment in sizes:
                pieces.append(await self.malloc(size, alignment))
        except BaseException:
            for mapping, piece in pieces:
                piece.free(mapping)
            raise
        return pieces

    def inherit(self, task: MemoryMappingTask[BaseFileDescriptor]) -> AllocatorInterface:
        """What hands out memory for another task of the same address space.

        ValueError if this allocator serves one task only.
        """
        raise ValueError(f"{type(self).__name__} has no memory for {task}")


class UnusableAllocator(AllocatorInterface):
    """Of a task that is to have no memory."""

    async def malloc(self, size: int, alignment: int) -> tuple[MemoryMapping, AllocationInterface]:
        """Raise OutOfSpaceError."""
        raise OutOfSpaceError(f"no {size} bytes: the task has no memory")

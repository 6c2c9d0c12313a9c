"""What a pointer needs of an allocation, and a task of an allocator."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsyscall.sys.mman import MemoryMapping

__all__ = ["AllocationInterface", "AllocatorInterface", "OutOfSpaceError", "UseAfterFreeError"]


class UseAfterFreeError(Exception):
    """Memory was used that was freed, split or merged away, or unmapped."""


class OutOfSpaceError(Exception):
    """An allocator that does not grow has no room left."""


class AllocationInterface(abc.ABC):
    """A piece of memory inside a mapping."""

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


class AllocatorInterface(abc.ABC):
    """Hands out memory of one address space."""

    @abc.abstractmethod
    async def malloc(self, size: int, alignment: int) -> tuple[MemoryMapping, AllocationInterface]:
        """A piece of `size` bytes, beginning at a multiple of `alignment`. A checkpoint."""

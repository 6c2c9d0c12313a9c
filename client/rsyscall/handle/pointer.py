"""Typed pointers: the size and the type go with the address."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rsyscall import far
from rsyscall.memory.allocation_interface import AllocationInterface, UseAfterFreeError
from rsyscall.near.types import Address
from rsyscall.struct import Serializer

if TYPE_CHECKING:
    from rsyscall.sys.mman import MemoryMapping

__all__ = [
    "LinearPointer",
    "Pointer",
    "PointerTaskMismatchError",
    "ReadablePointer",
    "UseAfterFreeError",
    "WrittenPointer",
]

T = TypeVar("T")


class PointerTaskMismatchError(far.AddressSpaceMismatchError, ValueError):
    """A pointer was used for a task of another address space."""


class Pointer(Generic[T]):
    """Memory for a value of some type, in the address space of some task.

    Freed when the last reference to it goes, or by free(). Every use of it after free(), split(),
    merge() or a call that consumed it is a UseAfterFreeError.
    """

    def __init__(
        self,
        mapping: MemoryMapping,
        serializer: Serializer[T],
        allocation: AllocationInterface,
        typ: type[T],
    ) -> None:
        """Take over the allocation."""
        self.mapping = mapping
        self.serializer = serializer
        self.allocation = allocation
        self.typ = typ
        self.valid: bool = True

    def _validate(self) -> None:
        if not self.valid:
            raise UseAfterFreeError("the pointer was freed, split, merged or consumed")

    def _consume(self) -> None:
        self._validate()
        self.valid = False

    @property
    def near(self) -> Address:
        """The address."""
        self._validate()
        return Address(self.mapping.near.address + self.allocation.offset())

    def size(self) -> int:
        """How many bytes it points at."""
        self._validate()
        return self.allocation.size()

    def check_address_space(self, task: far.Task) -> None:
        """Raise AddressSpaceMismatchError, naming both, unless `task` shares the address space."""
        ours = self.mapping.task.address_space
        if task.address_space is not ours:
            raise PointerTaskMismatchError(
                f"a pointer into {ours}, and {task} has {task.address_space}"
            )

    @contextlib.contextmanager
    def borrow(self, task: far.Task) -> Generator[Address]:
        """The address, for use in a call of `task`, which must share the address space.

        Inside the block nobody else gets the memory, even if it is freed meanwhile.
        """
        self.check_address_space(task)
        with self.pinned() as address:
            yield address

    @contextlib.contextmanager
    def pinned(self) -> Generator[Address]:
        """The address. Inside the block nobody else gets the memory, even if it is freed."""
        address = self.near
        with self.allocation.pin():
            yield address

    async def write(self, value: T) -> WrittenPointer[T]:
        """Write the value; returns the pointer that knows it, and consumes this one.

        ValueError if the value is too large; errors and cancellation as
        SyscallInterface.write_memory. A checkpoint. process_vm_writev(2).
        """
        data = self.serializer.to_bytes(value)
        if len(data) > self.size():
            raise ValueError(f"value: {len(data)} bytes for a pointer to {self.size()}")
        address = self.near
        with self.allocation.pin():  # pinned(), in less time
            await self.mapping.task.sysif.write_memory(address, data)
        self._consume()
        return WrittenPointer(self.mapping, self.serializer, self.allocation, self.typ, value)

    async def read(self) -> T:
        """Read the value. Errors and cancellation as SyscallInterface.read_memory. A checkpoint."""
        address = self.near
        with self.allocation.pin():  # pinned(), in less time
            data = await self.mapping.task.sysif.read_memory(address, self.size())
        return self.serializer.from_bytes(data)

    def split(self, size: int) -> tuple[Pointer[T], Pointer[T]]:
        """The first `size` bytes and the rest; consumes this one. ValueError if it is shorter."""
        self._validate()
        first, rest = self.allocation.split(size)
        self._consume()
        return self._part(Pointer[T], first), self._part(Pointer[T], rest)

    def split_from_end(self, size: int, alignment: int) -> tuple[Pointer[T], Pointer[T]]:
        """The rest, and the last `size` bytes or a few more, so that they begin aligned.

        Consumes this one. alignment: what the address is a multiple of. ValueError if it is too
        short, or for an alignment that is not positive.
        """
        if alignment < 1:
            raise ValueError(f"alignment: {alignment} is not positive")
        if size < 0:
            raise ValueError(f"size: {size} is negative")
        begin = int(self.near)
        at = begin + self.size() - size
        at -= at % alignment
        if at < begin:
            what = f"{size} bytes from a multiple of {alignment} on"
            raise ValueError(f"size: a pointer to {self.size()} has no room for {what}")
        return self.split(at - begin)

    async def write_to_end(self, value: T, alignment: int) -> tuple[Pointer[T], WrittenPointer[T]]:
        """Write the value into the last bytes; see split_from_end and write.

        Returns the rest, and the pointer that knows the value. A checkpoint; if cancelled, this one
        is consumed.
        """
        size = len(self.serializer.to_bytes(value))
        rest, end = self.split_from_end(size, alignment)
        return rest, await end.write(value)

    def readable_split(self, size: int) -> tuple[ReadablePointer[T], Pointer[T]]:
        """split, where the first part is known to hold something."""
        self._validate()
        first, rest = self.allocation.split(size)
        self._consume()
        return self._part(ReadablePointer[T], first), self._part(Pointer[T], rest)

    def _part(self, cls: type[T_pointer], allocation: AllocationInterface) -> T_pointer:
        return cls(self.mapping, self.serializer, allocation, self.typ)

    def merge(self, ptr: Pointer[Any]) -> Pointer[T]:
        """This and the one directly behind it, as one; consumes both. ValueError if it is not."""
        self._validate()
        ptr._validate()
        merged = self.allocation.merge(ptr.allocation)
        self._consume()
        ptr._consume()
        return self._part(Pointer[T], merged)

    def __add__(self, right: Pointer[Any]) -> Pointer[T]:
        """merge()."""
        return self.merge(right)

    def unsafe(self) -> ReadablePointer[T]:
        """The same pointer, where the caller knows that it holds something; consumes this one."""
        self._consume()
        return self._part(ReadablePointer[T], self.allocation)

    def filled_once(self) -> LinearPointer[T]:
        """unsafe(), where what it holds is to be read once; consumes this one."""
        self._consume()
        return self._part(LinearPointer[T], self.allocation)

    def free(self) -> None:
        """Give the memory back; nothing if that was done before."""
        if self.valid:
            self.valid = False
            self.allocation.free(self.mapping)

    def __del__(self) -> None:
        """Free. Only bookkeeping on this side: no call is made."""
        if getattr(self, "valid", False):
            self.free()

    def __repr__(self) -> str:
        """For people."""
        where = f"{self.near}, {self.size()} bytes" if self.valid else "not valid"
        return f"{type(self).__name__}({self.typ.__name__}, {where})"


class ReadablePointer(Pointer[T]):
    """A pointer to memory that a call has filled."""


class LinearPointer(ReadablePointer[T]):
    """A pointer to memory that may be read once: what it holds is owned by the reader."""

    async def linear_read(self) -> tuple[T, Pointer[T]]:
        """Read the value, and get the memory back as a plain pointer. A checkpoint; see read."""
        value = await self.read()
        self._consume()
        return value, self._part(Pointer[T], self.allocation)


class WrittenPointer(Pointer[T]):
    """A pointer to memory that holds a known value."""

    def __init__(
        self,
        mapping: MemoryMapping,
        serializer: Serializer[T],
        allocation: AllocationInterface,
        typ: type[T],
        value: T,
    ) -> None:
        """Take over the allocation, which holds the value."""
        super().__init__(mapping, serializer, allocation, typ)
        self.value = value


T_pointer = TypeVar("T_pointer", bound=Pointer[Any])

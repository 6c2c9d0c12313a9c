"""malloc and ptr: memory of a task."""

from __future__ import annotations

from typing import Any, TypeVar, overload

import rsyscall.far
from rsyscall.handle.pointer import Pointer, WrittenPointer
from rsyscall.memory.allocation_interface import AllocatorInterface
from rsyscall.struct import BytesSerializer, Serializer, StrSerializer, Struct, StructSerializer

__all__ = ["BytesSerializer", "RAMTask"]

T = TypeVar("T")
T_struct = TypeVar("T_struct", bound=Struct)
_ALIGNMENT = 16


class RAMTask(rsyscall.far.Task):
    """A task that has memory."""

    @property
    def allocator(self) -> AllocatorInterface:
        """Who hands out the memory; ValueError if the task was made without."""
        if self._allocator is None:
            raise ValueError(f"{self} has no allocator")
        return self._allocator

    @overload
    async def malloc(self, cls: type[T_struct]) -> Pointer[T_struct]: ...
    @overload
    async def malloc(self, cls: type[bytes], size: int) -> Pointer[bytes]: ...
    @overload
    async def malloc(self, cls: type[str], size: int) -> Pointer[str]: ...

    async def malloc(
        self, cls: type[Struct] | type[bytes] | type[str], size: int | None = None
    ) -> Pointer[Any]:
        """Memory for a structure, or for `size` bytes of bytes or of a string with its NUL.

        ValueError if the size is missing, or given for a structure; OSError (ENOMEM). A checkpoint
        if memory must be mapped; if cancelled, nothing is allocated.
        """
        return await self._malloc(cls, size)

    async def _malloc(
        self, cls: type[Struct] | type[bytes] | type[str], size: int | None
    ) -> Pointer[Any]:
        if issubclass(cls, Struct):
            if size is not None:
                raise ValueError(f"size: {cls.__name__} has a size of its own")
            return await self.malloc_serializer(StructSerializer(cls), cls.sizeof(), cls)
        if size is None:
            raise ValueError(f"size: missing, for {cls.__name__}")
        if issubclass(cls, bytes):
            return await self.malloc_serializer(BytesSerializer(), size, bytes)
        return await self.malloc_serializer(StrSerializer(), size, str)

    async def malloc_serializer(
        self, serializer: Serializer[T], size: int, typ: type[T]
    ) -> Pointer[T]:
        """Memory for `size` bytes that `serializer` reads and writes; otherwise like malloc."""
        mapping, allocation = await self.allocator.malloc(size, _ALIGNMENT)
        return Pointer(mapping, serializer, allocation, typ)

    @overload
    async def ptr(self, data: T_struct) -> WrittenPointer[T_struct]: ...
    @overload
    async def ptr(self, data: bytes) -> WrittenPointer[bytes]: ...
    @overload
    async def ptr(self, data: str) -> WrittenPointer[str]: ...

    async def ptr(self, data: Struct | bytes | str) -> WrittenPointer[Any]:
        """Memory that holds the value: malloc and write. A checkpoint; freed if cancelled."""
        return await self._ptr(data)

    async def _ptr(self, data: Struct | bytes | str) -> WrittenPointer[Any]:
        if isinstance(data, bytes):
            return await (await self.malloc(bytes, len(data))).write(data)
        if isinstance(data, str):
            return await (await self.malloc(str, len(StrSerializer().to_bytes(data)))).write(data)
        return await (await self._malloc(type(data), None)).write(data)

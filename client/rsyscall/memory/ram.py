"""malloc and ptr: memory of a task."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

import rsyscall.far
from rsyscall._checkpoint import checkpoint
from rsyscall.handle.pointer import Pointer, WrittenPointer
from rsyscall.memory.allocation_interface import AllocatorInterface
from rsyscall.struct import (
    BytesSerializer,
    FixedSerializer,
    FixedSize,
    HasSerializer,
    PathLikeSerializer,
    Serializer,
    StrSerializer,
)

__all__ = ["BytesSerializer", "MallocType", "PtrValue", "RAMTask"]

T = TypeVar("T")
T_sized = TypeVar("T_sized", bound=FixedSize)
T_fixed = TypeVar("T_fixed", bound=FixedSerializer)
T_value = TypeVar("T_value", bound=HasSerializer)
T_path = TypeVar("T_path", bound=os.PathLike[str])

#: What malloc makes room for, and what ptr puts into memory.
MallocType = type[FixedSerializer] | type[bytes] | type[str] | type[os.PathLike[str]]
PtrValue = HasSerializer | bytes | str | os.PathLike[str]

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
    async def malloc(self, cls: type[T_sized]) -> Pointer[T_sized]: ...
    @overload
    async def malloc(self, cls: type[T_fixed], size: int) -> Pointer[T_fixed]: ...
    @overload
    async def malloc(self, cls: type[bytes], size: int) -> Pointer[bytes]: ...
    @overload
    async def malloc(self, cls: type[str], size: int) -> Pointer[str]: ...
    @overload
    async def malloc(self, cls: type[T_path], size: int) -> Pointer[T_path]: ...

    async def malloc(self, cls: MallocType, size: int | None = None) -> Pointer[Any]:
        """Memory for a structure, or for `size` bytes of something that has no size of its own:
        bytes, a string or a path with its NUL, a list.

        ValueError if the size is missing, or given for a structure; OSError (ENOMEM). A checkpoint;
        if cancelled, nothing is allocated.
        """
        return await self._malloc(cls, size)

    async def _malloc(self, cls: MallocType, size: int | None) -> Pointer[Any]:
        await checkpoint()
        if issubclass(cls, FixedSize):
            if size is not None:
                raise ValueError(f"size: {cls.__name__} has a size of its own")
            room = cls.sizeof_for(self.abi)
            return await self.malloc_serializer(cls.get_serializer(self), room, cls)
        if size is None:
            raise ValueError(f"size: missing, for {cls.__name__}")
        if issubclass(cls, FixedSerializer):
            return await self.malloc_serializer(cls.get_serializer(self), size, cls)
        if issubclass(cls, bytes):
            return await self.malloc_serializer(BytesSerializer(), size, bytes)
        if issubclass(cls, str):
            return await self.malloc_serializer(StrSerializer(), size, str)
        make = cast("Callable[[str], os.PathLike[str]]", cls)
        return await self.malloc_serializer(PathLikeSerializer(make), size, cls)

    async def malloc_serializer(
        self, serializer: Serializer[T], size: int, typ: type[T]
    ) -> Pointer[T]:
        """Memory for `size` bytes that `serializer` reads and writes; otherwise like malloc."""
        mapping, allocation = await self.allocator.malloc(size, _ALIGNMENT)
        return Pointer(mapping, serializer, allocation, typ)

    @overload
    async def ptr(self, data: T_value) -> WrittenPointer[T_value]: ...
    @overload
    async def ptr(self, data: bytes) -> WrittenPointer[bytes]: ...
    @overload
    async def ptr(self, data: str) -> WrittenPointer[str]: ...
    @overload
    async def ptr(self, data: T_path) -> WrittenPointer[T_path]: ...

    async def ptr(self, data: PtrValue) -> WrittenPointer[Any]:
        """Memory that holds the value: malloc and write. A checkpoint; freed if cancelled."""
        return await self._ptr(data)

    async def _ptr(self, data: PtrValue) -> WrittenPointer[Any]:
        serializer: Any
        if isinstance(data, HasSerializer):
            serializer = data.get_self_serializer(self)
        elif isinstance(data, bytes):
            serializer = BytesSerializer()
        elif isinstance(data, str):
            serializer = StrSerializer()
        else:
            make = cast("Callable[[str], os.PathLike[str]]", type(data))
            serializer = PathLikeSerializer(make)
        if isinstance(data, FixedSize):
            size = data.sizeof_for(self.abi)
        else:
            size = len(serializer.to_bytes(data))
        return await (await self.malloc_serializer(serializer, size, type(data))).write(data)

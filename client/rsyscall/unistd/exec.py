"""`#include <unistd.h>`: arguments and environment of a program."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self, cast

from rsyscall.far import Task
from rsyscall.handle.pointer import WrittenPointer
from rsyscall.near.sysif import In, Struct
from rsyscall.struct import (
    FixedSerializer,
    PathLikeSerializer,
    Serializer,
    StrSerializer,
    path_to_bytes,
)

if TYPE_CHECKING:
    from rsyscall.memory.ram import RAMTask

__all__ = ["ArgList", "ArgListSerializer", "arglist_argument", "write_arglist"]

#: A string of an argument list that is in memory.
Written = WrittenPointer[Any]
_POINTER = 8


class ArgList(list[Written], FixedSerializer):
    """Pointers to strings, as execve(2) wants its arguments and environment.

    In memory they are followed by a null pointer. The strings must stay where they are for as long
    as the list is used: the list holds their pointers.
    """

    @classmethod
    def get_serializer(cls, task: Task) -> Serializer[Self]:
        """What writes the addresses of the strings."""
        return ArgListSerializer(cls, task)


class ArgListSerializer(Serializer[Any]):
    """Pointers to strings as an array of addresses with a null pointer at the end."""

    def __init__(self, cls: type[ArgList], task: Task) -> None:
        """task: in whose address space the strings must be."""
        self.cls = cls
        self.task = task

    def to_bytes(self, val: ArgList) -> bytes:
        """The array. UseAfterFreeError or AddressSpaceMismatchError for a string elsewhere."""
        addresses: list[int] = []
        for pointer in val:
            pointer.check_address_space(self.task)
            addresses.append(int(pointer.near))
        return struct.pack(f"={len(addresses) + 1}Q", *addresses, 0)

    def from_bytes(self, data: bytes) -> ArgList:
        """Not possible: addresses alone do not say whose they are (ValueError)."""
        raise ValueError("data: an argument list cannot be read back from addresses")


def arglist_argument(strings: Iterable[str | bytes | os.PathLike[str]], name: str) -> Struct:
    """The array and its strings, to be sent with the call that wants it.

    ValueError, naming the argument, if a string contains a NUL.
    """
    data = [In(path_to_bytes(string, name)) for string in strings]
    return Struct(
        bytes(_POINTER * (len(data) + 1)), tuple((_POINTER * i, s) for i, s in enumerate(data))
    )


async def write_arglist(
    task: RAMTask, strings: Iterable[str | bytes | os.PathLike[str]]
) -> WrittenPointer[ArgList]:
    """The array and its strings in the memory of the task, by two writes.

    ValueError if a string contains a NUL. A checkpoint; freed if cancelled.
    """
    values = list(strings)
    data = [path_to_bytes(value, "strings") for value in values]
    arglist = ArgList()
    if data:
        block = await task.malloc(bytes, sum(map(len, data)))
        rest: Any = await block.write(b"".join(data))
        for value, string in zip(values[:-1], data[:-1], strict=True):
            first, rest = rest.split(len(string))
            arglist.append(_written(first, value))
        arglist.append(_written(rest, values[-1]))
    return await task.ptr(arglist)


def _written(pointer: Any, value: str | bytes | os.PathLike[str]) -> Written:
    """The part of what was written that holds the value."""
    pointer._consume()
    serializer: Serializer[Any] = StrSerializer()
    if not isinstance(value, str):
        if isinstance(value, bytes):
            value = os.fsdecode(value)
        else:
            serializer = PathLikeSerializer(cast("Any", type(value)))
    return WrittenPointer(
        pointer.mapping, serializer, pointer.allocation, cast("type[Any]", type(value)), value
    )

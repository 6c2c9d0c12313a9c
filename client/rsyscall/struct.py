"""How values become the bytes that the kernel reads, and back."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from rsyscall._core import path_to_bytes

if TYPE_CHECKING:
    from rsyscall.far import Task

__all__ = [
    "BytesSerializer",
    "FixedSerializer",
    "FixedSize",
    "HasSerializer",
    "PathLikeSerializer",
    "Record",
    "Serializable",
    "Serializer",
    "StrSerializer",
    "Struct",
    "check_size",
    "path_to_bytes",
]

T = TypeVar("T")


class Serializer(abc.ABC, Generic[T]):
    """Turns values of one type into bytes and back."""

    @abc.abstractmethod
    def to_bytes(self, val: T) -> bytes:
        """The value as the kernel wants it."""

    @abc.abstractmethod
    def from_bytes(self, data: bytes) -> T:
        """The value that the kernel left."""


class BytesSerializer(Serializer[bytes]):
    """Bytes as they are."""

    def to_bytes(self, val: bytes) -> bytes:
        """The same bytes."""
        return val

    def from_bytes(self, data: bytes) -> bytes:
        """The same bytes."""
        return data


class StrSerializer(Serializer[str]):
    """NUL-terminated strings, in the encoding of file names."""

    def to_bytes(self, val: str) -> bytes:
        """The string with its NUL; ValueError if it contains another."""
        return path_to_bytes(val, "val")

    def from_bytes(self, data: bytes) -> str:
        """The string up to the first NUL."""
        return os.fsdecode(data.split(b"\0", 1)[0])


T_path = TypeVar("T_path", bound=os.PathLike[str])


class PathLikeSerializer(Serializer[T_path]):
    """Paths, as NUL-terminated strings."""

    def __init__(self, cls: Callable[[str], T_path]) -> None:
        """cls: what a string read back becomes; it is called with the string."""
        self.cls = cls

    def to_bytes(self, val: T_path) -> bytes:
        """The path with its NUL; ValueError if it contains another."""
        return path_to_bytes(val, "val")

    def from_bytes(self, data: bytes) -> T_path:
        """The path up to the first NUL."""
        return self.cls(StrSerializer().from_bytes(data))


class HasSerializer(abc.ABC):
    """A value that knows how it becomes bytes, in the memory of a given task."""

    @abc.abstractmethod
    def get_self_serializer(self, task: Task) -> Serializer[Any]:
        """What turns this value into bytes for the task, and back."""


class FixedSerializer(HasSerializer):
    """A type all of whose values become bytes in the same way."""

    @classmethod
    @abc.abstractmethod
    def get_serializer(cls, task: Task) -> Serializer[Any]:
        """What turns its values into bytes for the task, and back."""

    def get_self_serializer(self, task: Task) -> Serializer[Any]:
        """The same as get_serializer."""
        return self.get_serializer(task)


class FixedSize(FixedSerializer):
    """A type whose values all have the same size."""

    @classmethod
    @abc.abstractmethod
    def sizeof(cls) -> int:
        """The size in bytes."""


class Serializable(FixedSerializer):
    """A type whose values are turned into bytes by their own methods."""

    @abc.abstractmethod
    def to_bytes(self) -> bytes:
        """The value in memory."""

    @classmethod
    @abc.abstractmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The value that these bytes are; ValueError if there are too few."""

    @classmethod
    def get_serializer(cls, task: Task) -> Serializer[Any]:
        """Its own methods."""
        return _OwnSerializer(cls)


class Struct(Serializable, FixedSize):
    """A C structure."""


T_serializable = TypeVar("T_serializable", bound=Serializable)


class _OwnSerializer(Serializer[T_serializable]):
    """Values by their own methods."""

    def __init__(self, cls: type[T_serializable]) -> None:
        self.cls = cls

    def to_bytes(self, val: T_serializable) -> bytes:
        """The value in memory."""
        return val.to_bytes()

    def from_bytes(self, data: bytes) -> T_serializable:
        """The value that these bytes are."""
        return self.cls.from_bytes(data)


class Record:
    """What a structure with a few named fields has besides: equality, and a form for people.

    The fields are its __slots__. They can be changed, and so it has no hash. (A dataclass would do,
    and takes half a millisecond to be made.)
    """

    __slots__: tuple[str, ...] = ()

    def _fields(self) -> tuple[object, ...]:
        return tuple([getattr(self, name) for name in self.__slots__])

    def __eq__(self, other: object) -> bool:
        """Whether it is of the same type, with the same fields."""
        if not isinstance(other, type(self)) or type(other) is not type(self):
            return NotImplemented
        return self._fields() == other._fields()

    def __repr__(self) -> str:
        """The fields, by name."""
        fields = [f"{name}={getattr(self, name)!r}" for name in self.__slots__]
        return f"{type(self).__name__}({', '.join(fields)})"


def check_size(data: bytes, size: int, what: str) -> None:
    """ValueError if there are fewer bytes than the structure has."""
    if len(data) < size:
        raise ValueError(f"data: {len(data)} bytes, {what} has {size}")

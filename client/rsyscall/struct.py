"""How values become the bytes that the kernel reads, and back."""

from __future__ import annotations

import abc
import os
import sys
from typing import Generic, Self, TypeVar

__all__ = [
    "BytesSerializer",
    "FixedSize",
    "Serializer",
    "StrSerializer",
    "Struct",
    "path_to_bytes",
]

T = TypeVar("T")
# What os.fsencode uses.
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


def path_to_bytes(path: str | bytes | os.PathLike[str] | os.PathLike[bytes], name: str) -> bytes:
    """A path, or another string for the kernel, with its final NUL.

    ValueError, naming the argument, if it contains a NUL of its own.
    """
    data = path.encode(_ENCODING, _ERRORS) if type(path) is str else os.fsencode(path)
    if b"\0" in data:
        raise ValueError(f"{name}: embedded null byte in {path!r}")
    return data + b"\0"


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


class FixedSize(abc.ABC):
    """A type whose values all have the same size."""

    @classmethod
    @abc.abstractmethod
    def sizeof(cls) -> int:
        """The size in bytes."""


class Struct(FixedSize):
    """A C structure."""

    @abc.abstractmethod
    def to_bytes(self) -> bytes:
        """The structure in memory."""

    @classmethod
    @abc.abstractmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The structure that these bytes are; ValueError if there are too few."""


T_struct = TypeVar("T_struct", bound=Struct)


class StructSerializer(Serializer[T_struct]):
    """Structures, by their own methods."""

    def __init__(self, cls: type[T_struct]) -> None:
        """Remember which structure."""
        self.cls = cls

    def to_bytes(self, val: T_struct) -> bytes:
        """The structure in memory."""
        return val.to_bytes()

    def from_bytes(self, data: bytes) -> T_struct:
        """The structure that these bytes are."""
        return self.cls.from_bytes(data)

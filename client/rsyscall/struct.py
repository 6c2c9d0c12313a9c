"""How values become the bytes that the kernel reads, and back."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast

from rsyscall._core import path_to_bytes
from rsyscall.abi import ABI, NATIVE, Layout

if TYPE_CHECKING:
    from rsyscall.far import Task

__all__ = [
    "BytesSerializer",
    "FixedSerializer",
    "FixedSize",
    "HasSerializer",
    "Int32",
    "Int64",
    "LaidOut",
    "PathLikeSerializer",
    "Portable",
    "Record",
    "Serializable",
    "Serializer",
    "StrSerializer",
    "Struct",
    "StructList",
    "StructListSerializer",
    "bits",
    "check_size",
    "path_to_bytes",
    "string_from_null_terminated_bytes",
    "strpath_to_null_terminated_bytes",
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
        return string_from_null_terminated_bytes(data)


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
        """The size in bytes, in this interpreter's own memory."""

    @classmethod
    def sizeof_for(cls, _abi: ABI, /) -> int:
        """The same in the memory of a task with that ABI, where a class makes a difference."""
        return cls.sizeof()


class Serializable(FixedSerializer):
    """A type whose values are turned into bytes by their own methods."""

    @abc.abstractmethod
    def to_bytes(self) -> bytes:
        """The value in memory."""

    @classmethod
    @abc.abstractmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The value that these bytes are; ValueError if there are too few."""

    def to_bytes_for(self, _abi: ABI, /) -> bytes:
        """The value in the memory of a task with that ABI: as to_bytes, unless a class differs."""
        return self.to_bytes()

    @classmethod
    def from_bytes_for(cls, data: bytes, _abi: ABI, /) -> Self:
        """The value that these bytes of such a task's memory are; as from_bytes."""
        return cls.from_bytes(data)

    @classmethod
    def get_serializer(cls, task: Task) -> Serializer[Any]:
        """Its own methods, with the ABI of the task."""
        return _OwnSerializer(cls, task.abi)


class Struct(Serializable, FixedSize):
    """A C structure."""


class Portable(Serializable):
    """A type whose values are not the same bytes on every machine."""

    __slots__ = ()

    @abc.abstractmethod
    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """The value in the memory of a task with that ABI. ValueError for what does not fit."""

    @classmethod
    @abc.abstractmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """The value that these bytes of such memory are; ValueError if there are too few."""

    def to_bytes(self) -> bytes:
        """The same in this interpreter's memory."""
        return self.to_bytes_for(NATIVE)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The same of this interpreter's memory."""
        return cls.from_bytes_for(data, NATIVE)


class LaidOut(Portable, Struct):
    """A C structure that consists of numbers, as its LAYOUT says."""

    __slots__ = ()
    #: Its fields.
    LAYOUT: ClassVar[Layout]

    def _values(self) -> Sequence[int]:
        """The numbers, in the order of LAYOUT; unless a class says otherwise, its attributes."""
        return [int(getattr(self, name)) for name in self.LAYOUT.names]

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        """From the numbers; unless a class says otherwise, they are what its constructor takes."""
        return cls(**dict(zip(cls.LAYOUT.names, values, strict=True)))

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """The structure in such memory. ValueError for what does not fit."""
        return self.LAYOUT.pack(abi, *self._values())

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """From the structure in such memory. ValueError if there are too few bytes."""
        return cls._from_values(*cls.LAYOUT.unpack(abi, data))

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes."""
        return cls.LAYOUT.size()

    @classmethod
    def sizeof_for(cls, abi: ABI, /) -> int:
        """The same in the memory of a task with that ABI."""
        return cls.LAYOUT.size(abi)


# That an int has other methods of the same names is how users know these two classes.
class _Number(LaidOut, int):  # type: ignore[misc]  # pyright: ignore[reportIncompatibleMethodOverride]
    def _values(self) -> Sequence[int]:
        return (int(self),)

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        return cls(values[0])


class Int32(_Number):
    """int32_t. ValueError for what does not fit, when it is put into memory."""

    LAYOUT: ClassVar[Layout] = Layout("int32_t", "i32 value")


class Int64(_Number):
    """int64_t; see Int32."""

    LAYOUT: ClassVar[Layout] = Layout("int64_t", "i64 value")


T_fixed_size = TypeVar("T_fixed_size", bound=FixedSize)


class StructListSerializer(Serializer["StructList[T_fixed_size]"], Generic[T_fixed_size]):
    """Structures of one class, one after the other.

    cls: which. ser: of one. size: of one, in bytes.
    """

    def __init__(
        self, cls: type[T_fixed_size], ser: Serializer[T_fixed_size], size: int | None = None
    ) -> None:
        """size: that in this interpreter's memory, if it is not given."""
        self.cls = cls
        self.ser = ser
        self.size: int = cls.sizeof() if size is None else size

    def to_bytes(self, val: StructList[T_fixed_size]) -> bytes:
        """All of them."""
        return b"".join([self.ser.to_bytes(elem) for elem in val.elems])

    def from_bytes(self, data: bytes) -> StructList[T_fixed_size]:
        """As many as there are whole ones."""
        ends = range(self.size, len(data) + 1, self.size)
        elems = [self.ser.from_bytes(data[end - self.size : end]) for end in ends]
        return StructList(self.cls, elems)


class StructList(HasSerializer, Generic[T_fixed_size]):
    """An array of structures.

    cls: of which class. elems: the structures.
    """

    def __init__(self, cls: type[T_fixed_size], elems: list[T_fixed_size]) -> None:
        """Take both."""
        self.cls = cls
        self.elems = elems

    def get_self_serializer(self, task: Task) -> StructListSerializer[T_fixed_size]:
        """What turns such arrays into bytes for the task, and back."""
        size = self.cls.sizeof_for(task.abi)
        return StructListSerializer(self.cls, self.cls.get_serializer(task), size)

    def __eq__(self, other: object) -> bool:
        """Whether it has the same class and elements."""
        if not isinstance(other, StructList):
            return NotImplemented
        others = cast("StructList[FixedSize]", other)
        return self.cls is others.cls and self.elems == others.elems

    def __repr__(self) -> str:
        """For people."""
        return f"StructList({self.cls.__name__}, {self.elems!r})"


T_serializable = TypeVar("T_serializable", bound=Serializable)


class _OwnSerializer(Serializer[T_serializable]):
    """Values by their own methods."""

    def __init__(self, cls: type[T_serializable], abi: ABI) -> None:
        self.cls = cls
        self.abi = abi

    def to_bytes(self, val: T_serializable) -> bytes:
        """The value in memory."""
        return val.to_bytes_for(self.abi)

    def from_bytes(self, data: bytes) -> T_serializable:
        """The value that these bytes are."""
        return self.cls.from_bytes_for(data, self.abi)


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


def bits(n: int, one_indexed: bool = True) -> Iterator[int]:
    """Which bits of a number are set, from the lowest on: the lowest is 1, or 0.

    ValueError for a negative number.
    """
    if n < 0:
        raise ValueError(f"n: {n} is negative")
    return (at + one_indexed for at in range(n.bit_length()) if n >> at & 1)


def strpath_to_null_terminated_bytes(val: str | os.PathLike[str]) -> bytes:
    """A string or path with its NUL; ValueError if it contains another."""
    return path_to_bytes(val, "val")


def string_from_null_terminated_bytes(data: bytes) -> str:
    """The string up to the first NUL."""
    return os.fsdecode(data.split(b"\0", 1)[0])

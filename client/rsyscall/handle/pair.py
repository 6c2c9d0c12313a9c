"""Two descriptors that one call makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from rsyscall import near
from rsyscall.abi import Layout
from rsyscall.far import Task
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask
from rsyscall.near.typed import TypedCall
from rsyscall.struct import FixedSize, Serializer

if TYPE_CHECKING:
    from rsyscall.handle import FileDescriptor

__all__ = ["HandlePair", "makes_pair"]

T_pair = TypeVar("T_pair", bound="HandlePair")
_INTS = Layout("int[2]", "i32 first, i32 second")


class HandlePair(FixedSize):
    """int[2]: the handles of two descriptors, by number."""

    def __init__(self, first: FileDescriptor, second: FileDescriptor) -> None:
        """Take both."""
        self._both: tuple[FileDescriptor, FileDescriptor] = first, second

    def __getitem__(self, idx: int) -> FileDescriptor:
        """The idx-th of the two, from 0. IndexError if there is none."""
        return self._both[idx]

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes."""
        return _INTS.size()

    @classmethod
    def get_serializer(cls, task: Task) -> Serializer[Self]:
        """What makes handles of the task out of the numbers."""
        return PairSerializer(cls, cast("FileDescriptorTask[FileDescriptor]", task))

    def __repr__(self) -> str:
        """For people."""
        return f"{type(self).__name__}({self[0]}, {self[1]})"


class PairSerializer(Serializer[T_pair], Generic[T_pair]):
    """Two handles as two numbers.

    cls: which pair. task: whose handles are made.
    """

    def __init__(self, cls: type[T_pair], task: FileDescriptorTask[FileDescriptor]) -> None:
        """Take both."""
        self.cls: type[T_pair] = cls
        self.task: FileDescriptorTask[FileDescriptor] = task

    def to_bytes(self, val: T_pair) -> bytes:
        """The numbers."""
        return _INTS.pack(self.task.abi, int(val[0].near), int(val[1].near))

    def from_bytes(self, data: bytes) -> T_pair:
        """Handles of what the caller knows to be open and to have no handles yet."""
        first, second = _INTS.unpack(self.task.abi, data)
        make = self.task.adopt_fd
        return self.cls(make(near.FileDescriptor(first)), make(near.FileDescriptor(second)))


def makes_pair(cls: type[T_pair], nr: Any, args: tuple[Any, ...]) -> TypedCall[T_pair]:
    """A call that leaves two numbers in its only output."""

    def convert(task: Any, _value: int, outs: tuple[bytes, ...]) -> T_pair:
        return PairSerializer(cls, task).from_bytes(outs[0])

    return TypedCall(nr, args, convert, outs=True, handle=True)


def is_end(made: object, offset: int) -> BaseFileDescriptor | None:
    """The handle whose number stands at an offset of what was made, if that is a pair."""
    if isinstance(made, HandlePair) and offset in (0, 4):
        return made[offset // 4]
    return None

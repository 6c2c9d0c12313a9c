"""`#include <sys/socket.h>`: buffers that a call fills, and whose length it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from rsyscall.abi import ABI, NATIVE, Layout
from rsyscall.handle.pointer import Pointer
from rsyscall.struct import HasSerializer, Serializer

if TYPE_CHECKING:
    from rsyscall.far import Task

__all__ = ["Sockbuf", "SockbufSerializer"]

T = TypeVar("T")
_LENGTH = Layout("socklen_t", "u32 length")


class Sockbuf(HasSerializer, Generic[T]):
    """A buffer whose length stands in memory, where a call changes it.

    buf: what there is room in; once it was filled, the part that was. buf_rest: the rest then.
    """

    def __init__(self, buf: Pointer[T], buf_rest: Pointer[T] | None = None) -> None:
        """Take both."""
        self.buf: Pointer[T] = buf
        self.buf_rest: Pointer[T] | None = buf_rest

    def get_self_serializer(self, task: Task) -> SockbufSerializer[T]:
        """What puts the length into memory of the task, and splits the buffer by it."""
        return SockbufSerializer(self.buf, task.abi)

    def __repr__(self) -> str:
        """For people."""
        return f"Sockbuf({self.buf!r}, {self.buf_rest!r})"


class SockbufSerializer(Serializer[Sockbuf[T]], Generic[T]):
    """A Sockbuf as its length.

    buf: of which buffer.
    """

    def __init__(self, buf: Pointer[T], abi: ABI = NATIVE) -> None:
        """Take both."""
        self.buf: Pointer[T] = buf
        self._abi = abi

    def to_bytes(self, val: Sockbuf[T]) -> bytes:
        """How many bytes there is room for."""
        return _LENGTH.pack(self._abi, val.buf.size())

    def from_bytes(self, data: bytes) -> Sockbuf[T]:
        """The part that was filled, and the rest: the buffer is consumed.

        All of it, if there would have been more: the kernel says how long that was.
        """
        (length,) = _LENGTH.unpack(self._abi, data)
        return Sockbuf(*self.buf.readable_split(min(length, self.buf.size())))

"""`#include <sys/socket.h>`: messages that lie in memory, and what comes beside their bytes."""

from __future__ import annotations

import abc
import contextlib
import enum
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, cast

from rsyscall import far, near
from rsyscall._raw import lib
from rsyscall.abi import ABI, NATIVE, Layout
from rsyscall.handle.fd import FileDescriptorTask
from rsyscall.handle.pointer import LinearPointer, Pointer, ReadablePointer, WrittenPointer
from rsyscall.struct import FixedSerializer, Portable, Serializer
from rsyscall.sys._sockaddr import Sockaddr
from rsyscall.sys._socket import SCM, SOL
from rsyscall.sys.uio import IovecList

if TYPE_CHECKING:
    from rsyscall.handle import FileDescriptor

__all__ = [
    "Cmsg",
    "CmsgList",
    "CmsgListSerializer",
    "CmsgSCMRights",
    "CmsgSerializer",
    "MsghdrFlags",
    "RecvMsghdr",
    "RecvMsghdrOut",
    "RecvMsghdrOutSerializer",
    "RecvmsgFlags",
    "SendMsghdr",
    "SendmsgFlags",
]

T_cmsg = TypeVar("T_cmsg", bound="Cmsg")

_MSGHDR = Layout(
    "struct msghdr",
    "pointer name, u32 namelen, pointer iov, ulong iovlen, pointer control, ulong controllen,"
    "u32 flags",
)
_CMSGHDR = Layout("struct cmsghdr", "ulong len, i32 level, i32 type")
_INT = Layout("int", "i32 number")


class SendmsgFlags(enum.IntFlag):
    """Flags of sendmsg(2); those of MSG are taken too."""

    NONE = 0


class RecvmsgFlags(enum.IntFlag):
    """Flags of recvmsg(2); those of MSG are taken too."""

    NONE = 0
    CMSG_CLOEXEC = lib.MSG_CMSG_CLOEXEC


class MsghdrFlags(enum.IntFlag):
    """What recvmsg(2) says of a message."""

    NONE = 0
    CTRUNC = lib.MSG_CTRUNC
    CMSG_CLOEXEC = lib.MSG_CMSG_CLOEXEC


# ---- control messages ----


class Cmsg(FixedSerializer):
    """Something that comes beside the bytes of a message."""

    @abc.abstractmethod
    def to_data(self) -> bytes:
        """What stands behind the header."""

    @abc.abstractmethod
    def borrow_with(
        self, stack: contextlib.ExitStack, task: FileDescriptorTask[FileDescriptor]
    ) -> None:
        """Have all that it names stay until the stack is closed, for a call of the task."""

    @classmethod
    @abc.abstractmethod
    def from_data(cls, task: far.Task, data: bytes) -> Self:
        """From what stands behind the header."""

    @classmethod
    @abc.abstractmethod
    def level(cls) -> SOL:
        """cmsg_level."""

    @classmethod
    @abc.abstractmethod
    def type(cls) -> int:
        """cmsg_type."""

    @classmethod
    def get_serializer(cls, task: far.Task) -> CmsgSerializer[Self]:
        """Such a message with its header, in memory of the task."""
        return CmsgSerializer(cls, task)


class CmsgSCMRights(Cmsg, list["FileDescriptor"]):
    """Descriptors that are handed over."""

    def to_data(self) -> bytes:
        """Their numbers."""
        return b"".join([_INT.pack(fd.task.abi, int(fd.near)) for fd in self])

    def borrow_with(
        self, stack: contextlib.ExitStack, task: FileDescriptorTask[FileDescriptor]
    ) -> None:
        """See Cmsg. InvalidHandleError, FDTableMismatchError."""
        for fd in self:
            stack.enter_context(fd.borrow(task))

    @classmethod
    def from_data(cls, task: far.Task, data: bytes) -> Self:
        """Handles of what has come, which has no handles yet."""
        make = cast("FileDescriptorTask[FileDescriptor]", task).adopt_fd
        numbers = [_INT.unpack(task.abi, data[at : at + 4])[0] for at in range(0, len(data), 4)]
        return cls([make(near.FileDescriptor(number)) for number in numbers])

    @classmethod
    def level(cls) -> SOL:
        """See Cmsg."""
        return SOL.SOCKET

    @classmethod
    def type(cls) -> int:
        """See Cmsg."""
        return SCM.RIGHTS


def _padded(abi: ABI, data: bytes) -> bytes:
    return data + bytes(-len(data) % abi.long)


class CmsgSerializer(Serializer[T_cmsg]):
    """One control message with its header.

    cls: of which class. task: in whose memory.
    """

    def __init__(self, cls: type[T_cmsg], task: far.Task) -> None:
        """Take both."""
        self.cls = cls
        self.task = task

    def to_bytes(self, val: T_cmsg) -> bytes:
        """Header and data, without the padding behind them."""
        abi, data = self.task.abi, val.to_data()
        return _CMSGHDR.pack(abi, _CMSGHDR.size(abi) + len(data), val.level(), val.type()) + data

    def from_bytes(self, data: bytes) -> T_cmsg:
        """From header and data. ValueError if it is another one, or not all there."""
        abi = self.task.abi
        length, level, kind = _CMSGHDR.unpack(abi, data)
        if (level, kind) != (self.cls.level(), self.cls.type()):
            raise ValueError(f"data: level {level}, type {kind}, no {self.cls.__name__}")
        if not _CMSGHDR.size(abi) <= length <= len(data):
            raise ValueError(f"data: {len(data)} bytes, and it says that it has {length}")
        return self.cls.from_data(self.task, data[_CMSGHDR.size(abi) : length])


class CmsgList(list[Cmsg], FixedSerializer):
    """All that comes beside the bytes of a message."""

    @classmethod
    def get_serializer(cls, task: far.Task) -> CmsgListSerializer:
        """All of them in memory of the task."""
        return CmsgListSerializer(task)

    def borrow_with(
        self, stack: contextlib.ExitStack, task: FileDescriptorTask[FileDescriptor]
    ) -> None:
        """See Cmsg."""
        for one in self:
            one.borrow_with(stack, task)


class CmsgListSerializer(Serializer[CmsgList]):
    """Control messages, one after the other.

    task: in whose memory.
    """

    def __init__(self, task: far.Task) -> None:
        """Take it."""
        self.task = task

    def to_bytes(self, val: CmsgList) -> bytes:
        """All of them, padded."""
        task = self.task
        found = [_padded(task.abi, one.get_serializer(task).to_bytes(one)) for one in val]
        return b"".join(found)

    def from_bytes(self, data: bytes) -> CmsgList:
        """Those of a kind that is known here. Descriptors that have come get handles."""
        abi, at, found = self.task.abi, 0, CmsgList()
        head = _CMSGHDR.size(abi)
        while at + head <= len(data):
            length, level, kind = _CMSGHDR.unpack(abi, data[at:])
            if length < head:
                break
            if (level, kind) == (CmsgSCMRights.level(), CmsgSCMRights.type()):
                found.append(CmsgSCMRights.from_data(self.task, data[at + head : at + length]))
            at += length + -length % abi.long
        return found


# ---- messages ----


def _place(part: Pointer[Any] | None) -> tuple[int, int]:
    if part is None:
        return 0, 0
    if isinstance(part, WrittenPointer):
        # Of a value what it takes: the rest of the memory would be part of the name.
        return int(part.near), len(part.serializer.to_bytes(part.value))
    return int(part.near), part.size()


def _pack(abi: ABI, message: SendMsghdr | RecvMsghdr) -> bytes:
    iov = int(message.iov.near), len(message.iov.value)
    return _MSGHDR.pack(abi, *_place(message.name), *iov, *_place(message.control), 0)


class SendMsghdr(Portable):
    """struct msghdr of a message that is sent.

    name: to whom, if it is not connected. iov: its bytes. control: what goes with them.
    """

    def __init__(
        self,
        name: WrittenPointer[Any] | None,
        iov: WrittenPointer[IovecList],
        control: WrittenPointer[CmsgList] | None = None,
    ) -> None:
        """Take them."""
        self.name = name
        self.iov = iov
        self.control = control

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """Where its parts are. UseAfterFreeError."""
        return _pack(abi, self)

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> NoReturn:
        """ValueError: pointers cannot be made from their addresses."""
        raise ValueError("pointers cannot be made from their addresses")

    def borrow_with(
        self, stack: contextlib.ExitStack, task: FileDescriptorTask[FileDescriptor]
    ) -> None:
        """Have all of it stay until the stack is closed, for a call of the task."""
        _borrow(self, stack, task)
        if self.control is not None:
            self.control.value.borrow_with(stack, task)


class RecvMsghdr(Portable):
    """struct msghdr of a message that is received.

    name: where it is to be left from whom it comes. iov: room for its bytes. control: room for what
    comes with them.
    """

    def __init__(
        self,
        name: Pointer[Any] | None,
        iov: WrittenPointer[IovecList],
        control: Pointer[CmsgList] | None = None,
    ) -> None:
        """Take them."""
        self.name = name
        self.iov = iov
        self.control = control

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """Where its parts are. UseAfterFreeError."""
        return _pack(abi, self)

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> NoReturn:
        """ValueError: pointers cannot be made from their addresses."""
        raise ValueError("pointers cannot be made from their addresses")

    def borrow_with(
        self, stack: contextlib.ExitStack, task: FileDescriptorTask[FileDescriptor]
    ) -> None:
        """Have all of it stay until the stack is closed, for a call of the task."""
        _borrow(self, stack, task)

    def to_out(self, ptr: Pointer[RecvMsghdr]) -> ReadablePointer[RecvMsghdrOut]:
        """What a call has left where it lies; consumes the pointer."""
        serializer = RecvMsghdrOutSerializer(self.name, self.control, ptr.mapping.task.abi)
        ptr = ptr.unsafe()
        allocation, ptr.valid = ptr.allocation, False
        return ReadablePointer(ptr.mapping, serializer, allocation, RecvMsghdrOut)


def _borrow(
    message: SendMsghdr | RecvMsghdr,
    stack: contextlib.ExitStack,
    task: FileDescriptorTask[FileDescriptor],
) -> None:
    for one in (message.name, message.iov, message.control):
        if one is not None:
            stack.enter_context(one.borrow(task))
    stack.enter_context(message.iov.value.borrow(task))


class RecvMsghdrOut:
    """What recvmsg(2) has left.

    name: from whom. control: what came; it is to be read once, since descriptors are made handles
    then. flags: see MsghdrFlags, and MSG. name_rest, control_rest: the room that was not needed.
    """

    def __init__(
        self,
        name: ReadablePointer[Sockaddr] | None,
        control: LinearPointer[CmsgList] | None,
        flags: MsghdrFlags,
        name_rest: Pointer[Sockaddr] | None,
        control_rest: Pointer[CmsgList] | None,
    ) -> None:
        """Take them."""
        self.name = name
        self.control = control
        self.flags = flags
        self.name_rest = name_rest
        self.control_rest = control_rest


class RecvMsghdrOutSerializer(Serializer[RecvMsghdrOut]):
    """What recvmsg(2) has left, from the msghdr.

    name, control: the room that there was, which is split.
    """

    def __init__(
        self, name: Pointer[Any] | None, control: Pointer[CmsgList] | None, abi: ABI = NATIVE
    ) -> None:
        """Take them."""
        self.name = name
        self.control = control
        self._abi = abi

    def to_bytes(self, val: RecvMsghdrOut) -> NoReturn:
        """ValueError: only the kernel makes them."""
        raise ValueError("val: what was received is not sent")

    def from_bytes(self, data: bytes) -> RecvMsghdrOut:
        """Consumes the room for name and control."""
        _, namelen, _, _, _, controllen, flags = _MSGHDR.unpack(self._abi, data)
        name = name_rest = control = control_rest = None
        if self.name is not None:
            name, name_rest = self.name.readable_split(min(namelen, self.name.size()))
        if self.control is not None:
            filled, control_rest = self.control.split(min(controllen, self.control.size()))
            control = filled.filled_once()
        return RecvMsghdrOut(name, control, MsghdrFlags(flags), name_rest, control_rest)

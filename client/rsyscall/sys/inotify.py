"""`#include <sys/inotify.h>`"""

from __future__ import annotations

import enum
import os
from typing import Any, Self, cast

from rsyscall import near
from rsyscall._raw import lib
from rsyscall.abi import ABI, NATIVE, Layout
from rsyscall.handle.borrow import PathArgument, PathOrAddress, path_in, perform_with
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.near.sysif import SyscallArgument
from rsyscall.near.typed import TypedCall, declares, nothing, perform, perform_making
from rsyscall.struct import Portable, Record, check_size
from rsyscall.sys.syscall import SYS

__all__ = [
    "IN",
    "InotifyEvent",
    "InotifyEventList",
    "InotifyFileDescriptor",
    "InotifyFlag",
    "InotifyTask",
    "inotify_add_watch_call",
    "inotify_init_call",
    "inotify_rm_watch_call",
]


class InotifyFlag(enum.IntFlag):
    """Flags of inotify_init1(2)."""

    NONE = 0
    CLOEXEC = lib.IN_CLOEXEC
    NONBLOCK = lib.IN_NONBLOCK


class IN(enum.IntFlag):
    """What can happen to a file, and how it is watched."""

    NONE = 0
    ACCESS = lib.IN_ACCESS
    ATTRIB = lib.IN_ATTRIB
    CLOSE_WRITE = lib.IN_CLOSE_WRITE
    CLOSE_NOWRITE = lib.IN_CLOSE_NOWRITE
    CREATE = lib.IN_CREATE
    DELETE = lib.IN_DELETE
    DELETE_SELF = lib.IN_DELETE_SELF
    MODIFY = lib.IN_MODIFY
    MOVE_SELF = lib.IN_MOVE_SELF
    MOVED_FROM = lib.IN_MOVED_FROM
    MOVED_TO = lib.IN_MOVED_TO
    OPEN = lib.IN_OPEN
    DONT_FOLLOW = lib.IN_DONT_FOLLOW
    EXCL_UNLINK = lib.IN_EXCL_UNLINK
    MASK_ADD = lib.IN_MASK_ADD
    MASK_CREATE = lib.IN_MASK_CREATE
    ONESHOT = lib.IN_ONESHOT & 0xFFFFFFFF
    ONLYDIR = lib.IN_ONLYDIR
    IGNORED = lib.IN_IGNORED
    ISDIR = lib.IN_ISDIR
    Q_OVERFLOW = lib.IN_Q_OVERFLOW
    UNMOUNT = lib.IN_UNMOUNT


_EVENT = Layout("struct inotify_event", "i32 wd, u32 mask, u32 cookie, u32 length")
#: Bytes of it, on any machine.
_SIZE = 16


class InotifyEvent(Record):
    """struct inotify_event: what has happened to which watch.

    cookie: the same for both names of a file that was moved. name: in a directory that is watched.
    """

    __slots__ = ("cookie", "mask", "name", "wd")
    #: Bytes that a read must have room for, whatever the name of the file is.
    MINIMUM_SIZE_TO_READ_ONE_EVENT = _SIZE + 255 + 1

    def __init__(
        self, wd: near.WatchDescriptor, mask: IN, cookie: int = 0, name: str | None = None
    ) -> None:
        """Nothing is checked."""
        self.wd: near.WatchDescriptor = wd
        self.mask: IN = mask
        self.cookie: int = cookie
        self.name: str | None = name

    def to_bytes(self) -> bytes:
        """The structure in memory, with its name, in steps of 16 bytes as the kernel has them."""
        return self.to_bytes_for(NATIVE)

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """The same in the memory of a task with that ABI."""
        name = b"" if self.name is None else os.fsencode(self.name) + b"\0"
        name += b"\0" * (-len(name) % _SIZE)
        return _EVENT.pack(abi, int(self.wd), int(self.mask), self.cookie, len(name)) + name

    @classmethod
    def from_bytes(cls, data: bytes) -> tuple[Self, int]:
        """The first event and its length in bytes. ValueError if it is not all there."""
        return cls.from_bytes_for(data, NATIVE)

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> tuple[Self, int]:
        """The same from the memory of a task with that ABI."""
        wd, mask, cookie, length = _EVENT.unpack(abi, data)
        end = _SIZE + length
        check_size(data, end, "this struct inotify_event")
        name = data[_SIZE:end].split(b"\0", 1)[0]
        event = cls(
            near.WatchDescriptor(wd), IN(mask), cookie, os.fsdecode(name) if length else None
        )
        return event, end


class InotifyEventList(list[InotifyEvent], Portable):
    """Events, one after the other, as they are read."""

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """All of them in memory."""
        return b"".join([event.to_bytes_for(abi) for event in self])

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """All of them. ValueError if the last one is not all there."""
        events, at = cls(), 0
        while at < len(data):
            event, length = InotifyEvent.from_bytes_for(data[at:], abi)
            events.append(event)
            at += length
        return events


def _handle(task: Any, value: int, _outs: tuple[bytes, ...]) -> Any:
    return task.adopt_fd(near.FileDescriptor(value))


def _watch(_task: object, value: int, _outs: tuple[bytes, ...]) -> near.WatchDescriptor:
    return near.WatchDescriptor(value)


@declares("inotify_init")
def inotify_init_call(flags: InotifyFlag = InotifyFlag.NONE) -> TypedCall[BaseFileDescriptor]:
    """inotify_init1(2)."""
    return TypedCall(SYS.inotify_init1, (flags | InotifyFlag.CLOEXEC,), _handle, handle=True)


@declares("inotify_add_watch")
def inotify_add_watch_call(
    fd: SyscallArgument, pathname: PathOrAddress, mask: IN
) -> TypedCall[near.WatchDescriptor]:
    """inotify_add_watch(2)."""
    return TypedCall(SYS.inotify_add_watch, (fd, path_in(pathname, "pathname"), mask), _watch)


@declares("inotify_rm_watch")
def inotify_rm_watch_call(fd: SyscallArgument, wd: near.WatchDescriptor) -> TypedCall[None]:
    """inotify_rm_watch(2)."""
    return TypedCall(SYS.inotify_rm_watch, (fd, wd), nothing)


class InotifyFileDescriptor(BaseFileDescriptor):
    """A file descriptor from which is read what happens to files.

    Both raise InvalidHandleError, and OSError as the call reports it. They are checkpoints; if
    cancelled, nothing has happened.
    """

    async def inotify_add_watch(self, pathname: PathArgument, mask: IN) -> near.WatchDescriptor:
        """Watch a file, or change what is watched of it; returns which watch that is.

        ValueError if the path contains a NUL; UseAfterFreeError, AddressSpaceMismatchError.
        inotify_add_watch(2).
        """
        return await perform_with(self.task, inotify_add_watch_call, self, pathname, mask)

    async def inotify_rm_watch(self, wd: near.WatchDescriptor) -> None:
        """End a watch: an event with IN.IGNORED follows. inotify_rm_watch(2)."""
        self._validate()
        await perform(self.task, inotify_rm_watch_call(self.near, wd))


class InotifyTask(FileDescriptorTask[T_fd]):
    """A task that can watch files."""

    async def inotify_init(self, flags: InotifyFlag = InotifyFlag.NONE) -> T_fd:
        """Make an inotify instance; it is closed on exec, as with InotifyFlag.CLOEXEC.

        OSError as the call reports it. A checkpoint; if cancelled, nothing was made.
        inotify_init1(2).
        """
        return cast("T_fd", await perform_making(self, inotify_init_call(flags)))

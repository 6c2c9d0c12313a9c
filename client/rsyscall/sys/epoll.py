"""`#include <sys/epoll.h>`"""

from __future__ import annotations

import enum
from typing import Any, ClassVar, Self, cast, overload

from rsyscall import near
from rsyscall._raw import lib
from rsyscall.abi import ABI, NATIVE, Layout
from rsyscall.far import Task
from rsyscall.handle.borrow import in_struct, perform_with
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.handle.pointer import Pointer, ReadablePointer, WrittenPointer
from rsyscall.near.sysif import Out, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, nothing, number, perform, perform_making
from rsyscall.struct import LaidOut, Portable, Record
from rsyscall.sys.syscall import SYS

__all__ = [
    "EPOLL",
    "EPOLL_CTL",
    "EpollEvent",
    "EpollEventList",
    "EpollFileDescriptor",
    "EpollFlag",
    "EpollTask",
    "epoll_create_call",
    "epoll_ctl_call",
    "epoll_wait_call",
]


class EpollFlag(enum.IntFlag):
    """Flags of epoll_create1(2)."""

    NONE = 0
    CLOEXEC = lib.EPOLL_CLOEXEC


class EPOLL_CTL(enum.IntEnum):
    """What epoll_ctl(2) is to do."""

    ADD = lib.EPOLL_CTL_ADD
    MOD = lib.EPOLL_CTL_MOD
    DEL = lib.EPOLL_CTL_DEL


class EPOLL(enum.IntFlag):
    """What can be waited for, and how."""

    NONE = 0
    IN = lib.EPOLLIN
    OUT = lib.EPOLLOUT
    RDHUP = lib.EPOLLRDHUP
    PRI = lib.EPOLLPRI
    ERR = lib.EPOLLERR
    HUP = lib.EPOLLHUP
    ET = lib.EPOLLET & 0xFFFFFFFF
    ONESHOT = lib.EPOLLONESHOT
    WAKEUP = lib.EPOLLWAKEUP
    EXCLUSIVE = lib.EPOLLEXCLUSIVE


class EpollEvent(Record, LaidOut):
    """struct epoll_event: what has happened, or is to be waited for.

    data: any number of 64 bits, which comes back with the event.
    """

    __slots__ = ("data", "events")
    LAYOUT: ClassVar[Layout] = Layout(
        "struct epoll_event", "u32 events, u64 data", x86_64="packed u32 events, u64 data"
    )

    def __init__(self, data: int, events: EPOLL) -> None:
        """ValueError for data that does not fit."""
        if not 0 <= data < 2**64:
            raise ValueError(f"data: {data} is no unsigned number of 64 bits")
        self.data: int = data
        self.events: EPOLL = events

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        events, data = values
        return cls(data, EPOLL(events))


class EpollEventList(list[EpollEvent], Portable):
    """Events, one after the other."""

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """All of them in memory."""
        return b"".join([event.to_bytes_for(abi) for event in self])

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """As many as there are whole ones."""
        size = EpollEvent.sizeof_for(abi)
        ends = range(size, len(data) + 1, size)
        return cls(EpollEvent.from_bytes_for(data[end - size : end], abi) for end in ends)


def _handle(task: Any, value: int, _outs: tuple[bytes, ...]) -> Any:
    return task.adopt_fd(near.FileDescriptor(value))


def _events(task: Task, value: int, outs: tuple[bytes, ...]) -> EpollEventList:
    size = EpollEvent.sizeof_for(task.abi)
    return EpollEventList.from_bytes_for(outs[0][: value * size], task.abi)


def _check_timeout(timeout: int) -> None:
    if not -1 <= timeout < 2**31:
        raise ValueError(f"timeout: {timeout} is not a number of milliseconds, nor -1")


@declares("epoll_create")
def epoll_create_call(flags: EpollFlag = EpollFlag.NONE) -> TypedCall[BaseFileDescriptor]:
    """epoll_create1(2)."""
    return TypedCall(SYS.epoll_create1, (flags | EpollFlag.CLOEXEC,), _handle, handle=True)


@declares("epoll_ctl")
def epoll_ctl_call(
    epfd: SyscallArgument,
    op: EPOLL_CTL,
    fd: SyscallArgument,
    event: EpollEvent | SyscallArgument | None = None,
    *,
    abi: ABI = NATIVE,
) -> TypedCall[None]:
    """epoll_ctl(2). event: or its address."""
    if event is None and op != EPOLL_CTL.DEL:
        raise ValueError(f"event: missing, for {EPOLL_CTL(op)!r}")
    what = 0 if event is None else in_struct(event, abi)
    return TypedCall(SYS.epoll_ctl, (epfd, EPOLL_CTL(op), fd, what), nothing)


@declares("epoll_wait")
def epoll_wait_call(
    epfd: SyscallArgument, events: int, timeout: int, *, abi: ABI = NATIVE
) -> TypedCall[EpollEventList]:
    """epoll_wait(2), of up to `events` events."""
    if events < 1:
        raise ValueError(f"events: room for {events} events")
    _check_timeout(timeout)
    # epoll_wait itself is not there on younger architectures.
    args = (epfd, Out(events * EpollEvent.sizeof_for(abi)), events, timeout, 0, 8)
    return TypedCall(SYS.epoll_pwait, args, _events, outs=True)


def _wait_into(
    epfd: SyscallArgument, events: SyscallArgument, most: int, timeout: int
) -> TypedCall[int]:
    return TypedCall(SYS.epoll_pwait, (epfd, events, most, timeout, 0, 8), number)


class EpollFileDescriptor(BaseFileDescriptor):
    """A file descriptor of an epoll instance."""

    async def epoll_ctl(
        self,
        op: EPOLL_CTL,
        fd: BaseFileDescriptor,
        event: EpollEvent | WrittenPointer[EpollEvent] | None = None,
    ) -> None:
        """Begin, change or end the watching of a descriptor of the same table.

        event: what is to be watched, and what comes back with it; not needed for EPOLL_CTL.DEL.
        ValueError if it is missing; InvalidHandleError, FDTableMismatchError; UseAfterFreeError,
        AddressSpaceMismatchError; OSError as the call reports it, PermissionError for files that
        never block. A checkpoint; if cancelled, nothing has happened. epoll_ctl(2).
        """
        await perform_with(self.task, epoll_ctl_call, self, op, fd, event)

    @overload
    async def epoll_wait(
        self,
        events: int,
        timeout: int,  # noqa: ASYNC109 - the call's own
    ) -> EpollEventList: ...
    @overload
    async def epoll_wait(
        self,
        events: Pointer[EpollEventList],
        timeout: int,  # noqa: ASYNC109
    ) -> tuple[ReadablePointer[EpollEventList], Pointer[EpollEventList]]: ...

    async def epoll_wait(
        self,
        events: int | Pointer[EpollEventList],
        timeout: int,  # noqa: ASYNC109
    ) -> EpollEventList | tuple[ReadablePointer[EpollEventList], Pointer[EpollEventList]]:
        """Take what has happened: at most `events` events, or as many as fit into memory.

        timeout: how long to wait for the first, in milliseconds; 0: not at all; -1: without end,
        and with it the whole process if its calls are made one by one: rsyscall.epoller waits
        without. Returns the events; or what was filled and the rest, and consumes the pointer.
        ValueError for no room, or another timeout; InvalidHandleError, UseAfterFreeError,
        AddressSpaceMismatchError; OSError as the call reports it. A checkpoint; if cancelled,
        nothing was taken. epoll_wait(2).
        """
        self._validate()
        if isinstance(events, int):
            return await perform(
                self.task, epoll_wait_call(self.near, events, timeout, abi=self.task.abi)
            )
        size = EpollEvent.sizeof_for(self.task.abi)
        most = events.size() // size
        if most < 1:
            raise ValueError(f"events: {events.size()} bytes, an event has {size}")
        _check_timeout(timeout)
        n = await perform_with(self.task, _wait_into, self, events, most, timeout)
        return events.readable_split(n * size)


class EpollTask(FileDescriptorTask[T_fd]):
    """A task that can make epoll instances."""

    async def epoll_create(self, flags: EpollFlag = EpollFlag.NONE) -> T_fd:
        """Make an epoll instance; it is closed on exec, as with EpollFlag.CLOEXEC.

        OSError as the call reports it. A checkpoint; if cancelled, nothing was made.
        epoll_create1(2).
        """
        return cast("T_fd", await perform_making(self, epoll_create_call(flags)))

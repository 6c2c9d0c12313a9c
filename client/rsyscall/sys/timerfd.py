"""`#include <sys/timerfd.h>`"""

from __future__ import annotations

import enum
from typing import Any, cast, overload

from rsyscall import near
from rsyscall._raw import lib
from rsyscall.abi import ABI, NATIVE
from rsyscall.far import Task
from rsyscall.handle.borrow import in_struct, perform_with
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.handle.pointer import Pointer, WrittenPointer
from rsyscall.near.sysif import Out, SyscallArgument
from rsyscall.near.typed import (
    TypedCall,
    declares,
    nothing,
    perform_making,
)
from rsyscall.sys.syscall import SYS
from rsyscall.time import Itimerspec, Timespec

__all__ = [
    "CLOCK",
    "TFD",
    "TFD_TIMER",
    "Itimerspec",
    "TimerFileDescriptor",
    "TimerfdTask",
    "Timespec",
    "timerfd_create_call",
    "timerfd_gettime_call",
    "timerfd_settime_call",
]


class CLOCK(enum.IntEnum):
    """Clocks."""

    REALTIME = lib.CLOCK_REALTIME
    MONOTONIC = lib.CLOCK_MONOTONIC
    BOOTTIME = lib.CLOCK_BOOTTIME
    REALTIME_ALARM = lib.CLOCK_REALTIME_ALARM
    BOOTTIME_ALARM = lib.CLOCK_BOOTTIME_ALARM


class TFD(enum.IntFlag):
    """Flags of timerfd_create(2)."""

    NONE = 0
    CLOEXEC = lib.TFD_CLOEXEC
    NONBLOCK = lib.TFD_NONBLOCK


class TFD_TIMER(enum.IntFlag):
    """Flags of timerfd_settime(2)."""

    NONE = 0
    ABSTIME = lib.TFD_TIMER_ABSTIME
    CANCEL_ON_SET = lib.TFD_TIMER_CANCEL_ON_SET


def _handle(task: Any, value: int, _outs: tuple[bytes, ...]) -> Any:
    return task.adopt_fd(near.FileDescriptor(value))


def _setting(task: Task, _value: int, outs: tuple[bytes, ...]) -> Itimerspec:
    return Itimerspec.from_bytes_for(outs[0], task.abi)


@declares("timerfd_create")
def timerfd_create_call(clockid: CLOCK, flags: TFD = TFD.NONE) -> TypedCall[BaseFileDescriptor]:
    """timerfd_create(2)."""
    args = (CLOCK(clockid), flags | TFD.CLOEXEC)
    return TypedCall(SYS.timerfd_create, args, _handle, handle=True)


@declares("timerfd_settime")
def timerfd_settime_call(
    fd: SyscallArgument,
    flags: TFD_TIMER,
    new_value: Itimerspec | SyscallArgument,
    *,
    abi: ABI = NATIVE,
) -> TypedCall[Itimerspec]:
    """timerfd_settime(2). new_value: or its address."""
    args = (fd, flags, in_struct(new_value, abi), Out(Itimerspec.sizeof_for(abi)))
    return TypedCall(SYS.timerfd_settime, args, _setting, outs=True)


def _settime_into(
    fd: SyscallArgument,
    flags: TFD_TIMER,
    new: Itimerspec | SyscallArgument,
    old: SyscallArgument,
    *,
    abi: ABI = NATIVE,
) -> TypedCall[None]:
    return TypedCall(SYS.timerfd_settime, (fd, flags, in_struct(new, abi), old), nothing)


@declares("timerfd_gettime")
def timerfd_gettime_call(fd: SyscallArgument, *, abi: ABI = NATIVE) -> TypedCall[Itimerspec]:
    """timerfd_gettime(2)."""
    return TypedCall(
        SYS.timerfd_gettime, (fd, Out(Itimerspec.sizeof_for(abi))), _setting, outs=True
    )


def _gettime_into(fd: SyscallArgument, curr: SyscallArgument) -> TypedCall[None]:
    return TypedCall(SYS.timerfd_gettime, (fd, curr), nothing)


def _check_room(task: Task, pointer: Pointer[Itimerspec], name: str) -> None:
    size = Itimerspec.sizeof_for(task.abi)
    if pointer.size() < size:
        raise ValueError(f"{name}: {pointer.size()} bytes, struct itimerspec has {size}")


class TimerFileDescriptor(BaseFileDescriptor):
    """A file descriptor of a timer.

    Both raise InvalidHandleError; UseAfterFreeError and AddressSpaceMismatchError for pointers;
    OSError as the call reports it. They are checkpoints; if cancelled, nothing has happened.
    """

    @overload
    async def timerfd_settime(
        self, flags: TFD_TIMER, new_value: Itimerspec | WrittenPointer[Itimerspec]
    ) -> Itimerspec: ...
    @overload
    async def timerfd_settime(
        self,
        flags: TFD_TIMER,
        new_value: Itimerspec | WrittenPointer[Itimerspec],
        old_value: Pointer[Itimerspec],
    ) -> Pointer[Itimerspec]: ...

    async def timerfd_settime(
        self,
        flags: TFD_TIMER,
        new_value: Itimerspec | WrittenPointer[Itimerspec],
        old_value: Pointer[Itimerspec] | None = None,
    ) -> Itimerspec | Pointer[Itimerspec]:
        """Set when the timer ends, and how often again; a value of zero: never.

        Returns what was set before, or a pointer to that if old_value is given, which it consumes.
        ValueError if that is too small. timerfd_settime(2).
        """
        if old_value is None:
            return await perform_with(self.task, timerfd_settime_call, self, flags, new_value)
        _check_room(self.task, old_value, "old_value")
        await perform_with(self.task, _settime_into, self, flags, new_value, old_value)
        return old_value.unsafe()

    @overload
    async def timerfd_gettime(self) -> Itimerspec: ...
    @overload
    async def timerfd_gettime(self, curr_value: Pointer[Itimerspec]) -> Pointer[Itimerspec]: ...

    async def timerfd_gettime(
        self, curr_value: Pointer[Itimerspec] | None = None
    ) -> Itimerspec | Pointer[Itimerspec]:
        """What is left until the timer ends, and how often again.

        Returned, or left where curr_value points, which is consumed; ValueError if that is too
        small. timerfd_gettime(2).
        """
        if curr_value is None:
            return await perform_with(self.task, timerfd_gettime_call, self)
        _check_room(self.task, curr_value, "curr_value")
        await perform_with(self.task, _gettime_into, self, curr_value)
        return curr_value.unsafe()


class TimerfdTask(FileDescriptorTask[T_fd]):
    """A task that can make timers."""

    async def timerfd_create(self, clockid: CLOCK, flags: TFD = TFD.NONE) -> T_fd:
        """Make a timer, which is not set; it is closed on exec, as with TFD.CLOEXEC.

        ValueError for what is no clock; OSError as the call reports it. A checkpoint; if cancelled,
        nothing was made. timerfd_create(2).
        """
        return cast("T_fd", await perform_making(self, timerfd_create_call(clockid, flags)))

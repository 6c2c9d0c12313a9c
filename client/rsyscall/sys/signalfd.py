"""`#include <sys/signalfd.h>`"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any, ClassVar, cast

from rsyscall import near
from rsyscall._raw import lib
from rsyscall.abi import ABI, NATIVE, Layout
from rsyscall.handle.borrow import in_struct, perform_with
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.handle.pointer import Pointer
from rsyscall.near.sysif import SyscallArgument
from rsyscall.near.typed import TypedCall, declares, nothing
from rsyscall.signal import SIG, Sigset, signal_number
from rsyscall.struct import LaidOut, Record
from rsyscall.sys.syscall import SYS

__all__ = ["SFD", "SignalFileDescriptor", "SignalfdSiginfo", "SignalfdTask", "signalfd_call"]

_SIGSET = 8


class SFD(enum.IntFlag):
    """Flags of signalfd(2)."""

    NONE = 0
    NONBLOCK = lib.SFD_NONBLOCK
    CLOEXEC = lib.SFD_CLOEXEC


class SignalfdSiginfo(Record, LaidOut):
    """struct signalfd_siginfo, as far as it tells who has sent which signal.

    signo: which. code: why, see sigaction(2). pid, uid: of who has sent it, or of the child that it
    is about; status: of that child. value: what sigqueue(3) has sent with it.
    """

    __slots__ = ("code", "pid", "signo", "status", "uid", "value")
    LAYOUT: ClassVar[Layout] = Layout(
        "struct signalfd_siginfo",
        "u32 signo, i32 _, i32 code, u32 pid, u32 uid, u8[20] _, i32 status, i32 value, u8[80] _",
    )

    def __init__(
        self,
        signo: SIG | int,
        code: int = 0,
        pid: int = 0,
        uid: int = 0,
        status: int = 0,
        value: int = 0,
    ) -> None:
        """Nothing is checked."""
        self.signo: SIG | int = signal_number(signo)
        self.code: int = code
        self.pid: int = pid
        self.uid: int = uid
        self.status: int = status
        self.value: int = value


def _handle(task: Any, value: int, _outs: tuple[bytes, ...]) -> Any:
    return task.adopt_fd(near.FileDescriptor(value))


@declares("signalfd")
def signalfd_call(
    mask: Iterable[int] | SyscallArgument,
    flags: SFD = SFD.NONE,
    fd: SyscallArgument = -1,
    *,
    abi: ABI = NATIVE,
) -> TypedCall[BaseFileDescriptor | None]:
    """signalfd4(2). mask: or its address. fd: of which the mask is to change; -1: make one."""
    # What is iterable is no address: pointers and steps are not.
    signals = in_struct(Sigset(mask), abi) if isinstance(mask, Iterable) else mask
    args = (fd, signals, _SIGSET, flags | SFD.CLOEXEC)
    if isinstance(fd, int) and fd == -1:
        return TypedCall(SYS.signalfd4, args, _handle, handle=True)
    return TypedCall(SYS.signalfd4, args, nothing)


class SignalFileDescriptor(BaseFileDescriptor):
    """A file descriptor from which signals are read."""

    async def signalfd(self, mask: Iterable[int] | Pointer[Sigset], flags: SFD = SFD.NONE) -> None:
        """Change which signals it tells of.

        ValueError for what is no signal; InvalidHandleError; UseAfterFreeError,
        AddressSpaceMismatchError; OSError as the call reports it. A checkpoint; if cancelled,
        nothing has happened. signalfd(2).
        """

        def declare(
            fd: SyscallArgument, mask: Iterable[int] | SyscallArgument
        ) -> TypedCall[BaseFileDescriptor | None]:
            return signalfd_call(mask, flags, fd, abi=self.task.abi)

        await perform_with(self.task, declare, self, mask)


class SignalfdTask(FileDescriptorTask[T_fd]):
    """A task that can have signals read."""

    async def signalfd(self, mask: Iterable[int] | Pointer[Sigset], flags: SFD = SFD.NONE) -> T_fd:
        """Make a descriptor from which signals can be read, as SignalfdSiginfo, while blocked.

        It is closed on exec, as with SFD.CLOEXEC. ValueError for what is no signal;
        UseAfterFreeError, AddressSpaceMismatchError; OSError as the call reports it. A checkpoint;
        if cancelled, nothing was made. signalfd(2).
        """
        return cast("T_fd", await perform_with(self, signalfd_call, mask, flags))

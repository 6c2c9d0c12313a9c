"""`#include <sys/ioctl.h>`"""

from __future__ import annotations

import enum
from typing import Any

from rsyscall._raw import lib
from rsyscall.handle.borrow import perform_with
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.handle.pointer import Pointer
from rsyscall.near.sysif import SyscallArgument
from rsyscall.near.typed import TypedCall, declares, number
from rsyscall.sys.syscall import SYS

__all__ = ["TIOC", "IoctlFileDescriptor", "ioctl_call"]


class TIOC(enum.IntEnum):
    """Requests to terminals; see ioctl_tty(2)."""

    SCTTY = lib.TIOCSCTTY
    NOTTY = lib.TIOCNOTTY
    GPGRP = lib.TIOCGPGRP
    SPGRP = lib.TIOCSPGRP
    GWINSZ = lib.TIOCGWINSZ
    SWINSZ = lib.TIOCSWINSZ
    GPTN = lib.TIOCGPTN
    SPTLCK = lib.TIOCSPTLCK
    GPTPEER = lib.TIOCGPTPEER


@declares("ioctl")
def ioctl_call(fd: SyscallArgument, request: int, arg: SyscallArgument = 0) -> TypedCall[int]:
    """ioctl(2)."""
    return TypedCall(SYS.ioctl, (fd, request, arg), number)


class IoctlFileDescriptor(BaseFileDescriptor):
    """A file descriptor whose device can be asked for something special."""

    async def ioctl(self, request: int, arg: Pointer[Any] | int = 0) -> int:
        """Ask for it, with a number, or a pointer to whatever it reads or fills.

        InvalidHandleError; UseAfterFreeError or AddressSpaceMismatchError; OSError as the call
        reports it. A checkpoint; if cancelled, nothing has happened. ioctl(2).
        """
        return await perform_with(self.task, ioctl_call, self, request, arg)

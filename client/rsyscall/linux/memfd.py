"""`#include <linux/memfd.h>`"""

from __future__ import annotations

import enum
import os
from typing import Any, cast

from rsyscall import near
from rsyscall._raw import lib
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.near.sysif import In, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, perform
from rsyscall.struct import path_to_bytes
from rsyscall.sys.syscall import SYS

__all__ = ["MFD", "MemfdTask", "memfd_create_call"]


class MFD(enum.IntFlag):
    """Flags of memfd_create(2)."""

    NONE = 0
    CLOEXEC = lib.MFD_CLOEXEC
    ALLOW_SEALING = lib.MFD_ALLOW_SEALING
    HUGETLB = lib.MFD_HUGETLB
    HUGE_2MB = lib.MFD_HUGE_2MB
    HUGE_1GB = lib.MFD_HUGE_1GB


def _handle(task: Any, value: int, _outs: tuple[bytes, ...]) -> Any:
    return task.make_fd_handle(near.FileDescriptor(value))


@declares("memfd_create")
def memfd_create_call(
    name: SyscallArgument | str | os.PathLike[str], flags: MFD
) -> TypedCall[BaseFileDescriptor]:
    """memfd_create(2). name: a string, or its address."""
    if isinstance(name, str | os.PathLike):
        name = In(path_to_bytes(name, "name"))
    return TypedCall(SYS.memfd_create, (name, flags | MFD.CLOEXEC), _handle, handle=True)


class MemfdTask(FileDescriptorTask[T_fd]):
    """A task that can make anonymous files."""

    async def memfd_create(self, name: str | os.PathLike[str], flags: MFD = MFD.NONE) -> T_fd:
        """Make an anonymous file; it is closed on exec, as with MFD.CLOEXEC.

        name: for /proc only. ValueError if it contains a NUL; OSError as the call reports it. A
        checkpoint; if cancelled, nothing is made. memfd_create(2).
        """
        return cast("T_fd", await perform(self, memfd_create_call(name, flags)))

"""`#include <linux/memfd.h>`"""

from __future__ import annotations

import enum
import os
from typing import Any, cast

from rsyscall import near
from rsyscall._raw import lib
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.handle.pointer import WrittenPointer
from rsyscall.near.sysif import In, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, perform
from rsyscall.struct import path_to_bytes
from rsyscall.sys.syscall import SYS

__all__ = ["MFD", "MemfdTask", "memfd_create", "memfd_create_call"]

NameArgument = str | os.PathLike[str] | WrittenPointer[str] | WrittenPointer[os.PathLike[str]]


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

    async def memfd_create(self, name: NameArgument, flags: MFD = MFD.NONE) -> T_fd:
        """Make an anonymous file; see memfd_create of this module."""
        return await memfd_create(self, name, flags)


async def memfd_create(
    task: FileDescriptorTask[T_fd], name: NameArgument, flags: MFD = MFD.NONE
) -> T_fd:
    """Make an anonymous file in `task`; it is closed on exec, as with MFD.CLOEXEC.

    name: for /proc only. ValueError if it contains a NUL; UseAfterFreeError or
    AddressSpaceMismatchError for a pointer that the task cannot use; OSError as the call reports
    it. A checkpoint; if cancelled, nothing is made. memfd_create(2).
    """
    if isinstance(name, WrittenPointer):
        with name.borrow(task) as address:
            fd = await perform(task, memfd_create_call(address, flags))
    else:
        fd = await perform(task, memfd_create_call(name, flags))
    return cast("T_fd", fd)

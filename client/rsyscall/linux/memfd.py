"""`#include <linux/memfd.h>`"""

from __future__ import annotations

import enum
import os

from rsyscall import near
from rsyscall._raw import lib
from rsyscall.handle.fd import FileDescriptorTask, T_fd
from rsyscall.handle.pointer import WrittenPointer
from rsyscall.near.sysif import In
from rsyscall.struct import path_to_bytes
from rsyscall.sys.syscall import SYS

__all__ = ["MFD", "MemfdTask", "memfd_create"]

NameArgument = str | os.PathLike[str] | WrittenPointer[str] | WrittenPointer[os.PathLike[str]]


class MFD(enum.IntFlag):
    """Flags of memfd_create(2)."""

    NONE = 0
    CLOEXEC = lib.MFD_CLOEXEC
    ALLOW_SEALING = lib.MFD_ALLOW_SEALING
    HUGETLB = lib.MFD_HUGETLB
    HUGE_2MB = lib.MFD_HUGE_2MB
    HUGE_1GB = lib.MFD_HUGE_1GB


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
    flags |= MFD.CLOEXEC
    if isinstance(name, WrittenPointer):
        with name.borrow(task) as address:
            number = await task.sysif.syscall(SYS.memfd_create, address, flags)
    else:
        data = In(path_to_bytes(name, "name"))
        number = await task.sysif.syscall(SYS.memfd_create, data, flags)
    return task.make_fd_handle(near.FileDescriptor(number))

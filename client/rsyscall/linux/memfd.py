"""`#include <linux/memfd.h>`"""

from __future__ import annotations

import enum
import os

from rsyscall import near
from rsyscall._raw import lib
from rsyscall.handle.fd import FileDescriptorTask, T_fd
from rsyscall.near.sysif import In
from rsyscall.struct import path_to_bytes
from rsyscall.sys.syscall import SYS

__all__ = ["MFD", "MemfdTask"]


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

    async def memfd_create(self, name: str | os.PathLike[str], flags: MFD = MFD.NONE) -> T_fd:
        """Make an anonymous file; it is closed on exec, as with MFD.CLOEXEC.

        name: for /proc only. ValueError if it contains a NUL; OSError as the call reports it. A
        checkpoint; if cancelled, nothing is made. memfd_create(2).
        """
        data = In(path_to_bytes(name, "name"))
        number = await self.sysif.syscall(SYS.memfd_create, data, flags | MFD.CLOEXEC)
        return self.make_fd_handle(near.FileDescriptor(number))

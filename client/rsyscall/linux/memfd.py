"""`#include <linux/memfd.h>`"""

from __future__ import annotations

import enum
from typing import Any, cast

from rsyscall import near
from rsyscall._raw import lib
from rsyscall.handle.borrow import PathArgument, PathOrAddress, path_in
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.handle.pointer import WrittenPointer
from rsyscall.near.typed import (
    TypedCall,
    declares,
    perform_making,
)
from rsyscall.sys.syscall import SYS

__all__ = ["MFD", "MemfdTask", "memfd_create", "memfd_create_call"]


class MFD(enum.IntFlag):
    """Flags of memfd_create(2)."""

    NONE = 0
    CLOEXEC = lib.MFD_CLOEXEC
    ALLOW_SEALING = lib.MFD_ALLOW_SEALING
    HUGETLB = lib.MFD_HUGETLB
    HUGE_2MB = lib.MFD_HUGE_2MB
    HUGE_1GB = lib.MFD_HUGE_1GB


def _handle(task: Any, value: int, _outs: tuple[bytes, ...]) -> Any:
    return task.adopt_fd(near.FileDescriptor(value))


@declares("memfd_create")
def memfd_create_call(name: PathOrAddress, flags: MFD) -> TypedCall[BaseFileDescriptor]:
    """memfd_create(2). name: a string, or its address."""
    return TypedCall(
        SYS.memfd_create, (path_in(name, "name"), flags | MFD.CLOEXEC), _handle, handle=True
    )


class MemfdTask(FileDescriptorTask[T_fd]):
    """A task that can make anonymous files."""

    async def memfd_create(self, name: PathArgument, flags: MFD = MFD.NONE) -> T_fd:
        """Make an anonymous file; see memfd_create of this module."""
        return await memfd_create(self, name, flags)


async def memfd_create(
    task: FileDescriptorTask[T_fd], name: PathArgument, flags: MFD = MFD.NONE
) -> T_fd:
    """Make an anonymous file in `task`; it is closed on exec, as with MFD.CLOEXEC.

    name: for /proc only. ValueError if it contains a NUL; UseAfterFreeError or
    AddressSpaceMismatchError for a pointer that the task cannot use; OSError as the call reports
    it. A checkpoint; if cancelled, nothing is made. memfd_create(2).
    """
    if isinstance(name, WrittenPointer):
        with name.borrow(task) as address:
            fd = await perform_making(task, memfd_create_call(address, flags))
    else:
        fd = await perform_making(task, memfd_create_call(name, flags))
    return cast("T_fd", fd)

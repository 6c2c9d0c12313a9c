"""`#include <unistd.h>` and <fcntl.h>: files by name."""

from __future__ import annotations

import os
from typing import Self, cast

from rsyscall import near
from rsyscall.fcntl import AT, O
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.handle.pointer import WrittenPointer
from rsyscall.near.sysif import In, SyscallInterface
from rsyscall.struct import path_to_bytes
from rsyscall.sys.syscall import SYS

__all__ = ["FSFileDescriptor", "FSTask", "PathArgument"]

PathArgument = str | os.PathLike[str] | WrittenPointer[str]


async def _openat(
    task: FileDescriptorTask[BaseFileDescriptor],
    dirfd: near.FileDescriptor | AT,
    path: PathArgument,
    flags: O,
    mode: int,
) -> near.FileDescriptor:
    sysif: SyscallInterface = task.sysif
    flags |= O.CLOEXEC
    if isinstance(path, WrittenPointer):
        with path.borrow(task) as address:
            number = await sysif.syscall(SYS.openat, dirfd, address, flags, mode)
    else:
        data = In(path_to_bytes(path, "path"))
        number = await sysif.syscall(SYS.openat, dirfd, data, flags, mode)
    return near.FileDescriptor(number)


class FSFileDescriptor(BaseFileDescriptor):
    """A file descriptor of a file or a directory."""

    async def openat(self, path: PathArgument, flags: O, mode: int = 0o644) -> Self:
        """Open a file whose path, unless absolute, begins at this directory.

        It is closed on exec, as with O.CLOEXEC. mode: permission bits, if the file is created.
        InvalidHandleError; ValueError if the path contains a NUL; OSError as the call reports it. A
        checkpoint; if cancelled, nothing was opened. openat(2).
        """
        self._validate()
        fd = await _openat(self.task, self.near, path, flags, mode)
        return cast("Self", self.task.make_fd_handle(fd))

    async def ftruncate(self, length: int) -> None:
        """Make the file `length` bytes long.

        InvalidHandleError; ValueError for a negative length; OSError as the call reports it. A
        checkpoint; if cancelled, nothing has happened. ftruncate(2).
        """
        self._validate()
        if length < 0:
            raise ValueError(f"length: {length} is negative")
        await self.task.sysif.syscall(SYS.ftruncate, self.near, length)


class FSTask(FileDescriptorTask[T_fd]):
    """A task that can open files."""

    async def open(self, path: PathArgument, flags: O, mode: int = 0o644) -> T_fd:
        """Open a file; it is closed on exec, as with O.CLOEXEC.

        mode: permission bits, if the file is created. ValueError if the path contains a NUL;
        OSError as the call reports it. A checkpoint; if cancelled, nothing was opened. open(2).
        """
        return self.make_fd_handle(await _openat(self, AT.FDCWD, path, flags, mode))

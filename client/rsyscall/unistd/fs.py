"""`#include <unistd.h>` and <fcntl.h>: files by name."""

from __future__ import annotations

from typing import Any, Self, TypeVar, cast

from rsyscall import near
from rsyscall.fcntl import AT, O
from rsyscall.handle.borrow import PathArgument, PathOrAddress, path_in
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.handle.pointer import WrittenPointer
from rsyscall.near.sysif import SyscallArgument
from rsyscall.near.typed import (
    TypedCall,
    declares,
    nothing,
    perform,
    perform_making,
)
from rsyscall.sys.syscall import SYS
from rsyscall.unistd.dup import FcntlFileDescriptor
from rsyscall.unistd.names import NamesFileDescriptor, NamesTask

__all__ = [
    "FSFileDescriptor",
    "FSTask",
    "PathArgument",
    "ftruncate_call",
    "open",
    "open_call",
    "openat",
    "openat_call",
]

T_some = TypeVar("T_some", bound=BaseFileDescriptor)

_CLOEXEC = int(O.CLOEXEC)
_FDCWD = int(AT.FDCWD)
# Looked up once: a member of an enum takes as long as a call.
_OPENAT = SYS.openat


def _handle(task: Any, value: int, _outs: tuple[bytes, ...]) -> Any:
    return task.adopt_fd(near.FileDescriptor(value))


@declares("openat")
def openat_call(
    dirfd: SyscallArgument, path: PathOrAddress, flags: O, mode: int
) -> TypedCall[BaseFileDescriptor]:
    """openat(2). path: a name, or its address."""
    # As plain numbers: an IntFlag takes ten times as long to be combined.
    args = (dirfd, path_in(path, "path"), int(flags) | _CLOEXEC, mode)
    return TypedCall(_OPENAT, args, _handle, handle=True)


@declares("open")
def open_call(path: PathOrAddress, flags: O, mode: int) -> TypedCall[BaseFileDescriptor]:
    """open(2), by way of openat."""
    args = (_FDCWD, path_in(path, "path"), int(flags) | _CLOEXEC, mode)
    return TypedCall(_OPENAT, args, _handle, handle=True)


@declares("ftruncate")
def ftruncate_call(fd: SyscallArgument, length: SyscallArgument) -> TypedCall[None]:
    """ftruncate(2)."""
    if isinstance(length, int) and length < 0:
        raise ValueError(f"length: {length} is negative")
    return TypedCall(SYS.ftruncate, (fd, length), nothing)


async def _openat(
    task: FileDescriptorTask[T_fd],
    dirfd: near.FileDescriptor | AT,
    path: PathArgument,
    flags: O,
    mode: int,
) -> T_fd:
    if isinstance(path, WrittenPointer):
        with path.borrow(task) as address:
            fd = await perform_making(task, openat_call(dirfd, address, flags, mode))
    else:
        fd = await perform_making(task, openat_call(dirfd, path, flags, mode))
    return cast("T_fd", fd)


class FSFileDescriptor(NamesFileDescriptor, FcntlFileDescriptor):
    """A file descriptor of a file or a directory."""

    async def openat(self, path: PathArgument, flags: O, mode: int = 0o644) -> Self:
        """Open a file whose path, unless absolute, begins at this directory.

        It is closed on exec, as with O.CLOEXEC. mode: permission bits, if the file is created.
        InvalidHandleError; ValueError if the path contains a NUL; OSError as the call reports it. A
        checkpoint; if cancelled, nothing was opened. openat(2).
        """
        self._validate()
        return cast("Self", await _openat(self.task, self.near, path, flags, mode))

    async def ftruncate(self, length: int) -> None:
        """Make the file `length` bytes long.

        InvalidHandleError; ValueError for a negative length; OSError as the call reports it. A
        checkpoint; if cancelled, nothing has happened. ftruncate(2).
        """
        self._validate()
        await perform(self.task, ftruncate_call(self.near, length))


async def openat(self: T_some, path: PathArgument, flags: O, mode: int = 0o644) -> T_some:
    """The same as self.openat, of any descriptor. openat(2)."""
    with self.borrow(self.task) as number:
        return cast("T_some", await _openat(self.task, number, path, flags, mode))


async def open(self: FSTask[T_fd], path: PathArgument, flags: O, mode: int = 0o644) -> T_fd:
    """The same as self.open. open(2)."""
    return await self.open(path, flags, mode)


class FSTask(NamesTask[T_fd]):
    """A task that can open files."""

    async def open(self, path: PathArgument, flags: O, mode: int = 0o644) -> T_fd:
        """Open a file; it is closed on exec, as with O.CLOEXEC.

        mode: permission bits, if the file is created. ValueError if the path contains a NUL;
        OSError as the call reports it. A checkpoint; if cancelled, nothing was opened. open(2).
        """
        return await _openat(self, AT.FDCWD, path, flags, mode)

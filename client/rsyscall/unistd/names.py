"""`#include <unistd.h>`, <stdio.h>, <sys/stat.h>: the names of files, and what they lead to."""

from __future__ import annotations

import enum
import os
from typing import TypeVar, overload

from rsyscall._raw import lib
from rsyscall.fcntl import AT
from rsyscall.handle.borrow import PathArgument, PathOrAddress, path_in, perform_with
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.handle.pointer import Pointer, ReadablePointer
from rsyscall.near.sysif import Ret, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, nothing, number
from rsyscall.sys.syscall import SYS

__all__ = [
    "OK",
    "RENAME",
    "NamesFileDescriptor",
    "NamesTask",
    "access_call",
    "chmod_call",
    "chown_call",
    "faccessat_call",
    "fchmod_call",
    "fchown_call",
    "link_call",
    "linkat_call",
    "mkdir_call",
    "mkdirat_call",
    "readlink_call",
    "readlinkat_call",
    "rename_call",
    "renameat_call",
    "rmdir_call",
    "rmdirat_call",
    "symlink_call",
    "symlinkat_call",
    "unlink_call",
    "unlinkat_call",
]

T = TypeVar("T")
_FDCWD = int(AT.FDCWD)
_PATH_MAX = 4096


class OK(enum.IntFlag):
    """What access(2) asks for; F: only whether the file is there."""

    F = 0
    X = lib.X_OK
    W = lib.W_OK
    R = lib.R_OK


class RENAME(enum.IntFlag):
    """Flags of renameat2(2)."""

    NONE = 0
    NOREPLACE = lib.RENAME_NOREPLACE
    EXCHANGE = lib.RENAME_EXCHANGE
    WHITEOUT = lib.RENAME_WHITEOUT


def _target(_task: object, _value: int, outs: tuple[bytes, ...]) -> str:
    return os.fsdecode(outs[0])


@declares("readlinkat")
def readlinkat_call(dirfd: SyscallArgument, path: PathOrAddress) -> TypedCall[str]:
    """readlinkat(2). path: a name, or its address; likewise in all that follow."""
    args = (dirfd, path_in(path, "path"), Ret(_PATH_MAX), _PATH_MAX)
    return TypedCall(SYS.readlinkat, args, _target, outs=True)


def _readlinkat_into(
    dirfd: SyscallArgument, path: PathOrAddress, buf: SyscallArgument, size: int
) -> TypedCall[int]:
    return TypedCall(SYS.readlinkat, (dirfd, path_in(path, "path"), buf, size), number)


@declares("readlink")
def readlink_call(path: PathOrAddress) -> TypedCall[str]:
    """readlink(2), by way of readlinkat."""
    return readlinkat_call(_FDCWD, path)


@declares("faccessat")
def faccessat_call(
    dirfd: SyscallArgument, ptr: PathOrAddress, mode: int, flags: int = 0
) -> TypedCall[None]:
    """faccessat2(2)."""
    return TypedCall(SYS.faccessat2, (dirfd, path_in(ptr, "ptr"), mode, flags), nothing)


@declares("access")
def access_call(path: PathOrAddress, mode: int, flags: int = 0) -> TypedCall[None]:
    """access(2), by way of faccessat2."""
    args = (_FDCWD, path_in(path, "path"), mode, flags)
    return TypedCall(SYS.faccessat2, args, nothing)


@declares("mkdirat")
def mkdirat_call(dirfd: SyscallArgument, path: PathOrAddress, mode: int = 0o755) -> TypedCall[None]:
    """mkdirat(2)."""
    return TypedCall(SYS.mkdirat, (dirfd, path_in(path, "path"), mode), nothing)


@declares("mkdir")
def mkdir_call(path: PathOrAddress, mode: int = 0o755) -> TypedCall[None]:
    """mkdir(2), by way of mkdirat."""
    return mkdirat_call(_FDCWD, path, mode)


@declares("unlinkat")
def unlinkat_call(
    dirfd: SyscallArgument, path: PathOrAddress, flags: AT = AT.NONE
) -> TypedCall[None]:
    """unlinkat(2)."""
    return TypedCall(SYS.unlinkat, (dirfd, path_in(path, "path"), flags), nothing)


@declares("unlink")
def unlink_call(path: PathOrAddress) -> TypedCall[None]:
    """unlink(2), by way of unlinkat."""
    return unlinkat_call(_FDCWD, path)


@declares("rmdirat")
def rmdirat_call(dirfd: SyscallArgument, path: PathOrAddress) -> TypedCall[None]:
    """unlinkat(2) with AT.REMOVEDIR."""
    return unlinkat_call(dirfd, path, AT.REMOVEDIR)


@declares("rmdir")
def rmdir_call(path: PathOrAddress) -> TypedCall[None]:
    """rmdir(2), by way of unlinkat."""
    return rmdirat_call(_FDCWD, path)


@declares("linkat")
def linkat_call(
    olddirfd: SyscallArgument | None,
    oldpath: PathOrAddress,
    newdirfd: SyscallArgument | None,
    newpath: PathOrAddress,
    flags: AT = AT.NONE,
) -> TypedCall[None]:
    """linkat(2). None is the working directory."""
    old, new = (_FDCWD if fd is None else fd for fd in (olddirfd, newdirfd))
    args = (old, path_in(oldpath, "oldpath"), new, path_in(newpath, "newpath"), flags)
    return TypedCall(SYS.linkat, args, nothing)


@declares("link")
def link_call(oldpath: PathOrAddress, newpath: PathOrAddress) -> TypedCall[None]:
    """link(2), by way of linkat."""
    return linkat_call(None, oldpath, None, newpath)


@declares("renameat")
def renameat_call(
    olddirfd: SyscallArgument | None,
    oldpath: PathOrAddress,
    newdirfd: SyscallArgument | None,
    newpath: PathOrAddress,
    flags: RENAME = RENAME.NONE,
) -> TypedCall[None]:
    """renameat2(2). None is the working directory."""
    old, new = (_FDCWD if fd is None else fd for fd in (olddirfd, newdirfd))
    args = (old, path_in(oldpath, "oldpath"), new, path_in(newpath, "newpath"), flags)
    return TypedCall(SYS.renameat2, args, nothing)


@declares("rename")
def rename_call(oldpath: PathOrAddress, newpath: PathOrAddress) -> TypedCall[None]:
    """rename(2), by way of renameat2."""
    return renameat_call(None, oldpath, None, newpath)


@declares("symlinkat")
def symlinkat_call(
    dirfd: SyscallArgument, target: PathOrAddress, linkpath: PathOrAddress
) -> TypedCall[None]:
    """symlinkat(2)."""
    args = (path_in(target, "target"), dirfd, path_in(linkpath, "linkpath"))
    return TypedCall(SYS.symlinkat, args, nothing)


@declares("symlink")
def symlink_call(target: PathOrAddress, linkpath: PathOrAddress) -> TypedCall[None]:
    """symlink(2), by way of symlinkat."""
    return symlinkat_call(_FDCWD, target, linkpath)


@declares("fchmod")
def fchmod_call(fd: SyscallArgument, mode: int) -> TypedCall[None]:
    """fchmod(2)."""
    return TypedCall(SYS.fchmod, (fd, mode), nothing)


@declares("chmod")
def chmod_call(path: PathOrAddress, mode: int) -> TypedCall[None]:
    """chmod(2), by way of fchmodat."""
    return TypedCall(SYS.fchmodat, (_FDCWD, path_in(path, "path"), mode), nothing)


def _owner(name: str, value: int) -> int:
    if not -1 <= value < 2**32 - 1:
        raise ValueError(f"{name}: {value} is not from -1 to {2**32 - 2}")
    return value & 0xFFFFFFFF


@declares("fchown")
def fchown_call(fd: SyscallArgument, owner: int, group: int) -> TypedCall[None]:
    """fchown(2)."""
    return TypedCall(SYS.fchown, (fd, _owner("owner", owner), _owner("group", group)), nothing)


@declares("chown")
def chown_call(path: PathOrAddress, owner: int, group: int, flags: AT = AT.NONE) -> TypedCall[None]:
    """chown(2), by way of fchownat."""
    ids = (_owner("owner", owner), _owner("group", group))
    return TypedCall(SYS.fchownat, (_FDCWD, path_in(path, "path"), *ids, flags), nothing)


class NamesFileDescriptor(BaseFileDescriptor):
    """A file descriptor of a directory, at which paths begin unless they are absolute.

    All of these raise InvalidHandleError; ValueError if a path contains a NUL; FDTableMismatchError
    for a directory of another table; UseAfterFreeError or AddressSpaceMismatchError for a pointer
    that the task cannot use; and OSError as the call reports it. They are checkpoints; if
    cancelled, nothing has happened.
    """

    @overload
    async def readlinkat(self, path: PathArgument) -> str: ...
    @overload
    async def readlinkat(
        self, path: PathArgument, buf: Pointer[T]
    ) -> tuple[ReadablePointer[T], Pointer[T]]: ...

    async def readlinkat(
        self, path: PathArgument, buf: Pointer[T] | None = None
    ) -> str | tuple[ReadablePointer[T], Pointer[T]]:
        """What a symbolic link says; or put that into memory, and return what is filled, and the
        rest. With an empty path, that of the descriptor itself. readlinkat(2).
        """
        if buf is None:
            return await perform_with(self.task, readlinkat_call, self, path)
        n = await perform_with(self.task, _readlinkat_into, self, path, buf, buf.size())
        return buf.readable_split(n)

    async def faccessat(self, ptr: PathArgument, mode: OK, flags: AT = AT.NONE) -> None:
        """Return if the file may be used so: with the real ids, or the effective ones if flags
        have AT.EACCESS; otherwise OSError, mostly PermissionError or FileNotFoundError.

        faccessat(2).
        """
        await perform_with(self.task, faccessat_call, self, ptr, mode, flags)

    async def mkdirat(self, path: PathArgument, mode: int = 0o755) -> None:
        """Make a directory with these permission bits, but for those of the umask. mkdirat(2)."""
        await perform_with(self.task, mkdirat_call, self, path, mode)

    async def unlinkat(self, path: PathArgument, flags: AT = AT.NONE) -> None:
        """Remove a name, or with AT.REMOVEDIR an empty directory. unlinkat(2)."""
        await perform_with(self.task, unlinkat_call, self, path, flags)

    async def rmdirat(self, path: PathArgument) -> None:
        """Remove an empty directory. unlinkat(2)."""
        await perform_with(self.task, rmdirat_call, self, path)

    async def linkat(
        self,
        oldpath: PathArgument,
        newdirfd: BaseFileDescriptor | None,
        newpath: PathArgument,
        flags: AT = AT.NONE,
    ) -> None:
        """Give a file another name, in another directory; None: the working directory.

        linkat(2).
        """
        await perform_with(self.task, linkat_call, self, oldpath, newdirfd, newpath, flags)

    async def renameat(
        self,
        oldpath: PathArgument,
        newdirfd: BaseFileDescriptor | None,
        newpath: PathArgument,
        flags: RENAME = RENAME.NONE,
    ) -> None:
        """Move a file, into another directory; None: the working directory. rename(2)."""
        await perform_with(self.task, renameat_call, self, oldpath, newdirfd, newpath, flags)

    async def symlinkat(self, target: PathArgument, linkpath: PathArgument) -> None:
        """Make a symbolic link in this directory. symlinkat(2)."""
        await perform_with(self.task, symlinkat_call, self, target, linkpath)

    async def fchmod(self, mode: int) -> None:
        """Change the permission bits of the file. fchmod(2)."""
        await perform_with(self.task, fchmod_call, self, mode)

    async def fchown(self, owner: int, group: int) -> None:
        """Change the owner and group of the file, by their ids; -1: leave it. fchown(2)."""
        await perform_with(self.task, fchown_call, self, owner, group)


class NamesTask(FileDescriptorTask[T_fd]):
    """A task that can change the names of files; see NamesFileDescriptor.

    Paths begin at the working directory, unless they are absolute.
    """

    @overload
    async def readlink(self, path: PathArgument) -> str: ...
    @overload
    async def readlink(
        self, path: PathArgument, buf: Pointer[T]
    ) -> tuple[ReadablePointer[T], Pointer[T]]: ...

    async def readlink(
        self, path: PathArgument, buf: Pointer[T] | None = None
    ) -> str | tuple[ReadablePointer[T], Pointer[T]]:
        """What a symbolic link says; or put that into memory, and return what is filled, and the
        rest. A checkpoint. readlink(2).
        """
        if buf is None:
            return await perform_with(self, readlink_call, path)
        n = await perform_with(self, _readlinkat_into, _FDCWD, path, buf, buf.size())
        return buf.readable_split(n)

    async def access(self, path: PathArgument, mode: int, flags: int = 0) -> None:
        """Return if the file may be used so; mode: of OK; see faccessat. A checkpoint.

        access(2).
        """
        await perform_with(self, access_call, path, mode, flags)

    async def mkdir(self, path: PathArgument, mode: int = 0o755) -> None:
        """Make a directory with these permission bits, but for those of the umask. A checkpoint.

        mkdir(2).
        """
        await perform_with(self, mkdir_call, path, mode)

    async def unlink(self, path: PathArgument) -> None:
        """Remove a name. A checkpoint. unlink(2)."""
        await perform_with(self, unlink_call, path)

    async def rmdir(self, path: PathArgument) -> None:
        """Remove an empty directory. A checkpoint. rmdir(2)."""
        await perform_with(self, rmdir_call, path)

    async def link(self, oldpath: PathArgument, newpath: PathArgument) -> None:
        """Give a file another name. A checkpoint. link(2)."""
        await perform_with(self, link_call, oldpath, newpath)

    async def linkat(
        self,
        olddirfd: BaseFileDescriptor | None,
        oldpath: PathArgument,
        newdirfd: BaseFileDescriptor | None,
        newpath: PathArgument,
        flags: AT = AT.NONE,
    ) -> None:
        """Give a file another name; the paths begin at directories, None: the working directory.

        A checkpoint. linkat(2).
        """
        await perform_with(self, linkat_call, olddirfd, oldpath, newdirfd, newpath, flags)

    async def rename(self, oldpath: PathArgument, newpath: PathArgument) -> None:
        """Move a file, in the place of another if there is one. A checkpoint. rename(2)."""
        await perform_with(self, rename_call, oldpath, newpath)

    async def symlink(self, target: PathArgument, linkpath: PathArgument) -> None:
        """Make a symbolic link. A checkpoint. symlink(2)."""
        await perform_with(self, symlink_call, target, linkpath)

    async def chmod(self, path: PathArgument, mode: int) -> None:
        """Change the permission bits of a file. A checkpoint. chmod(2)."""
        await perform_with(self, chmod_call, path, mode)

    async def chown(self, path: PathArgument, owner: int, group: int, flags: AT = AT.NONE) -> None:
        """Change the owner and group of a file, by their ids; -1: leave it. A checkpoint.

        flags: AT.SYMLINK_NOFOLLOW for a link itself. chown(2).
        """
        await perform_with(self, chown_call, path, owner, group, flags)

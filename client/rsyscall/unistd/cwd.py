"""`#include <unistd.h>`: from where a process sees its files."""

from __future__ import annotations

import os

from rsyscall.handle.borrow import PathArgument, PathOrAddress, path_in, perform_with
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.near.sysif import In, Ret, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, nothing, perform
from rsyscall.sys.syscall import SYS

__all__ = [
    "CWDTask",
    "chdir_call",
    "chroot_call",
    "fchdir_call",
    "getcwd_call",
    "sethostname_call",
]

_PATH_MAX = 4096


@declares("chdir")
def chdir_call(path: PathOrAddress) -> TypedCall[None]:
    """chdir(2). path: a name, or its address."""
    return TypedCall(SYS.chdir, (path_in(path, "path"),), nothing)


@declares("fchdir")
def fchdir_call(fd: SyscallArgument) -> TypedCall[None]:
    """fchdir(2)."""
    return TypedCall(SYS.fchdir, (fd,), nothing)


@declares("chroot")
def chroot_call(path: PathOrAddress) -> TypedCall[None]:
    """chroot(2). path: a name, or its address."""
    return TypedCall(SYS.chroot, (path_in(path, "path"),), nothing)


def _cwd(_task: object, _value: int, outs: tuple[bytes, ...]) -> str:
    return os.fsdecode(outs[0].removesuffix(b"\0"))


@declares("getcwd")
def getcwd_call() -> TypedCall[str]:
    """getcwd(2)."""
    return TypedCall(SYS.getcwd, (Ret(_PATH_MAX), _PATH_MAX), _cwd, outs=True)


@declares("sethostname")
def sethostname_call(name: str | bytes) -> TypedCall[None]:
    """sethostname(2)."""
    data = os.fsencode(name)
    return TypedCall(SYS.sethostname, (In(data), len(data)), nothing)


class CWDTask(FileDescriptorTask[T_fd]):
    """A task with a working directory, a root directory and a host name.

    Those that take a path: ValueError if it contains a NUL; UseAfterFreeError or
    AddressSpaceMismatchError for a pointer that the task cannot use. All end with OSError as the
    call reports it, and are checkpoints; if cancelled, nothing has changed.
    """

    async def chdir(self, path: PathArgument) -> None:
        """Change the working directory, for all that share it. A checkpoint. chdir(2)."""
        await perform_with(self, chdir_call, path)

    async def fchdir(self, fd: BaseFileDescriptor) -> None:
        """Change the working directory to one that is open.

        InvalidHandleError or FDTableMismatchError. A checkpoint. chdir(2).
        """
        await perform_with(self, fchdir_call, fd)

    async def chroot(self, path: PathArgument) -> None:
        """Change the root directory. A server inside the interpreter refuses (PermissionError).

        A checkpoint. chroot(2).
        """
        await perform_with(self, chroot_call, path)

    async def getcwd(self) -> str:
        """The working directory; it begins with "(unreachable)" if the root does not lead there.

        A checkpoint. getcwd(2).
        """
        return await perform(self, getcwd_call())

    async def sethostname(self, name: str | bytes) -> None:
        """Change the host name of its UTS namespace. A checkpoint. sethostname(2)."""
        await perform(self, sethostname_call(name))

"""`#include <unistd.h>` and <fcntl.h>: what concerns a descriptor, and not its file."""

from __future__ import annotations

from typing import Any, Self, TypeVar, cast

import trio

from rsyscall import near
from rsyscall._raw import lib
from rsyscall.fcntl import FD, F, O
from rsyscall.handle.borrow import perform_with
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.near.sysif import SyscallArgument
from rsyscall.near.typed import (
    TypedCall,
    declares,
    nothing,
    number,
    perform,
    perform_making,
)
from rsyscall.sys.syscall import SYS

__all__ = [
    "FcntlFileDescriptor",
    "disable_cloexec_call",
    "dup2_call",
    "dup3_call",
    "dup_call",
    "enable_cloexec_call",
    "fcntl_call",
]

T_fd = TypeVar("T_fd", bound=BaseFileDescriptor)


def _handle(task: Any, value: int, _outs: tuple[bytes, ...]) -> Any:
    return task.adopt_fd(near.FileDescriptor(value))


@declares("fcntl")
def fcntl_call(fd: SyscallArgument, cmd: F, arg: SyscallArgument | None = None) -> TypedCall[int]:
    """fcntl(2)."""
    return TypedCall(SYS.fcntl, (fd, F(cmd), 0 if arg is None else arg), number)


@declares("dup")
def dup_call(fd: SyscallArgument) -> TypedCall[BaseFileDescriptor]:
    """fcntl(2) with F_DUPFD_CLOEXEC."""
    return TypedCall(SYS.fcntl, (fd, lib.F_DUPFD_CLOEXEC, 0), _handle, handle=True)


@declares("dup3")
def dup3_call(fd: SyscallArgument, newfd: SyscallArgument, flags: int) -> TypedCall[int]:
    """dup3(2)."""
    return TypedCall(SYS.dup3, (fd, newfd, flags), number)


@declares("dup2")
def dup2_call(fd: SyscallArgument, newfd: SyscallArgument) -> TypedCall[int]:
    """dup2(2) of two that are different, by way of dup3."""
    return dup3_call(fd, newfd, 0)


@declares("disable_cloexec")
def disable_cloexec_call(fd: SyscallArgument) -> TypedCall[None]:
    """fcntl(2) with F.SETFD and no flag."""
    return TypedCall(SYS.fcntl, (fd, F.SETFD, FD.NONE), nothing)


@declares("enable_cloexec")
def enable_cloexec_call(fd: SyscallArgument) -> TypedCall[None]:
    """fcntl(2) with F.SETFD and FD.CLOEXEC."""
    return TypedCall(SYS.fcntl, (fd, F.SETFD, FD.CLOEXEC), nothing)


class FcntlFileDescriptor(BaseFileDescriptor):
    """A file descriptor that can be duplicated, and has flags.

    All of these raise InvalidHandleError, and OSError as the call reports it. They are checkpoints;
    if cancelled, nothing has happened.
    """

    async def fcntl(self, cmd: F, arg: int | None = None) -> int:
        """Ask for, or change, a flag or a size; see F. fcntl(2)."""
        self._validate()
        return await perform(self.task, fcntl_call(self.near, cmd, arg))

    async def disable_cloexec(self) -> None:
        """Let it stay open when the process executes another program.

        From now on it also stays open when its last handle is gone. fcntl(2).
        """
        self._validate()
        await perform(self.task, disable_cloexec_call(self.near))
        self.keep()

    async def enable_cloexec(self) -> None:
        """Have it closed when the process executes another program. fcntl(2)."""
        self._validate()
        await perform(self.task, enable_cloexec_call(self.near))
        self.keep(False)

    async def as_argument(self) -> int:
        """Its number, for the command line of a program that is to inherit it: disable_cloexec.

        fcntl(2).
        """
        await self.disable_cloexec()
        return int(self.near)

    async def dup(self) -> Self:
        """Another descriptor of the same open file; it is closed on exec. fcntl(2)."""
        file = self.file
        made = await perform_making(self.task, dup_call(self.near))
        made.opens(file)
        return cast("Self", made)

    async def dup3(self, newfd: T_fd, flags: int) -> T_fd:
        """Have another descriptor mean the same open file as this one, in place of its own.

        flags: O.CLOEXEC or 0. Returns newfd, which stays valid; without O.CLOEXEC it also stays
        open when its last handle is gone. SharedHandleError if other valid handles name it, which
        would then mean another file; OwnDescriptorError if the process itself needs it;
        FDTableMismatchError; ValueError if it is this very descriptor. dup(2).
        """
        file = self.file
        newfd.check_only()
        with newfd.borrow(self.task) as number:
            same = number == self.near
        if same:
            raise ValueError(f"newfd: {newfd} is the descriptor itself")
        await perform_with(self.task, dup3_call, self, newfd, int(flags))
        newfd.replaced(file, kept=not int(flags) & O.CLOEXEC)
        return newfd

    async def dup2(self, newfd: T_fd) -> T_fd:
        """dup3 without flags: newfd stays open on exec. Nothing happens if it is this descriptor.

        Returns newfd. See dup3. dup(2).
        """
        self._validate()
        if newfd.task.fd_table is self.task.fd_table and newfd.near == self.near:
            await trio.lowlevel.checkpoint()
            return newfd
        return await self.dup3(newfd, O.NONE)

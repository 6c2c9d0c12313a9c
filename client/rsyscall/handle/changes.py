"""What changes a task as a whole, and with it what we believe of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import rsyscall.far
from rsyscall.near.sysif import SyscallHangup, SyscallSendError
from rsyscall.sys.syscall import SYS

if TYPE_CHECKING:
    from rsyscall.command import Command
    from rsyscall.fcntl import AT
    from rsyscall.handle.fd import BaseFileDescriptor
    from rsyscall.handle.pointer import WrittenPointer
    from rsyscall.sched import CLONE
    from rsyscall.unistd.exec import ArgList

__all__ = ["ChangingTask", "provide", "way"]

#: How it is done, by those who make children and know what else there is to do.
_ways: dict[str, Callable[..., Awaitable[Any]]] = {}


def provide(**ways: Callable[..., Awaitable[Any]]) -> None:
    """Say how it is done."""
    _ways.update(ways)


def way(how: str) -> Callable[..., Awaitable[Any]]:
    """How it is done."""
    return _ways[how]


class ChangingTask(rsyscall.far.Task):
    """A task that can leave its namespaces, and end.

    Its process has methods of the same names, which can do more.
    """

    async def unshare(self, flags: CLONE) -> None:
        """Begin new namespaces; see Process.unshare. ValueError for CLONE.FILES. unshare(2)."""
        await self._change("unshare", flags)

    async def setns(self, fd: BaseFileDescriptor, nstype: CLONE) -> None:
        """Enter a namespace; see Process.setns. setns(2)."""
        await self._change("setns", fd, nstype)

    async def _change(self, how: str, *args: Any) -> None:
        await _ways[how](self, *args)

    async def unshare_files(self) -> None:
        """Get a table of file descriptors of its own; see Process.unshare_files. unshare(2)."""
        await self._change("unshare_files")

    async def execve(
        self,
        filename: WrittenPointer[Any],
        argv: WrittenPointer[ArgList],
        envp: WrittenPointer[ArgList],
        command: Command | None = None,
    ) -> None:
        """Replace the program, with what is in the task's memory already; see execveat."""
        await self.execveat(None, filename, argv, envp, command=command)

    async def execveat(
        self,
        fd: BaseFileDescriptor | None,
        pathname: WrittenPointer[Any],
        argv: WrittenPointer[ArgList],
        envp: WrittenPointer[ArgList],
        flags: AT | None = None,
        command: Command | None = None,
    ) -> None:
        """Replace the program, with what is in the task's memory already.

        fd: a handle of a directory, or with AT.EMPTY_PATH of the file itself; None: the working
        directory. pathname, argv, envp: in the task's memory. command: what is shown of it. A
        child's own methods of these names take strings, and return what is to be waited for; as
        with them no signal is blocked then, and a child's parent learns of success for certain. Of
        a task that is nobody's child here, it is taken for success that its connection ends.

        UseAfterFreeError, AddressSpaceMismatchError, and what a handle raises; OSError as the call
        reports it, and then the task is as it was; PermissionError for the interpreter's own
        process, which os.execve can replace; SyscallHangup if it has died. A checkpoint; if
        cancelled, it has not exec'd. execveat(2).
        """
        await self._change("execveat", fd, pathname, argv, envp, flags, command)

    async def exit(self, status: int) -> None:
        """End the process with a status from 0 to 255; see Process.exit. _exit(2)."""
        if not 0 <= status <= 255:
            raise ValueError(f"status: {status} is not from 0 to 255")
        try:
            await self.sysif.syscall(SYS.exit_group, status)
        except SyscallSendError:
            raise
        except SyscallHangup:
            pass  # as it should

"""What changes a task as a whole, and with it what we believe of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import rsyscall.far
from rsyscall.near.sysif import SyscallHangup, SyscallSendError
from rsyscall.sys.syscall import SYS

if TYPE_CHECKING:
    from rsyscall.handle.fd import BaseFileDescriptor
    from rsyscall.sched import CLONE

__all__ = ["ChangingTask", "provide"]

#: How it is done, by those who make children and know what else there is to do.
_ways: dict[str, Callable[..., Awaitable[None]]] = {}


def provide(**ways: Callable[..., Awaitable[None]]) -> None:
    """Say how it is done."""
    _ways.update(ways)


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

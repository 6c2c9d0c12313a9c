"""Calls that go to a server on another machine, over whatever carries bytes there.

No descriptor passes, and no memory is common: what would need that is refused here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

import trio

from rsyscall._checkpoint import checkpoint
from rsyscall._core import Frame as BatchFrame
from rsyscall._core import Outcome
from rsyscall.far import AddressSpace
from rsyscall.near.sysif import Reply, SyscallArgument, SyscallError
from rsyscall.sys.syscall import SYS
from rsyscall.sysif._frames import Dead
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall_protocol import Batch, Batched, Limits

__all__ = ["ElsewhereInterface"]

#: WEXITED, WNOHANG, WNOWAIT and __WALL of waitid(2).
_LOOK = 4 | 1 | 0x01000000 | 0x40000000
#: How long to wait before a child is looked at again that nothing tells of, in seconds.
_PAUSE = 0.05


def _no_descriptors() -> OSError:
    return OSError(
        errno.EOPNOTSUPP,
        "file descriptors do not pass between this machine and another one; nothing was sent",
    )


class ElsewhereInterface(RemoteSyscallInterface):
    """The door of a process on another machine."""

    def __init__(self, sock: socket.socket, *, post_mortem: Callable[[], Awaitable[str]]) -> None:
        """Take over the socket of what carries our bytes; nothing is sent before `start`."""
        # Nothing comes back that soon.
        super().__init__(sock, limits=Limits(fds=0), post_mortem=post_mortem, spin=0)
        self._copies: set[int] = set()

    def own(self, space: AddressSpace) -> None:
        """Say whose memory it is: nobody else's here, and only frames lead there."""
        space.can_share = False
        self.reach(space, owner=True)

    async def call(
        self,
        number: SYS | int,
        args: Sequence[SyscallArgument] = (),
        *,
        fds: Sequence[int] = (),
        return_fd: bool = False,
    ) -> Reply:
        """See SyscallInterface; OSError (EOPNOTSUPP) where descriptors were to pass."""
        if (fds or return_fd) and self._dead is None:
            await checkpoint()
            raise _no_descriptors()
        return await super().call(number, args, fds=fds, return_fd=return_fd)

    async def batch(self, request: Batch) -> Batched:
        """See SyscallInterface; OSError (EOPNOTSUPP) where descriptors were to pass."""
        if request.fds and self._dead is None:
            await checkpoint()
            raise _no_descriptors()
        return await super().batch(request)

    async def batch_fds(
        self, frame: BatchFrame, request: Batch, fds: tuple[int, ...]
    ) -> Outcome | Batched:
        """See RemoteSyscallInterface."""
        del frame, fds
        return await self.batch(request)

    async def bring_pidfd(self, there: int, pid: int, parent: int = 0) -> int:
        """What stands here for a pidfd there: readable once the child is over, and no more.

        Not a checkpoint.
        """
        del pid, parent  # which are others here
        here = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        copy = os.dup(here)
        self._copies.add(copy)
        # Of no task of the user's: it lasts as long as the child.
        trio.lowlevel.spawn_system_task(self._tell, there, copy, name="the end of a child")
        return here

    async def _tell(self, pidfd: int, copy: int) -> None:
        """Have the copy readable when a child is over, or nobody can tell any more."""
        try:
            with contextlib.suppress(OSError, SyscallError):
                while not await self.wait_readable(pidfd):
                    if await self._is_over(pidfd):
                        break
                    await trio.sleep(_PAUSE)
        finally:
            if copy in self._copies:  # else we are a forked copy
                self._copies.discard(copy)
                os.eventfd_write(copy, 1)
                os.close(copy)

    async def _is_over(self, pidfd: int) -> bool:
        siginfo, _ = await self.wait_child(pidfd, _LOOK)
        return any(siginfo)

    def after_fork(self) -> None:
        """See RequestLink."""
        super().after_fork()
        while self._copies:
            os.close(self._copies.pop())

    def give_up(self, reason: str) -> None:
        """Close the socket, if that was not done before: nobody is at the other end any more."""
        if self._dead is None:
            self._die(Dead(reason))

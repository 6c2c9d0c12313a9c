"""Calls that go to a server on another machine, over whatever carries bytes there.

No descriptor passes, and no memory is common: what would need that is refused here.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Sequence

from rsyscall._checkpoint import checkpoint
from rsyscall._core import Frame as BatchFrame
from rsyscall._core import Outcome
from rsyscall.far import AddressSpace
from rsyscall.near.sysif import Reply, SyscallArgument
from rsyscall.sys.syscall import SYS
from rsyscall.sysif._frames import Dead
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall_protocol import Batch, Batched, Limits

__all__ = ["ElsewhereInterface"]


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

    def give_up(self, reason: str) -> None:
        """Close the socket, if that was not done before: nobody is at the other end any more."""
        if self._dead is None:
            self._die(Dead(reason))

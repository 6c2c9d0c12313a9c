"""What is on its way through a connection, and why one is over."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from rsyscall.near.sysif import (
    ProtocolHangup,
    SyscallArgument,
    SyscallHangup,
    SyscallSendError,
    SyscallSendHangup,
)
from rsyscall_protocol import Batched, RemoteProtocolError, Result

__all__ = ["Dead", "Frame", "Waiter", "unknown_end"]


class Waiter:
    """A request on its way: whether its first byte has left, and the reply once it is there.

    The reply is an OSError if it could not be sent, and nothing of it was.

    call: its number and arguments, if it is one call. begun: in a ring, how many bytes had been
    written before it; the server has it once it has read more.
    """

    __slots__ = ("begun", "call", "cancelled", "held", "id", "reply", "sent", "task")

    def __init__(self, id_: int) -> None:
        """Nothing has happened yet to the request with this id."""
        self.id = id_
        #: When its interruption was asked for, if it was, by the machine's clock.
        self.cancelled: float | None = None
        self.reply: Result | Batched | OSError | None = None
        self.sent = False
        self.begun: int | None = None
        self.task: trio.lowlevel.Task | None = None
        self.held = False  # the server does nothing for it: it is answered some time or other
        self.call: tuple[int, Sequence[SyscallArgument]] | None = None

    def refusal(self, exc: OSError) -> OSError:
        """The reply, to be raised; not named here any more: see rsyscall._errors."""
        self.reply = None
        return exc


class Frame:
    """A frame that has not left completely."""

    __slots__ = ("data", "fds", "waiter")

    def __init__(
        self, data: bytes | bytearray, fds: tuple[int, ...], waiter: Waiter | None
    ) -> None:
        """fds: to be sent with the first byte."""
        self.data = memoryview(data)
        self.fds = fds
        self.waiter = waiter


async def unknown_end() -> str:
    """All that is known of the end of a server that is not our child."""
    return "the server closed the connection"


class Dead:
    """Why a connection is over, and the exceptions that say so: a fresh one for every waiter."""

    def __init__(self, reason: str, cause: RemoteProtocolError | None = None) -> None:
        """No reason: it is to be found out."""
        self.reason = reason
        self.cause = cause

    def hangup(self) -> SyscallHangup:
        """For a request that was sent."""
        if self.cause is not None:
            return ProtocolHangup(self.cause.code, self.reason, self.cause.offset)
        return SyscallHangup(self.reason)

    def not_sent(self) -> SyscallSendError:
        """For one that was not."""
        return SyscallSendHangup(f"not sent: {self.reason}")

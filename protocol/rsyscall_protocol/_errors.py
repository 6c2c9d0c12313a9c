"""Whose fault it was: our own use of the protocol, or what the peer sent."""

from __future__ import annotations

from rsyscall_protocol._constants import ErrorCode


class ProtocolError(Exception):
    """The rules of the protocol were broken.

    code: which rule. offset: where in the stream, in bytes, the offending frame begins.
    """

    def __init__(self, code: ErrorCode, text: str, offset: int = 0) -> None:
        """Say what went wrong in text."""
        super().__init__(text)
        self.code = code
        self.text = text
        self.offset = offset

    def __str__(self) -> str:
        """Name the rule, the reason and the place."""
        return f"{self.code.name}: {self.text} (at byte {self.offset})"


class LocalProtocolError(ProtocolError):
    """We were about to break the rules; nothing was sent and the connection is as it was."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules, or says that we did; the connection is over."""

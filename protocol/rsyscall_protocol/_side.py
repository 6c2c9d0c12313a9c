"""What goes over the socket beside a ring: doorbells, and descriptors for frames of the ring."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Any, NoReturn

from rsyscall_protocol._codec import decode
from rsyscall_protocol._constants import ErrorCode, MessageType, Size
from rsyscall_protocol._encode import HEADER, HEADER_TAG, encode
from rsyscall_protocol._errors import RemoteProtocolError
from rsyscall_protocol._events import Bell, Error, Fds
from rsyscall_protocol._limits import Limits

_ALLOWED = frozenset({MessageType.BELL, MessageType.FDS, MessageType.ERROR})
_BELL = HEADER.pack(HEADER_TAG, 2) + encode(Bell())
_BELLS = re.compile(b"(?:" + re.escape(_BELL) + b")+")


class SideChannel:
    """One end of the socket beside a ring, without any I/O.

    `fds_frame` is what to send with descriptors, `fds_sent` says that it was; `BELL` is a doorbell.
    `receive` takes what one
    read brought, and returns whole packets of descriptors and an Error, if there is one.
    """

    BELL = _BELL

    def __init__(self, limits: Limits) -> None:
        """Nothing has gone either way yet."""
        self._limits = limits
        self._buffer = bytearray()
        self._position = 0
        self._sent = 0
        self._received = 0
        self._packets: deque[tuple[int, int, list[Any]]] = deque()
        # Kept here until they are handed out: what follows in the same read may break the rules.
        self._complete: list[list[Any]] = []

    def fds_frame(self, count: int) -> bytes:
        """The frame that must go with the next packet of `count` descriptors."""
        body = encode(Fds(self._sent, count))
        return HEADER.pack(HEADER_TAG, len(body)) + body

    def fds_sent(self) -> None:
        """The next packet has been sent."""
        self._sent += 1

    def receive(self, data: bytes, fds: Sequence[Any] = ()) -> tuple[list[list[Any]], Error | None]:
        """Take what one read brought: complete packets, and the peer's last word.

        RemoteProtocolError if the peer broke the rules; `take_unclaimed` has the descriptors then.
        """
        if fds:
            start = self._position + len(self._buffer)
            self._packets.append((start, start + len(data), list(fds)))
        self._buffer += data
        while len(self._buffer) >= Size.HEADER:
            if bells := _BELLS.match(self._buffer):  # all at once: there may be any number
                del self._buffer[: bells.end()]
                self._position += bells.end()
                continue
            tag, length = HEADER.unpack_from(self._buffer)
            if tag != HEADER_TAG or length > Size.SIDE_MAX:
                self._refuse("beside the ring: neither a BELL nor an FDS")
            if len(self._buffer) < Size.HEADER + length:
                break
            body = bytes(self._buffer[Size.HEADER : Size.HEADER + length])
            event = decode(body, self._limits, _ALLOWED)
            start = self._position
            del self._buffer[: Size.HEADER + length]
            self._position += Size.HEADER + length
            if isinstance(event, Error):
                return self._take_complete(), event
            if isinstance(event, Fds):
                self._complete.append(self._claim(event, start))
        if self._packets and self._packets[0][1] <= self._position:
            self._refuse("beside the ring: file descriptors without an FDS")
        return self._take_complete(), None

    def _take_complete(self) -> list[list[Any]]:
        packets, self._complete = self._complete, []
        return packets

    def take_unclaimed(self) -> list[Any]:
        """Descriptors of packets that nobody has been given, for the caller to close."""
        fds = [fd for packet in self._take_complete() for fd in packet]
        while self._packets:
            fds += self._packets.popleft()[2]
        return fds

    def _claim(self, event: Fds, start: int) -> list[Any]:
        if event.number != self._received:
            self._refuse(f"FDS: packet {event.number} where {self._received} was due")
        if not self._packets or not self._packets[0][0] <= start < self._packets[0][1]:
            self._refuse("FDS: without file descriptors")
        if len(self._packets[0][2]) != event.count:
            self._refuse(f"FDS: not {event.count} file descriptors")
        self._received += 1
        return self._packets.popleft()[2]

    def _refuse(self, text: str) -> NoReturn:
        raise RemoteProtocolError(ErrorCode.FDS, text, self._position)

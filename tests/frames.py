"""Frames and sockets, as every kind of test needs them."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios


def frame(body: bytes) -> bytes:
    """A body behind its header, whether the protocol knows it or not."""
    return b"\xce" + struct.pack(">I", len(body)) + body


def unread(sock: socket.socket) -> int:
    """How much of what was sent is still in the queue: not bytes, but zero when all is read."""
    (n,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return int(n)

"""The stub without our client: frames on a socket, made beforehand."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Generator, Sequence

from rsyscall import stub_path
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import Call, Hello, encode
from rsyscall_protocol._encode import HEADER, HEADER_TAG

__all__ = ["RawStub", "raw_stub", "start_stub"]

_SECONDS = 60


class RawStub:
    """A stub that has said HELLO, its pid, and the blocking socket to it."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self.sock = sock
        self.pid = pid
        self._next_id = 1000  # so that ids keep their length for long
        sock.sendall(_frame(encode(Hello())))
        header = sock.recv(HEADER.size, socket.MSG_WAITALL)
        sock.recv(HEADER.unpack(header)[1], socket.MSG_WAITALL)

    def calls(self, n: int) -> list[bytes]:
        """The frames of n calls of getppid, each with an id of its own."""
        first, self._next_id = self._next_id, self._next_id + n
        if first < 65536 <= self._next_id:
            first, self._next_id = 65536, 65536 + n
        return [_frame(encode(Call(first + i, SYS.getppid, ()))) for i in range(n)]

    def exchange(self, frame: bytes) -> bytes:
        """Send a call, and return its reply, which comes in one piece."""
        self.sock.sendall(frame)
        return self.sock.recv(64)


def _frame(body: bytes) -> bytes:
    return HEADER.pack(HEADER_TAG, len(body)) + body


def start_stub(under: Sequence[str] = ()) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A stub that ends when the socket is closed, which is then to be waited for.

    under: a command that runs it.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        fd = theirs.fileno()
        command = [*under, str(stub_path()), "--fd", str(fd)]
        return ours, subprocess.Popen(command, pass_fds=[fd], stdin=subprocess.DEVNULL)


@contextlib.contextmanager
def raw_stub(under: Sequence[str] = ()) -> Generator[RawStub]:
    """Start one. It ends with the block. under: a command that runs it."""
    ours, process = start_stub(under)
    with ours:
        try:
            ours.settimeout(_SECONDS)
            stub = RawStub(ours, process.pid)
            ours.setblocking(True)
            yield stub
        finally:
            ours.close()
            process.wait(_SECONDS)

"""A process behind a UNIX socket, such as systemd listens on."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncGenerator

import trio

from rsyscall.sysif.memory import peer_pid
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall.tasks._foreign import foreign_process
from rsyscall.thread import Process

__all__ = ["connect"]


def _parse(address: str) -> str:
    scheme, _, path = address.partition(":")
    if scheme != "unix" or not path:
        raise ValueError(f"address: {address!r} is not of the form unix:/path")
    if "\0" in path:
        raise ValueError(f"address: embedded null byte in {address!r}")
    # @name is how systemd and ss write a name in the abstract namespace.
    return "\0" + path[1:] if path.startswith("@") else path


@contextlib.asynccontextmanager
async def connect(address: str, *, ring: bool | None = None) -> AsyncGenerator[Process]:
    """Connect to a server and get the process it has for us.

    address: "unix:/path", or "unix:@name" for the abstract namespace. ring: whether calls go
    through shared memory; None: if the server can. ValueError if the address is not of that form;
    OSError, with the failed step as a note, if the socket cannot be connected; SyscallHangup if the
    server ends before it has said HELLO, ProtocolHangup if it refuses. A checkpoint; if cancelled,
    the connection is closed. Leaving the block says BYE and closes it. unix(7).
    """
    path = _parse(address)
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            await sock.connect(path)
        except OSError as exc:
            exc.add_note(f"while connecting to {address}")
            raise
        plain = socket.socket(fileno=os.dup(sock.fileno()))
    finally:
        sock.close()
    pid = peer_pid(plain)
    sysif = RemoteSyscallInterface(plain)
    try:
        hello = await sysif.start(ring=ring)
        process = foreign_process(sysif, hello)
        sysif.reach(process.task.address_space, lambda: (pid, int(process.pid)), owner=True)
        try:
            yield process
        finally:
            await process.finish_children()
    finally:
        await sysif.close_interface()

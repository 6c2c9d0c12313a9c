"""Client and server in one process, over a real socketpair."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import warnings
from collections.abc import AsyncGenerator

import trio

from rsyscall import near
from rsyscall._raw import lib
from rsyscall.handle import Task
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall.tasks.local import local_process
from rsyscall.thread import Process

__all__ = ["open_pair"]

_JOIN_SECONDS = 5

#: The servers' ends of the pairs that are open, by device and inode.
_ends: dict[tuple[int, int], int] = {}


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _after_fork_in_child() -> None:
    # Their threads are the parent's. What a server has closed already may be another file by now.
    for identity, fd in _ends.items():
        with contextlib.suppress(OSError):
            if _identity(fd) == identity:
                os.close(fd)
    _ends.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


@contextlib.asynccontextmanager
async def open_pair() -> AsyncGenerator[Process]:
    """A process whose calls are served by a thread of this one.

    Everything that a separate stub does is done: frames, socket, the same server loop. Its far
    objects are those of local_process. The server refuses (EPERM) what the interpreter would not
    survive: exec, exit, unshare, ids and capabilities, closing descriptors it did not make.
    SyscallHangup if the exchange of HELLOs fails. A checkpoint.
    """
    ours, theirs = socket.socketpair()
    fd = theirs.detach()
    identity = _identity(fd)
    _ends[identity] = fd
    thread = threading.Thread(target=lib.rs_serve, args=(fd,), name="rsyscall-server", daemon=True)
    sysif = RemoteSyscallInterface(ours)
    thread.start()
    try:
        hello = await sysif.start()
        local = local_process.task
        yield Process(
            Task(
                sysif,
                near.Pid(int(hello.info["pid"])),
                local.fd_table,
                local.address_space,
                local.pidns,
                mountns=local.mountns,
            )
        )
    finally:
        await sysif.close_interface()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(thread.join, _JOIN_SECONDS)
        if not thread.is_alive():
            _ends.pop(identity, None)
        else:
            warnings.warn(
                "the server's thread is still blocked in a call", ResourceWarning, stacklevel=2
            )

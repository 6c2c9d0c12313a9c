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
from rsyscall._checkpoint import shield
from rsyscall._raw import ffi, lib
from rsyscall.handle import Task
from rsyscall.near.sysif import SyscallError
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall.sysif.ring import SharedHalves
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

#: Memory that a server's thread still uses, which must not be unmapped under its hands.
_in_use: list[SharedHalves] = []


@contextlib.asynccontextmanager
async def open_pair(*, ring: bool | None = None) -> AsyncGenerator[Process]:
    """A process whose calls are served by a thread of this one.

    Everything that a separate stub does is done: frames, socket or ring (None: ring), the same
    server loop. Its far objects are those of local_process. The server refuses (EPERM) what the
    interpreter would not survive: exec, exit, unshare, ids and capabilities, closing descriptors it
    did not make. SyscallHangup if the exchange of HELLOs fails. A checkpoint.
    """
    ours, theirs = socket.socketpair()
    fd = theirs.detach()
    identity = _identity(fd)
    _ends[identity] = fd
    halves = SharedHalves() if ring is not False else None
    address, size = (halves.address, halves.size) if halves is not None else (0, 0)
    memory = ffi.cast("void *", address), size
    thread = threading.Thread(
        target=lib.rs_serve_shared, args=(fd, *memory), name="rsyscall-server", daemon=True
    )
    sysif = RemoteSyscallInterface(ours)
    thread.start()
    try:
        hello = await sysif.start(ring=ring, halves=halves)
        local = local_process.task
        sysif.reach(local.address_space)
        task = Task(
            sysif,
            near.Pid(int(hello.info["pid"])),
            local.fd_table,
            local.address_space,
            local.pidns,
            mountns=local.mountns,
        )
        process = Process(task)
        process.made_by(local_process)
        try:
            yield process
        finally:  # what it has made it closes, while it can
            with shield(), contextlib.suppress(SyscallError):
                await task.fd_table.gc_using_task(task)
    finally:
        await sysif.close_interface()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(thread.join, _JOIN_SECONDS)
        if not thread.is_alive():
            _ends.pop(identity, None)
            if halves is not None:
                halves.close()
        else:
            if halves is not None:
                _in_use.append(halves)
            warnings.warn(
                "the server's thread is still blocked in a call", ResourceWarning, stacklevel=2
            )

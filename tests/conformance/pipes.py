"""Pipes whose other end the test itself holds, whichever process is under test."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import AsyncGenerator

from rsyscall import near
from rsyscall.far import THIS_MACHINE
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor, Task
from rsyscall.near.sysif import Out
from rsyscall.sys.syscall import SYS


@contextlib.asynccontextmanager
async def pipe_to(task: Task) -> AsyncGenerator[tuple[FileDescriptor, int]]:
    """A handle to read from, and our own descriptor to write to; a read blocks until that."""
    if task.machine is not THIS_MACHINE:  # as far as is known
        ours, writer = os.pipe2(os.O_CLOEXEC)
        try:
            async with await task.open(f"/proc/{os.getpid()}/fd/{ours}", O.RDONLY) as reader:
                os.close(ours)
                yield reader, writer
        finally:
            os.close(writer)
        return
    reply = await task.sysif.call(SYS.pipe2, (Out(8), O.CLOEXEC))
    reader, theirs = (
        task.make_fd_handle(near.FileDescriptor(fd)) for fd in struct.unpack("ii", reply.outs[0])
    )
    async with reader:
        async with theirs:
            sent = await task.sysif.call(SYS.dup, (theirs.near,), return_fd=True)
        assert sent.fd is not None
        try:
            yield reader, sent.fd
        finally:
            os.close(sent.fd)

"""A process that shares nothing with ours, as far as we know."""

from __future__ import annotations

import contextlib
import os
import socket

from rsyscall import far, near
from rsyscall.environ import Environment
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor, Task
from rsyscall.handle.transfer import transfer
from rsyscall.near.sysif import SyscallInterface
from rsyscall.tasks.local import local_process
from rsyscall.thread import Process
from rsyscall_protocol import Hello

__all__ = ["Reached", "bring_here", "foreign_process", "own_strings", "read_environ"]


def foreign_process(
    sysif: SyscallInterface, hello: Hello, machine: far.Machine = far.THIS_MACHINE
) -> Process:
    """A process with namespaces of its own."""
    pid = int(hello.info.get("pid", 0))
    task = Task(
        sysif,
        near.Pid(pid),
        far.FDTable(pid),
        far.AddressSpace(pid),
        far.PidNamespace(pid),
        mountns=far.MountNamespace(pid),
    )
    task.machine = machine
    process = Process(task)
    process.made_by(local_process)
    return process


async def bring_here(fd: FileDescriptor) -> socket.socket:
    """A connected UNIX socket of some process, as one of ours; that of the process stays open.

    OSError if it cannot come here. To be shielded.
    """
    number = int(fd.near)
    if fd.task.sysif.immediate:
        number = os.dup(number)
    else:
        number = await transfer(fd.task, number, local_process.task)
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, number)


class Reached:
    """A process that ends with its connection, and so with whoever holds that.

    process: which. It has children of its own, which have connections of their own.
    """

    def __init__(self, process: Process) -> None:
        """Nothing is done yet."""
        self.process = process

    async def finish(self) -> None:
        """End its children, and close its connection. Not a checkpoint."""
        try:
            await self.process.finish_children()
        finally:
            await self.process.task.sysif.close_interface()


async def own_strings(process: Process, name: str) -> list[str]:
    """What a file in /proc/self has, as strings that end with NUL: "cmdline", "environ".

    OSError as the calls report it. A checkpoint.
    """
    async with await process.task.open(f"/proc/self/{name}", O.RDONLY | O.CLOEXEC) as file:
        data = await process.read_to_eof(file)
    return [os.fsdecode(part) for part in data.split(b"\0")[:-1]]


async def read_environ(process: Process) -> None:
    """Have it begin programs with the environment that it was begun with itself, if it can tell.

    A checkpoint.
    """
    with contextlib.suppress(OSError):
        pairs = [line.partition("=") for line in await own_strings(process, "environ")]
        found = {name: value for name, equals, value in pairs if name and equals}
        process.environ = Environment(process.task, found)

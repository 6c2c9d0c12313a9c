"""A process that shares nothing with ours, as far as we know."""

from __future__ import annotations

from rsyscall import far, near
from rsyscall.handle import Task
from rsyscall.near.sysif import SyscallInterface
from rsyscall.tasks.local import local_process
from rsyscall.thread import Process
from rsyscall_protocol import Hello


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

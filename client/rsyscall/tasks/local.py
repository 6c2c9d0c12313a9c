"""The interpreter itself."""

from __future__ import annotations

import contextlib
import os

from rsyscall import far, near
from rsyscall.handle import Task
from rsyscall.sysif.direct import DirectSyscallInterface
from rsyscall.thread import Process

__all__ = ["local_process"]


def _make() -> Process:
    pid = os.getpid()
    sysif = DirectSyscallInterface()
    space = far.AddressSpace(pid, ours=True)
    sysif.reach(space)
    return Process(
        Task(
            sysif,
            near.Pid(pid),
            far.FDTable(pid),
            space,
            far.PidNamespace(pid, ours=True),
            mountns=far.MountNamespace(pid),
        )
    )


#: The interpreter's own process: its calls are made directly.
local_process: Process = _make()


def _after_fork_in_child() -> None:
    # The same object, but another process now: what was the parent's must not be taken for ours.
    for number in local_process.task.fd_table.own:
        with contextlib.suppress(OSError):
            os.close(number)
    old = local_process.task  # others may still have it
    old.fd_table.disarm()
    if isinstance(old.sysif, DirectSyscallInterface):
        old.sysif.reach(old.address_space)
    fresh = _make()
    local_process.__dict__.clear()
    local_process.__dict__.update(fresh.__dict__)


os.register_at_fork(after_in_child=_after_fork_in_child)

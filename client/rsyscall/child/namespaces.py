"""Which far object each flag of clone, unshare and setns moves."""

from __future__ import annotations

import functools

from rsyscall import far
from rsyscall._descriptors import Held
from rsyscall.handle import Task
from rsyscall.handle.process import children_of
from rsyscall.sched import CLONE

__all__ = ["NAMESPACES", "inherit", "move", "unshare_table"]

_Kind = (
    type[far.MountNamespace]
    | type[far.NetworkNamespace]
    | type[far.UTSNamespace]
    | type[far.IPCNamespace]
    | type[far.CgroupNamespace]
    | type[far.UserNamespace]
)

_KINDS: dict[CLONE, tuple[str, _Kind]] = {
    CLONE.NEWNS: ("mountns", far.MountNamespace),
    CLONE.NEWNET: ("netns", far.NetworkNamespace),
    CLONE.NEWUTS: ("utsns", far.UTSNamespace),
    CLONE.NEWIPC: ("ipcns", far.IPCNamespace),
    CLONE.NEWCGROUP: ("cgroupns", far.CgroupNamespace),
    CLONE.NEWUSER: ("userns", far.UserNamespace),
}

# As plain numbers, which take a tenth of the time.
_BITS = [(int(flag), name, kind) for flag, (name, kind) in _KINDS.items()]
_NEWPID, _FS = int(CLONE.NEWPID), int(CLONE.FS)

#: The flags for namespaces that a process itself can begin in.
NAMESPACES: CLONE = functools.reduce(CLONE.__or__, _KINDS, CLONE.NEWPID)


def inherit(child: Task, parent: Task, flags: CLONE) -> None:
    """Put a new task, made as the parent's child, where clone(2) with these flags puts it."""
    pid, bits = child.fd_table.creator_pid, int(flags)
    for flag, name, kind in _BITS:
        if bits & flag:
            setattr(child, name, kind(pid))
    if bits & _NEWPID:
        child.pidns = child.pidns_for_children = far.PidNamespace(pid)
    if bits & _FS:
        child.fs = parent.fs


def move(task: Task, flags: CLONE) -> None:
    """Put a task into new namespaces, or others that nobody else is known to be in."""
    for child in children_of(task):
        child.settle()
    pid = task.near_process.id
    for flag, (name, kind) in _KINDS.items():
        if flag in flags:
            setattr(task, name, kind(pid))
    if CLONE.NEWPID in flags:
        task.pidns_for_children = far.PidNamespace(pid)
    if CLONE.NEWTIME in flags:
        task.timens_for_children = far.TimeNamespace(pid)
    if flags & (CLONE.FS | CLONE.NEWNS | CLONE.NEWUSER):  # the kernel unshares it with them
        task.fs = far.FSInformation(pid)


def unshare_table(task: Task, kept: dict[int, Held], own: set[int]) -> None:
    """Give a task a table of its own that began as a copy: its handles go with it.

    kept: what is open in it, as `kept` of child.fds said before. own: the numbers that are ours.
    """
    before = task.fd_table
    table = far.FDTable(task.near_process.id)
    table.inherited, table.own = kept, own
    before.tasks.discard(task)
    task.fd_table = table
    table.tasks.add(task)
    before.move(task, table)

"""Handles of processes: a pid, and the task that may signal it or wait for it."""

from __future__ import annotations

from rsyscall.handle._child_pid import ChildPid, children_of
from rsyscall.handle._early import Early
from rsyscall.handle._pid import ChildBusyError, ChildDeadError, ChildPidError, DeadTaskError, Pid
from rsyscall.handle._raw_child import PidTask, ProcessPid

__all__ = [
    "ChildBusyError",
    "ChildDeadError",
    "ChildPid",
    "ChildPidError",
    "DeadTaskError",
    "Early",
    "Pid",
    "PidTask",
    "ProcessPid",
    "children_of",
]

"""A process by its pid, and what can be wrong with a child's."""

from __future__ import annotations

import rsyscall.far
import rsyscall.near
from rsyscall._raw import lib
from rsyscall.near.sysif import SyscallSendHangup
from rsyscall.path import Path
from rsyscall.signal import SIG
from rsyscall.sys.syscall import SYS

__all__ = ["ChildBusyError", "ChildDeadError", "ChildPidError", "DeadTaskError", "Pid"]


class ChildPidError(Exception):
    """A child's pid cannot be used the way it was."""


class ChildDeadError(ChildPidError):
    """The child is dead: its pid may be somebody else's by now."""


class ChildBusyError(ChildPidError):
    """The pid is used by a call that could end the child, and must not be by another."""


class DeadTaskError(ChildDeadError, SyscallSendHangup):
    """A call was to be made in a task that is over: it has exec'd, exited or died."""


class Pid:
    """A process, named by its pid in the pid namespace of some task.

    task: through which it is used. near: the pid. Nothing keeps the pid from becoming another
    process's when this one has ended; see ChildPid.
    """

    def __init__(self, task: rsyscall.far.Task, near: rsyscall.near.Pid) -> None:
        """Nothing is asked of the kernel."""
        self.task = task
        self.near = near

    async def kill(self, sig: SIG | int) -> None:
        """Send a signal. OSError as the call reports it. A checkpoint. kill(2)."""
        await self.task.sysif.syscall(SYS.kill, self.near, sig)

    async def killpg(self, sig: SIG | int) -> None:
        """Send a signal to the process group that has its number. A checkpoint. kill(2)."""
        await self.task.sysif.syscall(SYS.kill, -self.near.id, sig)

    async def getpgid(self) -> rsyscall.near.Pgid:
        """Its process group. OSError as the call reports it. A checkpoint. getpgid(2)."""
        return rsyscall.near.Pgid(await self.task.sysif.syscall(SYS.getpgid, self.near))

    async def setpriority(self, prio: int) -> None:
        """Change its priority, from -20 (highest) to 19.

        OSError as the call reports it. A checkpoint; if cancelled, nothing has changed.
        setpriority(2).
        """
        await self.task.sysif.syscall(SYS.setpriority, lib.PRIO_PROCESS, self.near, prio)

    async def getpriority(self) -> int:
        """Its priority, from -20 (highest) to 19.

        OSError as the call reports it. A checkpoint. getpriority(2).
        """
        # The kernel counts the other way round, so that no priority is an error.
        return 20 - await self.task.sysif.syscall(SYS.getpriority, lib.PRIO_PROCESS, self.near)

    def as_proc_path(self) -> Path:
        """Its directory in /proc, for who sees it by the same number. proc(5)."""
        return Path(f"/proc/{self.near.id}")

    def __str__(self) -> str:
        """For people."""
        return f"{type(self).__name__}({self.task}, {self.near})"

    def __repr__(self) -> str:
        """The same as str()."""
        return str(self)

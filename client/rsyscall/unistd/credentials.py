"""`#include <unistd.h>`: who a process is."""

from __future__ import annotations

import rsyscall.far
from rsyscall import near
from rsyscall.near.typed import TypedCall, declares, number, perform
from rsyscall.sys.syscall import SYS

__all__ = ["CredentialsTask", "getgid_call", "getpid_call", "getppid_call", "getuid_call"]


def _pid(_task: object, value: int, _outs: tuple[bytes, ...]) -> near.Pid:
    return near.Pid(value)


_GETPID = TypedCall(SYS.getpid, (), _pid)
_GETPPID = TypedCall(SYS.getppid, (), _pid)
_GETUID = TypedCall(SYS.getuid, (), number)
_GETGID = TypedCall(SYS.getgid, (), number)


@declares("getpid")
def getpid_call() -> TypedCall[near.Pid]:
    """getpid(2)."""
    return _GETPID


@declares("getppid")
def getppid_call() -> TypedCall[near.Pid]:
    """getppid(2)."""
    return _GETPPID


@declares("getuid")
def getuid_call() -> TypedCall[int]:
    """getuid(2)."""
    return _GETUID


@declares("getgid")
def getgid_call() -> TypedCall[int]:
    """getgid(2)."""
    return _GETGID


class CredentialsTask(rsyscall.far.Task):
    """A task that can be asked who it is."""

    async def getpid(self) -> near.Pid:
        """Its process id, in its own pid namespace. A checkpoint. getpid(2)."""
        return await perform(self, _GETPID)

    async def getppid(self) -> near.Pid:
        """Its parent's process id; 0 if that is in another pid namespace. A checkpoint.

        getppid(2).
        """
        return await perform(self, _GETPPID)

    async def getuid(self) -> int:
        """Its real user id. A checkpoint. getuid(2)."""
        return await perform(self, _GETUID)

    async def getgid(self) -> int:
        """Its real group id. A checkpoint. getgid(2)."""
        return await perform(self, _GETGID)

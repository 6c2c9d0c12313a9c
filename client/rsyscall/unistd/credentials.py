"""`#include <unistd.h>`: who a process is."""

from __future__ import annotations

import rsyscall.far
from rsyscall import near
from rsyscall.sys.syscall import SYS

__all__ = ["CredentialsTask"]


class CredentialsTask(rsyscall.far.Task):
    """A task that can be asked who it is."""

    async def getpid(self) -> near.Pid:
        """Its process id, in its own pid namespace. A checkpoint. getpid(2)."""
        return near.Pid(await self.sysif.syscall(SYS.getpid))

    async def getppid(self) -> near.Pid:
        """Its parent's process id; 0 if that is in another pid namespace. A checkpoint.

        getppid(2).
        """
        return near.Pid(await self.sysif.syscall(SYS.getppid))

    async def getuid(self) -> int:
        """Its real user id. A checkpoint. getuid(2)."""
        return await self.sysif.syscall(SYS.getuid)

    async def getgid(self) -> int:
        """Its real group id. A checkpoint. getgid(2)."""
        return await self.sysif.syscall(SYS.getgid)

"""`#include <unistd.h>`: who a process is."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable
from typing import Protocol, TypeAlias

import rsyscall.far
from rsyscall import near
from rsyscall._raw import lib
from rsyscall.abi import ABI, NATIVE
from rsyscall.near.sysif import In, Out, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, nothing, number, perform
from rsyscall.sys.syscall import SYS

__all__ = [
    "CredentialsTask",
    "HasPid",
    "PidArgument",
    "getegid_call",
    "geteuid_call",
    "getgid_call",
    "getgroups_call",
    "getpgid_call",
    "getpid_call",
    "getppid_call",
    "getresgid_call",
    "getresuid_call",
    "getsid_call",
    "getuid_call",
    "setgid_call",
    "setgroups_call",
    "setpgid_call",
    "setregid_call",
    "setresgid_call",
    "setresuid_call",
    "setreuid_call",
    "setsid_call",
    "setuid_call",
]


class HasPid(Protocol):
    """A handle of a process."""

    @property
    def near(self) -> near.Pid:
        """Its process id, as the task that uses it sees it."""
        ...


#: A process or process group by its id, or a process by a handle.
PidArgument: TypeAlias = near.Pid | near.Pgid | HasPid | int


def _pid(_task: object, value: int, _outs: tuple[bytes, ...]) -> near.Pid:
    return near.Pid(value)


def _pgid(_task: object, value: int, _outs: tuple[bytes, ...]) -> near.Pgid:
    return near.Pgid(value)


def _given(pid: PidArgument) -> SyscallArgument:
    return pid if isinstance(pid, int | near.Pid | near.Pgid) else pid.near


_GETPID = TypedCall(SYS.getpid, (), _pid)
_GETPPID = TypedCall(SYS.getppid, (), _pid)
_GETUID = TypedCall(SYS.getuid, (), number)
_GETGID = TypedCall(SYS.getgid, (), number)
_GETEUID = TypedCall(SYS.geteuid, (), number)
_GETEGID = TypedCall(SYS.getegid, (), number)
_SETSID = TypedCall(SYS.setsid, (), number)
#: As many groups as a process can have, and as many as it is expected to have.
_MOST_GROUPS, _GROUPS = 65536, 64


def _ids(task: rsyscall.far.Task, _value: int, outs: tuple[bytes, ...]) -> tuple[int, int, int]:
    real, effective, saved = (struct.unpack(f"{task.abi.order}I", out)[0] for out in outs)
    return real, effective, saved


def _groups(task: rsyscall.far.Task, value: int, outs: tuple[bytes, ...]) -> list[int]:
    return list(struct.unpack_from(f"{task.abi.order}{value}I", outs[0]))


def _changed(task: rsyscall.far.Task, _value: int, _outs: tuple[bytes, ...]) -> None:
    space = task.address_space
    if not space.sharers or task.sysif.immediate:
        return
    # That has ended that we can be looked into, until the last such child is gone: child.dumpable
    # tells more. A spawn that was under way may have let it begin again.
    space.ids_changed = True
    if space.ours:
        lib.rs_direct(SYS.prctl, lib.PR_SET_DUMPABLE, 0, 0, 0, 0, 0)


def _check(name: str, value: int, *, unchanged: bool = False) -> int:
    # The kernel would take the lower 32 bits of it, and -1 for "no change".
    if not (0 <= value < 2**32 - 1 or (unchanged and value == -1)):
        raise ValueError(f"{name}: {value} is not from 0 to {2**32 - 2}")
    return value & 0xFFFFFFFF


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


@declares("geteuid")
def geteuid_call() -> TypedCall[int]:
    """geteuid(2)."""
    return _GETEUID


@declares("getegid")
def getegid_call() -> TypedCall[int]:
    """getegid(2)."""
    return _GETEGID


@declares("getresuid")
def getresuid_call() -> TypedCall[tuple[int, int, int]]:
    """getresuid(2)."""
    return TypedCall(SYS.getresuid, (Out(4), Out(4), Out(4)), _ids, outs=True)


@declares("getresgid")
def getresgid_call() -> TypedCall[tuple[int, int, int]]:
    """getresgid(2)."""
    return TypedCall(SYS.getresgid, (Out(4), Out(4), Out(4)), _ids, outs=True)


@declares("getgroups")
def getgroups_call(most: int = _MOST_GROUPS) -> TypedCall[list[int]]:
    """getgroups(2)."""
    return TypedCall(SYS.getgroups, (most, Out(4 * most)), _groups, outs=True)


@declares("setuid")
def setuid_call(uid: int) -> TypedCall[None]:
    """setuid(2)."""
    return TypedCall(SYS.setuid, (_check("uid", uid),), _changed, handle=True)


@declares("setgid")
def setgid_call(gid: int) -> TypedCall[None]:
    """setgid(2)."""
    return TypedCall(SYS.setgid, (_check("gid", gid),), _changed, handle=True)


@declares("setreuid")
def setreuid_call(ruid: int, euid: int) -> TypedCall[None]:
    """setreuid(2)."""
    ids = (("ruid", ruid), ("euid", euid))
    args = tuple(_check(name, value, unchanged=True) for name, value in ids)
    return TypedCall(SYS.setreuid, args, _changed, handle=True)


@declares("setregid")
def setregid_call(rgid: int, egid: int) -> TypedCall[None]:
    """setregid(2)."""
    ids = (("rgid", rgid), ("egid", egid))
    args = tuple(_check(name, value, unchanged=True) for name, value in ids)
    return TypedCall(SYS.setregid, args, _changed, handle=True)


@declares("setresuid")
def setresuid_call(ruid: int, euid: int, suid: int) -> TypedCall[None]:
    """setresuid(2)."""
    ids = (("ruid", ruid), ("euid", euid), ("suid", suid))
    args = tuple(_check(name, value, unchanged=True) for name, value in ids)
    return TypedCall(SYS.setresuid, args, _changed, handle=True)


@declares("setresgid")
def setresgid_call(rgid: int, egid: int, sgid: int) -> TypedCall[None]:
    """setresgid(2)."""
    ids = (("rgid", rgid), ("egid", egid), ("sgid", sgid))
    args = tuple(_check(name, value, unchanged=True) for name, value in ids)
    return TypedCall(SYS.setresgid, args, _changed, handle=True)


@declares("setgroups")
def setgroups_call(groups: Iterable[int], *, abi: ABI = NATIVE) -> TypedCall[None]:
    """setgroups(2)."""
    numbers = [_check("groups", gid) for gid in groups]
    data = struct.pack(f"{abi.order}{len(numbers)}I", *numbers)
    return TypedCall(SYS.setgroups, (len(numbers), In(data)), nothing)


@declares("getpgid")
def getpgid_call(pid: PidArgument = 0) -> TypedCall[near.Pgid]:
    """getpgid(2)."""
    return TypedCall(SYS.getpgid, (_given(pid),), _pgid)


@declares("setpgid")
def setpgid_call(pgid: PidArgument | None = None, pid: PidArgument = 0) -> TypedCall[None]:
    """setpgid(2)."""
    return TypedCall(SYS.setpgid, (_given(pid), 0 if pgid is None else _given(pgid)), nothing)


@declares("getsid")
def getsid_call(pid: PidArgument = 0) -> TypedCall[near.Pid]:
    """getsid(2)."""
    return TypedCall(SYS.getsid, (_given(pid),), _pid)


@declares("setsid")
def setsid_call() -> TypedCall[int]:
    """setsid(2)."""
    return _SETSID


class CredentialsTask(rsyscall.far.Task):
    """A task that can be asked who it is, and told to be somebody else.

    Whatever changes ids is refused in the interpreter's own process while that has several threads
    (SyscallSendError), and by a server inside it (PermissionError): the ids are one thread's, and
    the others would keep theirs. All of these are checkpoints, and may end with OSError as the call
    reports it; if cancelled, nothing has changed.
    """

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

    async def geteuid(self) -> int:
        """Its effective user id. A checkpoint. geteuid(2)."""
        return await perform(self, _GETEUID)

    async def getegid(self) -> int:
        """Its effective group id. A checkpoint. getegid(2)."""
        return await perform(self, _GETEGID)

    async def getresuid(self) -> tuple[int, int, int]:
        """Its real, effective and saved user ids. A checkpoint. getresuid(2)."""
        return await perform(self, getresuid_call())

    async def getresgid(self) -> tuple[int, int, int]:
        """Its real, effective and saved group ids. A checkpoint. getresgid(2)."""
        return await perform(self, getresgid_call())

    async def getgroups(self) -> list[int]:
        """Its supplementary groups. A checkpoint. getgroups(2)."""
        try:
            return await perform(self, getgroups_call(_GROUPS))
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
        return await perform(self, getgroups_call())

    async def setuid(self, uid: int) -> None:
        """Change its effective user id, and with CAP.SETUID the real and the saved one.

        ValueError for what is no id. A checkpoint. setuid(2).
        """
        await perform(self, setuid_call(uid))

    async def setgid(self, gid: int) -> None:
        """Change its effective group id, and with CAP.SETGID the real and the saved one.

        ValueError for what is no id. A checkpoint. setgid(2).
        """
        await perform(self, setgid_call(gid))

    async def setreuid(self, ruid: int, euid: int) -> None:
        """Change its real and effective user ids; -1: leave it as it is.

        ValueError for what is no id. A checkpoint. setreuid(2).
        """
        await perform(self, setreuid_call(ruid, euid))

    async def setregid(self, rgid: int, egid: int) -> None:
        """Change its real and effective group ids; -1: leave it as it is.

        ValueError for what is no id. A checkpoint. setregid(2).
        """
        await perform(self, setregid_call(rgid, egid))

    async def setresuid(self, ruid: int, euid: int, suid: int) -> None:
        """Change its real, effective and saved user ids; -1: leave it as it is.

        ValueError for what is no id. A checkpoint. setresuid(2).
        """
        await perform(self, setresuid_call(ruid, euid, suid))

    async def setresgid(self, rgid: int, egid: int, sgid: int) -> None:
        """Change its real, effective and saved group ids; -1: leave it as it is.

        ValueError for what is no id. A checkpoint. setresgid(2).
        """
        await perform(self, setresgid_call(rgid, egid, sgid))

    async def setgroups(self, groups: Iterable[int]) -> None:
        """Change its supplementary groups. ValueError for what is no id. A checkpoint.

        setgroups(2).
        """
        await perform(self, setgroups_call(groups, abi=self.abi))

    async def getpgid(self, pid: PidArgument = 0) -> near.Pgid:
        """The process group of a process; 0: its own. A checkpoint. getpgid(2)."""
        return await perform(self, getpgid_call(pid))

    async def setpgid(self, pgid: PidArgument | None = None, pid: PidArgument = 0) -> None:
        """Move a process, 0 being itself, into a process group; None: one of its own.

        A checkpoint. setpgid(2).
        """
        await perform(self, setpgid_call(pgid, pid))

    async def getsid(self, pid: PidArgument = 0) -> near.Pid:
        """The session of a process, by the pid of its leader; 0: its own. A checkpoint.

        getsid(2).
        """
        return await perform(self, getsid_call(pid))

    async def setsid(self) -> int:
        """Begin a session, and return its id. A checkpoint. setsid(2)."""
        return await perform(self, _SETSID)

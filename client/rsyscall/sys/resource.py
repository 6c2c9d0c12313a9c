"""`#include <sys/resource.h>`"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, overload

import rsyscall.far
from rsyscall import near
from rsyscall._raw import lib
from rsyscall.abi import ABI, NATIVE, Layout
from rsyscall.handle.borrow import in_struct, perform_with
from rsyscall.handle.pointer import Pointer, WrittenPointer
from rsyscall.near.sysif import Out, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, nothing, perform
from rsyscall.struct import LaidOut, Record
from rsyscall.sys.syscall import SYS

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "PRIO",
    "RLIMIT",
    "RLIM_INFINITY",
    "RUSAGE",
    "ResourceTask",
    "Rlimit",
    "Rusage",
    "getpriority_call",
    "getrlimit_call",
    "getrusage_call",
    "prlimit_call",
    "setpriority_call",
    "setrlimit_call",
]

#: The limit that is none.
RLIM_INFINITY: int = lib.RLIM_INFINITY


class PRIO(enum.IntEnum):
    """Whose priority. NONE is another name of PROCESS."""

    PROCESS = lib.PRIO_PROCESS
    PGRP = lib.PRIO_PGRP
    USER = lib.PRIO_USER
    NONE = 0


class RLIMIT(enum.IntEnum):
    """What is limited. NONE is another name of CPU."""

    CPU = lib.RLIMIT_CPU
    FSIZE = lib.RLIMIT_FSIZE
    DATA = lib.RLIMIT_DATA
    STACK = lib.RLIMIT_STACK
    CORE = lib.RLIMIT_CORE
    RSS = lib.RLIMIT_RSS
    NPROC = lib.RLIMIT_NPROC
    NOFILE = lib.RLIMIT_NOFILE
    MEMLOCK = lib.RLIMIT_MEMLOCK
    AS = lib.RLIMIT_AS
    LOCKS = lib.RLIMIT_LOCKS
    SIGPENDING = lib.RLIMIT_SIGPENDING
    MSGQUEUE = lib.RLIMIT_MSGQUEUE
    NICE = lib.RLIMIT_NICE
    RTPRIO = lib.RLIMIT_RTPRIO
    RTTIME = lib.RLIMIT_RTTIME
    NONE = 0


class RUSAGE(enum.IntEnum):
    """Whose use of resources."""

    SELF = lib.RUSAGE_SELF
    CHILDREN = lib.RUSAGE_CHILDREN
    THREAD = lib.RUSAGE_THREAD


class Rlimit(Record, LaidOut):
    """struct rlimit: the limit that holds, and how far it may be raised; see RLIM_INFINITY."""

    __slots__ = ("cur", "max")
    LAYOUT: ClassVar[Layout] = Layout("struct rlimit", "u64 cur, u64 max")

    def __init__(self, cur: int, max: int) -> None:
        """ValueError for what does not fit into 64 bits."""
        for name, value in (("cur", cur), ("max", max)):
            if not 0 <= value <= RLIM_INFINITY:
                raise ValueError(f"{name}: {value} is not from 0 to RLIM_INFINITY")
        self.cur: int = cur
        self.max: int = max


class Rusage(Record, LaidOut):
    """struct rusage, as far as Linux fills it.

    utime, stime: seconds in user mode and in the kernel. maxrss: KiB. minflt, majflt: page faults
    without and with I/O. inblock, oublock: blocks of 512 bytes. nvcsw, nivcsw: switches to another
    process, voluntary and not.
    """

    __slots__ = (
        "inblock",
        "majflt",
        "maxrss",
        "minflt",
        "nivcsw",
        "nvcsw",
        "oublock",
        "stime",
        "utime",
    )  # fmt: skip
    LAYOUT: ClassVar[Layout] = Layout(
        "struct rusage",
        "long utime, long utime_us, long stime, long stime_us, long maxrss, long[3] _,"
        "long minflt, long majflt, long _, long inblock, long oublock, long[3] _,"
        "long nvcsw, long nivcsw",
    )

    def __init__(
        self,
        utime: float,
        stime: float,
        maxrss: int,
        minflt: int,
        majflt: int,
        inblock: int,
        oublock: int,
        nvcsw: int,
        nivcsw: int,
    ) -> None:
        """Nothing is checked."""
        self.utime: float = utime
        self.stime: float = stime
        self.maxrss: int = maxrss
        self.minflt: int = minflt
        self.majflt: int = majflt
        self.inblock: int = inblock
        self.oublock: int = oublock
        self.nvcsw: int = nvcsw
        self.nivcsw: int = nivcsw

    def _values(self) -> Sequence[int]:
        times = [divmod(round(value * 1_000_000), 1_000_000) for value in (self.utime, self.stime)]
        faults = (self.minflt, self.majflt, self.inblock, self.oublock, self.nvcsw, self.nivcsw)
        return (*times[0], *times[1], self.maxrss, *faults)

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        sec, usec, ssec, susec, *rest = values
        return cls(sec + usec / 1_000_000, ssec + susec / 1_000_000, *rest)


def _limit(task: rsyscall.far.Task, _value: int, outs: tuple[bytes, ...]) -> Rlimit:
    return Rlimit.from_bytes_for(outs[0], task.abi)


def _usage(task: rsyscall.far.Task, _value: int, outs: tuple[bytes, ...]) -> Rusage:
    return Rusage.from_bytes_for(outs[0], task.abi)


def _priority(_task: object, value: int, _outs: tuple[bytes, ...]) -> int:
    return 20 - value  # the kernel returns what is never negative


@declares("getrlimit")
def getrlimit_call(resource: RLIMIT, *, abi: ABI = NATIVE) -> TypedCall[Rlimit]:
    """getrlimit(2), by way of prlimit."""
    return prlimit_call(resource, abi=abi)


@declares("setrlimit")
def setrlimit_call(
    resource: RLIMIT, rlim: Rlimit | SyscallArgument, *, abi: ABI = NATIVE
) -> TypedCall[None]:
    """setrlimit(2), by way of prlimit."""
    return TypedCall(SYS.prlimit64, (0, resource, in_struct(rlim, abi), 0), nothing)


@declares("prlimit")
def prlimit_call(
    resource: RLIMIT,
    new_limit: Rlimit | SyscallArgument | None = None,
    *,
    pid: near.Pid | int = 0,
    abi: ABI = NATIVE,
) -> TypedCall[Rlimit]:
    """prlimit(2)."""
    new = 0 if new_limit is None else in_struct(new_limit, abi)
    args = (pid, RLIMIT(resource), new, Out(Rlimit.sizeof_for(abi)))
    return TypedCall(SYS.prlimit64, args, _limit, outs=True)


def _prlimit_into(
    resource: RLIMIT,
    new: Rlimit | SyscallArgument,
    old: SyscallArgument,
    pid: near.Pid | int,
    *,
    abi: ABI = NATIVE,
) -> TypedCall[None]:
    return TypedCall(SYS.prlimit64, (pid, resource, in_struct(new, abi), old), nothing)


@declares("getpriority")
def getpriority_call(which: PRIO, who: near.Pid | near.Pgid | int = 0) -> TypedCall[int]:
    """getpriority(2)."""
    return TypedCall(SYS.getpriority, (which, who), _priority)


@declares("setpriority")
def setpriority_call(
    which: PRIO, prio: int, who: near.Pid | near.Pgid | int = 0
) -> TypedCall[None]:
    """setpriority(2)."""
    return TypedCall(SYS.setpriority, (which, who, prio), nothing)


@declares("getrusage")
def getrusage_call(who: RUSAGE = RUSAGE.SELF, *, abi: ABI = NATIVE) -> TypedCall[Rusage]:
    """getrusage(2)."""
    return TypedCall(SYS.getrusage, (who, Out(Rusage.sizeof_for(abi))), _usage, outs=True)


def _check_room(pointer: Pointer[Rlimit], name: str) -> None:
    if pointer.size() < Rlimit.sizeof():
        raise ValueError(f"{name}: {pointer.size()} bytes, struct rlimit has {Rlimit.sizeof()}")


class ResourceTask(rsyscall.far.Task):
    """A task with limits and priorities.

    All of these may end with UseAfterFreeError or AddressSpaceMismatchError where a pointer is
    given, and with OSError as the call reports it. They are checkpoints; if cancelled, nothing has
    happened.
    """

    async def setpriority(
        self, which: PRIO, prio: int, who: near.Pid | near.Pgid | int = 0
    ) -> None:
        """Change the priority, from -20 (highest) to 19, of what `who` names; 0: its own.

        setpriority(2).
        """
        await perform(self, setpriority_call(which, prio, who))

    async def getpriority(self, which: PRIO, who: near.Pid | near.Pgid | int = 0) -> int:
        """The highest priority, from -20 (highest) to 19, of what `who` names; 0: its own.

        getpriority(2).
        """
        return await perform(self, getpriority_call(which, who))

    async def setrlimit(self, resource: RLIMIT, rlim: Rlimit | WrittenPointer[Rlimit]) -> None:
        """Change a limit of its own. setrlimit(2)."""
        await perform_with(self, setrlimit_call, resource, rlim)

    @overload
    async def getrlimit(self, resource: RLIMIT) -> Rlimit: ...
    @overload
    async def getrlimit(self, resource: RLIMIT, rlim: Pointer[Rlimit]) -> Pointer[Rlimit]: ...

    async def getrlimit(
        self, resource: RLIMIT, rlim: Pointer[Rlimit] | None = None
    ) -> Rlimit | Pointer[Rlimit]:
        """A limit of its own: returned, or left where rlim points, which is consumed.

        ValueError if that is too small. getrlimit(2).
        """
        if rlim is None:
            return await perform(self, getrlimit_call(resource, abi=self.abi))
        _check_room(rlim, "rlim")
        await perform_with(self, _prlimit_into, resource, 0, rlim, 0)
        return rlim.unsafe()

    @overload
    async def prlimit(
        self,
        resource: RLIMIT,
        new_limit: Rlimit | Pointer[Rlimit] | None = None,
        *,
        pid: near.Pid | int = 0,
    ) -> Rlimit: ...
    @overload
    async def prlimit(
        self,
        resource: RLIMIT,
        new_limit: Rlimit | Pointer[Rlimit] | None,
        old_limit: Pointer[Rlimit],
        *,
        pid: near.Pid | int = 0,
    ) -> None: ...

    async def prlimit(
        self,
        resource: RLIMIT,
        new_limit: Rlimit | Pointer[Rlimit] | None = None,
        old_limit: Pointer[Rlimit] | None = None,
        *,
        pid: near.Pid | int = 0,
    ) -> Rlimit | None:
        """Change a limit, its own or that of process `pid`; None: leave it as it is.

        Returns what it was before, or leaves that where old_limit points; ValueError if that is too
        small. prlimit(2).
        """
        if old_limit is None:

            def declare(new: Rlimit | SyscallArgument | None) -> TypedCall[Rlimit]:
                return prlimit_call(resource, new, pid=pid, abi=self.abi)

            return await perform_with(self, declare, new_limit)
        _check_room(old_limit, "old_limit")
        new = 0 if new_limit is None else new_limit
        await perform_with(self, _prlimit_into, resource, new, old_limit, pid)
        return None

    async def getrusage(self, who: RUSAGE = RUSAGE.SELF) -> Rusage:
        """What it has used so far; its children: those that were waited for. getrusage(2)."""
        return await perform(self, getrusage_call(who, abi=self.abi))

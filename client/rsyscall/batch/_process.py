"""The typed methods of a batch that concern the process itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from rsyscall import near
from rsyscall.batch._steps import PathArgument, Steps
from rsyscall.batch.step import Step, StepOptions
from rsyscall.near.sysif import SyscallArgument
from rsyscall.sched import CpuSet, sched_getaffinity_call, sched_setaffinity_call
from rsyscall.signal import SIG, HowSIG, Sigaction, Sigset, sigaction_call, sigprocmask_call
from rsyscall.sys.capability import CAP, CapData, CapHeader, capget_call, capset_call
from rsyscall.sys.prctl import (
    PR,
    PR_CAP_AMBIENT,
    prctl_call,
    prctl_cap_ambient_call,
    prctl_get_name_call,
    prctl_set_name_call,
    prctl_set_pdeathsig_call,
)
from rsyscall.sys.resource import (
    PRIO,
    RLIMIT,
    RUSAGE,
    Rlimit,
    Rusage,
    getpriority_call,
    getrlimit_call,
    getrusage_call,
    prlimit_call,
    setpriority_call,
    setrlimit_call,
)
from rsyscall.unistd.credentials import (
    PidArgument,
    getegid_call,
    geteuid_call,
    getgid_call,
    getgroups_call,
    getpgid_call,
    getpid_call,
    getppid_call,
    getresgid_call,
    getresuid_call,
    getsid_call,
    getuid_call,
    setgid_call,
    setgroups_call,
    setpgid_call,
    setregid_call,
    setresgid_call,
    setresuid_call,
    setreuid_call,
    setsid_call,
    setuid_call,
)

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["ProcessSteps"]


class ProcessSteps(Steps):
    """The calls by name. What they return is said by their namesakes of tasks."""

    __slots__ = ()

    # ---- who it is ----

    def getpid(self, **options: Unpack[StepOptions]) -> Step[near.Pid]:
        """The process id. getpid(2)."""
        return self.add(getpid_call(), **options)

    def getppid(self, **options: Unpack[StepOptions]) -> Step[near.Pid]:
        """The parent's process id. getppid(2)."""
        return self.add(getppid_call(), **options)

    def getuid(self, **options: Unpack[StepOptions]) -> Step[int]:
        """The real user id. getuid(2)."""
        return self.add(getuid_call(), **options)

    def getgid(self, **options: Unpack[StepOptions]) -> Step[int]:
        """The real group id. getgid(2)."""
        return self.add(getgid_call(), **options)

    def geteuid(self, **options: Unpack[StepOptions]) -> Step[int]:
        """The effective user id. geteuid(2)."""
        return self.add(geteuid_call(), **options)

    def getegid(self, **options: Unpack[StepOptions]) -> Step[int]:
        """The effective group id. getegid(2)."""
        return self.add(getegid_call(), **options)

    def getresuid(self, **options: Unpack[StepOptions]) -> Step[tuple[int, int, int]]:
        """The real, effective and saved user ids. getresuid(2)."""
        return self.add(getresuid_call(), **options)

    def getresgid(self, **options: Unpack[StepOptions]) -> Step[tuple[int, int, int]]:
        """The real, effective and saved group ids. getresgid(2)."""
        return self.add(getresgid_call(), **options)

    def getgroups(self, **options: Unpack[StepOptions]) -> Step[list[int]]:
        """The supplementary groups. getgroups(2)."""
        return self.add(getgroups_call(), **options)

    def setuid(self, uid: int, **options: Unpack[StepOptions]) -> Step[None]:
        """Change ids. ValueError for what is none. setuid(2)."""
        return self.add(setuid_call(uid), **options)

    def setgid(self, gid: int, **options: Unpack[StepOptions]) -> Step[None]:
        """Change ids. ValueError for what is none. setgid(2)."""
        return self.add(setgid_call(gid), **options)

    def setreuid(self, ruid: int, euid: int, **options: Unpack[StepOptions]) -> Step[None]:
        """Change ids; -1: leave it. ValueError for what is none. setreuid(2)."""
        return self.add(setreuid_call(ruid, euid), **options)

    def setregid(self, rgid: int, egid: int, **options: Unpack[StepOptions]) -> Step[None]:
        """Change ids; -1: leave it. ValueError for what is none. setregid(2)."""
        return self.add(setregid_call(rgid, egid), **options)

    def setresuid(
        self, ruid: int, euid: int, suid: int, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Change ids; -1: leave it. ValueError for what is none. setresuid(2)."""
        return self.add(setresuid_call(ruid, euid, suid), **options)

    def setresgid(
        self, rgid: int, egid: int, sgid: int, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Change ids; -1: leave it. ValueError for what is none. setresgid(2)."""
        return self.add(setresgid_call(rgid, egid, sgid), **options)

    def setgroups(self, groups: Iterable[int], **options: Unpack[StepOptions]) -> Step[None]:
        """Change the supplementary groups. ValueError for what is none. setgroups(2)."""
        return self.add(setgroups_call(groups, abi=self.abi), **options)

    def getpgid(self, pid: PidArgument = 0, **options: Unpack[StepOptions]) -> Step[near.Pgid]:
        """The process group of a process; 0: its own. getpgid(2)."""
        return self.add(getpgid_call(pid), **options)

    def setpgid(
        self, pgid: PidArgument | None = None, pid: PidArgument = 0, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Move a process into a process group; None: one of its own. setpgid(2)."""
        return self.add(setpgid_call(pgid, pid), **options)

    def getsid(self, pid: PidArgument = 0, **options: Unpack[StepOptions]) -> Step[near.Pid]:
        """The session of a process; 0: its own. getsid(2)."""
        return self.add(getsid_call(pid), **options)

    def setsid(self, **options: Unpack[StepOptions]) -> Step[int]:
        """Begin a session. setsid(2)."""
        return self.add(setsid_call(), **options)

    # ---- capabilities, limits, CPUs ----

    def capset(self, hdrp: CapHeader, datap: CapData, **options: Unpack[StepOptions]) -> Step[None]:
        """Change capabilities. capset(2)."""
        return self.add(capset_call(hdrp, datap, abi=self.abi), **options)

    def capget(self, hdrp: CapHeader, **options: Unpack[StepOptions]) -> Step[CapData]:
        """The capabilities of a thread. capget(2)."""
        return self.add(capget_call(hdrp, abi=self.abi), **options)

    def prctl(
        self,
        option: PR,
        arg2: SyscallArgument = 0,
        arg3: int = 0,
        arg4: int = 0,
        arg5: int = 0,
        **options: Unpack[StepOptions],
    ) -> Step[int]:
        """Whatever prctl can do, with plain arguments. prctl(2)."""
        return self.add(prctl_call(option, arg2, arg3, arg4, arg5), **options)

    def prctl_set_pdeathsig(
        self,
        option: Literal[PR.SET_PDEATHSIG],
        arg2: SIG | Literal[0],
        **options: Unpack[StepOptions],
    ) -> Step[None]:
        """The signal that comes when the parent thread dies; 0: none. prctl(2)."""
        return self.add(prctl_set_pdeathsig_call(option, arg2), **options)

    def prctl_cap_ambient(
        self,
        option: Literal[PR.CAP_AMBIENT],
        arg2: PR_CAP_AMBIENT,
        arg3: CAP | Literal[0] = 0,
        **options: Unpack[StepOptions],
    ) -> Step[int]:
        """Change or ask for ambient capabilities. prctl(2)."""
        return self.add(prctl_cap_ambient_call(option, arg2, arg3), **options)

    def prctl_get_name(
        self, option: Literal[PR.GET_NAME], **options: Unpack[StepOptions]
    ) -> Step[str]:
        """The thread's name. prctl(2)."""
        return self.add(prctl_get_name_call(option), **options)

    def prctl_set_name(
        self, option: Literal[PR.SET_NAME], arg2: PathArgument, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Change the thread's name. ValueError if it contains a NUL. prctl(2)."""
        return self.add(prctl_set_name_call(option, arg2), **options)

    def setpriority(
        self,
        which: PRIO,
        prio: int,
        who: near.Pid | near.Pgid | int = 0,
        **options: Unpack[StepOptions],
    ) -> Step[None]:
        """Change a priority. setpriority(2)."""
        return self.add(setpriority_call(which, prio, who), **options)

    def getpriority(
        self, which: PRIO, who: near.Pid | near.Pgid | int = 0, **options: Unpack[StepOptions]
    ) -> Step[int]:
        """The highest priority. getpriority(2)."""
        return self.add(getpriority_call(which, who), **options)

    def setrlimit(
        self, resource: RLIMIT, rlim: Rlimit, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Change a limit. setrlimit(2)."""
        return self.add(setrlimit_call(resource, rlim, abi=self.abi), **options)

    def getrlimit(self, resource: RLIMIT, **options: Unpack[StepOptions]) -> Step[Rlimit]:
        """A limit. getrlimit(2)."""
        return self.add(getrlimit_call(resource, abi=self.abi), **options)

    def prlimit(
        self,
        resource: RLIMIT,
        new_limit: Rlimit | None = None,
        *,
        pid: near.Pid | int = 0,
        **options: Unpack[StepOptions],
    ) -> Step[Rlimit]:
        """Change a limit of any process, and return what it was. prlimit(2)."""
        return self.add(prlimit_call(resource, new_limit, pid=pid, abi=self.abi), **options)

    def getrusage(self, who: RUSAGE = RUSAGE.SELF, **options: Unpack[StepOptions]) -> Step[Rusage]:
        """What it has used so far. getrusage(2)."""
        return self.add(getrusage_call(who, abi=self.abi), **options)

    def sched_setaffinity(self, mask: Iterable[int], **options: Unpack[StepOptions]) -> Step[None]:
        """Say on which CPUs it may run. ValueError for a negative one. sched_setaffinity(2)."""
        return self.add(sched_setaffinity_call(mask, abi=self.abi), **options)

    def sched_getaffinity(self, **options: Unpack[StepOptions]) -> Step[CpuSet]:
        """On which CPUs it may run. sched_getaffinity(2)."""
        return self.add(sched_getaffinity_call(), **options)

    # ---- signals ----

    def sigaction(
        self, signum: int, act: Sigaction | None = None, **options: Unpack[StepOptions]
    ) -> Step[Sigaction]:
        """What is to happen when a signal arrives. ValueError for what is none. sigaction(2)."""
        return self.add(sigaction_call(signum, act, abi=self.abi), **options)

    def sigprocmask(
        self,
        newset: tuple[HowSIG, Iterable[int]] | None = None,
        **options: Unpack[StepOptions],
    ) -> Step[Sigset]:
        """Change which signals are blocked. ValueError for what is no signal. sigprocmask(2)."""
        return self.add(sigprocmask_call(newset, abi=self.abi), **options)

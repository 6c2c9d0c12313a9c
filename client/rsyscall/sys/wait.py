"""`#include <sys/wait.h>`"""

from __future__ import annotations

import enum
import os
from typing import TYPE_CHECKING

from rsyscall._raw import lib
from rsyscall.abi import NATIVE
from rsyscall.signal import SIG, Siginfo, signal_number
from rsyscall.struct import Record

if TYPE_CHECKING:
    from typing import Self

    from rsyscall.command import Command

__all__ = [
    "CLD",
    "CalledProcessError",
    "ChildState",
    "IdType",
    "Siginfo",
    "UncleanExit",
    "W",
]


class IdType(enum.IntEnum):
    """Which children waitid(2) waits for."""

    PID = lib.P_PID
    PGID = lib.P_PGID
    ALL = lib.P_ALL
    PIDFD = lib.P_PIDFD


class CLD(enum.IntEnum):
    """What has happened to a child; UNKNOWN: it is gone, and nobody can say how."""

    UNKNOWN = 0
    EXITED = lib.CLD_EXITED
    KILLED = lib.CLD_KILLED
    DUMPED = lib.CLD_DUMPED
    TRAPPED = lib.CLD_TRAPPED
    STOPPED = lib.CLD_STOPPED
    CONTINUED = lib.CLD_CONTINUED


#: What there is, by number: a call of the class takes longer.
CODES: dict[int, CLD] = {code.value: code for code in CLD}


class W(enum.IntFlag):
    """Flags of waitid(2)."""

    NONE = 0
    NOHANG = lib.WNOHANG
    STOPPED = lib.WSTOPPED
    EXITED = lib.WEXITED
    CONTINUED = lib.WCONTINUED
    NOWAIT = lib.WNOWAIT
    NOTHREAD = lib.RS_WNOTHREAD
    ALL = lib.RS_WALL
    CLONE = lib.RS_WCLONE


_DEATHS = frozenset({CLD.EXITED, CLD.KILLED, CLD.DUMPED, CLD.UNKNOWN})
_STOPS = frozenset({CLD.TRAPPED, CLD.STOPPED})


class CalledProcessError(Exception):
    """A child did not end with status 0.

    state: how it ended. command: what it ran, if that is known. stdout, stderr: what it wrote, if
    that was captured.
    """

    def __init__(
        self,
        state: ChildState,
        command: Command | None = None,
        stdout: bytes | None = None,
        stderr: bytes | None = None,
    ) -> None:
        """Take all."""
        super().__init__(state, command, stdout, stderr)
        self.state: ChildState = state
        self.command: Command | None = command
        self.stdout: bytes | None = stdout
        self.stderr: bytes | None = stderr

    @property
    def returncode(self) -> int | None:
        """See ChildState.returncode."""
        return self.state.returncode

    def __str__(self) -> str:
        """The command, as a shell would have it, and what became of it."""
        what = "the child" if self.command is None else self.command.in_shell_form()
        return f"{what}: {self.state}"


#: The name that it has had, too.
UncleanExit = CalledProcessError


class ChildState(Record):
    """What has become of a child.

    code: what has happened. pid, uid: of the child. exit_status: if it has exited. sig: what has
    killed, stopped or continued it.
    """

    __slots__ = ("code", "exit_status", "pid", "sig", "uid")

    def __init__(
        self, code: CLD, pid: int, uid: int, exit_status: int | None, sig: SIG | int | None
    ) -> None:
        """See make()."""
        self.code: CLD = code
        self.pid: int = pid
        self.uid: int = uid
        self.exit_status: int | None = exit_status
        self.sig: SIG | int | None = sig

    @classmethod
    def make(cls, code: CLD, pid: int, uid: int, status: int) -> Self:
        """From the numbers of a siginfo_t: status is an exit status or a signal."""
        if code is CLD.EXITED:
            return cls(code, pid, uid, status, None)
        return cls(code, pid, uid, None, None if code is CLD.UNKNOWN else signal_number(status))

    @classmethod
    def make_from_siginfo(cls, siginfo: Siginfo) -> Self:
        """From what waitid(2) has left. ValueError if that is nothing, or of another signal."""
        if siginfo.signo != SIG.CHLD:
            raise ValueError(f"siginfo: {siginfo} does not tell of a child")
        return cls.make(CLD(siginfo.code), siginfo.pid, siginfo.uid, siginfo.status)

    @classmethod
    def parse(cls, siginfo: bytes) -> Self | None:
        """From the siginfo_t that waitid(2) has filled in; None if there is nothing to tell."""
        signo, code, pid, uid, status = Siginfo.LAYOUT.unpack(NATIVE, siginfo)
        if signo == 0:
            return None
        if signo != SIG.CHLD:
            return cls.make_from_siginfo(Siginfo(code, pid, uid, status, signo))
        return cls.make(CLD(code), pid, uid, status)

    @classmethod
    def from_status(cls, pid: int, status: int) -> Self:
        """From a status as wait(2) gives it, of a child that is dead."""
        if os.WIFEXITED(status):
            return cls.make(CLD.EXITED, pid, 0, os.WEXITSTATUS(status))
        code = CLD.DUMPED if os.WCOREDUMP(status) else CLD.KILLED
        return cls.make(code, pid, 0, os.WTERMSIG(status))

    @property
    def returncode(self) -> int | None:
        """The exit status, or the signal that has killed it as a negative number.

        None if it has not ended, or nobody can say how.
        """
        if self.code is CLD.EXITED:
            return self.exit_status
        return -int(self.sig) if self.died() and self.sig is not None else None

    def state(self, options: W) -> bool:
        """Whether waitid(2) with these options would have told of it."""
        if self.code in _DEATHS:
            return bool(options & W.EXITED)
        return bool(options & (W.STOPPED if self.code in _STOPS else W.CONTINUED))

    def died(self) -> bool:
        """Whether it is dead."""
        return self.code in _DEATHS

    def core_dumped(self) -> bool:
        """Whether it has left a core dump."""
        return self.code is CLD.DUMPED

    def clean(self) -> bool:
        """Whether it has exited with status 0."""
        return self.code is CLD.EXITED and self.exit_status == 0

    def check(self, command: Command | None = None) -> None:
        """Raise CalledProcessError if it is dead and did not exit with status 0.

        command: what it ran, for the error.
        """
        if self.died() and not self.clean():
            raise CalledProcessError(self, command)

    def killed_with(self) -> SIG | int:
        """The signal that has killed it; ValueError if none has."""
        if self.sig is None or not self.died():
            raise ValueError(f"{self!r}: no signal has killed it")
        return self.sig

    def __str__(self) -> str:
        """What has happened, in words."""
        if self.code is CLD.EXITED:
            return f"pid {self.pid} exited with status {self.exit_status}"
        sig = f"SIG{self.sig.name}" if isinstance(self.sig, SIG) else f"signal {self.sig}"
        what = {
            CLD.KILLED: f"was killed by {sig}",
            CLD.DUMPED: f"was killed by {sig} and dumped core",
            CLD.TRAPPED: f"was stopped for its tracer by {sig}",
            CLD.STOPPED: f"was stopped by {sig}",
            CLD.UNKNOWN: "has ended, and its status is unknown",
        }.get(self.code, "goes on")
        return f"pid {self.pid} {what}"

"""`#include <sys/wait.h>`"""

from __future__ import annotations

import enum
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rsyscall.signal import SIG

if TYPE_CHECKING:
    from rsyscall.command import Command

__all__ = ["CLD", "CalledProcessError", "ChildState", "IdType", "UncleanExit", "W"]


class IdType(enum.IntEnum):
    """What waitid(2) waits for."""

    ALL = os.P_ALL
    PID = os.P_PID
    PGID = os.P_PGID
    PIDFD = os.P_PIDFD


class CLD(enum.IntEnum):
    """What has happened to a child; UNKNOWN: it is gone, and nobody can say how."""

    UNKNOWN = 0
    EXITED = os.CLD_EXITED
    KILLED = os.CLD_KILLED
    DUMPED = os.CLD_DUMPED
    TRAPPED = os.CLD_TRAPPED
    STOPPED = os.CLD_STOPPED
    CONTINUED = os.CLD_CONTINUED


class W(enum.IntFlag):
    """Options of waitid(2)."""

    NONE = 0
    EXITED = os.WEXITED
    STOPPED = os.WSTOPPED
    CONTINUED = os.WCONTINUED
    NOHANG = os.WNOHANG
    NOWAIT = os.WNOWAIT
    NOTHREAD = 0x20000000
    ALL = 0x40000000
    CLONE = 0x80000000


def _signal(number: int) -> SIG | int:
    try:
        return SIG(number)
    except ValueError:  # most real-time signals have no name
        return number


def _name(sig: SIG | int | None) -> str:
    return f"SIG{sig.name}" if isinstance(sig, SIG) else f"signal {sig}"


@dataclass(frozen=True, slots=True)
class ChildState:
    """A change of a child's state.

    code: what has happened. pid: the child's, as its parent sees it. uid: its real user id.
    exit_status: if it has exited. sig: if a signal has killed, stopped or continued it.
    """

    code: CLD
    pid: int
    uid: int
    exit_status: int | None
    sig: SIG | int | None

    @staticmethod
    def make(code: CLD, pid: int, uid: int, status: int) -> ChildState:
        """From the fields of a siginfo."""
        if code is CLD.EXITED:
            return ChildState(code, pid, uid, status, None)
        return ChildState(code, pid, uid, None, None if code is CLD.UNKNOWN else _signal(status))

    @staticmethod
    def parse(siginfo: bytes) -> ChildState | None:
        """From what waitid(2) has filled in; None if no child has changed its state."""
        signo, _, code, _, pid, uid, status = struct.unpack_from("7i", siginfo)
        if signo == 0:
            return None
        return ChildState.make(CLD(code), pid, uid & 0xFFFFFFFF, status)

    def state(self, options: W) -> bool:
        """Whether it is one that these options of waitid(2) ask for."""
        if self.died():
            return W.EXITED in options
        return (W.CONTINUED if self.code is CLD.CONTINUED else W.STOPPED) in options

    def died(self) -> bool:
        """Whether the child is dead."""
        return self.code in (CLD.EXITED, CLD.KILLED, CLD.DUMPED, CLD.UNKNOWN)

    def clean(self) -> bool:
        """Whether it has exited with status 0."""
        return self.code is CLD.EXITED and self.exit_status == 0

    def check(self) -> None:
        """Raise UncleanExit unless it has exited with status 0, or is not dead."""
        if self.died() and not self.clean():
            raise UncleanExit(self, None)

    def killed_with(self) -> SIG | int:
        """The signal that has killed it. ValueError if none has."""
        if self.code not in (CLD.KILLED, CLD.DUMPED) or self.sig is None:
            raise ValueError(f"the child was not killed: {self}")
        return self.sig

    def __str__(self) -> str:
        """For people."""
        match self.code:
            case CLD.EXITED:
                return f"exited with status {self.exit_status}"
            case CLD.UNKNOWN:
                return "ended, and its status is unknown"
            case CLD.DUMPED:
                return f"killed by {_name(self.sig)}, and dumped core"
            case _:
                return f"{self.code.name.lower()} by {_name(self.sig)}"


class CalledProcessError(Exception):
    """A process did not exit with status 0. state: how it ended. command: what it was, if known."""

    def __init__(self, state: ChildState, command: Command | None = None) -> None:
        """See the attributes."""
        super().__init__(state, command)
        self.state = state
        self.command = command

    def __str__(self) -> str:
        """For people."""
        what = f"the child (pid {self.state.pid})" if self.command is None else str(self.command)
        return f"{what} {self.state}"


#: The same, by its other name.
UncleanExit = CalledProcessError

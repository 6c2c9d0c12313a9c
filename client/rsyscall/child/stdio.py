"""Standard input and output of a program: pipes to us, /dev/null, and one for two."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Mapping

# The same values, so that a program can use those that it has already.
from subprocess import DEVNULL, PIPE, STDOUT
from typing import TypeAlias

import trio

from rsyscall import near
from rsyscall._checkpoint import shield
from rsyscall.epoller import AsyncFileDescriptor, Epoller
from rsyscall.far import THIS_MACHINE
from rsyscall.fcntl import F, O
from rsyscall.handle import FileDescriptor, Task
from rsyscall.monitor import AsyncChildPid
from rsyscall.near.sysif import Out, SyscallError
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.direct import DirectSyscallInterface

__all__ = ["DEVNULL", "PIPE", "STDOUT", "Pipes", "StdioArgument", "check_stdio", "divide"]

#: What standard input or output is to be: a handle, PIPE, DEVNULL, STDOUT; None: as it is.
StdioArgument: TypeAlias = "FileDescriptor | int | None"

NAMES = ("stdin", "stdout", "stderr")
_F_DUPFD_CLOEXEC = 1030
#: What is added to what a program's end is to be, for our end.
_FAR = 3
_PAIR = struct.Struct("@2i")


def check_stdio(name: str, value: StdioArgument) -> None:
    """ValueError, naming the argument, for a number that stands for nothing."""
    if isinstance(value, int) and value not in (PIPE, DEVNULL):
        if value != STDOUT:
            raise ValueError(f"{name}: {value} is neither a handle nor PIPE or DEVNULL")
        if name != "stderr":
            raise ValueError(f"{name}: STDOUT is for stderr only")


def divide(
    stdin: StdioArgument, stdout: StdioArgument, stderr: StdioArgument
) -> tuple[dict[int, FileDescriptor], dict[int, int]]:
    """Which of the three are handles, and which are PIPE, DEVNULL or STDOUT, by number."""
    handles: dict[int, FileDescriptor] = {}
    others: dict[int, int] = {}
    for number, (name, value) in enumerate(zip(NAMES, (stdin, stdout, stderr), strict=True)):
        check_stdio(name, value)
        if isinstance(value, int):
            others[number] = value
        elif value is not None:
            handles[number] = value
    return handles, others


class Pipes:
    """Pipes of which one end is ours; the other is in a task's table, for a program that starts.

    theirs: the numbers there, by what they are to be in the program.
    """

    def __init__(self, task: Task) -> None:
        """None is made yet."""
        self.task = task
        self.theirs: dict[int, int] = {}
        self._ours: dict[int, int] = {}
        self._far: dict[int, FileDescriptor] = {}

    async def open(self, stdio: Mapping[int, int]) -> None:
        """Make those that are wanted. OSError, with what for as a note. A checkpoint if remote."""
        for target, value in stdio.items():
            if value == PIPE:
                try:
                    await self._open(target)
                except (OSError, ValueError, SyscallError) as exc:
                    exc.add_note(f"while making the pipe for {NAMES[target]}=PIPE")
                    raise

    async def _open(self, target: int) -> None:
        if isinstance(self.task.sysif, DirectSyscallInterface):
            pair = os.pipe2(os.O_CLOEXEC)
            self._ours[target] = pair[target == 0]
            self._take(target, pair[target != 0])
            return
        # There, and not here: where there is no room for what is sent, the connection ends.
        call = self.task.sysif.call
        reply = await call(SYS.pipe2, (Out(_PAIR.size), os.O_CLOEXEC))
        pair = _PAIR.unpack(reply.outs[0])
        self._take(target, pair[target != 0])
        number = pair[target == 0]
        if self.task.machine is not THIS_MACHINE:  # our end stays there, and is used by calls
            handle = self.task.adopt_fd(near.FileDescriptor(number))
            self._far[target] = handle
            await handle.fcntl(F.SETFL, O.NONBLOCK)
            return
        try:
            came = (await call(SYS.fcntl, (number, _F_DUPFD_CLOEXEC, 0), return_fd=True)).fd
            if came is None:
                raise OSError(errno.EOPNOTSUPP, "no file descriptor can come from there")
            self._ours[target] = came
        finally:
            await self._close(number)

    def _take(self, target: int, number: int) -> None:
        # Not as a handle: a child that is cloned just now must not get it.
        self.theirs[target] = number
        self.task.fd_table.own.add(number)
        self.task.own_fds.add(number)

    async def _close(self, number: int) -> None:
        """In the task's table."""
        if isinstance(self.task.sysif, DirectSyscallInterface):
            os.close(number)
            return
        with contextlib.suppress(OSError, SyscallError):  # gone, with the task
            await self.task.sysif.syscall(SYS.close, number)

    async def close_theirs(self) -> None:
        """Close the program's ends in the task's table: it has its own. Not cancelled."""
        task = self.task
        with shield(not task.sysif.immediate):
            while self.theirs:
                _, number = self.theirs.popitem()
                task.fd_table.own.discard(number)
                task.own_fds.discard(number)
                await self._close(number)

    def close_ours(self) -> None:
        """Close our ends: nothing was started."""
        while self._ours:
            os.close(self._ours.popitem()[1])
        while self._far:  # they are closed as the program's ends are
            target, handle = self._far.popitem()
            handle.forget()
            self._take(target + _FAR, int(handle.near))

    def hand_over(self, pid: AsyncChildPid) -> None:
        """Make streams of our ends, for whoever has started the program."""
        while self._ours:
            target, fd = self._ours.popitem()
            pid.add_stream(NAMES[target], trio.lowlevel.FdStream(fd))
        if not self._far:
            return
        from rsyscall.streams import RemoteReceiveStream, RemoteSendStream

        epoller = Epoller(self.task)
        while self._far:
            target, handle = self._far.popitem()
            kind = RemoteReceiveStream if target else RemoteSendStream
            pid.add_stream(NAMES[target], kind(AsyncFileDescriptor(epoller, handle)))

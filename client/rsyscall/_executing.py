"""A child becomes another program: what ChildProcess has for it."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trio.lowlevel import enable_ki_protection

from rsyscall._process import Conveniences
from rsyscall.child.early import EarlyChild
from rsyscall.child.exec import Target, execute, execute_early, usual_order
from rsyscall.child.served import Child
from rsyscall.child.strings import full_environment
from rsyscall.command import Command
from rsyscall.fcntl import AT
from rsyscall.handle import FileDescriptor, Task

if TYPE_CHECKING:
    from rsyscall.monitor import AsyncChildPid
    from rsyscall.signal import SignalMask

__all__ = ["Executing"]


class Executing(Conveniences):
    """A child that can become a program; see rsyscall.thread.ChildProcess."""

    _began: Child | EarlyChild

    @functools.cached_property
    def _child(self) -> Child:
        began = self._began
        return began if isinstance(began, Child) else began.grow()

    def _early(self) -> EarlyChild | None:
        """It, if nothing was asked of it yet, and its environment is ours."""
        early = self._began
        if isinstance(early, EarlyChild) and early.ring is not None and not self.has_own_environ():
            return early
        return None

    def _make_task(self) -> Task:
        return self._child.task

    async def execve(
        self,
        path: str | os.PathLike[str],
        argv: Sequence[str | os.PathLike[str]],
        env_updates: Mapping[str, str | os.PathLike[str]] | None = None,
        inherited_signal_blocks: Sequence[SignalMask] = (),
        command: Command | None = None,
        *,
        env: Mapping[str, str | os.PathLike[str]] | None = None,
    ) -> AsyncChildPid:
        """Replace the program. The child goes on without us; what it returns is to wait for it.

        path: looked up by the child, from its working directory. argv: the arguments, the first one
        being the program's name. env: the environment, by default our own; env_updates: changes of
        it. Open there is what has no close-on-exec flag; see disable_cloexec. No signal is blocked
        but those of inherited_signal_blocks, and SIGPIPE and SIGXFSZ have their default actions.
        command: what is shown of it.

        ValueError for a string with a NUL; OSError, with the call as a note, as execve reports it,
        and then the child is as it was, but that it no longer shares its table of file descriptors;
        SyscallHangup if it has died. Afterwards whatever is tried through the child's task is a
        DeadTaskError. A checkpoint; if cancelled, it has not exec'd. execve(2).
        """
        return await self.execveat(
            None, path, argv, env_updates, inherited_signal_blocks, command, env=env
        )

    @enable_ki_protection
    async def execveat(
        self,
        fd: FileDescriptor | None,
        path: str | os.PathLike[str],
        argv: Sequence[str | os.PathLike[str]],
        env_updates: Mapping[str, str | os.PathLike[str]] | None = None,
        inherited_signal_blocks: Sequence[SignalMask] = (),
        command: Command | None = None,
        *,
        env: Mapping[str, str | os.PathLike[str]] | None = None,
        flags: AT = AT.NONE,
    ) -> AsyncChildPid:
        """Replace the program by a file in the directory fd, or with AT.EMPTY_PATH by fd itself.

        fd: a handle of the child's; None: the working directory. A script that is executed by its
        descriptor must find it open. Otherwise as execve. execveat(2).
        """
        if fd is None and env is None and not (env_updates or inherited_signal_blocks or flags):
            early = self._early()
            if early is not None:
                order = usual_order(path, argv)  # it names its arguments; a command has others
                if command is None:
                    command = Command(path, list(argv), {})
                return await execute_early(early, order, command)
        full = full_environment(self.variables(env), env_updates)
        blocked = {sig for block in inherited_signal_blocks for sig in block.mask}
        task, how = self.task, int(flags)
        target = Target(task, path, argv, full, fd=fd, flags=how, blocked=blocked)
        if command is None:
            command = Command(path, list(argv), env_updates or {})
        return await execute(self._child, target, command)

    async def execv(
        self,
        path: str | os.PathLike[str],
        argv: Sequence[str | os.PathLike[str]],
        command: Command | None = None,
    ) -> AsyncChildPid:
        """execve with the environment as it is."""
        return await self.execve(path, argv, command=command)

    @enable_ki_protection
    async def exec(
        self, command: Command, inherited_signal_blocks: Sequence[SignalMask] = ()
    ) -> AsyncChildPid:
        """execve of a command."""
        if not inherited_signal_blocks and not command.env_updates:
            early = self._early()
            if early is not None:
                order = usual_order(command.executable_path, command.arguments)
                return await execute_early(early, order, command)
        return await self.execve(
            command.executable_path,
            command.arguments,
            command.env_updates,
            inherited_signal_blocks,
            command,
        )

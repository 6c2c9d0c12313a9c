"""Processes: a task with its conveniences."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, TypeVar, Unpack, overload

import trio

from rsyscall import near
from rsyscall._checkpoint import checkpoint, shield
from rsyscall.batch import Batch, BoundBatch, PreparedBatch
from rsyscall.child.exec import execute
from rsyscall.child.mappings import effective_ids, write_user_mappings
from rsyscall.child.run import CompletedProcess, SpawnOptions, add_captures, finish
from rsyscall.child.spawn import Descriptors, Setup, by_number, spawn
from rsyscall.child.start import Child, start
from rsyscall.child.stdio import StdioArgument
from rsyscall.child.strings import Strings, full_environment
from rsyscall.child.unshare import setns, unshare, unshare_child_files, unshare_files, unshare_user
from rsyscall.command import Command
from rsyscall.fcntl import AT
from rsyscall.handle import FileDescriptor, Task
from rsyscall.handle.pointer import Pointer, WrittenPointer
from rsyscall.handle.process import ChildPid
from rsyscall.memory.ram import MallocType, PtrValue
from rsyscall.monitor import AsyncChildPid
from rsyscall.near.sysif import SyscallHangup, SyscallSendError
from rsyscall.network.connection import HasConnection
from rsyscall.sched import CLONE
from rsyscall.signal import SIG, SignalMask
from rsyscall.struct import FixedSerializer, FixedSize, HasSerializer, path_to_bytes
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import ChildState
from rsyscall.sysif.child import DeadInterface

__all__ = ["ChildProcess", "Process"]

T_sized = TypeVar("T_sized", bound=FixedSize)
T_fixed = TypeVar("T_fixed", bound=FixedSerializer)
T_value = TypeVar("T_value", bound=HasSerializer)
T_path = TypeVar("T_path", bound=os.PathLike[str])


def check_status(status: int) -> None:
    """ValueError unless it can be the status of an exit."""
    if not 0 <= status <= 255:
        raise ValueError(f"status: {status} is not from 0 to 255")


class Process(HasConnection):
    """A process in which we can make calls.

    task: the calls.
    """

    def __init__(self, task: Task) -> None:
        """Make the conveniences of a task; nothing is asked of the kernel."""
        self.task = task
        self._children = set[ChildProcess | AsyncChildPid]()

    @functools.cached_property
    def stdin(self) -> FileDescriptor:
        """Its descriptor 0."""
        return self.task.make_fd_handle(near.FileDescriptor(0))

    @functools.cached_property
    def stdout(self) -> FileDescriptor:
        """Its descriptor 1."""
        return self.task.make_fd_handle(near.FileDescriptor(1))

    @functools.cached_property
    def stderr(self) -> FileDescriptor:
        """Its descriptor 2."""
        return self.task.make_fd_handle(near.FileDescriptor(2))

    @property
    def pid(self) -> near.Pid:
        """Its process id, as it sees itself."""
        return self.task.near_process

    def batch(self, *, brief: bool = False) -> BoundBatch:
        """Many calls in one round trip: `async with process.batch() as b:`, then methods of b.

        The calls are made, in their order, when the block is left; see rsyscall.batch. brief:
        whether only the last result comes back. Not a checkpoint; leaving the block is one.
        """
        return BoundBatch(self.task, brief=brief)

    async def prepare(self, batch: Batch) -> PreparedBatch:
        """Send a batch once, to run it many times.

        ValueError if it closes or unmaps what a handle stands for, or cannot be sent; OSError
        (ENOMEM) if the process has no room for it. A checkpoint; if cancelled, nothing has
        happened.
        """
        return await PreparedBatch.make(batch, self.task)

    async def clone(
        self,
        flags: CLONE = CLONE.NONE,
        automatically_write_user_mappings: bool = True,
        *,
        vm: bool = True,
        ring: bool | None = None,
    ) -> ChildProcess:
        """Make a child, which serves us as this process does.

        flags: what it shares or has anew: CLONE.FILES, FS, IO, SYSVSEM, and the namespaces, of
        which each moves exactly the far object of its name. Without CLONE.FILES the child has a
        copy of the table, in which nothing is open but stdio and what has a handle now; see
        inherit_fd. automatically_write_user_mappings: whether in a user namespace of its own the
        ids are to be as they were outside. vm: whether it shares our address space; without it the
        child has a copy of its own, made at a cost that grows with it. ring: whether calls go
        through shared memory; None: if they can.

        As a context manager the child is killed and waited for at the end of the block. ValueError
        for flags that a child cannot have or that exclude each other; OSError, with the call as a
        note, as clone reports it, and see the contract of near.sysif. A checkpoint; if cancelled,
        there is no child. clone(2).
        """
        outside = None
        if flags and automatically_write_user_mappings and CLONE.NEWUSER in flags:
            outside = await effective_ids(self.task)
        child = await start(self.task, flags, vm=vm, ring=ring)
        process = ChildProcess(child)
        process.made_by(self)
        self._adopt(process)
        if outside is not None:
            try:
                await write_user_mappings(process.task, outside, outside)
            except BaseException:
                await process.end()
                raise
        return process

    async def spawn(
        self,
        command: Command,
        *,
        stdin: StdioArgument = None,
        stdout: StdioArgument = None,
        stderr: StdioArgument = None,
        fds: Descriptors = (),
        cwd: str | os.PathLike[str] | FileDescriptor | None = None,
        env: Mapping[str, str | os.PathLike[str]] | None = None,
        uid: int | None = None,
        gid: int | None = None,
        groups: Sequence[int] | None = None,
        rlimits: Mapping[int, tuple[int, int]] | None = None,
        unshare: CLONE = CLONE.NONE,
        pgid: ChildPid | Literal[0] | None = None,
        session: bool = False,
        tty: FileDescriptor | None = None,
        pdeathsig: SIG | int | None = None,
        cgroup: FileDescriptor | None = None,
        inherited_signal_blocks: Sequence[SignalMask] = (),
    ) -> AsyncChildPid:
        """Start a program, with all that it is to find around it, in one go.

        command: what is executed; a name without a slash is looked for in the PATH of env. stdin,
        stdout, stderr: handles of this process; None: as they are; PIPE: a pipe, whose other end is
        a stream of the child that is returned, here and in no other process; DEVNULL; for stderr
        STDOUT: the same as stdout. fds: further ones, by the number they are to have, or under
        their own. Nothing else is open in the program. cwd: its working directory, as a path from
        ours or as a handle. env: its environment, by default our own.

        uid, gid, groups: whom it belongs to. rlimits: soft and hard limits by resource. unshare:
        namespaces to begin in; with CLONE.NEWUSER uid and gid, or else our own ids, are mapped to
        ours. pgid: the process group of a child, or 0 for one of its own. session: whether it leads
        a session of its own; with tty that is its controlling terminal, and it does. pdeathsig: the
        signal that it gets when this process (for local_process: the thread that calls) ends.
        cgroup: a directory of cgroup2, which it enters before all that. No signal is blocked but
        those of inherited_signal_blocks, and SIGPIPE and SIGXFSZ have their default actions.

        What is returned is to wait for it; as a context manager it is killed, if it still runs, and
        waited for at the end of the block, and its streams are closed. ValueError for what cannot
        be; OSError, with the step that has failed and its call as notes, and then there is no
        child. A checkpoint; if cancelled, nothing was started. posix_spawn(3), credentials(7),
        cgroups(7).
        """
        descriptors, stdio = by_number(fds, stdin, stdout, stderr)
        setup = Setup(
            descriptors=descriptors,
            stdio=stdio,
            cwd=cwd,
            uid=uid,
            gid=gid,
            groups=groups,
            rlimits=rlimits,
            unshare=unshare,
            pgid=pgid,
            session=session,
            tty=tty,
            pdeathsig=pdeathsig,
            cgroup=cgroup,
            blocked={sig for block in inherited_signal_blocks for sig in block.mask},
        )
        full = full_environment(env, command.env_updates)
        pid = await spawn(self.task, command, setup, full)
        self._adopt(pid)
        return pid

    async def run(
        self,
        command: Command,
        check: bool = True,
        *,
        input: bytes | None = None,
        capture_stdout: bool = False,
        capture_stderr: bool = False,
        task_status: trio.TaskStatus[AsyncChildPid] = trio.TASK_STATUS_IGNORED,
        **options: Unpack[SpawnOptions],
    ) -> CompletedProcess:
        """Start a program, and wait for its end and that of all that it writes.

        check: whether another end than with status 0 is a CalledProcessError. input: what it reads
        from its standard input, then the end. capture_stdout, capture_stderr: whether what it
        writes comes back with the result (or the error). options: see spawn. task_status: is given
        the child once it runs; without that nobody could use a PIPE (ValueError). A checkpoint; if
        cancelled, as by trio.fail_after, the program is killed and waited for, and what it has
        written is lost.
        """
        shown = task_status is not trio.TASK_STATUS_IGNORED
        full = add_captures(options, input, capture_stdout, capture_stderr, shown=shown)
        async with await self.spawn(command, **full) as child:
            task_status.started(child)
            return await finish(
                child, input, stdout=capture_stdout, stderr=capture_stderr, check=check
            )

    async def unshare(self, flags: CLONE) -> None:
        """Leave what is shared with others, or begin new namespaces.

        flags: CLONE.FILES (see unshare_files), FS, SYSVSEM, NEWNS, NEWNET, NEWUTS, NEWIPC,
        NEWCGROUP, NEWUSER; and NEWPID, NEWTIME, in which only children will be. Each moves exactly
        the far object of its name. ValueError for other flags; OSError, with what may be wrong as
        a note; SyscallSendError for local_process while the interpreter has several threads. A
        checkpoint; if cancelled, nothing has happened. unshare(2).
        """
        await unshare(self.task, flags)

    async def unshare_files(self, going_to_exec: bool = True) -> None:
        """Get a table of file descriptors of our own, a copy of that which we share, if we do.

        Our handles go with us. In the copy of a child only stdio and what has a handle stays open.
        A checkpoint; if cancelled, nothing has happened. unshare(2).
        """
        del going_to_exec  # what is closed on exec is closed then, in any case
        await unshare_files(self.task)

    async def unshare_user(
        self, in_namespace_uid: int | None = None, in_namespace_gid: int | None = None
    ) -> None:
        """Begin a user namespace in which our ids are these; by default the same.

        OSError, with what may be wrong as a note. A checkpoint; if cancelled, nothing has happened
        or the ids are not mapped yet. user_namespaces(7).
        """
        await unshare_user(self.task, in_namespace_uid, in_namespace_gid)

    async def setns(self, fd: FileDescriptor, nstype: CLONE = CLONE.NONE) -> None:
        """Enter a namespace.

        fd: a handle of a file of /proc/PID/ns, or of a pidfd, and then nstype says which of its
        namespaces. ValueError for another nstype; OSError as the call reports it. A checkpoint; if
        cancelled, nothing has happened. setns(2).
        """
        await setns(self.task, fd, nstype)

    async def fork(self) -> ChildProcess:
        """Make a child that has a copy of our table of file descriptors: clone() without flags."""
        return await self.clone()

    def _adopt(self, child: ChildProcess | AsyncChildPid) -> None:
        """Have it ended with us, unless it ends before."""
        pid = child if isinstance(child, AsyncChildPid) else child.pid
        self._children.add(child)
        pid.on_end(lambda: self._children.discard(child))

    async def end_children(self) -> None:
        """Kill the children that still run and wait for them, and for theirs, cancelled or not.

        PermissionError of one that may not be killed, once all others have ended.
        """
        refused: PermissionError | None = None
        while self._children:
            child = next(iter(self._children))
            try:
                await child.end()
            except PermissionError as exc:
                refused = exc
            self._children.discard(child)
        if refused is not None:
            raise refused

    def inherit_fd(self, fd: FileDescriptor) -> FileDescriptor:
        """A handle for a descriptor that our table has inherited; see Task.inherit_fd."""
        return self.task.inherit_fd(fd)

    async def exit(self, status: int = 0) -> None:
        """End the process with a status from 0 to 255.

        Whatever is tried through it afterwards is an error. A checkpoint; if cancelled, it goes on.
        _exit(2).
        """
        check_status(status)
        try:
            await self.task.sysif.syscall(SYS.exit_group, status)
        except SyscallSendError:
            raise
        except SyscallHangup:
            pass  # as it should

    @overload
    async def malloc(self, cls: type[T_sized]) -> Pointer[T_sized]: ...
    @overload
    async def malloc(self, cls: type[T_fixed], size: int) -> Pointer[T_fixed]: ...
    @overload
    async def malloc(self, cls: type[bytes], size: int) -> Pointer[bytes]: ...
    @overload
    async def malloc(self, cls: type[str], size: int) -> Pointer[str]: ...
    @overload
    async def malloc(self, cls: type[T_path], size: int) -> Pointer[T_path]: ...

    async def malloc(self, cls: MallocType, size: int | None = None) -> Pointer[Any]:
        """Memory of the process; see RAMTask.malloc."""
        return await self.task._malloc(cls, size)  # pyright: ignore[reportPrivateUsage] - ours

    @overload
    async def ptr(self, data: T_value) -> WrittenPointer[T_value]: ...
    @overload
    async def ptr(self, data: bytes) -> WrittenPointer[bytes]: ...
    @overload
    async def ptr(self, data: str) -> WrittenPointer[str]: ...
    @overload
    async def ptr(self, data: T_path) -> WrittenPointer[T_path]: ...

    async def ptr(self, data: PtrValue) -> WrittenPointer[Any]:
        """Memory of the process that holds the value; see RAMTask.ptr."""
        return await self.task._ptr(data)  # pyright: ignore[reportPrivateUsage] - ours

    def __repr__(self) -> str:
        """For people."""
        return f"Process({self.task})"


#: How long a child may take to wait for its own children, in seconds.
_PATIENCE = 1.0


class ChildProcess(Process):
    """A child, in which we can make calls until it exec's or ends.

    As a context manager it is killed, if it still runs, and waited for at the end of the block.
    """

    def __init__(self, child: Child) -> None:
        """Only Process.clone makes them."""
        super().__init__(child.task)
        self._child = child

    @property
    def pid(self) -> AsyncChildPid:  # type: ignore[override] # the name that its users know
        """To wait for it; its `pid` is the handle."""
        return self._child.pid

    async def unshare_files(self, going_to_exec: bool = True) -> None:
        """See Process.unshare_files."""
        await unshare_child_files(self._child)

    async def unshare(self, flags: CLONE) -> None:
        """See Process.unshare."""
        if CLONE.FILES in flags:
            await self.unshare_files()
            flags &= ~CLONE.FILES
        await super().unshare(flags)

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
        full = full_environment(env, env_updates)
        blocked = {sig for block in inherited_signal_blocks for sig in block.mask}
        # Both name their arguments; a command would not name these.
        path_to_bytes(path, "path")
        strings = Strings(argv, full)
        return await execute(
            self._child,
            path,
            strings,
            fd=fd,
            flags=int(flags),
            blocked=blocked,
            command=Command(path, list(argv), env_updates or {}) if command is None else command,
        )

    async def execv(
        self,
        path: str | os.PathLike[str],
        argv: Sequence[str | os.PathLike[str]],
        command: Command | None = None,
    ) -> AsyncChildPid:
        """execve with the environment as it is."""
        return await self.execve(path, argv, command=command)

    async def exec(
        self, command: Command, inherited_signal_blocks: Sequence[SignalMask] = ()
    ) -> AsyncChildPid:
        """execve of a command."""
        return await self.execve(
            command.executable_path,
            command.arguments,
            command.env_updates,
            inherited_signal_blocks,
            command,
        )

    async def exit(self, status: int = 0) -> None:
        """End the process with a status from 0 to 255; see Process.exit.

        It has been told to when this returns, and may still be about to; see `pid` for its end.
        """
        check_status(status)
        await checkpoint()
        if not isinstance(self.task.sysif, DeadInterface) and self._child.sysif.send_exit(status):
            self._child.pid.pid.ending = True
            self._child.over("was told to exit")
        else:
            await super().exit(status)

    async def end(self) -> ChildState:
        """Kill it and its children, if they still run, and wait for them, cancelled or not.

        PermissionError as of AsyncChildPid.end.
        """

        async def unblock() -> None:  # stopped or held up, it would never wait for its children
            await trio.sleep(_PATIENCE)
            with contextlib.suppress(PermissionError):
                self._child.pid.pid.send_signal(SIG.KILL)

        try:
            if self._children:
                refused: PermissionError | None = None
                with shield():
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(unblock)
                        try:
                            await self.end_children()
                        except PermissionError as exc:  # outside of the nursery, not in a group
                            refused = exc
                        nursery.cancel_scope.cancel()
                if refused is not None:
                    raise refused
        finally:
            state = await self._child.end()
        return state

    async def __aenter__(self) -> Self:
        """Itself. Not a checkpoint."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """See end."""
        await self.end()

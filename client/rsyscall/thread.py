"""Processes: a task with its conveniences."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, Self, Unpack, cast

import trio
from trio.lowlevel import enable_ki_protection

from rsyscall import near
from rsyscall._checkpoint import checkpoint, shield
from rsyscall._executing import Executing
from rsyscall._of_process import do_cloexec_except, write_user_mappings
from rsyscall._process import Conveniences
from rsyscall.batch import Batch, BoundBatch, PreparedBatch
from rsyscall.child.cgroup import directory
from rsyscall.child.clocks import TimeOffsets, check_offsets, enter
from rsyscall.child.early import EarlyChild
from rsyscall.child.mappings import effective_ids
from rsyscall.child.mappings import write_user_mappings as map_ids
from rsyscall.child.plain import NOTHING, start_plain
from rsyscall.child.ranges import IdRange, write_ranges
from rsyscall.child.run import CompletedProcess, SpawnOptions, add_captures, finish
from rsyscall.child.served import Child
from rsyscall.child.setup import Descriptors, Setup, by_number
from rsyscall.child.spawn import spawn
from rsyscall.child.start import start, start_early
from rsyscall.child.stdio import StdioArgument
from rsyscall.child.strings import full_environment
from rsyscall.child.unshare import setns, unshare, unshare_child_files, unshare_files, unshare_user
from rsyscall.command import Command
from rsyscall.handle import FileDescriptor, Task
from rsyscall.handle.process import ChildPid
from rsyscall.monitor import AsyncChildPid
from rsyscall.network.connection import HasConnection
from rsyscall.sched import CLONE
from rsyscall.signal import SIG, SignalMask
from rsyscall.sys.wait import ChildState
from rsyscall.sysif.child import DeadInterface

__all__ = [
    "ChildProcess",
    "Finished",
    "IdRange",
    "Process",
    "do_cloexec_except",
    "write_user_mappings",
]


class Finished(Protocol):
    """What ends with a process, such as its children."""

    @enable_ki_protection
    async def finish(self) -> object:
        """End it, cancelled or not. PermissionError if that may not be. Not a checkpoint."""


def check_status(status: int) -> None:
    """ValueError unless it can be the status of an exit."""
    if not 0 <= status <= 255:
        raise ValueError(f"status: {status} is not from 0 to 255")


class Process(Conveniences, HasConnection):
    """A process in which we can make calls.

    task: the calls.
    """

    @functools.cached_property
    def _children(self) -> set[Finished]:
        return set()

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

    @enable_ki_protection
    async def clone(
        self,
        flags: CLONE = CLONE.NONE,
        automatically_write_user_mappings: bool = True,
        *,
        vm: bool = True,
        ring: bool | None = None,
        cgroup: FileDescriptor | str | os.PathLike[str] | None = None,
        time_offsets: TimeOffsets | None = None,
    ) -> ChildProcess:
        """Make a child, which serves us as this process does.

        flags: what it shares or has anew: CLONE.FILES, FS, IO, SYSVSEM, and the namespaces, of
        which each moves exactly the far object of its name. Without CLONE.FILES the child has a
        copy of the table, in which nothing is open but stdio and what has a handle now; see
        inherit_fd. automatically_write_user_mappings: whether in a user namespace of its own the
        ids are to be as they were outside. vm: whether it shares our address space; without it the
        child has a copy of its own, made at a cost that grows with it; CLONE.NEWTIME wants that.
        ring: whether calls go through shared memory; None: if they can. cgroup: a directory of
        cgroup2 in which the child begins, as a path or a handle; where clone3(2) cannot be used it
        is moved there right after. time_offsets: by how many seconds CLOCK.MONOTONIC and BOOTTIME
        of a new time namespace are ahead.

        As a context manager the child is killed and waited for at the end of the block. ValueError
        for flags that a child cannot have or that exclude each other; OSError, with the call as a
        note, as clone reports it, and see the contract of near.sysif. A checkpoint; if cancelled,
        there is no child. clone(2), cgroups(7), time_namespaces(7).
        """
        if not flags and time_offsets is None and vm and ring is not False and cgroup is None:
            early = await start_early(self.task, self._own)
            if early is not None:
                return early
        clocks = check_offsets(time_offsets, flags) if flags or time_offsets else ""
        outside = None
        if flags and automatically_write_user_mappings and CLONE.NEWUSER in flags:
            outside = await effective_ids(self.task)
        child: Child | EarlyChild
        if cgroup is None:
            child = await start(self.task, flags, vm=vm, ring=ring)
        else:
            async with directory(self.task, cgroup) as where:
                child = await start(self.task, flags, vm=vm, ring=ring, cgroup=where)
        process = self._own(child)
        try:
            if outside is not None:
                await map_ids(process.task, outside, outside)
            if flags and CLONE.NEWTIME in flags:
                await enter(process.task, clocks)
        except BaseException:
            await process.finish()
            raise
        return process

    @enable_ki_protection
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
        cgroup: FileDescriptor | str | os.PathLike[str] | None = None,
        time_offsets: TimeOffsets | None = None,
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
        signal that it gets when this process (for local_process: the thread that calls) ends; it
        is not made while calls are blocked, as that ends with a thread (OtherCallsBlocked).
        cgroup: a directory of cgroup2, as a path or a handle, which it enters before all that.
        time_offsets: by how many seconds CLOCK.MONOTONIC and BOOTTIME of a new time namespace are
        ahead; to make one (CLONE.NEWTIME) our memory is copied, as by fork(2). No signal is blocked
        but those of inherited_signal_blocks, and SIGPIPE and SIGXFSZ have their default actions.

        What is returned is to wait for it; as a context manager it is killed, if it still runs, and
        waited for at the end of the block, and its streams are closed. ValueError for what cannot
        be; OSError, with the step that has failed and its call as notes, and then there is no
        child. A checkpoint; if cancelled, nothing was started. posix_spawn(3), credentials(7),
        cgroups(7).
        """
        pid: AsyncChildPid | None = None
        given = stdin, stdout, stderr, cwd, env, uid, gid, groups, rlimits, pgid, tty, pdeathsig
        more = fds or session or unshare or inherited_signal_blocks or command.env_updates
        if (*given, cgroup, time_offsets) == NOTHING and not (more or self.has_own_environ()):
            pid = await start_plain(self.task, command)
        if pid is None:
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
                time_offsets=check_offsets(time_offsets, unshare),
                blocked={sig for block in inherited_signal_blocks for sig in block.mask},
            )
            full = full_environment(self.variables(env), command.env_updates)
            pid = await spawn(self.task, command, setup, full)
        self._children.add(pid)
        pid.on_end(functools.partial(self._children.discard, pid))
        return pid

    @enable_ki_protection
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

    async def unshare(self, flags: CLONE, *, time_offsets: TimeOffsets | None = None) -> None:
        """Leave what is shared with others, or begin new namespaces.

        flags: CLONE.FILES (see unshare_files), FS, SYSVSEM, NEWNS, NEWNET, NEWUTS, NEWIPC,
        NEWCGROUP, NEWUSER; and NEWPID, NEWTIME, in which only children will be. Each moves exactly
        the far object of its name. time_offsets: by how many seconds CLOCK.MONOTONIC and BOOTTIME
        of a new time namespace are ahead. ValueError for other flags; OSError, with what may be
        wrong as a note; SyscallSendError for local_process while the interpreter has several
        threads. A checkpoint; if cancelled, nothing has happened. unshare(2), time_namespaces(7).
        """
        await unshare(self.task, flags, time_offsets)

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

    @enable_ki_protection
    async def fork(self) -> ChildProcess:
        """Make a child that has a copy of our table of file descriptors: clone() without flags."""
        early = await start_early(self.task, self._own)
        return await self.clone() if early is None else early

    def _own(self, child: Child | EarlyChild) -> ChildProcess:
        process = ChildProcess(child)
        process.made_by(self)
        self._children.add(process)
        child.pid.on_end(functools.partial(self._children.discard, process))
        if self.has_own_environ():  # otherwise both begin with ours
            process.environ = self.environ.inherit(process.task)
        return process

    def end_with(self, what: Finished) -> Callable[[], None]:
        """Have something ended with us, as our children are, unless what is returned is called."""
        self._children.add(what)
        return lambda: self._children.discard(what)

    async def end_children(self) -> None:
        """Kill the children that still run and wait for them, and for theirs, cancelled or not.

        PermissionError of one that may not be killed, once all others have ended. A checkpoint; if
        cancelled, they have ended.
        """
        await self.finish_children()
        await checkpoint()

    @enable_ki_protection
    async def finish_children(self) -> None:
        """`end_children`, for who has to clear away: not a checkpoint."""
        refused: PermissionError | None = None
        while self._children:
            child = next(iter(self._children))
            try:
                await child.finish()
            except PermissionError as exc:
                refused = exc
            self._children.discard(child)
        if refused is not None:
            try:
                raise refused
            finally:
                refused = None  # see rsyscall._errors

    def inherit_fd(self, fd: FileDescriptor) -> FileDescriptor:
        """A handle for a descriptor that our table has inherited; see Task.inherit_fd."""
        return self.task.inherit_fd(fd)

    async def exit(self, status: int = 0) -> None:
        """End the process with a status from 0 to 255.

        Whatever is tried through it afterwards is an error. A checkpoint; if cancelled, it goes on.
        _exit(2).
        """
        await self.task.exit(status)

    def __repr__(self) -> str:
        """For people."""
        return f"Process({self.task})"


#: How long a child may take to wait for its own children, in seconds.
_PATIENCE = 1.0


class ChildProcess(Executing, Process):
    """A child, in which we can make calls until it exec's or ends.

    As a context manager it is killed, if it still runs, and waited for at the end of the block.
    """

    def __init__(self, child: Child | EarlyChild) -> None:
        """Only Process.clone makes them."""
        self._began: Child | EarlyChild = child
        if isinstance(child, Child):
            super().__init__(child.task)

    @property
    def pid(self) -> AsyncChildPid:  # type: ignore[override] # the name that its users know
        """To wait for it; its `pid` is the handle."""
        return self._began.pid

    async def unshare_files(self, going_to_exec: bool = True) -> None:
        """See Process.unshare_files."""
        await unshare_child_files(self._child)

    async def unshare(self, flags: CLONE, *, time_offsets: TimeOffsets | None = None) -> None:
        """See Process.unshare."""
        if CLONE.FILES in flags:
            await self.unshare_files()
            flags &= ~CLONE.FILES
        await super().unshare(flags, time_offsets=time_offsets)

    async def map_ids(
        self,
        uids: Sequence[tuple[int, ...]] | None = None,
        gids: Sequence[tuple[int, ...]] | None = None,
    ) -> None:
        """Map ranges of ids into the user namespace that it was cloned into, from outside.

        uids, gids: IdRange or the like: the first id inside, the first id outside, and how many;
        None: the parent's own id as 0, and from 1 on what /etc/subuid or /etc/subgid gives to its
        user. The child must have been cloned with CLONE.NEWUSER and without mappings, by
        `clone(..., automatically_write_user_mappings=False)`. What its parent may not write itself
        is written by newuidmap and newgidmap.

        ValueError for what no range can be; LookupError if the user is given no ids;
        FileNotFoundError, saying so, if a tool is missing; PermissionError, with what the tool says
        as a note; OSError as the calls report it. A checkpoint; if cancelled, nothing is mapped, or
        the user ids alone. newuidmap(1), subuid(5), user_namespaces(7).
        """
        await write_ranges(Process(cast("Task", self.pid.pid.task)), self, uids, gids)

    async def exit(self, status: int = 0) -> None:
        """End the process with a status from 0 to 255; see Process.exit.

        It has been told to when this returns, and may still be about to; see `pid` for its end.
        """
        check_status(status)
        await checkpoint()
        if not isinstance(self.task.sysif, DeadInterface) and self._child.sysif.send_exit(status):
            self.pid.pid.ending = True
            self._child.over("was told to exit")
        else:
            await super().exit(status)

    @enable_ki_protection
    async def end(self) -> ChildState:
        """Kill it and its children, if they still run, and wait for them, cancelled or not.

        Returns how it ended. PermissionError as of AsyncChildPid.end. A checkpoint; if cancelled,
        they have ended.
        """
        state = await self.finish()
        await checkpoint()
        return state

    @enable_ki_protection
    async def finish(self) -> ChildState:
        """`end`, for who has to clear away: not a checkpoint."""

        async def unblock() -> None:  # stopped or held up, it would never wait for its children
            await trio.sleep(_PATIENCE)
            with contextlib.suppress(PermissionError):
                self.pid.pid.send_signal(SIG.KILL)

        try:
            if self._children:
                refused: PermissionError | None = None
                with shield():
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(unblock)
                        try:
                            await self.finish_children()
                        except PermissionError as exc:  # outside of the nursery, not in a group
                            refused = exc
                        nursery.cancel_scope.cancel()
                if refused is not None:
                    try:
                        raise refused
                    finally:
                        refused = None  # see rsyscall._errors
        finally:
            state = await self._began.finish()
        return state

    async def __aenter__(self) -> Self:
        """Itself. Not a checkpoint."""
        return self

    @enable_ki_protection
    async def __aexit__(self, *exc: object) -> None:
        """See end, but not a checkpoint."""
        await self.finish()

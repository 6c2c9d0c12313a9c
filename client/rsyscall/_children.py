"""All children of a task: whichever changes next, those of a group, and those of dead parents."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Self

import trio

from rsyscall import near
from rsyscall._checkpoint import checkpoint, shield
from rsyscall._raw import lib
from rsyscall._sigchld import wakeups
from rsyscall.handle.process import ChildPid, children_of
from rsyscall.monitor import AsyncChildPid, AsyncSignalfd
from rsyscall.near.sysif import SIGINFO_SIZE, In, Out, SyscallError, SyscallSendError
from rsyscall.signal import SIG, SignalBlock, Sigset
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import ChildState, IdType, W
from rsyscall.sysif.direct import DirectSyscallInterface

if TYPE_CHECKING:
    from rsyscall.epoller import Epoller
    from rsyscall.handle import Pointer, Task, WrittenPointer
    from rsyscall.sched import CLONE, Stack

__all__ = ["ChildPidMonitor"]

_CHANGES = int(W.EXITED | W.STOPPED | W.CONTINUED)
_LOOK = int(W.NOHANG | W.NOWAIT | W.ALL)
_F_DUPFD_CLOEXEC, _ROOM = 1030, 65536

#: How long to wait before it is looked again where nothing tells, at least and at most, in seconds.
_SHORT, _LONG = 0.001, 0.05


class ChildPidMonitor:
    """Waits for the children of a task.

    sigfd: where SIGCHLD of the task is read, if `make` was told to; otherwise None. cloning_task:
    whose children they are. use_clone_parent: False: children are waited for by who makes them.

    In the interpreter's own process these are the children that rsyscall has made, and those that
    were adopted: all others are somebody else's, who waits for them himself. Elsewhere they are all
    there are, with those that have come from a parent that is dead, see adopt_orphans. Their ends
    and other changes are told once; who waits for one of them by its own AsyncChildPid hears of its
    end in any case.
    """

    use_clone_parent = False

    def __init__(self, task: Task, sigfd: AsyncSignalfd | None = None) -> None:
        """Nothing is asked of the kernel. sigfd: of SIGCHLD of the same task, which stays open."""
        self.cloning_task = task
        self.sigfd = sigfd
        self._owns = False
        #: Something was left where it is, and nobody will tell of it again.
        self._unsure = False

    @classmethod
    async def make(
        cls, task: Task, epoller: Epoller, *, signal_block: SignalBlock | None = None
    ) -> ChildPidMonitor:
        """Watch the children of a task by its SIGCHLD, which is blocked and read until `close`.

        signal_block: what has blocked it already. For the interpreter's own process it is not
        blocked unless there is such a block: it may be wanted by others. ValueError, OSError as of
        AsyncSignalfd.make. A checkpoint; if cancelled, nothing has happened. signalfd(2).
        """
        monitor = cls(task)
        if signal_block is None and isinstance(task.sysif, DirectSyscallInterface):
            await checkpoint()
            return monitor
        mask = Sigset([SIG.CHLD])
        monitor.sigfd = await AsyncSignalfd.make(task, epoller, mask, signal_block=signal_block)
        monitor._owns = True
        return monitor

    def inherit_to_child(self, child_task: Task) -> ChildPidMonitor:
        """A monitor for the children of another task, such as one of these children."""
        return ChildPidMonitor(child_task)

    def add_child_pid(self, pid: ChildPid) -> AsyncChildPid:
        """A child of the task, to be waited for. ValueError, naming both, if it is another's."""
        if pid.task is not self.cloning_task:
            raise ValueError(f"pid: {pid} is no child of {self.cloning_task}")
        return AsyncChildPid(pid)

    async def clone(
        self,
        flags: CLONE,
        child_stack: tuple[Pointer[Stack[Any]], WrittenPointer[Stack[Any]]],
        ctid: None = None,
    ) -> AsyncChildPid:
        """Have the task make a child that runs code of yours, to be waited for; see Task.clone.

        As a context manager it is killed and waited for at the end of the block.
        """
        return AsyncChildPid(await self.cloning_task.clone(flags, child_stack, ctid=ctid))

    async def adopt(self, pid: near.Pid | int) -> AsyncChildPid:
        """A child of the task that somebody else has made, or that has come to it, by its number.

        ChildProcessError if the task has no such child; ValueError for what is no pid; OSError as
        the calls report it. A checkpoint; if cancelled, nothing has happened. pidfd_open(2).
        """
        number, task = int(pid), self.cloning_task
        if number <= 0:
            raise ValueError(f"pid: {number} is no process")
        for known in children_of(task):
            if known.near.id == number:
                await checkpoint()
                return AsyncChildPid(known)
        if isinstance(task.sysif, DirectSyscallInterface):
            await checkpoint()
            here = there = os.pidfd_open(number)
        else:
            here, there = await self._open_pidfd(number)
        child = ChildPid(task, near.Pid(number), here, there)
        with shield(not task.sysif.immediate):
            try:
                await task.sysif.wait_child(there, _LOOK | int(W.EXITED))
            except OSError as exc:
                child.forget()
                if here != there:
                    await task.sysif.syscall(SYS.close, there)
                exc.add_note(f"pid {number} is no child of {task}")
                raise
        return AsyncChildPid(child)

    async def _open_pidfd(self, number: int) -> tuple[int, int]:
        sysif = self.cloning_task.sysif
        await checkpoint()
        with shield():
            there = await sysif.syscall(SYS.pidfd_open, number)
            try:
                dup = (there, _F_DUPFD_CLOEXEC, 0)
                here = (await sysif.call(SYS.fcntl, dup, return_fd=True)).fd
                if here is None:
                    raise OSError(errno.EOPNOTSUPP, "no file descriptor can come from there")
            except (OSError, SyscallSendError):
                with contextlib.suppress(OSError, SyscallError):
                    await sysif.syscall(SYS.close, there)
                raise
        return here, there

    # ---- waiting ----

    async def wait(
        self, options: W = W.EXITED, *, pgid: ChildPid | near.Pgid | int | None = None
    ) -> ChildState:
        """Wait until one of the children has changed in one of the ways that the options name.

        options: W.EXITED, W.STOPPED, W.CONTINUED. pgid: only those of a process group. Returns the
        state, with the pid as the task sees it. ChildProcessError if there are no such children;
        ValueError for other options; SyscallHangup if the task is gone. A checkpoint; if cancelled,
        no change has been taken. waitid(2).
        """
        if not int(options) or int(options) & ~_CHANGES:
            raise ValueError(f"options: {options!r} name no change that can be waited for")
        group = pgid.near.id if isinstance(pgid, ChildPid) else None if pgid is None else int(pgid)
        if group is not None and group <= 0:
            raise ValueError(f"pgid: {group} is no process group")
        return (await self._wait_for(options, group))[0]

    async def _look_here(self, options: W, group: int | None) -> tuple[ChildState, bool] | None:
        """Of the interpreter's children: none but ours are asked."""
        left = 0
        for pid in list(children_of(self.cloning_task)):
            if pid.death_state is not None or not _is_in(pid, group):
                continue
            left += 1
            state = await pid.read_state(options)
            if state is not None:
                return state, True
        if not left:
            await checkpoint()
            raise _no_children(self.cloning_task)
        return None

    async def _look_there(self, options: W, group: int | None) -> tuple[ChildState, bool] | None:
        """Take a change of a child; and whether somebody has a handle of that."""
        sysif = self.cloning_task.sysif
        which = (IdType.ALL, 0) if group is None else (IdType.PGID, group)
        while True:
            try:
                siginfo = await self._waitid(*which, _LOOK | int(options))
            except ChildProcessError:
                if sysif.starting:
                    self._unsure = True
                    return None
                raise _no_children(self.cloning_task) from None
            state = ChildState.parse(siginfo)
            if state is None:
                return None
            known = [pid for pid in children_of(self.cloning_task) if pid.near.id == state.pid]
            if known:
                taken = await known[0].read_state(options)
            elif sysif.starting:
                self._unsure = True  # it may be one that nobody has a handle of yet
                return None
            else:
                taken = await self._take(state.pid, options)
            if taken is not None:
                return taken, bool(known)

    async def _take(self, pid: int, options: W) -> ChildState | None:
        with contextlib.suppress(ChildProcessError):  # taken by somebody else
            how = int(options) | int(W.NOHANG | W.ALL)
            return ChildState.parse(await self._waitid(IdType.PID, pid, how))
        return None

    async def _waitid(self, idtype: IdType, number: int, options: int) -> bytes:
        args = (int(idtype), number, Out(SIGINFO_SIZE), options, 0)
        return (await self.cloning_task.sysif.call_at_once(SYS.waitid, args)).outs[0]

    async def _wait_for(self, options: W, group: int | None) -> tuple[ChildState, bool]:
        """Look whenever something may have changed, until there is something."""
        direct = isinstance(self.cloning_task.sysif, DirectSyscallInterface)
        look = self._look_here if direct else self._look_there
        pause, wait = _SHORT, self.sigfd is None and not direct
        with wakeups() if direct else contextlib.nullcontext() as signals, _Pidfds() as pidfds:
            while True:
                scope = trio.CancelScope() if signals is None else signals.next()
                seen = 0 if self.sigfd is None else self.sigfd.seen
                self._unsure = False
                pidfds.watch(children_of(self.cloning_task))
                found = await look(options, group)
                if found is not None:
                    return found
                if wait and not self._unsure and await self._sleep_there(options, group):
                    wait = False
                    continue
                # A thread of the interpreter that does not block it may throw the signal away.
                sure = self.sigfd is not None and not direct and not self._unsure
                told = signals is not None or sure
                if not told:
                    scope.deadline = trio.current_time() + pause
                    pause, wait = min(2 * pause, _LONG), self.sigfd is None
                with scope:
                    if self.sigfd is None or signals is not None:
                        await pidfds.wait()
                    elif self.sigfd.seen == seen:
                        await _either(pidfds.wait, self.sigfd.next_signal.wait)

    async def _sleep_there(self, options: W, group: int | None) -> bool:
        """Have the task itself sleep until there is something; see ChildPid.wait_changed."""
        task = self.cloning_task
        if task.can_stall:
            return False
        which = (IdType.ALL, 0) if group is None else (IdType.PGID, group)
        how = int(options) | int(W.NOWAIT | W.ALL)
        args = int(which[0]), which[1], Out(SIGINFO_SIZE), how, 0
        try:
            return await task.sysif.call_giving_way(SYS.waitid, args) is not None
        except ChildProcessError:
            return True

    # ---- children of dead parents ----

    @contextlib.asynccontextmanager
    async def adopt_orphans(
        self, *, kill: bool = True
    ) -> AsyncGenerator[trio.MemoryReceiveChannel[ChildState]]:
        """Have descendants whose parent dies become children of the task while the block lasts.

        Each is waited for when it ends, so that no zombies are left; how it has ended can be
        received from what is yielded, with the pid as the task sees it. At the end of the block
        those that still run are killed and waited for, unless kill is False; then they are left to
        whoever comes next, as all that come later are.

        When the task dies, nothing is received any more (trio.EndOfChannel). PermissionError for
        the interpreter's own process: nobody could tell them from the children that others there
        wait for. OSError as the calls report it. A checkpoint; if cancelled, nothing has happened.
        PR_SET_CHILD_SUBREAPER(2const).
        """
        task = self.cloning_task
        if isinstance(task.sysif, DirectSyscallInterface):
            message = "orphans of others would come to the interpreter, too; use a child of it"
            raise PermissionError(errno.EPERM, message)
        send, receive = trio.open_memory_channel[ChildState](math.inf)
        await task.sysif.syscall(SYS.prctl, lib.PR_SET_CHILD_SUBREAPER, 1)
        failed: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reap, send)
                try:
                    yield receive
                except BaseException as exc:
                    failed = exc  # raised outside: in a nursery it would come in a group
                nursery.cancel_scope.cancel()
            if failed is not None:
                try:
                    raise failed
                finally:
                    failed = None  # see rsyscall._errors
        finally:
            with shield(), contextlib.suppress(SyscallError):
                if kill:
                    await self._kill_orphans()
                await task.sysif.syscall(SYS.prctl, lib.PR_SET_CHILD_SUBREAPER, 0)
            send.close()

    async def _reap(self, send: trio.MemorySendChannel[ChildState]) -> None:
        pause = _SHORT
        with send, contextlib.suppress(SyscallError):  # the task is gone, and its children with it
            while True:
                try:
                    state, known = await self._wait_for(W.EXITED, None)
                except ChildProcessError:  # not yet, or not any more
                    await trio.sleep(pause)
                    pause = min(2 * pause, _LONG)
                    continue
                pause = _SHORT
                if not known:
                    send.send_nowait(state)

    async def _kill_orphans(self) -> None:
        """Until there are none: a parent that is killed may leave further ones."""
        task, spared = self.cloning_task, set[int]()
        while orphans := await self._orphans() - spared:
            for pid in orphans:
                try:
                    await task.sysif.syscall(SYS.kill, pid, signal.SIGKILL)
                except PermissionError:  # somebody else by now
                    spared.add(pid)
                except ProcessLookupError:
                    pass
                else:
                    await self._wait_until_gone(pid)

    async def _wait_until_gone(self, pid: int) -> None:
        pause, how = _SHORT, int(W.EXITED | W.NOHANG | W.ALL)
        with contextlib.suppress(ChildProcessError):  # somebody else was faster
            while ChildState.parse(await self._waitid(IdType.PID, pid, how)) is None:
                await trio.sleep(pause)
                pause = min(2 * pause, _LONG)

    async def _orphans(self) -> set[int]:
        """Its children of which nobody has a handle, as the kernel lists them."""
        sysif, own = self.cloning_task.sysif, int(self.cloning_task.near_process)
        # Not by way of thread-self: where /proc is another namespace's, its numbers are not ours.
        path = In(f"/proc/self/task/{own}/children\0".encode())
        while True:
            before = {pid.near.id for pid in children_of(self.cloning_task)}
            try:
                fd = await sysif.syscall(SYS.openat, -100, path, os.O_RDONLY | os.O_CLOEXEC, 0)
            except OSError:
                return set()  # no /proc, or a kernel without such lists
            try:
                read = await sysif.call(SYS.read, (fd, Out(_ROOM), _ROOM))
            finally:
                await sysif.syscall(SYS.close, fd)
            if not sysif.starting:  # else there may be some that nobody has a handle of yet
                known = before.union(pid.near.id for pid in children_of(self.cloning_task))
                return set(map(int, read.outs[0][: read.value].split())) - known
            await trio.sleep(_SHORT)

    # ---- its own end ----

    async def close(self) -> None:
        """Give up SIGCHLD of the task, if `make` has taken it, cancelled or not. A checkpoint."""
        if self._owns and self.sigfd is not None:
            self._owns = False
            await self.sigfd.close()
        else:
            await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        """Itself. Not a checkpoint."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """See close."""
        await self.close()


def _no_children(task: object) -> ChildProcessError:
    exc = ChildProcessError(errno.ECHILD, os.strerror(errno.ECHILD))
    exc.add_note(f"{task} has none that could be waited for")
    return exc


def _is_in(pid: ChildPid, group: int | None) -> bool:
    if group is None:
        return True
    with contextlib.suppress(ProcessLookupError):  # it is not ours to wait for any more
        return os.getpgid(pid.near.id) == group
    return False


async def _either(
    one: Callable[[], Awaitable[object]], other: Callable[[], Awaitable[object]]
) -> None:
    """Return when one of them has returned. An error of one of them, and no group."""

    async def wait(function: Callable[[], Awaitable[object]]) -> None:
        await function()
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, one)
            nursery.start_soon(wait, other)
    except BaseExceptionGroup as group:
        await trio.lowlevel.checkpoint_if_cancelled()
        raise group.exceptions[0] from None


class _Pidfds:
    """Whether one of many children has ended: an epoll of ours of their pidfds."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, ChildPid] = {}
        self._sleep = trio.CancelScope()
        self._taken = False

    def watch(self, children: Generator[ChildPid]) -> None:
        alive = {pid.pidfd: pid for pid in children if pid.pidfd >= 0}
        self._taken = False
        for fd in self._watched.keys() - alive.keys():
            self._watched.pop(fd).off_death(self._take)
            with contextlib.suppress(OSError):  # closed, and so not there any more
                self._epoll.unregister(fd)
        for fd, pid in alive.items():
            if self._watched.get(fd) is not pid:
                with contextlib.suppress(FileNotFoundError):
                    self._epoll.unregister(fd)
                self._epoll.register(fd, select.EPOLLIN)
                self._watched[fd] = pid
                pid.on_death(self._take)

    async def wait(self) -> None:
        with trio.CancelScope() as self._sleep:
            if self._taken:
                await checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._epoll.fileno())

    def _take(self) -> None:
        """Somebody else has waited for one, whose pidfd is closed: it will tell nothing."""
        self._taken = True
        self._sleep.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for pid in self._watched.values():
            pid.off_death(self._take)
        self._epoll.close()

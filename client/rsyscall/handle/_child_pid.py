"""A child: its pid, and the task that may signal it and wait for it."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import weakref
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any

import trio

import rsyscall.far
import rsyscall.near
from rsyscall._checkpoint import Turn, checkpoint, due, shield, slow_checkpoint, yielded
from rsyscall._core import Frame, StepList, end_of_child
from rsyscall._raw import lib
from rsyscall.handle._early import Early
from rsyscall.handle._ended import exit_status, rusage
from rsyscall.handle._ends import DOZE_US, SOON_US, ends
from rsyscall.handle._pid import ChildBusyError, ChildDeadError, Pid
from rsyscall.near.sysif import SIGINFO_SIZE, ForkedError, Out, SyscallError, SyscallHangup
from rsyscall.signal import SIG
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import CLD, CODES, ChildState, IdType, Siginfo, W
from rsyscall.sysif.ring import recent_spin_us

if TYPE_CHECKING:
    from rsyscall.command import Command
    from rsyscall.handle.pointer import Pointer

__all__ = ["ChildPid", "children_of"]


_PEEK = int(W.EXITED | W.NOWAIT | W.ALL)
_AT_ONCE, _NOWAIT = int(W.NOHANG | W.ALL), int(W.NOWAIT)

#: All of them. (A WeakSet takes three times as long to be put into.)
_children = set["weakref.ref[ChildPid]"]()


def _all_children() -> list[ChildPid]:
    return [child for ref in list(_children) if (child := ref()) is not None]


def _after_fork_in_child() -> None:
    for child in _all_children():  # they are the parent's
        if child.pidfd >= 0:
            os.close(child.pidfd)
            child.task.fd_table.own.discard(child.pidfd)
            child.pidfd = child.pidfd_there = -1
        if child.early is not None:
            child.early.after_fork()
    _children.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def children_of(task: rsyscall.far.Task) -> Generator[ChildPid]:
    """The children of a task of which somebody has a handle and that were not waited for yet."""
    for child in _all_children():
        if child.task is task and child.death_state is None:
            yield child


class ChildPid(Pid):
    """A child of a task: its pid is its own until it has been waited for.

    death_state: how it ended, once that is known. command: what it has executed. pidfd: a
    descriptor of this interpreter, readable once it is dead; -1 afterwards.
    """

    death_state: ChildState | None = None
    command: Command | None = None
    did_it_exec: bool = False
    #: It was told to end, and nothing can keep it from that for long.
    ending: bool = False
    #: What is still to be made of it.
    early: Early | None = None
    _usage: bytes | None = None
    #: Where the last waitid has told something, and whether that was left for others.
    _told: tuple[Pointer[Siginfo], bool] | None = None
    _known_to_trio = False
    #: What is to be cleared away once it no longer runs in the memory it was made in.
    _on_death: list[Callable[[], None]] | None = None
    _on_end: list[Callable[[], None]] | None = None
    _remains: list[Callable[[], Awaitable[None]]] | None = None
    _last_calls: list[tuple[SYS, tuple[int, ...]]] | None = None

    def __init__(
        self, task: rsyscall.far.Task, near: rsyscall.near.Pid, pidfd: int, pidfd_there: int
    ) -> None:
        """Take over two pidfds: one of ours, and the number of one in the task's table."""
        # All else is written when it differs from what most children have.
        self.task = task
        self.near = near
        self.pidfd: int = pidfd
        self.pidfd_there: int = pidfd_there
        self._owner = os.getpid()
        self._waiting = Turn()  # trio lets one task only wait for a file descriptor
        self._reaping = Turn()
        _children.add(weakref.ref(self, _children.discard))
        task.fd_table.own.add(pidfd_there)
        task.own_fds.add(pidfd_there)

    def settle(self) -> None:
        """Its parent is about to be elsewhere: where it is itself must not depend on that."""
        if self.early is not None:
            self.early.grow()

    @property
    def rusage(self) -> resource.struct_rusage | None:
        """What it has used, once it has ended and if that is known."""
        return None if self._usage is None else rusage(self._usage)

    # ---- using it ----

    def _check_alive(self) -> None:
        if self.death_state is not None:
            raise ChildDeadError(f"{self} has {self.death_state}")
        if self._owner != os.getpid():
            raise ForkedError(f"{self} is a child of the process that we were forked from")

    @contextlib.contextmanager
    def borrow(self) -> Generator[rsyscall.near.Pid]:
        """The pid, while nobody can wait for the child. ChildDeadError, ChildBusyError."""
        self._check_alive()
        if self._reaping.taken:
            raise ChildBusyError(f"{self}: it is being waited for")
        self._reaping.taken = True
        try:
            yield self.near
        finally:
            self._reaping.leave()

    async def kill(self, sig: SIG | int) -> None:
        """Send a signal. A child that has died but was not waited for takes it without a word.

        ChildDeadError; OSError as the call reports it. A checkpoint; if cancelled, nothing was
        sent. pidfd_send_signal(2).
        """
        await checkpoint()
        self._check_alive()
        try:
            self.send_signal(sig)
        except PermissionError:  # its parent may
            async with self._reaping:  # nobody reaps it meanwhile: the number stays its own
                self._check_alive()
                args = (self.pidfd_there, sig, 0, 0)
                await self.task.sysif.call(SYS.pidfd_send_signal, args)

    def send_signal(self, sig: SIG | int) -> None:
        """Send a signal from here, at once; nothing if it has ended.

        PermissionError if we may not, as to a child on another machine.
        """
        if not self._is_near:
            raise PermissionError(errno.EPERM, f"{self} is on {self.task.machine}")
        if self.pidfd >= 0 and self._owner == os.getpid():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, sig)

    async def killpg(self, sig: SIG | int) -> None:
        """Send a signal to the process group that has its number.

        ChildDeadError; OSError as the call reports it. A checkpoint. kill(2).
        """
        async with self._reaping:  # nobody reaps it meanwhile: the number stays its own
            self._check_alive()
            await super().killpg(sig)

    async def getpgid(self) -> rsyscall.near.Pgid:
        """Its process group. ChildDeadError; OSError. A checkpoint. getpgid(2)."""
        async with self._reaping:
            self._check_alive()
            return await super().getpgid()

    async def setpriority(self, prio: int) -> None:
        """Change its priority; see Pid.setpriority. ChildDeadError."""
        async with self._reaping:
            self._check_alive()
            await super().setpriority(prio)

    async def getpriority(self) -> int:
        """Its priority; see Pid.getpriority. ChildDeadError."""
        async with self._reaping:
            self._check_alive()
            return await super().getpriority()

    async def setpgid(self, pgid: ChildPid | None = None) -> None:
        """Put it into the process group of another child, or into one of its own.

        ChildDeadError; OSError as the call reports it. A checkpoint. setpgid(2).
        """
        async with self._reaping:
            self._check_alive()
            number = 0 if pgid is None else pgid.near
            await self.task.sysif.syscall(SYS.setpgid, self.near, number)

    # ---- its end ----

    @property
    def _is_near(self) -> bool:
        """Whether its pidfd is one: of what is elsewhere it only tells the end."""
        return self.task.machine is rsyscall.far.THIS_MACHINE

    async def wait_readable(self) -> None:
        """Return once it is dead. A checkpoint."""
        if self.ending and self.death_state is None and self._is_near:
            await slow_checkpoint()
            # To sleep in trio's loop takes longer than it will go on living.
            if self.pidfd >= 0 and lib.rs_wait_readable(self.pidfd, recent_spin_us(), DOZE_US):
                return
        async with self._waiting:
            if self.death_state is None and self.pidfd >= 0:
                if ends.soon and not ends.waiters and self._is_near:
                    await slow_checkpoint()
                    if self.pidfd < 0 or lib.rs_wait_readable(self.pidfd, 0, SOON_US):
                        return
                await self._sleep()

    async def _sleep(self) -> None:
        self._known_to_trio = True
        with ends:
            try:
                await trio.lowlevel.wait_readable(self.pidfd)
                yielded()  # others have had their turn
            except trio.ClosedResourceError:  # somebody else has waited for it
                await trio.lowlevel.checkpoint()

    async def wait_end(self) -> ChildState | None:
        """Sleep for its end and wait for it at once, if that is likely to pay and comes to that.

        Otherwise None. A checkpoint if it is tried; if cancelled, nothing has happened.
        """
        if self.ending:
            times = recent_spin_us(), DOZE_US
        elif ends.soon and not ends.waiters:
            times = 0, SOON_US
        else:
            return None
        if due():
            await slow_checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        if self.pidfd < 0 or self._reaping.taken or self._waiting.taken:
            return None  # it is not ours to wait for, or others do
        if not self.task.sysif.immediate:
            return None
        told = end_of_child(self.pidfd, *times)
        if told is None:
            if not self.ending:
                ends.soon = False  # to sleep at once for a second time would not pay
            return None
        code, pid, uid, status, self._usage = told
        state = ChildState.make(CODES[code], pid, uid, status)
        self.mark_dead(state)
        if self.early is not None or self._remains:
            await self.clear_away()
        return state

    async def read_state(self, options: W) -> ChildState | None:
        """Take a change of its state, if there is one of those that the options ask for.

        If it is dead, all that was there for it is cleared away. A checkpoint; if cancelled,
        nothing has happened.
        """
        if self._reaping.taken:
            await self._reaping.wait()
        self._reaping.taken = True
        try:
            if self.death_state is not None:
                return self.death_state
            self._check_alive()
            await trio.lowlevel.checkpoint_if_cancelled()
            if self.task.sysif.immediate:
                return await self._read_state(int(options))
            with shield():
                return await self._read_state(int(options))
        finally:
            self._reaping.leave()

    async def _read_state(self, options: int) -> ChildState | None:
        state = await self._take(options)
        if state is not None and state.died() and not options & _NOWAIT:
            self.mark_dead(state)
            await self.clear_away()
        return state

    async def _take(self, options: int) -> ChildState | None:
        # A child that has not exec'd sends no signal when it ends; it is waited for with __WALL.
        how = options | _AT_ONCE
        try:
            siginfo, rusage = await self.task.sysif.wait_child(self.pidfd_there, how)
        except (ChildProcessError, SyscallError):
            # Somebody else has waited for it, or its parent is dead.
            return self._lost_state() if self.is_dead() else None
        state = ChildState.parse(siginfo)
        if state is not None and state.died():
            self._usage = rusage
        return state

    def _lost_state(self) -> ChildState:
        """How it has ended, from its pidfd if that knows (Linux 6.15), after somebody's wait."""
        status = exit_status(self.pidfd)
        if status is not None:
            return ChildState.from_status(self.near.id, status)
        return ChildState.make(CLD.UNKNOWN, self.near.id, 0, 0)

    async def wait_changed(self, options: int) -> bool:
        """Have its parent sleep until there is a change of those that the options name, or its end.

        False if that cannot be, or not any more: then the parent has other things to do, or would
        be held up. A checkpoint; if cancelled, nothing has been taken.
        """
        task = self.task
        if self.death_state is not None or task.pidns_for_children is not task.pidns:
            await checkpoint()
            return False
        how = options & ~int(W.NOHANG) | _PEEK
        args = int(IdType.PIDFD), self.pidfd_there, Out(SIGINFO_SIZE), how, 0
        try:
            return await task.sysif.call_giving_way(SYS.waitid, args) is not None
        except (OSError, SyscallError):  # it is not there any more, or its parent is not
            return False

    async def waitid(
        self, options: W, infop: Pointer[Siginfo], *, rusage: Pointer[Any] | None = None
    ) -> None:
        """Have the kernel tell of a change where infop points, and of what was used where rusage
        points; see read_siginfo.

        options: as waitid(2) has them. Without W.NOHANG the call blocks until there is a change, in
        a thread of the parent's or, if its task can_stall, with all others held up;
        AsyncChildPid.waitpid does neither. ChildDeadError;
        UseAfterFreeError or AddressSpaceMismatchError; ValueError if infop has no room; OSError as
        the call reports it. A checkpoint; if cancelled, nothing has happened.
        """
        if infop.size() < Siginfo.sizeof():
            raise ValueError(f"infop: {infop.size()} bytes, siginfo_t has {Siginfo.sizeof()}")
        async with self._reaping:
            self._check_alive()
            how = int(options) | int(W.ALL)
            with contextlib.ExitStack() as stack:
                info = stack.enter_context(infop.borrow(self.task))
                usage = 0 if rusage is None else stack.enter_context(rusage.borrow(self.task))
                args = (int(IdType.PIDFD), self.pidfd_there, info, how, usage)
                await self.task.sysif.syscall(SYS.waitid, *args)
            self._told = (infop, bool(options & W.NOWAIT))

    def parse_waitid_siginfo(self, siginfo: Siginfo) -> ChildState | None:
        """What waitid has left, as a state; None if that is nothing.

        A child that was waited for is known to be dead from here on.
        """
        if siginfo.signo == 0:
            return None
        state = ChildState.make_from_siginfo(siginfo)
        waited = self._told is not None and not self._told[1]
        if state.died() and waited and self.death_state is None:
            self.mark_dead(state)
        return state

    async def read_siginfo(self) -> ChildState | None:
        """What the last waitid has left; None if there was nothing to tell.

        ValueError if there was none. A checkpoint.
        """
        if self._told is None:
            raise ValueError(f"{self}: nothing was waited for")
        state = self.parse_waitid_siginfo(await self._told[0].read())
        await self.clear_away()
        return state

    async def read_state_change(self) -> ChildState:
        """The same, where it is known that there is something. ValueError if there is not."""
        state = await self.read_siginfo()
        if state is None:
            raise ValueError(f"{self}: nothing has changed")
        return state

    def is_dead(self) -> bool:
        """Whether it has ended, waited for or not."""
        if self.pidfd < 0:
            return True
        return bool(lib.rs_wait_readable(self.pidfd, 0, 0))

    def on_death(self, function: Callable[[], None]) -> None:
        """Have something done once it is known to be dead."""
        if self._on_death is None:
            self._on_death = []
        self._on_death.append(function)

    def off_death(self, function: Callable[[], None]) -> None:
        """Not this any more, if it was not done yet."""
        if self._on_death is not None and function in self._on_death:
            self._on_death.remove(function)

    def on_end(self, function: Callable[[], None]) -> None:
        """Have something done once it is known to be dead, or is nobody's to end any more."""
        if self._on_end is None:
            self._on_end = []
        self._on_end.append(function)

    def ended(self) -> None:
        """Do what on_end was told."""
        told, self._on_end = self._on_end, None  # they know us: nothing is left to be collected
        for function in told or ():
            function()

    def on_release(self, function: Callable[[], Awaitable[None]]) -> None:
        """Have something done once it no longer runs in the memory that it was made in."""
        if self._remains is None:
            self._remains = []
        self._remains.append(function)

    def on_release_call(self, number: SYS, *args: int) -> None:
        """Have a call made by its parent then."""
        if self._last_calls is None:
            self._last_calls = []
        self._last_calls.append((number, args))

    async def clear_away(self) -> None:
        """Do what on_release was told, if it is over. Not a checkpoint."""
        if self.death_state is None and not self.did_it_exec:
            return
        if self.task.sysif.immediate:
            await self._clear_away()
        elif self._remains or self._last_calls:
            with shield():
                await self._clear_away()

    async def _clear_away(self) -> None:
        while self._remains:
            try:
                await self._remains.pop()()
            except (OSError, SyscallHangup):
                continue  # with those who had it, it is gone
        if self.early is not None:
            early = self.early
            if self.death_state is not None:
                self.early = None
            early.release(self.death_state)
        if self._last_calls:
            await self._make_last_calls()

    async def _make_last_calls(self) -> None:
        batch = StepList()
        while self._last_calls:
            number, args = self._last_calls.pop()
            batch.syscall(number, *args, on_error="continue")
        frame = batch.encode()
        if not isinstance(frame, Frame):
            raise AssertionError("these steps are plain")
        with contextlib.suppress(SyscallHangup):
            await self.task.sysif.batch_frame(frame, batch)

    def mark_dead(self, state: ChildState) -> None:
        """Take note of how it has ended, from whoever has waited for it."""
        self.death_state = state
        there, here = self.pidfd_there, self.pidfd
        self.task.fd_table.own.discard(there)
        self.task.own_fds.discard(there)
        self.pidfd = self.pidfd_there = -1
        self.ended()
        if self._on_death is not None:
            told, self._on_death = self._on_death, None
            for function in told:
                function()
        if here >= 0:
            if self._known_to_trio:
                trio.lowlevel.notify_closing(here)
            os.close(here)
        if there != here:
            self.on_release_call(SYS.close, there)

    def forget(self) -> None:
        """It was no child: close our pidfd, and know nothing of it any more."""
        self.task.fd_table.own.discard(self.pidfd_there)
        self.task.own_fds.discard(self.pidfd_there)
        here, self.pidfd, self.pidfd_there = self.pidfd, -1, -1
        if here >= 0:
            os.close(here)
        _children.discard(weakref.ref(self))

    def did_exec(self, command: Command | None) -> ChildPid:
        """Take note that it has exec'd. Returns itself."""
        self.did_it_exec = True
        self.command = command
        return self

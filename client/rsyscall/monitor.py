"""Waiting for children and for signals."""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Self

import trio
from trio.lowlevel import enable_ki_protection

from rsyscall._checkpoint import checkpoint, shield
from rsyscall._sigchld import Wakeups, wakeups
from rsyscall.epoller import Epoller
from rsyscall.epoller._shared import SharedRead
from rsyscall.handle.process import ChildDeadError, ChildPid
from rsyscall.near.sysif import SyscallError
from rsyscall.near.typed import perform_at_once
from rsyscall.signal import SIG, SignalBlock, Sigset
from rsyscall.sys.signalfd import SFD, SignalfdSiginfo
from rsyscall.sys.wait import CalledProcessError, ChildState, W
from rsyscall.sysif.direct import DirectSyscallInterface
from rsyscall.unistd.io import read_call

if TYPE_CHECKING:
    from rsyscall._children import ChildPidMonitor
    from rsyscall.command import Command
    from rsyscall.handle import FileDescriptor, Task

__all__ = ["AsyncChildPid", "AsyncSignalfd", "ChildPidMonitor"]

# As plain numbers, which take a tenth of the time.
_CHANGES = int(W.EXITED | W.STOPPED | W.CONTINUED)
_MODES = int(W.NOWAIT | W.ALL | W.CLONE)

#: How long to wait for the end of a child alone before its parent waits for its stops, too; and
#: where that cannot, how long at least and at most until it is asked again, in seconds.
_FIRST, _SHORT, _LONG = 0.01, 0.01, 0.1

#: How long to wait before a signal is looked for again, at least and at most, in seconds.
_SHORTEST, _LONGEST = 0.001, 0.05

#: How long a child that has closed its socket may take to be dead, in seconds.
_END_SECONDS = 1.0


def __getattr__(name: str) -> object:
    """ChildPidMonitor, which is made of these. AttributeError for a name that there is not."""
    if name == "ChildPidMonitor":
        from rsyscall._children import ChildPidMonitor

        return ChildPidMonitor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class AsyncChildPid:
    """A child that can be waited for.

    pid: the handle. stdin, stdout, stderr: our ends of the pipes that it was spawned with, or None;
    they belong to whoever has spawned it. Leaving its block as a context manager kills it, if it
    still runs, waits for it and closes them.
    """

    stdin: trio.abc.SendStream | None = None
    stdout: trio.abc.ReceiveStream | None = None
    stderr: trio.abc.ReceiveStream | None = None
    _streams: tuple[trio.abc.AsyncResource, ...] = ()
    _first: Callable[[], Awaitable[None]] | None = None
    _detached = False

    def __init__(self, pid: ChildPid) -> None:
        """Nothing is asked of the kernel."""
        self.pid: ChildPid = pid

    def add_stream(self, name: str, stream: trio.abc.AsyncResource) -> None:
        """Take over our end of a pipe as stdin, stdout or stderr."""
        setattr(self, name, stream)
        self._streams += (stream,)

    def on_end(self, function: Callable[[], None]) -> None:
        """Have something done once it is known to be dead, or is detached."""
        self.pid.on_end(function)

    def finish_first(self, function: Callable[[], Awaitable[None]]) -> None:
        """Have something done first whenever it is ended by us, even if it is dead already."""
        self._first = function

    def detach(self) -> None:
        """Let it outlive its parent, and its block as a context manager."""
        self._detached = True
        self.pid.ended()

    @property
    def command(self) -> Command | None:
        """What it has executed, if that is known."""
        return self.pid.command

    @enable_ki_protection
    async def waitpid(self, options: W) -> ChildState:
        """Wait until its state has changed in one of the ways that the options name.

        options: W.EXITED, W.STOPPED, W.CONTINUED, with W.NOWAIT to leave the change for others.
        Returns the state; that of a dead child again and again. If somebody else has waited for it,
        or its parent is dead, the state's code is CLD.UNKNOWN. ValueError for other options. A
        checkpoint; if cancelled, no change has been taken. waitid(2).
        """
        wanted = int(options) & _CHANGES
        if not wanted or int(options) & ~(_CHANGES | _MODES):
            raise ValueError(f"options: {options!r} name no change that can be waited for")
        if wanted == W.EXITED:
            return await self._wait_exit(options)
        if self.pid.death_state is not None:
            await checkpoint()
            return self.pid.death_state
        if isinstance(self.pid.task.sysif, DirectSyscallInterface):
            with wakeups() as signals:
                if signals is not None:
                    return await self._wait_change_here(options, signals)
        return await self._wait_change_there(options)

    # A pidfd tells the end, and nothing tells the rest but the signal to the parent.

    async def _wait_change_here(self, options: W, signals: Wakeups) -> ChildState:
        while True:
            scope = signals.next()
            state = await self.pid.read_state(options)
            if state is not None:
                return state
            with scope:
                await self.pid.wait_readable()

    async def _wait_change_there(self, options: W) -> ChildState:
        # The signal of another process nobody tells us. So that waits itself; where it cannot, it
        # is asked, ever less often. Most end soon, and need no thread for that.
        pause, wait = _FIRST, False
        while True:
            state = await self.pid.read_state(options)
            if state is not None:
                return state
            if wait and await self.pid.wait_changed(int(options)):
                pause, wait = _SHORT, False
                continue
            with trio.move_on_after(pause):
                await self.pid.wait_readable()
            pause, wait = min(max(_SHORT, 1.5 * pause), _LONG), True

    async def _wait_exit(self, options: W) -> ChildState:
        if self.pid.death_state is not None:
            await checkpoint()
            return self.pid.death_state
        if options is W.EXITED:
            state = await self.pid.wait_end()
            if state is not None:
                return state
        while True:
            await self.pid.wait_readable()
            state = await self.pid.read_state(options)
            if state is not None:
                return state

    @enable_ki_protection
    async def wait(self, options: W = W.EXITED | W.STOPPED | W.CONTINUED) -> ChildState:
        """Wait until its state has changed; see waitpid."""
        return await self.waitpid(options)

    @enable_ki_protection
    async def check(self) -> ChildState:
        """Wait for its end. CalledProcessError unless it has exited with status 0; see waitpid."""
        state = await self._wait_exit(W.EXITED)
        if not state.clean():
            raise CalledProcessError(state, self.command)
        return state

    async def kill(self, sig: SIG | int = SIG.KILL) -> None:
        """Send a signal; see ChildPid.kill."""
        await self.pid.kill(sig)

    async def killpg(self, sig: SIG | int = SIG.KILL) -> None:
        """Send a signal to the process group that has its number; see ChildPid.killpg."""
        await self.pid.killpg(sig)

    async def post_mortem(self) -> str:
        """What has become of it, after its socket has been closed.

        A checkpoint unless that is known.
        """
        pid = self.pid
        if pid.death_state is None:
            with trio.move_on_after(_END_SECONDS):
                await self.waitpid(W.EXITED)
        if pid.death_state is None:
            return f"the child (pid {pid.near.id}) still runs"
        return f"the child has ended: {pid.death_state}"

    @enable_ki_protection
    async def end(self) -> ChildState:
        """Kill it, if it still runs, and wait for it, cancelled or not; returns how it ended.

        PermissionError, naming the pid, if neither we nor its parent may kill it, such as a program
        that runs as somebody else by now, and it does not end by itself within a second: then it
        runs on, and is nobody's to end any more; see detach. A checkpoint; if cancelled, it has
        ended. kill(2).
        """
        state = await self.finish()
        await checkpoint()
        return state

    @enable_ki_protection
    async def finish(self) -> ChildState:
        """`end`, for who has to clear away: not a checkpoint."""
        try:
            if self._first is not None:
                await self._first()
        finally:
            state = await self._finish()
        return state

    async def _finish(self) -> ChildState:
        with shield():
            while self.pid.death_state is None:
                may = await self._kill()
                self.pid.ending = may
                with trio.move_on_after(math.inf if may else _END_SECONDS) as scope:
                    await self.pid.wait_readable()
                if scope.cancelled_caught and not self.pid.is_dead():
                    self.detach()
                    message = f"{os.strerror(errno.EPERM)}: to kill {self.pid}, which runs on"
                    raise PermissionError(errno.EPERM, message)
                await self.pid.read_state(W.EXITED)
        return self.pid.death_state

    def may_kill(self) -> bool:
        """Whether we may send it signals from here."""
        try:
            self.pid.send_signal(SIG.NONE)
        except PermissionError:
            return False
        return True

    async def _kill(self) -> bool:
        """Kill it. Whether that could be done, by us or by its parent."""
        try:
            self.pid.send_signal(SIG.KILL)
        except PermissionError:
            try:
                await self.pid.kill(SIG.KILL)
            except (OSError, SyscallError, ChildDeadError):
                return False
        return True

    async def __aenter__(self) -> Self:
        """Itself. Not a checkpoint."""
        return self

    @enable_ki_protection
    async def __aexit__(self, *exc: object) -> None:
        """Unless it is detached, see end; its pipes are closed, even when cancelled.

        Not a checkpoint.
        """
        if self._detached:
            return
        try:
            await self.finish()
        finally:
            for stream in self._streams:
                if isinstance(stream, trio.lowlevel.FdStream):
                    stream.close()
                else:  # there, by calls of its parent
                    with shield():
                        await stream.aclose()

    def __int__(self) -> int:
        """The pid, as its parent sees it."""
        return self.pid.near.id

    def __repr__(self) -> str:
        """For people."""
        return f"AsyncChildPid({self.pid})"


class AsyncSignalfd:
    """Signals of a process that are read instead of delivered.

    fd: where they are read. signal_block: what has blocked them. next_signal: its `wait()` returns
    the next signal, as SignalfdSiginfo, to all who wait for it; so several can share the signals of
    a process, such as SIGCHLD. docs/blocking.md says when it is seen. What comes while nobody waits
    is there for the next who does; equal signals may have become one. As a context manager it is
    closed at the end of the block.
    """

    def __init__(self, fd: FileDescriptor, signal_block: SignalBlock, *, blocked: bool) -> None:
        """blocked: whether the block is its own. See make."""
        self.fd = fd
        self.signal_block = signal_block
        self._blocked = blocked
        self._sleep = trio.CancelScope()
        #: How many have been read so far: who has looked at something notes it before.
        self.seen: int = 0
        self.next_signal: SharedRead[SignalfdSiginfo] = SharedRead(self._read)

    @classmethod
    async def make(
        cls,
        task: Task,
        epoller: Epoller,
        mask: Sigset,
        *,
        signal_block: SignalBlock | None = None,
    ) -> AsyncSignalfd:
        """Have signals of a task read.

        epoller: not used yet. mask: which. signal_block: what has blocked them already; None: they
        are blocked, until it is closed. ValueError if they are blocked already, or are not all in
        signal_block, or are no signals; OSError as the calls report it. A checkpoint; if cancelled,
        nothing has happened. signalfd(2), sigprocmask(2).
        """
        mine = signal_block is None
        if signal_block is None:
            signal_block = await task.sigmask_block(mask)
        elif missing := set(mask) - set(signal_block.mask):
            raise ValueError(f"signal_block: {Sigset(missing)} is not in it")
        with shield():
            try:
                fd = await task.signalfd(mask, SFD.NONBLOCK)
            except BaseException:
                if mine:
                    await signal_block.unblock()
                raise
        return cls(fd, signal_block, blocked=mine)

    async def _read(self) -> SignalfdSiginfo:
        # Whether a signalfd is readable depends on who asks: the kernel looks at the signals of the
        # caller of epoll_wait. We would ask here, about our own. So its server asks; where that
        # cannot, it is read, ever less often.
        pause = _SHORTEST
        while True:
            if not self.fd.valid:
                raise trio.ClosedResourceError(f"{self.fd} was closed")
            call = read_call(self.fd.near, SignalfdSiginfo.sizeof())
            try:
                info = SignalfdSiginfo.from_bytes(await perform_at_once(self.fd.task, call))
            except BlockingIOError:
                await self._wait(pause)
                pause = min(2 * pause, _LONGEST)
            else:
                self.seen += 1
                return info

    async def _wait(self, pause: float) -> None:
        """Return when there may be something, or after a pause, or when it is closed."""
        with trio.CancelScope() as self._sleep:
            if self.fd.valid and not await self.fd.task.sysif.wait_readable(int(self.fd.near)):
                await trio.sleep(pause)

    async def close(self) -> None:
        """Close it and, if it has blocked them itself, unblock the signals, cancelled or not.

        Those that have come and that nobody has read are delivered then. A checkpoint.
        """
        with shield():
            if self.fd.valid:
                with contextlib.suppress(SyscallError):
                    await self.fd.close()
            self._sleep.cancel()
            if self._blocked:
                self._blocked = False
                with contextlib.suppress(SyscallError):
                    await self.signal_block.unblock()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        """Itself. Not a checkpoint."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """See close."""
        await self.close()

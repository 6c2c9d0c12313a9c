"""An epoll instance of a process, waited for here.

There is no task for that: of those who wait one leads. It waits for the instance, takes what has
happened, wakes whom that concerns, and when it has what it wants itself another one takes over.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import select
from collections.abc import Awaitable, Callable
from typing import cast

import trio

from rsyscall import far
from rsyscall._checkpoint import checkpoint, shield
from rsyscall._raw import lib
from rsyscall.epoller._shared import Gate
from rsyscall.epoller._watched import EpolledFileDescriptor, Waiter
from rsyscall.handle import FileDescriptor, Task
from rsyscall.near.sysif import SyscallError, SyscallHangup, SyscallInterface
from rsyscall.near.typed import perform_at_once
from rsyscall.sys.epoll import EPOLL, EPOLL_CTL, EpollEvent, epoll_ctl_call, epoll_wait_call
from rsyscall.sys.syscall import SYS

__all__ = ["Epoller"]

#: Keys of watches; below are the numbers of our own descriptors.
_FIRST_KEY, _LAST_KEY = 2**30, 2**31 - 1
#: How many events are taken at once.
_MOST = 1000
#: How long to sleep before asking again where nothing tells that something has happened, seconds.
_SHORTEST, _LONGEST = 0.001, 0.05


class _Source(abc.ABC):
    """Where events come from."""

    @abc.abstractmethod
    async def take(self) -> list[tuple[int, int]]:
        """Keys and events that have come, or that come first; perhaps none. A checkpoint."""

    def close(self) -> None:
        """Nothing will be taken any more."""
        return


class _Here(_Source):
    """The instance is open here, too."""

    def __init__(self, fd: int) -> None:
        """Take over the descriptor."""
        self.epoll = select.epoll.fromfd(fd)

    async def take(self) -> list[tuple[int, int]]:
        await checkpoint()
        got = self._poll()
        if not got and not self.epoll.closed:
            with contextlib.suppress(trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(self.epoll.fileno())
            got = self._poll()
        return got

    def _poll(self) -> list[tuple[int, int]]:
        return [] if self.epoll.closed else self.epoll.poll(0, _MOST)

    def close(self) -> None:
        if not self.epoll.closed:
            trio.lowlevel.notify_closing(self.epoll.fileno())
            self.epoll.close()


class _There(_Source):
    """The instance is only open there: it is asked, when that may be worth it."""

    def __init__(self, epfd: FileDescriptor, wait: Callable[[], Awaitable[None]] | None) -> None:
        """wait: returns once it may be readable; None: nothing tells."""
        self.epfd = epfd
        self.wait = wait
        self._pause = _SHORTEST

    async def take(self) -> list[tuple[int, int]]:
        epfd = self.epfd
        call = epoll_wait_call(epfd.near, _MOST, 0, abi=epfd.task.abi)
        got = await perform_at_once(epfd.task, call)
        if got:
            self._pause = _SHORTEST
        elif self.wait is not None:
            await self.wait()
        else:
            await trio.sleep(self._pause)
            self._pause = min(2 * self._pause, _LONGEST)
        return [(event.data, int(event.events)) for event in got]


class Center:
    """An epoll instance and all that is watched by it, in one process or several."""

    def __init__(self, pinned: bool) -> None:
        """pinned: whether it stays open when nothing is watched."""
        self.pinned: bool = pinned
        self.source: _Source | None = None
        self.watched: dict[int, EpolledFileDescriptor] = {}
        self.parked: dict[Waiter, EpolledFileDescriptor] = {}
        #: Who leads.
        self.leader: EpolledFileDescriptor | None = None
        #: Closed while the instance is being opened or closed.
        self.gate: Gate = Gate()
        #: How many watches are being begun: meanwhile the instance is not closed.
        self.begun: int = 0
        self._settled = trio.Event()
        self._keys = itertools.count(_FIRST_KEY)
        self._sleep = trio.CancelScope()
        #: By our own descriptors that tell of it: whose process ends.
        self.ends: dict[int, Epoller] = {}

    def settle(self) -> None:
        """A watch has been begun, or not."""
        self.begun -= 1
        if not self.begun:
            self._settled.set()

    async def wait_settled(self) -> None:
        """Return once no watch is being begun."""
        while self.begun:
            self._settled = trio.Event()
            await self._settled.wait()

    def next_key(self) -> int:
        """One that is not in use."""
        while True:
            key = next(self._keys)
            if key > _LAST_KEY:
                self._keys = itertools.count(_FIRST_KEY)
            elif key not in self.watched:
                return key

    async def lead(self, watched: EpolledFileDescriptor, mask: int) -> None:
        """Take events until this one has what it wants, or has to look at something else."""
        self.leader = watched
        try:
            with trio.CancelScope() as self._sleep:
                while not (watched.removed or watched.epoller.ended or watched.is_ready(mask)):
                    if self.source is None:  # closed meanwhile
                        await trio.lowlevel.checkpoint()
                        return
                    self._dispatch(await self.source.take())
        finally:
            self.leader = None

    def _dispatch(self, got: list[tuple[int, int]]) -> None:
        woken = dict[Epoller, int]()
        for key, events in got:
            watched = self.watched.get(key)
            if watched is not None:
                epoller = watched.epoller
                woken[epoller] = woken.get(epoller, 0) + watched.arrive(events)
            elif (ended := self.ends.get(key)) is not None:
                ended.end()
        for epoller, n in woken.items():
            epoller.task.sysif.expect(n)

    def pass_on(self) -> None:
        """Have somebody lead, if nobody does."""
        if self.leader is None and self.parked:
            waiter, watched = next(iter(self.parked.items()))
            watched.wake(waiter)

    def wake_leader(self, watched: EpolledFileDescriptor) -> None:
        """Have the one who leads look again, if this is what it waits for."""
        if self.leader is watched:
            self._sleep.cancel()

    def look_again(self) -> None:
        """Have all who wait look again whether they still should."""
        for waiter, watched in list(self.parked.items()):
            watched.wake(waiter)
        self._sleep.cancel()

    def listen_for_end(self, epoller: Epoller, fds: list[tuple[int, int]]) -> None:
        """Have descriptors of ours tell when that process ends."""
        if isinstance(self.source, _Here) and not self.source.epoll.closed:
            for fd, events in fds:
                with contextlib.suppress(FileExistsError):
                    self.source.epoll.register(fd, events | select.EPOLLET)
                self.ends[fd] = epoller

    def close(self) -> None:
        """Close what is open here."""
        source, self.source = self.source, None
        self.ends.clear()
        if source is not None:
            source.close()
        self.look_again()


class Epoller:
    """Watches descriptors of one process; see this module's documentation.

    task: the process. The epoll instance is made when the first watch begins, and closed when the
    last one has ended, unless make_root has made it.
    """

    def __init__(self, task: Task, center: Center | None = None) -> None:
        """Nothing is opened. center: of whom the instance is shared."""
        self.task = task
        self.center: Center = Center(pinned=False) if center is None else center
        #: Whether it has made the instance.
        self._root: bool = center is None
        self._epfd: FileDescriptor | None = None
        #: Whether the process may have ended.
        self.ended: bool = False
        self._sysif: SyscallInterface | None = None
        #: Whether the descriptor of the instance is closed with it.
        self._owns: bool = True
        self._lent: bool = False

    # ---- making them ----

    @staticmethod
    async def make_root(task: Task) -> Epoller:
        """One whose instance is open until close(), or the end of the process.

        If its descriptor cannot come here (the connection carries none), its process waits for it,
        or, if that cannot, is asked every 50 ms. OSError as the calls report it. A checkpoint; if
        cancelled, nothing was made. epoll_create1(2).
        """
        epoller = Epoller(task, Center(pinned=True))
        epoller._root = True
        async with epoller.center.gate:
            await epoller._open()
        return epoller

    @staticmethod
    def make_subsidiary(
        epfd: FileDescriptor, wait_readable: Callable[[], Awaitable[None]]
    ) -> Epoller:
        """One for an instance that exists already, and is closed by whoever has made it.

        epfd: its handle: events are taken by calls of that task. wait_readable: returns once the
        instance may have events; where it raises, so does who waits. Not a checkpoint.
        """
        center = Center(pinned=True)
        center.source = _There(epfd, wait_readable)
        epoller = Epoller(cast("Task", epfd.task), center)
        epoller._epfd = epfd
        epoller._owns, epoller._lent = False, True
        epoller._watch_end()
        return epoller

    def inherit(self, task: Task) -> Epoller:
        """The same instance for another task, which has the same table or has inherited it open.

        FDTableMismatchError if it has not; InvalidHandleError if the instance is not open. One
        file under one number can be watched once in an instance, whoever's number it is. Not a
        checkpoint.
        """
        epfd = self._epfd
        if epfd is None:
            raise far.FDTableMismatchError(f"{self} is not open yet: {task} has not inherited it")
        self.center.pinned = True
        child = Epoller(task, self.center)
        same = task.fd_table is epfd.task.fd_table
        child._epfd = epfd.for_task(task) if same else epfd.inherit(task)
        child._owns = not same
        child._watch_end()
        return child

    # ---- the instance ----

    async def _open(self) -> None:
        task, maker = self.task, self._maker()
        await checkpoint()
        with shield():
            epfd = await maker.epoll_create()
            try:
                here = await self._bring(epfd)
            except BaseException:
                with contextlib.suppress(OSError, SyscallError):
                    await epfd.close()
                raise
        self._epfd = epfd if maker is task else epfd.move(task)
        wait = self._wait_there
        self.center.source = _There(self._epfd, wait) if here is None else _Here(here)
        self._watch_end()

    def _maker(self) -> Task:
        """Who opens the instance: of a table that is ours as well we do.

        The number of what a process has opened is lost if it is killed before it can say so, and in
        a table that others have it would stay open.
        """
        task = self.task
        for other in task.fd_table.tasks:
            if other.sysif.immediate and other.near_process != task.near_process:
                return cast("Task", other)
        return task

    async def _bring(self, epfd: FileDescriptor) -> int | None:
        """A descriptor of the instance here, if the connection can carry one."""
        dup = (epfd.near, lib.F_DUPFD_CLOEXEC, 0)
        try:
            return (await epfd.task.sysif.call(SYS.fcntl, dup, return_fd=True)).fd
        except SyscallHangup:
            raise
        except (ValueError, OSError):
            return None

    async def _wait_there(self) -> None:
        """Return once the instance may have events, as its process says, or after a while."""
        epfd = self._epfd
        if epfd is None or not await self.task.sysif.wait_readable(int(epfd.near)):
            await trio.sleep(_LONGEST)

    def _watch_end(self) -> None:
        sysif = self._sysif = self.task.sysif
        self.center.listen_for_end(self, sysif.get_end_fds())
        sysif.on_end(self.end)

    def end(self) -> None:
        """The process may have ended: who waits for it is to find out."""
        self.ended = True
        if self._sysif is not None:
            self._sysif.forget_on_end(self.end)
            self._sysif = None
        self.center.look_again()

    async def confirm_end(self) -> None:
        """Raise SyscallHangup if the process has ended; otherwise that was a false alarm."""
        await self.task.sysif.call(SYS.getpid)
        self.ended = False
        self._watch_end()

    async def _close(self) -> None:
        """Close what there is of the instance. To be shielded, and inside the gate."""
        await self.center.wait_settled()
        if self._root:
            self.center.close()
        if self._sysif is not None:
            self._sysif.forget_on_end(self.end)
            self._sysif = None
        epfd, self._epfd = self._epfd, None
        if epfd is None or not epfd.valid:
            return
        if self._lent:
            return
        epfd.forget()
        if not self._owns:
            return
        # If the process is gone, others may have its table, in which the instance is still open.
        for task in (epfd.task, *epfd.task.fd_table.tasks):
            with contextlib.suppress(SyscallError):
                await task.sysif.syscall(SYS.close, epfd.near)
                return

    async def close(self) -> None:
        """Close the instance, cancelled or not: what was watched is not watched any more.

        One that has been inherited closes what it has of it, and ends its own watches. A
        checkpoint.
        """
        mine = [one for one in self.center.watched.values() if self._root or one.epoller is self]
        with shield():
            for watched in mine:
                await watched.epoller.remove(watched)
            async with self.center.gate:
                await self._close()
        await checkpoint()

    # ---- watches ----

    async def control(self, op: EPOLL_CTL, fd: FileDescriptor, event: EpollEvent | None) -> None:
        """epoll_ctl(2)."""
        epfd = self._epfd
        if epfd is None:
            raise RuntimeError(f"{self} is not open")
        with fd.borrow(epfd.task) as number:
            call = epoll_ctl_call(epfd.near, op, number, event, abi=epfd.task.abi)
            await perform_at_once(epfd.task, call)

    async def register(self, fd: FileDescriptor, events: EPOLL) -> EpolledFileDescriptor:
        """Begin to watch a descriptor of the process.

        events: which are told. Watching is edge-triggered, as with EPOLL.ET: each change is told
        once, and first what holds already. ERR and HUP always are. PermissionError for a file that
        never blocks; FileExistsError if it is watched already; OSError otherwise as the call
        reports it; errors of handles. A checkpoint; if cancelled, it is not watched. epoll_ctl(2).
        """
        center = self.center
        await checkpoint()
        await center.gate.wait_open()
        if self._epfd is None:
            if not self._root:
                raise RuntimeError(f"{self} is closed")
            async with center.gate:
                await self._open()
                watched = self._begin(fd)
                self.task.sysif.expect(center.gate.waiting + 1)
        else:
            watched = self._begin(fd)
        try:
            await self.control(EPOLL_CTL.ADD, fd, EpollEvent(watched.key, events | EPOLL.ET))
        except BaseException:
            center.watched.pop(watched.key, None)
            center.settle()
            with shield():
                async with center.gate:
                    await self._close_if_unused()
            raise
        center.settle()
        return watched

    def _begin(self, fd: FileDescriptor) -> EpolledFileDescriptor:
        """From here on the instance stays open until center.settle()."""
        center = self.center
        watched = EpolledFileDescriptor(self, fd, center.next_key())
        center.watched[watched.key] = watched
        center.begun += 1
        return watched

    def _forget(self, watched: EpolledFileDescriptor) -> None:
        watched.removed = True
        self.center.watched.pop(watched.key, None)
        for waiter in list(watched.waiters):
            watched.wake(waiter)
        self.center.wake_leader(watched)

    async def remove(self, watched: EpolledFileDescriptor) -> None:
        """End a watch, cancelled or not; nothing if it has ended before."""
        if watched.removed:
            return
        self._forget(watched)
        with shield():
            if self._epfd is not None and watched.fd.valid:
                with contextlib.suppress(OSError, SyscallError):
                    await self.control(EPOLL_CTL.DEL, watched.fd, None)
            async with self.center.gate:
                await self._close_if_unused()

    async def _close_if_unused(self) -> None:
        if not self.center.pinned and not self.center.watched:
            await self._close()

    def __repr__(self) -> str:
        """For people."""
        return f"Epoller({self.task})"

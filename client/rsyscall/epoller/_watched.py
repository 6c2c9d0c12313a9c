"""One descriptor that is watched, and who waits for it.

Watching is edge-triggered: the kernel tells each change once. So what it has told is counted here
until somebody has consumed it, and these are the rules that lose nothing:

1. Who is about to try (read, write, accept) notes the counts first.
2. If it was too early (EAGAIN), exactly those counts are consumed: what has been told meanwhile
   stays, and the next try is made at once.
3. Only who finds no count waits.

Descriptors start without counts, and may be ready: the kernel tells what holds when a watch begins.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import TYPE_CHECKING, Any

import trio

from rsyscall._checkpoint import checkpoint
from rsyscall.sys.epoll import EPOLL, EPOLL_CTL, EpollEvent

if TYPE_CHECKING:
    from rsyscall.epoller._epoller import Epoller
    from rsyscall.handle import FileDescriptor

__all__ = ["EpolledFileDescriptor", "RemovedFromEpollError"]

_FLAGS = [int(flag) for flag in EPOLL if flag and flag not in (EPOLL.ET, EPOLL.ONESHOT)]


class RemovedFromEpollError(trio.ClosedResourceError):
    """The descriptor is not watched any more."""


class Waiter:
    """A task that sleeps until one of some events has come."""

    __slots__ = ("mask", "task")

    def __init__(self, mask: int, task: trio.lowlevel.Task) -> None:
        """Not waiting yet."""
        self.mask: int = mask
        self.task: trio.lowlevel.Task | None = task


class EpolledFileDescriptor:
    """A descriptor that an Epoller watches.

    epoller: which. fd: the handle. Only Epoller.register makes them.
    """

    def __init__(self, epoller: Epoller, fd: FileDescriptor, key: int) -> None:
        """key: what comes with its events."""
        self.epoller = epoller
        self.fd = fd
        self.key: int = key
        self.removed: bool = False
        self.waiters: dict[Waiter, None] = {}
        self._counts: dict[int, int] = {}
        self._consumed: dict[int, int] = {}  # of those that were told since the beginning
        self._told = 0  # the flags that have a count

    # ---- what has been told ----

    def arrive(self, events: int) -> int:
        """The kernel tells that something has happened. Returns how many tasks that concerns."""
        counts = self._counts
        self._told |= events
        for flag in _FLAGS:
            if events & flag:
                counts[flag] = counts.get(flag, 0) + 1
        concerned = [waiter for waiter in self.waiters if waiter.mask & events]
        for waiter in concerned:
            self.wake(waiter)
        return len(concerned)

    def wake(self, waiter: Waiter) -> None:
        """Have a task go on, to look again."""
        self.waiters.pop(waiter, None)
        self.epoller.center.parked.pop(waiter, None)
        if waiter.task is not None:
            trio.lowlevel.reschedule(waiter.task)
            waiter.task = None

    def is_ready(self, mask: int) -> bool:
        """Whether one of the events has been told and was not consumed."""
        return bool(self._told & mask)

    def snapshot(self, mask: int) -> list[tuple[int, int]]:
        """The counts of some events, for consume_counts."""
        consumed = self._consumed
        return [(f, consumed.get(f, 0) + n) for f, n in self._counts.items() if f & mask]

    def consume_counts(self, counts: Sequence[tuple[int, int]]) -> None:
        """Take off what there was."""
        for flag, count in counts:
            new = count - self._consumed.get(flag, 0)
            if new <= 0:
                continue  # somebody else who was too early has consumed them
            self._consumed[flag] = count
            left = self._counts.get(flag, 0) - new
            if left > 0:
                self._counts[flag] = left
            else:
                self._counts.pop(flag, None)
                self._told &= ~flag

    def get_current_events(self, flags: EPOLL) -> dict[EPOLL, int]:
        """How often each of the events has been told and was not consumed."""
        return {EPOLL(f): n for f, n in self._counts.items() if f & int(flags)}

    def consume(self, events: dict[EPOLL, int]) -> None:
        """Take off counts, such as those of get_current_events before a try that was too early."""
        consumed = self._consumed
        self.consume_counts([(int(f), consumed.get(int(f), 0) + n) for f, n in events.items()])

    @contextlib.contextmanager
    def get_and_discard_after(self, flags: EPOLL) -> Generator[None]:
        """What was told of these events before the block is consumed after it, if it succeeds."""
        counts = self.snapshot(int(flags))
        yield
        self.consume_counts(counts)

    # ---- waiting ----

    async def wait_for(self, flags: EPOLL) -> None:
        """Return once one of the events has been told and was not consumed.

        RemovedFromEpollError if it is not watched, or not any more; SyscallHangup if its process
        ends. A checkpoint; if cancelled, nothing has happened.
        """
        await checkpoint()
        await self.wait(int(flags))

    async def wait(self, mask: int) -> None:
        """wait_for, and a checkpoint only if it waits."""
        center = self.epoller.center
        try:
            while True:
                if self.removed:
                    raise RemovedFromEpollError(f"{self.fd} is not watched any more")
                if self.is_ready(mask):
                    return
                if self.epoller.ended:
                    await self.epoller.confirm_end()
                elif center.leader is not None:
                    await self._park(Waiter(mask, trio.lowlevel.current_task()))
                else:
                    await center.lead(self, mask)
        finally:
            center.pass_on()

    async def _park(self, waiter: Waiter) -> None:
        def abort(_: Any) -> trio.lowlevel.Abort:
            waiter.task = None
            self.wake(waiter)
            return trio.lowlevel.Abort.SUCCEEDED

        self.waiters[waiter] = None
        self.epoller.center.parked[waiter] = self
        await trio.lowlevel.wait_task_rescheduled(abort)

    @contextlib.asynccontextmanager
    async def wait_for_and_discard_after(self, flags: EPOLL) -> AsyncGenerator[None]:
        """wait_for, then get_and_discard_after."""
        await self.wait_for(flags)
        with self.get_and_discard_after(flags):
            yield

    # ---- calls ----

    async def modify(self, events: EPOLL) -> None:
        """Change what is told: each of these events, and what holds already.

        RemovedFromEpollError; OSError as the call reports it. A checkpoint; if cancelled, nothing
        has changed. epoll_ctl(2).
        """
        if self.removed:
            raise RemovedFromEpollError(f"{self.fd} is not watched any more")
        await self.epoller.control(EPOLL_CTL.MOD, self.fd, EpollEvent(self.key, events | EPOLL.ET))

    async def delete(self) -> None:
        """End the watch: whoever waits gets RemovedFromEpollError. Nothing if it has ended before.

        To be done before the descriptor is closed: if others have the same file open the kernel
        goes on watching it. A checkpoint; if cancelled, it is still watched. epoll_ctl(2).
        """
        await checkpoint()
        await self.epoller.remove(self)

    def __repr__(self) -> str:
        """For people."""
        return f"EpolledFileDescriptor({self.fd}{', removed' if self.removed else ''})"

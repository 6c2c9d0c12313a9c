"""The checkpoint in front of every call."""

from __future__ import annotations

import contextlib
from collections import deque

import trio

from rsyscall._core import due, overdue, yielded

__all__ = ["Held", "Turn", "checkpoint", "due", "give_way", "pause", "shield", "yielded"]

_nothing = contextlib.nullcontext()


async def checkpoint() -> None:
    """Deliver a cancellation, and let others run at least every millisecond.

    `checkpoint_if_cancelled` alone would not do: without a pass through trio's loop no deadline
    expires and no other task gets its turn, however many calls complete. A full checkpoint each
    time would cost more than most calls do.
    """
    if due():
        await pause()
    else:
        await trio.lowlevel.checkpoint_if_cancelled()


async def pause() -> None:
    """Let others run, now: it is `due`."""
    try:
        await trio.lowlevel.checkpoint()
    finally:
        yielded()


async def give_way(late: bool = False) -> None:
    """Let others run if that is `due`. Not a checkpoint: a cancellation is left for the next.

    late: or half a millisecond later, since the next call can do it while it waits.
    """
    if overdue() if late else due():
        await trio.lowlevel.cancel_shielded_checkpoint()
        yielded()


def shield(needed: bool = True) -> contextlib.AbstractContextManager[object]:
    """What happens in the block is not cancelled from outside.

    needed: False for a block without a checkpoint.
    """
    return trio.CancelScope(shield=True) if needed else _nothing


class Held:
    """A block in which a lock is held; entering it is a checkpoint only if another task has it."""

    __slots__ = ("_lock",)

    def __init__(self, lock: trio.Lock) -> None:
        """Nothing is held yet."""
        self._lock = lock

    async def __aenter__(self) -> None:
        """Take it."""
        if self._lock.locked():
            await self._lock.acquire()
        else:
            self._lock.acquire_nowait()

    async def __aexit__(self, *exc: object) -> None:
        """Release it. Not a checkpoint."""
        self._lock.release()


class Turn:
    """A block in which one task can be; entering it is a checkpoint only if another is there.

    Like trio.Lock, but nothing to make and to take while nobody else wants it.
    """

    __slots__ = ("_others", "taken")

    def __init__(self) -> None:
        """Nobody is there yet."""
        #: Whether somebody is.
        self.taken: bool = False
        self._others: deque[trio.Event] | None = None

    async def wait(self) -> None:
        """Return when nobody is there. A checkpoint if somebody was."""
        while self.taken:
            if self._others is None:
                self._others = deque()
            event = trio.Event()
            self._others.append(event)
            try:
                await event.wait()
            except BaseException:
                if event in self._others:
                    self._others.remove(event)
                elif not self.taken:  # it was our turn
                    self.leave()
                raise

    def leave(self) -> None:
        """Let the next one in."""
        self.taken = False
        if self._others:
            self._others.popleft().set()

    async def __aenter__(self) -> None:
        """Be there alone."""
        if self.taken:
            await self.wait()
        self.taken = True

    async def __aexit__(self, *exc: object) -> None:
        """Let the next one in. Not a checkpoint."""
        self.leave()

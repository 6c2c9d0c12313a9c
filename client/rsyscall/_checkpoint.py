"""The checkpoint in front of every call."""

from __future__ import annotations

import contextlib
from collections import deque

import trio

from rsyscall._core import due, overdue, yielded

__all__ = [
    "Held",
    "Turn",
    "checkpoint",
    "due",
    "give_way",
    "overdue",
    "pause",
    "shield",
    "slow_checkpoint",
    "yielded",
]

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


#: Trio's own two tasks, and the main one.
_FEWEST_TASKS = 3
#: How many turns in a row are saved at most: in whose loop trio runs as a guest cannot be seen.
_SAVED_IN_A_ROW = 8


class Others:
    """Whether anybody could use a turn: to see that nobody can takes less than to give it."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._saved = 0

    def there(self) -> bool:
        """To be asked when a turn is due: False only if there is certainly nobody."""
        if _alone() and self._saved < _SAVED_IN_A_ROW:
            self._saved += 1
            return False
        self._saved = 0
        return True


def _alone() -> bool:
    # Who else is to run in the same pass of trio's loop it tells nobody; but not whether there is
    # anybody else at all.
    task = trio.lowlevel.current_task()
    nursery = task.parent_nursery
    if nursery is None or nursery.parent_task.parent_nursery is not None:
        return False  # not the main task
    for own in task.child_nurseries:
        if own.child_tasks:
            return False
    known = trio.lowlevel.current_statistics()
    return (
        known.tasks_living <= _FEWEST_TASKS
        and known.run_sync_soon_queue_size == 0
        and known.seconds_to_next_deadline > 0
    )


_others = Others()


async def slow_checkpoint() -> None:
    """`checkpoint`, in front of what takes longer than to look whether others are there."""
    if not due():
        await trio.lowlevel.checkpoint_if_cancelled()
    elif _others.there():
        await pause()
    else:
        await trio.lowlevel.checkpoint_if_cancelled()
        yielded()


async def give_way() -> None:
    """Let others run if that is `due` and any are there, after what took longer than to look.

    Not a checkpoint: a cancellation is left for the next.
    """
    if due():
        if _others.there():
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

    #: Whether somebody is there.
    taken: bool = False
    _others: deque[trio.Event] | None = None

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

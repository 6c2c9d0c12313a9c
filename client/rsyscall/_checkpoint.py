"""The checkpoint in front of every call."""

from __future__ import annotations

import contextlib

import trio

from rsyscall._core import due, yielded

__all__ = ["Held", "checkpoint", "due", "pause", "shield", "yielded"]

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

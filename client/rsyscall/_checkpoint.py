"""The checkpoint in front of every call."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Generator

import trio

from rsyscall._core import due, yielded

__all__ = ["checkpoint", "due", "held", "pause", "shield", "yielded"]


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


@contextlib.contextmanager
def shield(needed: bool = True) -> Generator[None]:
    """What happens in the block is not cancelled from outside.

    needed: False for a block without a checkpoint.
    """
    if not needed:
        yield
        return
    with trio.CancelScope(shield=True):
        yield


@contextlib.asynccontextmanager
async def held(lock: trio.Lock) -> AsyncGenerator[None]:
    """Hold a lock; a checkpoint only if another task has it."""
    if lock.locked():
        await lock.acquire()
    else:
        lock.acquire_nowait()
    try:
        yield
    finally:
        lock.release()

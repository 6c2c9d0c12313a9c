"""The checkpoint in front of every call."""

from __future__ import annotations

import time

import trio

#: How long calls may go on without letting another task run, in seconds.
YIELD_AFTER = 0.001

_last_yield = 0.0


async def checkpoint() -> None:
    """Deliver a cancellation, and let others run at least every millisecond.

    `checkpoint_if_cancelled` alone would not do: without a pass through trio's loop no deadline
    expires and no other task gets its turn, however many calls complete. A full checkpoint each
    time would cost more than most calls do.
    """
    global _last_yield
    if time.monotonic() - _last_yield < YIELD_AFTER:
        await trio.lowlevel.checkpoint_if_cancelled()
        return
    try:
        await trio.lowlevel.checkpoint()
    finally:
        _last_yield = time.monotonic()

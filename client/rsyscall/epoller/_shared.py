"""Something that is read for all who wait for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

__all__ = ["Gate", "SharedRead"]

T = TypeVar("T")


class Gate:
    """A block that one task at a time is in. When it is left all who wait go on together.

    A lock hands itself from one to the next, each in a turn of trio's loop of its own: a thousand
    tasks that only want something opened would get there one by one.
    """

    def __init__(self) -> None:
        """Nobody is inside."""
        self._left: trio.Event | None = None

    @property
    def waiting(self) -> int:
        """How many wait for it to be left."""
        return 0 if self._left is None else self._left.statistics().tasks_waiting

    async def wait_open(self) -> None:
        """Return once nobody is inside. A checkpoint only if somebody is."""
        while self._left is not None:
            await self._left.wait()

    async def __aenter__(self) -> None:
        """Enter. A checkpoint only if somebody is inside."""
        await self.wait_open()
        self._left = trio.Event()

    async def __aexit__(self, *exc: object) -> None:
        """Leave. Not a checkpoint."""
        left, self._left = self._left, None
        if left is not None:
            left.set()


class _Turn(Generic[T]):
    """What one read brings, to all who have waited for it, whoever makes it."""

    def __init__(self) -> None:
        self.reading = False
        self.event = trio.Event()  # whoever was reading has ended
        self.got: list[T] = []


class SharedRead(Generic[T]):
    """Each read is made by one of those who wait, and what it brings is everybody's."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        """read: what brings the next one; cancelled it must have taken nothing."""
        self._read = read
        self._turn: _Turn[T] = _Turn()

    async def wait(self) -> T:
        """The next one that comes from now on. Errors of the read. A checkpoint.

        If cancelled, nothing was taken, or others have it.
        """
        turn = self._turn
        while turn.reading:
            await turn.event.wait()
            if turn.got:
                return turn.got[0]
        # Or whoever was reading has failed or was cancelled: those who wait go on waiting together.
        turn.reading = True
        try:
            got = await self._read()
            turn.got.append(got)
            self._turn = _Turn()
            return got
        finally:
            turn.reading = False
            ended, turn.event = turn.event, trio.Event()
            ended.set()

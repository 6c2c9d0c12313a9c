"""Something that is read for all who wait for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

__all__ = ["SharedRead"]

T = TypeVar("T")


class _Turn(Generic[T]):
    """One read, by whoever came first."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.got: list[T] = []


class SharedRead(Generic[T]):
    """Each read is made by one of those who wait, and what it brings is everybody's."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        """read: what brings the next one; cancelled it must have taken nothing."""
        self._read = read
        self._turn: _Turn[T] | None = None

    async def wait(self) -> T:
        """The next one that comes from now on. Errors of the read. A checkpoint.

        If cancelled, nothing was taken, or others have it.
        """
        while True:
            turn = self._turn
            if turn is not None:
                await turn.event.wait()
                if turn.got:
                    return turn.got[0]
                continue  # who was reading has failed or was cancelled
            turn = self._turn = _Turn[T]()
            try:
                got = await self._read()
                turn.got.append(got)
                return got
            finally:
                self._turn = None
                turn.event.set()

"""Those who wait for something that several may have, in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

__all__ = ["Queue"]


class Queue:
    """Only the first is ever woken, to look whether it is its turn; it wakes the next as it goes.

    So each is woken about as often as there is something for it, however many wait.
    """

    def __init__(self) -> None:
        """Nobody waits."""
        self._turns: deque[trio.Event] = deque()
        self._over = False

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._turns)

    async def wait(self, ready: Callable[[], bool]) -> None:
        """Return once we are the first and it is ready, or `end` was called.

        What follows is to be taken without a checkpoint in between. A checkpoint if it blocks; if
        cancelled, nobody else's turn is lost.
        """
        turn = trio.Event()
        self._turns.append(turn)
        try:
            while not self._over and not (self._turns[0] is turn and ready()):
                await turn.wait()
                self._turns[self._turns.index(turn)] = turn = trio.Event()
        finally:
            self._turns.remove(turn)
            self.wake()

    def wake(self) -> None:
        """Have the first look again."""
        if self._turns:
            self._turns[0].set()

    def end(self) -> None:
        """Nobody need wait any more."""
        self._over = True
        for turn in self._turns:
            turn.set()

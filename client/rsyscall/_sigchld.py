"""SIGCHLD of this interpreter, for all who wait for a child to stop or to go on.

Nothing else tells of that. The signal is sent for every change of every child, whoever has made it,
and says no more than that it is worth looking: so it can be shared with anybody. A handler of ours
stands in front of whatever handler there is, as long as somebody waits.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType

import trio

__all__ = ["Wakeups", "wakeups"]


class Wakeups:
    """Who waits: `scope` is cancelled by the next signal that comes after it was asked for."""

    def __init__(self) -> None:
        """Nothing is expected yet."""
        self._scope: trio.CancelScope | None = None

    def next(self) -> trio.CancelScope:
        """What is cancelled by the next signal from now on: to wait in, after having looked."""
        self._scope = trio.CancelScope()
        return self._scope

    def wake(self) -> None:
        """The signal has come."""
        if self._scope is not None:
            self._scope.cancel()


class _Handler:
    def __init__(self) -> None:
        self._waiting: set[Wakeups] = set()
        self._before: Callable[[int, FrameType | None], object] | int | None = None
        self._token: trio.lowlevel.TrioToken | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        before = self._before
        if callable(before):
            before(number, frame)
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._wake, idempotent=True)

    def _wake(self) -> None:
        for one in list(self._waiting):
            one.wake()

    def add(self, one: Wakeups) -> bool:
        """Whether it will hear of the signal."""
        if threading.current_thread() is not threading.main_thread():
            return False  # only the main thread can have handlers
        if self._waiting:
            self._waiting.add(one)
            return True
        before = signal.getsignal(signal.SIGCHLD)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        # Who ignores it has the kernel wait for its children, and that is not to change.
        if before in (None, signal.SIG_IGN) or signal.SIGCHLD in blocked:
            return False
        self._before, self._token = before, trio.lowlevel.current_trio_token()
        self._waiting.add(one)
        signal.signal(signal.SIGCHLD, self)
        signal.siginterrupt(signal.SIGCHLD, False)
        return True

    def remove(self, one: Wakeups) -> None:
        self._waiting.discard(one)
        if not self._waiting:
            # Not if somebody has put another one in its place, which may call this one.
            current: object = signal.getsignal(signal.SIGCHLD)
            if current is self:
                signal.signal(signal.SIGCHLD, self._before)
            self._token = None


_handler = _Handler()


@contextlib.contextmanager
def wakeups() -> Generator[Wakeups | None]:
    """What is woken by the signal while the block lasts; None if that cannot be."""
    one = Wakeups()
    if not _handler.add(one):
        yield None
        return
    try:
        yield one
    finally:
        _handler.remove(one)

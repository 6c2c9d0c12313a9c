"""Calls that must be made alone, beside others that are under way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import TypeVar

import trio

from rsyscall.near.sysif import OtherCallsBlocked
from rsyscall.sysif.requests import RequestLink

__all__ = ["PatientLink"]

#: How long those that are under way may take until a call has to be alone in vain.
PATIENCE_SECONDS = 1.0
_T = TypeVar("_T")


class PatientLink(RequestLink):
    """A connection whose server refuses to make some calls while others are blocked."""

    @cached_property
    def _giving_way(self) -> set[trio.CancelScope]:
        """What ends each of the calls that give way."""
        return set()

    async def _patiently(
        self, refused: OtherCallsBlocked, again: Callable[[], Awaitable[_T]]
    ) -> _T:
        """Make a call that was refused once others are over that may only have been slow.

        again: makes it. Raises what it was refused with when none of those has ended for long
        enough. A checkpoint; if cancelled, nothing was sent.
        """
        until = trio.current_time() + PATIENCE_SECONDS
        while True:
            self._join()
            before = self._working()
            for scope in self._giving_way:
                scope.cancel()
            with trio.move_on_at(until) as patience:
                await trio.lowlevel.checkpoint()
                while before and all(map(self._is_open, before)):
                    await self._wait_change()
            if patience.cancelled_caught:
                try:
                    raise refused
                finally:
                    del refused  # see rsyscall._errors
            try:
                return await again()
            except OtherCallsBlocked as exc:
                refused = exc

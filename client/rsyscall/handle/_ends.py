"""When it pays to sleep at once for the end of a child."""

from __future__ import annotations

import time

__all__ = ["DOZE_US", "SOON_US", "Ends", "ends"]

#: How long at most to sleep at once for the end of a child that was told to, in microseconds.
DOZE_US = 100
#: How long at most to sleep at once for that of a program, when the last one took no longer.
SOON_US = 1000


class Ends:
    """Whether the children that are waited for end soon, of late, and one after the other.

    Then it pays to sleep at once for the next one: trio's loop takes longer. With others that wait
    meanwhile it would not.
    """

    def __init__(self) -> None:
        """Nobody waits."""
        self.soon: bool = False
        self.waiters: int = 0
        self._alone_since: float | None = None

    def __enter__(self) -> None:
        """Somebody waits, in trio's loop."""
        self.waiters += 1
        self._alone_since = time.monotonic() if self.waiters == 1 else None

    def __exit__(self, *exc: object) -> None:
        """It has ended, or is not waited for any more."""
        self.waiters -= 1
        since = self._alone_since
        self.soon = since is not None and time.monotonic() - since < SOON_US / 1e6


ends = Ends()

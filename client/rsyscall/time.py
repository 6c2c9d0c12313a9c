"""`#include <time.h>`"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsyscall_protocol._record import record

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = ["Timespec"]


@record
class Timespec:
    """Seconds and nanoseconds."""

    sec: int
    nsec: int

    def to_nanos(self) -> int:
        """All of it in nanoseconds."""
        return self.sec * 1_000_000_000 + self.nsec

    def to_decimal(self) -> Decimal:
        """All of it in seconds, exactly."""
        from decimal import Decimal  # seldom wanted, and slow to import

        return Decimal(self.to_nanos()) / 1_000_000_000

    @classmethod
    def from_nanos(cls, nsec: int) -> Timespec:
        """From a number of nanoseconds."""
        return cls(*divmod(nsec, 1_000_000_000))

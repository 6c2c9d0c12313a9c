"""`#include <time.h>`"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

from rsyscall.abi import Layout
from rsyscall.struct import LaidOut, Record
from rsyscall_protocol._record import record

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = ["Itimerspec", "Timespec"]


@record
class Timespec(LaidOut):
    """struct timespec: seconds and nanoseconds."""

    sec: int
    nsec: int

    LAYOUT = Layout("struct timespec", "i64 sec, i64 nsec")

    def to_nanos(self) -> int:
        """All of it in nanoseconds."""
        return self.sec * 1_000_000_000 + self.nsec

    def to_decimal(self) -> Decimal:
        """All of it in seconds, exactly."""
        from decimal import Decimal  # seldom wanted, and slow to import

        return Decimal(self.to_nanos()) / 1_000_000_000

    @classmethod
    def from_float(cls, value: float | Decimal | Timespec) -> Timespec:
        """From a number of seconds. ValueError, OverflowError for one that is not finite."""
        if isinstance(value, Timespec):
            return value
        sec = int(value // 1)
        return cls.from_nanos(sec * 1_000_000_000 + round((value - sec) * 1_000_000_000))

    @classmethod
    def from_nanos(cls, nsec: int) -> Timespec:
        """From a number of nanoseconds."""
        return cls(*divmod(nsec, 1_000_000_000))


class Itimerspec(Record, LaidOut):
    """struct itimerspec: when a timer ends (value), and how often again (interval)."""

    __slots__ = ("interval", "value")
    LAYOUT: ClassVar[Layout] = Layout(
        "struct itimerspec", "i64 interval, i64 interval_ns, i64 value, i64 value_ns"
    )

    def __init__(self, interval: Timespec, value: Timespec) -> None:
        """Nothing is checked."""
        self.interval: Timespec = interval
        self.value: Timespec = value

    def _values(self) -> Sequence[int]:
        interval, value = self.interval, self.value
        return interval.sec, interval.nsec, value.sec, value.nsec

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        return cls(Timespec(*values[:2]), Timespec(*values[2:]))

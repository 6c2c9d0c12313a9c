"""`#include <time.h>`"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Self

from rsyscall.struct import Record, Struct, check_size
from rsyscall_protocol._record import record

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = ["Itimerspec", "Timespec"]


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


class Itimerspec(Record, Struct):
    """struct itimerspec: when a timer ends (value), and how often again (interval)."""

    __slots__ = ("interval", "value")
    _FORMAT = struct.Struct("=4q")

    def __init__(self, interval: Timespec, value: Timespec) -> None:
        """Nothing is checked."""
        self.interval: Timespec = interval
        self.value: Timespec = value

    def to_bytes(self) -> bytes:
        """The structure in memory."""
        interval, value = self.interval, self.value
        return self._FORMAT.pack(interval.sec, interval.nsec, value.sec, value.nsec)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """From the structure in memory. ValueError if there are too few bytes."""
        check_size(data, cls._FORMAT.size, "struct itimerspec")
        a, b, c, d = cls._FORMAT.unpack_from(data)
        return cls(Timespec(a, b), Timespec(c, d))

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes."""
        return cls._FORMAT.size

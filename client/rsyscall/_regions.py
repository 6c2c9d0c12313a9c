"""What we have mapped into an address space: whose pages they are, and what may be done with them.

What we have not mapped ourselves (a program's own memory, rings, stacks) is not here.
"""

from __future__ import annotations

import bisect
import contextlib
import weakref
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rsyscall.far import File

__all__ = ["Region", "Regions"]


class Region(NamedTuple):
    """Pages from start to end, of one mapping.

    prot: as mprotect(2) has it. shared: whether it is MAP_SHARED. anonymous: whether there is no
    file. grows: whether it is MAP_GROWSDOWN.
    """

    start: int
    end: int
    file: File
    prot: int
    shared: bool
    anonymous: bool
    grows: bool = False


class Regions:
    """The regions of an address space, in the order of their addresses; none overlap."""

    def __init__(self) -> None:
        """There are none."""
        self._starts: list[int] = []
        self._regions: list[Region] = []
        self._known: weakref.WeakSet[File] = weakref.WeakSet()
        #: What is about to be unmapped, by address, length and file.
        self.marked: dict[tuple[int, int, File], list[Region]] = {}
        self._protected: dict[int, int] = {}
        self._viewed: dict[int, tuple[int, int]] = {}
        self._changing: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[Region]:
        """All of them."""
        return iter(self._regions)

    def knows(self, file: File) -> bool:
        """Whether a mapping of that name was ever here."""
        return file in self._known

    def _span(self, start: int, end: int) -> tuple[int, int]:
        """The indexes of the regions that have pages there."""
        low = bisect.bisect(self._starts, start)
        if low and self._regions[low - 1].end > start:
            low -= 1
        return low, bisect.bisect_left(self._starts, end, low)

    def overlapping(self, start: int, end: int) -> list[Region]:
        """The parts of regions that lie there."""
        if start >= end:
            return []
        low, high = self._span(start, end)
        return [
            region._replace(start=max(region.start, start), end=min(region.end, end))
            for region in self._regions[low:high]
        ]

    def covers(self, start: int, end: int, file: File | None = None) -> bool:
        """Whether all pages there are ours, and of the mapping of that name."""
        at = start
        for region in self.overlapping(start, end):
            if region.start != at or (file is not None and region.file is not file):
                return False
            at = region.end
        return at >= end

    def put(self, region: Region) -> None:
        """Pages were mapped; whatever was there is gone."""
        self._known.add(region.file)
        if region.start >= region.end:
            return
        self.take(region.start, region.end)
        # Neighbours that are alike become one, so that there are not ever more of them.
        low = bisect.bisect(self._starts, region.start)
        if low and self._regions[low - 1].end == region.start:
            before = self._regions[low - 1]
            if before[2:] == region[2:]:
                region = region._replace(start=before.start)
                del self._starts[low - 1], self._regions[low - 1]
                low -= 1
        if low < len(self._regions) and self._regions[low].start == region.end:
            behind = self._regions[low]
            if behind[2:] == region[2:]:
                region = region._replace(end=behind.end)
                del self._starts[low], self._regions[low]
        at = bisect.bisect(self._starts, region.start)
        self._starts.insert(at, region.start)
        self._regions.insert(at, region)

    def take(self, start: int, end: int) -> list[Region]:
        """Pages are unmapped: what was there, for put."""
        taken = self.overlapping(start, end)
        if taken:
            low, high = self._span(start, end)
            first, last = self._regions[low], self._regions[high - 1]
            left = [first._replace(end=start)] if first.start < start else []
            right = [last._replace(start=end)] if last.end > end else []
            self._regions[low:high] = left + right
            self._starts[low:high] = [region.start for region in left + right]
        return taken

    def protect(self, start: int, end: int, prot: int) -> None:
        """What may be done with some pages has changed."""
        for region in self.take(start, end):
            self.put(region._replace(prot=prot))

    # ---- what is not to be changed ----

    def reserve(self, start: int, end: int) -> None:
        """These pages are the allocator's."""
        self._protected[start] = end

    def release(self, start: int) -> None:
        """They are not any more."""
        self._protected.pop(start, None)

    def is_reserved(self, start: int, end: int) -> bool:
        """Whether some of the pages are the allocator's."""
        return any(a < end and start < b for a, b in self._protected.items())

    def view(self, key: int, start: int, end: int) -> None:
        """Somebody looks at these bytes directly."""
        self._viewed[key] = (start, end)

    def unview(self, key: int) -> None:
        """Not any more."""
        self._viewed.pop(key, None)

    @contextlib.contextmanager
    def changing(self, start: int, end: int) -> Generator[None]:
        """Inside the block nobody knows what may be done with these pages."""
        self._changing.append((start, end))
        try:
            yield
        finally:
            self._changing.remove((start, end))

    def is_changing(self, start: int, end: int) -> bool:
        """Whether that is so of some of them."""
        return any(a < end and start < b for a, b in self._changing)

    def is_viewed(self, start: int, end: int) -> bool:
        """Whether somebody looks at some of the bytes directly."""
        return any(a < end and start < b for a, b in list(self._viewed.values()))

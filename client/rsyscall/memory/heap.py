"""Which bytes of some mappings are taken, and which are free. Nothing here makes a call.

Every range of bytes is a block; the blocks of a mapping are chained in the order of their
addresses, and the free ones are in bins besides, by their size: sixteen bins for each power of two,
and a bit for every bin that is not empty. So a block that is large enough is found, and one that
becomes free is joined with its neighbours, in a time that does not depend on how many there are.

What is given back may come from a finalizer, at any moment and in any thread: it is put on a list,
and joined with the rest when nobody is at work here.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

__all__ = ["GRANULE", "Block", "Heap"]

#: Blocks begin at a multiple of this, unless they were split elsewhere.
GRANULE = 16
#: Of the bin that may or may not have a block that is large enough, how many are looked at.
_LOOKS = 8
#: For blocks of up to 2**63 bytes.
_BINS = 64 << 4

T = TypeVar("T")


class Block(Generic[T]):
    """The bytes from start to end of a mapping, taken or free."""

    __slots__ = ("before", "behind", "bin", "end", "free", "next", "owner", "prev", "start")

    def __init__(self, owner: T, start: int, end: int) -> None:
        """owner: what knows the mapping. Only a heap makes them."""
        self.owner: T = owner
        self.start: int = start
        self.end: int = end
        self.free: bool = False
        # Of a free one: its bin, and its neighbours there.
        self.bin: int = 0
        self.before: Block[T] | None = None
        self.behind: Block[T] | None = None
        self.prev: Block[T] | None = None
        self.next: Block[T] | None = None


def _bin(size: int) -> int:
    """The bin of a free block: all that are in higher ones are larger."""
    shift = size.bit_length() - 5
    if shift <= 0:
        return size
    return (shift << 4) + (size >> shift)


class Heap(Generic[T]):
    """The blocks of any number of mappings.

    taken: how many bytes are. owners: of the mappings, with their lengths. empty: the owners of
    those of which nothing is taken.
    """

    def __init__(self) -> None:
        """There is nothing to take."""
        self._bins: list[Block[T] | None] = [None] * _BINS
        self._bits = 0
        self._returned: deque[Block[T]] = deque()
        self._lock = threading.Lock()
        self.taken: int = 0
        self.empty: dict[T, Block[T]] = {}
        self.owners: dict[T, int] = {}

    def add(self, owner: T, length: int) -> None:
        """Have a mapping of `length` bytes, all of them free."""
        block = Block(owner, 0, length)
        with self._lock:
            self._put(block)
            self.empty[owner] = block
            self.owners[owner] = length

    def has(self, size: int) -> bool:
        """Whether there certainly is a block of so many bytes."""
        self.settle()
        return self._bits >> (_bin(size - 1) + 1) != 0

    def remove(self, owner: T) -> bool:
        """Have a mapping no more, if nothing of it is taken; returns whether that is so."""
        with self._lock:
            self._drain()
            block = self.empty.pop(owner, None)
            if block is not None:
                self._unbin(block)
                del self.owners[owner]
        self.settle()
        return block is not None

    def take(self, size: int, alignment: int) -> Block[T] | None:
        """A block of at least `size` bytes (and not of none), or None if there is none.

        Its start is a multiple of alignment, a power of two. Its end is further than it need be
        where the next one could not begin.
        """
        size = -(-size // GRANULE) * GRANULE or GRANULE
        with self._lock:
            if self._returned:
                self._drain()
            found = self._find(size, alignment)
            if found is not None:
                self._carve(found, size, alignment)
        if self._returned:
            self.settle()
        return found

    def give_back(self, block: Block[T]) -> None:
        """Make a block free. Never blocks."""
        self._returned.append(block)
        self.settle()

    def split(self, block: Block[T], at: int) -> Block[T]:
        """Cut a block that is taken in two: it ends at `at`, and the rest is returned."""
        with self._lock:
            rest = Block(block.owner, at, block.end)
            block.end = at
            rest.prev, rest.next = block, block.next
            if rest.next is not None:
                rest.next.prev = rest
            block.next = rest
        self.settle()
        return rest

    def join(self, block: Block[T], rest: Block[T]) -> None:
        """Undo split."""
        with self._lock:
            self._unchain(block, rest)
        self.settle()

    def settle(self) -> None:
        """Join what was given back with the rest. Never blocks."""
        # Whoever holds the lock looks again after it has let go: nothing stays on the list.
        while self._returned and self._lock.acquire(blocking=False):
            try:
                self._drain()
            finally:
                self._lock.release()

    # ---- inside, with the lock held ----

    def _drain(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            self.taken -= block.end - block.start
            before, after = block.prev, block.next
            if before is not None and before.free:
                self._unbin(before)
                self._unchain(before, block)
                block = before
            if after is not None and after.free:
                self._unbin(after)
                self._unchain(block, after)
            self._put(block)
            if block.prev is None and block.next is None:
                self.empty[block.owner] = block

    def _unchain(self, block: Block[T], rest: Block[T]) -> None:
        block.end = rest.end
        block.next = rest.next
        if rest.next is not None:
            rest.next.prev = block
        rest.prev = rest.next = None

    def _put(self, block: Block[T]) -> None:
        block.free = True
        size = block.end - block.start
        shift = size.bit_length() - 5
        block.bin = number = size if shift <= 0 else (shift << 4) + (size >> shift)
        block.before = None
        block.behind = behind = self._bins[number]
        if behind is None:
            self._bits |= 1 << number
        else:
            behind.before = block
        self._bins[number] = block

    def _unbin(self, block: Block[T]) -> None:
        block.free = False
        before, behind = block.before, block.behind
        if behind is not None:
            behind.before = before
        if before is not None:
            before.behind = behind
        else:
            number = block.bin
            self._bins[number] = behind
            if behind is None:
                self._bits &= ~(1 << number)
        block.before = block.behind = None

    def _find(self, size: int, alignment: int) -> Block[T] | None:
        below = _bin(size - 1)
        bits = self._bits >> (below + 1)
        if bits:
            block = self._bins[below + (bits & -bits).bit_length()]
            if block is not None and -(-block.start // alignment) * alignment + size <= block.end:
                return block
        # Those of its own bin may be large enough, and those that begin oddly may be large enough
        # in spite of it.
        worst = size + alignment - 1
        for number in (_bin(size), _bin(worst)):
            block = self._bins[number]
            for _ in range(_LOOKS):
                if block is None:
                    break
                if -(-block.start // alignment) * alignment + size <= block.end:
                    return block
                block = block.behind
        below = _bin(worst - 1)
        bits = self._bits >> (below + 1)
        return self._bins[below + (bits & -bits).bit_length()] if bits else None

    def _carve(self, block: Block[T], size: int, alignment: int) -> None:
        """Take the part of a free block that is wanted; it becomes that part."""
        self._unbin(block)
        if block.prev is None and block.next is None:
            del self.empty[block.owner]
        start = -(-block.start // alignment) * alignment
        if start > block.start:
            gap = Block(block.owner, block.start, start)
            gap.prev, gap.next = block.prev, block
            if gap.prev is not None:
                gap.prev.next = gap
            block.prev, block.start = gap, start
            self._put(gap)
        if start + size < block.end:
            rest = Block(block.owner, start + size, block.end)
            rest.prev, rest.next = block, block.next
            if rest.next is not None:
                rest.next.prev = rest
            block.next, block.end = rest, start + size
            self._put(rest)
        self.taken += block.end - block.start

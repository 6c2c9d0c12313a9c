"""Who has which bytes: compared with a plain list of what is taken."""

from __future__ import annotations

import random
import sys
import threading
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rsyscall.memory.heap import Block, Heap

SIZES = st.one_of(st.integers(1, 100), st.integers(1, 20_000))


def check(heap: Heap[str], taken: list[Block[str]], lengths: dict[str, int]) -> None:
    """Every byte is taken, or in a free block of the right bin, and no two of those meet."""
    blocks = list(taken)
    for number, found in enumerate(heap._bins):  # pyright: ignore[reportPrivateUsage]
        bit = heap._bits >> number & 1  # pyright: ignore[reportPrivateUsage]
        assert bit == (found is not None)
        while found is not None:
            assert found.free
            assert found.bin == number
            blocks.append(found)
            found = found.behind
    for owner, length in lengths.items():
        at, free = 0, False
        for block in sorted((b for b in blocks if b.owner == owner), key=lambda b: b.start):
            assert block.start == at < block.end
            assert not (free and block.free), "two free blocks meet"
            at, free = block.end, block.free
        assert at == length
    assert heap.taken == sum(block.end - block.start for block in taken)
    assert set(heap.empty) == set(lengths) - {block.owner for block in taken}


class Machine(RuleBasedStateMachine):
    """Random operations; the model is the list of blocks that are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.heap: Heap[str] = Heap()
        self.taken: list[Block[str]] = []
        self.lengths: dict[str, int] = {}
        self.names = 0

    @rule(length=st.integers(1, 16).map(lambda pages: pages * 4096))
    def add(self, length: int) -> None:
        self.names += 1
        self.heap.add(f"mapping {self.names}", length)
        self.lengths[f"mapping {self.names}"] = length

    @precondition(lambda self: self.lengths)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.lengths)))
        empty = all(block.owner != name for block in self.taken)
        assert self.heap.remove(name) == empty
        if empty:
            del self.lengths[name]

    def largest(self) -> int:
        """Of the free ranges, by the model alone."""
        largest = 0
        for name, length in self.lengths.items():
            at = 0
            ends = sorted((b.start, b.end) for b in self.taken if b.owner == name)
            for start, end in [*ends, (length, length)]:
                largest, at = max(largest, start - at), end
        return largest

    @rule(size=SIZES, alignment=st.integers(4, 12).map(lambda n: 1 << n))
    def take(self, size: int, alignment: int) -> None:
        free, rounded = self.largest(), -(-size // 16) * 16
        block = self.heap.take(size, alignment)
        if block is None:  # what is in a bin of its own may be a sixteenth too large
            assert free < (rounded + alignment) * 17 / 16
            return
        assert not block.free
        assert block.start % alignment == 0
        assert block.end - block.start == rounded
        self.taken.append(block)

    @precondition(lambda self: self.taken)
    @rule(index=st.integers(0, 10**9))
    def give_back(self, index: int) -> None:
        self.heap.give_back(self.taken.pop(index % len(self.taken)))

    @precondition(lambda self: self.taken)
    @rule(index=st.integers(0, 10**9), part=st.integers(0, 10**9))
    def split(self, index: int, part: int) -> None:
        block = self.taken[index % len(self.taken)]
        if block.end - block.start > 1:
            at = block.start + 1 + part % (block.end - block.start - 1)
            self.taken.append(self.heap.split(block, at))

    @precondition(lambda self: self.taken)
    @rule(index=st.integers(0, 10**9))
    def join(self, index: int) -> None:
        block = self.taken[index % len(self.taken)]
        if (rest := block.next) is not None and not rest.free:
            self.taken.remove(rest)
            self.heap.join(block, rest)

    @invariant()
    def holds(self) -> None:
        check(self.heap, self.taken, self.lengths)


TestHeap = Machine.TestCase
TestHeap.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_many_allocations_of_random_sizes_leave_the_heap_as_it_began() -> None:
    heap: Heap[str] = Heap()
    heap.add("one", 2**26)
    began = heap.empty["one"]
    whole = (began.start, began.end)
    random_ = random.Random(5)
    taken: list[Block[str]] = []
    for _ in range(50_000):
        if len(taken) > 500:
            index = random_.randrange(len(taken))
            taken[index], taken[-1] = taken[-1], taken[index]
            heap.give_back(taken.pop())
        block = heap.take(random_.randrange(1, 5000), 16)
        assert block is not None
        taken.append(block)
    random_.shuffle(taken)
    for block in taken:
        heap.give_back(block)
    check(heap, [], {"one": 2**26})
    assert [(block.start, block.end) for block in heap.empty.values()] == [whole]


def test_what_finalizers_give_back_in_the_middle_is_kept_for_later() -> None:
    heap: Heap[str] = Heap()
    heap.add("one", 4096)
    first, second = heap.take(16, 16), heap.take(16, 16)
    assert first is not None
    assert second is not None
    with heap._lock:  # pyright: ignore[reportPrivateUsage] - as while a block is taken
        heap.give_back(first)  # does not wait
        assert not first.free
    heap.give_back(second)
    check(heap, [], {"one": 4096})


def test_threads_can_give_back_while_others_take() -> None:
    heap: Heap[str] = Heap()
    heap.add("one", 2**22)
    queue: deque[Block[str] | None] = deque()

    def give_back() -> None:
        while True:
            if queue:
                block = queue.popleft()
                if block is None:
                    return
                heap.give_back(block)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        thread = threading.Thread(target=give_back)
        thread.start()
        for size in range(1, 5000):
            while (block := heap.take(size % 1000 + 1, 16)) is None:
                pass
            queue.append(block)
        queue.append(None)
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    check(heap, [], {"one": 2**22})

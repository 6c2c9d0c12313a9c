"""The sleep and the wake-up of server/src/ring.h, in every order that a machine may choose.

Two sides send each other a few bytes through halves that hold very little, so that both wait for
data and for room, and sleep. A step is one access to shared memory; what a side stores waits in its
store buffer until the machine feels like it, at the latest at a fence. The search goes through all
states that can be reached. One from which no step leads on, though not all bytes have arrived or
somebody still sleeps, is a wake-up that was lost: there must be none, and there must be one as soon
as any of the precautions is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum, auto
from typing import Any, NamedTuple, TypeVar

import pytest

T = TypeVar("T")


class Machine(IntEnum):
    SC = auto()  # no store buffers: what nobody builds
    TSO = auto()  # x86: stores become visible in their order
    PSO = auto()  # stores to different words become visible in any order


@dataclass(frozen=True)
class Rules:
    """The protocol as written, but for what a test leaves out."""

    machine: Machine = Machine.TSO
    fence_before_looking: bool = True
    fence_after_parking: bool = True
    recheck: bool = True
    count_sleeps: bool = True  # every sleep is another value of `parked`
    publish_before_looking: bool = True
    # In the client, while its reader sleeps, another task makes a call: it looks for the answer
    # itself, and parks in the reader's place when it stops looking (begin, end in ring_module.c).
    borrow: bool = False
    recheck_after_borrowing: bool = True
    wake_the_reader: bool = True  # if that task took what it sleeps for
    capacity: int = 1
    items: tuple[int, int] = (2, 2)  # bytes that either side sends; the first is the client


class Pc(IntEnum):
    """What a side does next."""

    TOP = auto()
    PARK = auto()
    FENCE_THEN_LOOK = auto()
    LOOK_AT_PARKED = auto()
    PUBLISH_LATE = auto()
    FENCE_THEN_CHECK = auto()
    CHECK_DATA = auto()
    CHECK_ROOM = auto()
    POLL = auto()
    BORROW_WRITE = auto()
    BORROW_READ = auto()
    BORROW_CHECK = auto()
    DONE = auto()


DATA, ROOM, COUNT = 1, 2, 4  # as in ring.h
TAIL, HEAD, PARKED = 0, 1, 2


class Side(NamedTuple):
    pc: Pc = Pc.TOP
    then: Pc = Pc.TOP  # after a look at `parked`, or after FENCE_THEN_CHECK
    written: int = 0
    taken: int = 0
    sleeps: int = 0
    rung: int = 0
    event: int = 0  # DATA or ROOM: what was made for the other side
    asleep: int = 0  # what this side's reader sleeps for
    borrowed: bool = False
    buffer: tuple[tuple[int, int], ...] = ()  # stores that nobody sees yet: which word, what value


class World(NamedTuple):
    sides: tuple[Side, Side] = (Side(), Side())
    words: tuple[tuple[int, ...], tuple[int, ...]] = ((0, 0, 0), (0, 0, 0))
    bells: tuple[bool, bool] = (False, False)  # that the side has still to hear


def put(pair: tuple[T, T], i: int, value: T) -> tuple[T, T]:
    return (pair[0], value) if i else (value, pair[1])


def go(world: World, i: int, **changes: Any) -> World:
    return world._replace(sides=put(world.sides, i, world.sides[i]._replace(**changes)))


def show(world: World, i: int, word: int, value: int) -> World:
    words = list(world.words[i])
    words[word] = value
    return world._replace(words=put(world.words, i, tuple(words)))


class Model:
    """Which steps a side can take in a world."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def steps(self, world: World, i: int) -> Iterator[World]:
        buffer = world.sides[i].buffer
        words = set[int]()
        for k, (word, value) in enumerate(buffer):
            if word not in words and (k == 0 or self.rules.machine is Machine.PSO):
                words.add(word)
                yield show(go(world, i, buffer=buffer[:k] + buffer[k + 1 :]), i, word, value)
        yield from self.program(world, i)

    def program(self, world: World, i: int) -> Iterator[World]:
        side, rules = world.sides[i], self.rules
        tail, head, parked = world.words[1 - i]
        data = tail > side.taken
        writing = side.written < rules.items[i]
        room = writing and side.written - head < rules.capacity
        match side.pc:
            case Pc.TOP if data or room:
                if data:
                    yield self.take(world, i, Pc.TOP)
                if room:
                    yield self.write(world, i, Pc.TOP)
            case Pc.TOP:
                yield go(world, i, pc=Pc.PARK)
            case Pc.PARK:
                what = (DATA if side.taken < rules.items[1 - i] else 0) | (ROOM if writing else 0)
                check = Pc.CHECK_DATA if rules.recheck else Pc.POLL
                yield self.park(world, i, what, check) if what else go(world, i, pc=Pc.DONE)
            case Pc.FENCE_THEN_LOOK if not side.buffer:
                yield go(world, i, pc=Pc.LOOK_AT_PARKED)
            case Pc.LOOK_AT_PARKED:
                if parked & side.event and parked != side.rung:
                    world = world._replace(bells=put(world.bells, 1 - i, True))
                    world = go(world, i, rung=parked)
                late = not rules.publish_before_looking
                yield go(world, i, pc=Pc.PUBLISH_LATE if late else side.then)
            case Pc.PUBLISH_LATE:
                yield go(self.publish(world, i), i, pc=side.then)
            case Pc.FENCE_THEN_CHECK if not side.buffer:
                yield go(world, i, pc=side.then)
            case Pc.CHECK_DATA:
                yield self.unpark(world, i) if data else go(world, i, pc=Pc.CHECK_ROOM)
            case Pc.CHECK_ROOM:
                yield self.unpark(world, i) if room else go(world, i, pc=Pc.POLL)
            case Pc.POLL:
                yield from self.poll(world, i)
            case Pc.BORROW_WRITE:
                borrowed = Pc.BORROW_READ
                yield self.write(world, i, borrowed) if room else go(world, i, pc=borrowed)
            case Pc.BORROW_READ:
                check = Pc.BORROW_CHECK if rules.recheck_after_borrowing else Pc.POLL
                yield self.park(world, i, side.asleep, check)  # nothing there, or not in time
                if data:
                    yield self.take(world, i, Pc.BORROW_READ)
            case Pc.BORROW_CHECK:
                if data:
                    yield self.take(world, i, Pc.BORROW_CHECK)
                elif room and side.asleep & ROOM:
                    yield self.unpark(world, i)
                else:
                    yield go(world, i, pc=Pc.POLL)
            case _:
                pass

    def poll(self, world: World, i: int) -> Iterator[World]:
        side, rules = world.sides[i], self.rules
        if world.bells[i]:
            yield self.unpark(world._replace(bells=put(world.bells, i, False)), i)
        if side.borrowed and side.taken == rules.items[1 - i] and rules.wake_the_reader:
            yield self.unpark(world, i)
        if rules.borrow and i == 0 and not side.borrowed:
            world = self.store(go(world, i, borrowed=True), i, PARKED, self.count(side.sleeps))
            yield go(world, i, pc=Pc.BORROW_WRITE)

    def store(self, world: World, i: int, word: int, value: int) -> World:
        if self.rules.machine is Machine.SC:
            return show(world, i, word, value)
        return go(world, i, buffer=(*world.sides[i].buffer, (word, value)))

    def take(self, world: World, i: int, then: Pc) -> World:
        return self.tell(go(world, i, taken=world.sides[i].taken + 1, event=ROOM), i, then)

    def write(self, world: World, i: int, then: Pc) -> World:
        return self.tell(go(world, i, written=world.sides[i].written + 1, event=DATA), i, then)

    def tell(self, world: World, i: int, then: Pc) -> World:
        """Publish, and look whether to ring."""
        world = go(world, i, then=then)
        if not self.rules.publish_before_looking:
            return go(world, i, pc=Pc.LOOK_AT_PARKED)
        fence = self.rules.fence_before_looking
        world = self.publish(world, i)
        return go(world, i, pc=Pc.FENCE_THEN_LOOK if fence else Pc.LOOK_AT_PARKED)

    def publish(self, world: World, i: int) -> World:
        side = world.sides[i]
        if side.event == DATA:
            return self.store(world, i, TAIL, side.written)
        return self.store(world, i, HEAD, side.taken)

    def count(self, sleeps: int) -> int:
        return sleeps if self.rules.count_sleeps else 0

    def park(self, world: World, i: int, what: int, check: Pc) -> World:
        sleeps = world.sides[i].sleeps + COUNT
        world = self.store(world, i, PARKED, self.count(sleeps) | what)
        fence = self.rules.fence_after_parking
        pc = Pc.FENCE_THEN_CHECK if fence else check
        return go(world, i, sleeps=sleeps, asleep=what, pc=pc, then=check)

    def unpark(self, world: World, i: int) -> World:
        world = self.store(world, i, PARKED, self.count(world.sides[i].sleeps))
        return go(world, i, pc=Pc.TOP, asleep=0)


def swap(pair: tuple[T, T]) -> tuple[T, T]:
    return pair[1], pair[0]


def mirrored(world: World) -> World:
    return World(swap(world.sides), swap(world.words), swap(world.bells))


def search(rules: Rules) -> tuple[int, World | None]:
    """How many states there are, and one that is stuck; not all of them if there is such a one."""
    model = Model(rules)
    alike = not rules.borrow and rules.items[0] == rules.items[1]
    seen, todo = {World()}, [World()]
    while todo:
        world = todo.pop()
        ways = [step for i in (0, 1) for step in model.steps(world, i)]
        if not ways and any(side.pc is not Pc.DONE for side in world.sides):
            return len(seen), world
        if alike:  # of a world and its mirror image one is enough
            ways = [min(way, mirrored(way)) for way in ways]
        fresh = {way for way in ways if way not in seen}
        seen |= fresh
        todo += fresh
    return len(seen), None


SMALL = Rules(items=(1, 2), borrow=True)
PRECAUTIONS = {
    "fence before looking": Rules(fence_before_looking=False),
    "fence after parking": Rules(fence_after_parking=False),
    "recheck": Rules(recheck=False),
    "count of sleeps": Rules(count_sleeps=False),
    "publish before looking": Rules(publish_before_looking=False),
    "recheck after a call": replace(SMALL, recheck_after_borrowing=False),
    "waking the reader": replace(SMALL, wake_the_reader=False),
}
FENCES = ("fence before looking", "fence after parking")
every_machine = pytest.mark.parametrize("machine", Machine, ids=lambda machine: machine.name)


@every_machine
@pytest.mark.parametrize("capacity", [1, 2])
def test_no_wake_up_is_lost(machine: Machine, capacity: int) -> None:
    states, stuck = search(Rules(machine, capacity=capacity))
    print(f"{machine.name}, room for {capacity}: {states} states")
    assert stuck is None
    assert states > 1000


@every_machine
def test_no_wake_up_is_lost_if_another_task_looks_for_the_sleeping_reader(machine: Machine) -> None:
    states, stuck = search(replace(SMALL, machine=machine))
    print(f"{machine.name}: {states} states")
    assert stuck is None
    assert states > 1000


@every_machine
@pytest.mark.parametrize("missing", PRECAUTIONS)
def test_each_precaution_is_needed(machine: Machine, missing: str) -> None:
    _, stuck = search(replace(PRECAUTIONS[missing], machine=machine))
    # Where every store is seen at once there is nothing for a fence to do. That shows that it is
    # the store buffers that the fences are against, and not some other fault of the model.
    assert (stuck is None) == (machine is Machine.SC and missing in FENCES)


def test_a_stuck_side_is_asleep() -> None:
    """What the search calls stuck is what it should be: asleep, with nobody to ring."""
    _, stuck = search(PRECAUTIONS["fence before looking"])
    assert stuck is not None
    assert {side.pc for side in stuck.sides} == {Pc.POLL, Pc.DONE}
    for side, bell in zip(stuck.sides, stuck.bells, strict=True):
        assert not side.buffer
        assert not (bell and side.pc is Pc.POLL)

"""A Turn lets one task in at a time, and none waits for one that has given up."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rsyscall._checkpoint import Turn


async def test_one_at_a_time_and_all_of_them() -> None:
    turn, inside, done = Turn(), 0, 0

    async def enter(again: int) -> None:
        nonlocal inside, done
        for _ in range(again):
            async with turn:
                inside += 1
                assert inside == 1
                assert turn.taken
                await trio.lowlevel.checkpoint()
                inside -= 1
        done += 1

    async with trio.open_nursery() as nursery:
        for again in range(1, 6):
            nursery.start_soon(enter, again)
    assert done == 5
    assert not turn.taken


async def test_those_who_wait_come_in_their_order() -> None:
    turn, came = Turn(), list[int]()

    async def enter(number: int) -> None:
        async with turn:
            came.append(number)

    async with trio.open_nursery() as nursery, turn:
        for number in range(4):
            nursery.start_soon(enter, number)
            await wait_all_tasks_blocked()
    assert came == [0, 1, 2, 3]


@pytest.mark.parametrize("let_in", [False, True])
async def test_who_gives_up_keeps_nobody_waiting(let_in: bool) -> None:
    turn, came = Turn(), list[str]()

    async def enter(name: str, scope: trio.CancelScope) -> None:
        with scope:
            async with turn:
                came.append(name)
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()
        with trio.fail_after(10):
            async with turn:
                nursery.start_soon(enter, "first", first)
                await wait_all_tasks_blocked()
                nursery.start_soon(enter, "second", trio.CancelScope())
                await wait_all_tasks_blocked()
                if not let_in:
                    first.cancel()
            first.cancel()
            await wait_all_tasks_blocked()
    assert came == (["first", "second"] if let_in else ["second"])
    assert not turn.taken


async def test_a_block_that_fails_is_left() -> None:
    turn = Turn()
    with pytest.raises(ZeroDivisionError):
        async with turn:
            raise ZeroDivisionError
    assert not turn.taken

"""A turn is saved only where nobody could have it."""

from __future__ import annotations

import threading
import time

import pytest
import trio

from rsyscall._checkpoint import Others, give_way, slow_checkpoint


class _Passes(trio.abc.Instrument):
    """How often trio's loop has looked for what others wait for."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        """One more."""
        del timeout
        self.count += 1


def _make_due() -> None:
    until = time.perf_counter() + 0.0012
    while time.perf_counter() < until:
        pass


async def _passes_of(count: int) -> int:
    passes = _Passes()
    trio.lowlevel.add_instrument(passes)
    for i in range(count):
        _make_due()
        await (give_way() if i % 2 else slow_checkpoint())
    trio.lowlevel.remove_instrument(passes)
    return passes.count


def test_alone_most_turns_are_saved_and_some_are_given_for_who_cannot_be_seen() -> None:
    async def main() -> None:
        await trio.lowlevel.checkpoint()
        assert 2 <= await _passes_of(27) <= 3  # one of nine

    trio.run(main)


def test_none_is_saved_while_anybody_else_lives() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            assert await _passes_of(9) >= 9
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inner)

    async def inner() -> None:
        assert await _passes_of(9) >= 9  # its parent may have something else to do

    trio.run(main)


def test_none_is_saved_beside_a_system_task() -> None:
    async def main() -> None:
        trio.lowlevel.spawn_system_task(trio.sleep_forever)
        await trio.lowlevel.checkpoint()
        assert await _passes_of(9) >= 9

    trio.run(main)


def test_none_is_saved_when_another_thread_wants_something() -> None:
    async def main() -> None:
        told = list[int]()
        others = Others()
        assert not others.there()
        thread = threading.Thread(
            target=trio.lowlevel.current_trio_token().run_sync_soon, args=(told.append, 1)
        )
        thread.start()
        thread.join()
        assert others.there()
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert told == [1]
        assert not others.there()

    trio.run(main)


@pytest.mark.parametrize("wait", [slow_checkpoint, give_way])
def test_a_deadline_of_our_own_is_kept(wait: object) -> None:
    async def main() -> None:
        with trio.move_on_after(0.001) as scope:
            _make_due()
            await (slow_checkpoint() if wait is slow_checkpoint else give_way())
            await trio.lowlevel.checkpoint_if_cancelled()
        assert scope.cancelled_caught

    trio.run(main)


def test_whose_guest_trio_is_gets_its_turns() -> None:
    """The loop of the host runs while trio's makes one call after the other."""
    ready: list[object] = []
    turns, done = 0, list[object]()
    woken = threading.Event()

    def run_soon(function: object) -> None:
        ready.append(function)
        woken.set()

    async def main() -> None:
        for _ in range(30):
            _make_due()
            await give_way()

    trio.lowlevel.start_guest_run(
        main, run_sync_soon_threadsafe=run_soon, done_callback=done.append
    )
    while not done:
        woken.wait()
        woken.clear()
        while ready:
            function = ready.pop(0)
            assert callable(function)
            function()
            turns += 1
    assert turns >= 3

"""What is read once for all who wait for it."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from rsyscall.epoller._shared import SharedRead


async def test_who_waits_gets_what_comes_though_the_reader_was_cancelled() -> None:
    there = False
    numbers = iter(range(10))

    async def read() -> int:
        while not there:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint_if_cancelled()
        return next(numbers)

    shared, got = SharedRead(read), list[int]()

    async def wait(scope: trio.CancelScope) -> None:
        with scope:
            got.append(await shared.wait())

    scopes = [trio.CancelScope() for _ in range(4)]
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for scope in scopes:
                nursery.start_soon(wait, scope)
                await wait_all_tasks_blocked()
            there = True  # whoever reads next gets it without giving others a turn
            scopes[0].cancel()
        assert got == [0] * 3
        assert await shared.wait() == 1


async def test_an_error_is_the_readers_and_the_others_go_on() -> None:
    errors = [ValueError("first")]

    async def read() -> int:
        await wait_all_tasks_blocked()
        if errors:
            raise errors.pop()
        return 7

    shared, got = SharedRead(read), list[object]()

    async def wait() -> None:
        try:
            got.append(await shared.wait())
        except ValueError as exc:
            got.append(str(exc))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
    assert got == ["first", 7, 7]

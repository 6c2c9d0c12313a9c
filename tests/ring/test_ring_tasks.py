"""Many tasks and one ring: who wakes whom, against a server that the test plays."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from e2e.servers import event
from ring.raw import DATA, Played, played
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall_protocol import Call, In, Result, Write
from wire import SECONDS


def spin_for(sysif: RemoteSyscallInterface, us: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the client spin so long, however many CPUs there are."""
    ring = sysif._ring  # pyright: ignore[reportPrivateUsage] - no public way to see it
    assert ring is not None
    ring.spin_us = us
    monkeypatch.setattr("rsyscall.sysif.link.spin_us", lambda: us)


async def blocked(sysif: RemoteSyscallInterface, server: Played, nursery: trio.Nursery) -> Call:
    """A call that is not answered, and whose task sleeps as the one who reads."""
    results: list[int] = []

    async def call() -> None:
        results.append(await sysif.syscall(1))

    nursery.start_soon(call)
    (request,) = await server.hear_ring()
    assert isinstance(request, Call)
    await trio.testing.wait_all_tasks_blocked()
    assert server.ring.theirs.parked & DATA
    return request


@pytest.mark.parametrize("kind", ["syscall", "call", "outputs", "exchange"])
async def test_the_reader_wakes_if_another_call_takes_its_reply(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with played() as (sysif, server):
        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                first = await blocked(sysif, server, nursery)
                spin_for(sysif, 5_000_000, monkeypatch)

                def answer_both() -> None:
                    second = server.ring.receive()
                    assert isinstance(second, Call | Write)
                    value = 22 if isinstance(second, Call) else len(second.data)
                    server.ring.publish(event(Result(first.id, 11)))
                    server.ring.publish(event(Result(second.id, value)))
                    assert not server.ring.wake(), "while it looks itself it need not be woken"

                thread = threading.Thread(target=answer_both)
                thread.start()
                match kind:
                    case "syscall":
                        assert await sysif.syscall(2) == 22
                    case "outputs":
                        assert await sysif.syscall(2, In(b"abc")) == 22
                    case "call":
                        assert (await sysif.call(2)).value == 22
                    case _:
                        await sysif.write_memory(1, b"abc")
                thread.join()

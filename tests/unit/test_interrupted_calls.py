"""A task that KeyboardInterrupt tears away from its call leaves the others what it did for them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import NoReturn

import outcome
import pytest
import trio
import trio.lowlevel
import trio.testing

from e2e.servers import event
from ring.raw import Played
from rsyscall.near.sysif import FdArg
from rsyscall.sysif._frames import Waiter
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall_protocol import Call, Event, Feature, Hello, Limits, Result, Write

rings = pytest.mark.parametrize("ring", [False, True])


class Server(Played):
    """Says things over the socket or through the ring."""

    uses_ring = False

    async def start(self, *, ring: bool) -> None:
        if ring:
            await self.move()
            self.uses_ring = True
        else:
            await self.hear()
            info: dict[str, int | str] = {"arch": os.uname().machine}
            data, _ = self.connection.send(
                Hello(features=Feature.NONE, limits=self.connection.limits, info=info)
            )
            self.sock.send(data)

    async def next(self) -> Event:
        return await (self.request() if self.uses_ring else self.hear())

    def answer(self, request: Event, value: int) -> None:
        assert isinstance(request, Call | Write)
        data = event(Result(request.id, value))
        if self.uses_ring:
            self.ring.send(data)
        else:
            self.sock.send(data)


class Callers:
    """Tasks with a call each, any of which may be torn away."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.tasks: list[trio.lowlevel.Task] = []
        self.ends: dict[int, object] = {}

    async def start(self, call: Callable[[], Awaitable[object]]) -> None:
        async def run(i: int) -> None:
            self.tasks.append(trio.lowlevel.current_task())
            try:
                self.ends[i] = await call()
            except KeyboardInterrupt:
                self.ends[i] = "interrupted"

        self.nursery.start_soon(run, len(self.tasks))
        await trio.testing.wait_all_tasks_blocked()

    def interrupt(self, i: int) -> None:
        """As trio does it to the main task when SIGINT comes, shielded or not."""

        def tear() -> NoReturn:
            raise KeyboardInterrupt

        self.tasks[i]._attempt_abort(tear)  # pyright: ignore[reportPrivateUsage]


@contextlib.asynccontextmanager
async def serving(*, ring: bool) -> AsyncGenerator[tuple[RemoteSyscallInterface, Server, Callers]]:
    ours, theirs = socket.socketpair()
    sysif, server = RemoteSyscallInterface(ours, limits=Limits()), Server(theirs)
    with theirs, trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: server.start(ring=ring))
            await sysif.start(ring=ring, ring_size=2**16)
        async with trio.open_nursery() as nursery:
            yield sysif, server, Callers(nursery)
        await sysif.close_interface()
        if ring:
            server.ring.close()


@rings
@pytest.mark.parametrize("torn", [[0], [0, 1], [0, 1, 2]])
async def test_the_one_who_reads(ring: bool, torn: Sequence[int]) -> None:
    async with serving(ring=ring) as (sysif, server, callers):
        for i in range(4):
            await callers.start(partial(sysif.syscall, 100 + i))
        requests = [await server.next() for _ in range(4)]
        for i in torn:
            callers.interrupt(i)
            await trio.testing.wait_all_tasks_blocked()
        for i, request in enumerate(requests):
            server.answer(request, i)
    assert callers.ends == {i: "interrupted" if i in torn else i for i in range(4)}
    assert not sysif.busy


@rings
async def test_the_one_who_was_to_read_next(ring: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(ring=ring) as (sysif, server, callers):
        for i in range(3):
            await callers.start(partial(sysif.syscall, 100 + i))
        requests = [await server.next() for _ in range(3)]
        wake = sysif._wake  # pyright: ignore[reportPrivateUsage]

        def torn(waiter: Waiter) -> None:
            monkeypatch.setattr(sysif, "_wake", wake)
            task, waiter.task = waiter.task, None
            assert task is not None
            assert task is callers.tasks[1]
            trio.lowlevel.reschedule(task, outcome.Error(KeyboardInterrupt()))  # in its place

        monkeypatch.setattr(sysif, "_wake", torn)
        callers.interrupt(0)
        await trio.testing.wait_all_tasks_blocked()
        for i, request in enumerate(requests):
            server.answer(request, i)
    assert callers.ends == {0: "interrupted", 1: "interrupted", 2: 2}


async def test_the_one_who_writes() -> None:
    """What it has begun is sent to its end, and what waits behind that too."""
    data = bytes(500_000)
    async with serving(ring=False) as (sysif, server, callers):
        for _ in range(3):
            await callers.start(lambda: sysif.write_memory(4096, data))
        callers.interrupt(0)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            request = await server.next()
            assert isinstance(request, Write)
            server.answer(request, len(data))
    assert callers.ends == {0: "interrupted", 1: None, 2: None}


async def test_the_one_who_writes_beside_a_ring() -> None:
    """Descriptors wait for room in the socket."""
    calls = 600
    requests = list[Event]()

    def take() -> None:
        """The calls whose descriptors have come, and those."""
        fds = list[int]()
        while (request := server.ring.poll()) is not None:
            requests.append(request)
        with contextlib.suppress(BlockingIOError):
            while True:
                data, came, _, _ = socket.recv_fds(server.sock, 2**16, 1)
                fds += came
                assert data
        for fd in fds:
            os.close(fd)

    async with serving(ring=True) as (sysif, server, callers):
        server.sock.setblocking(False)
        fds = [server.sock.fileno()]
        for _ in range(calls):
            await callers.start(lambda: sysif.call(2, [FdArg(0)], fds=fds))
        assert sysif._flushing, "the socket has room"  # pyright: ignore[reportPrivateUsage]
        take()
        # The others wait for the one whose descriptor found no room.
        torn = len(requests)
        callers.interrupt(torn)
        while len(requests) < calls:
            await trio.testing.wait_all_tasks_blocked()
            take()
        for request in requests:
            server.answer(request, 7)
        await trio.testing.wait_all_tasks_blocked()
        ends = {i: getattr(end, "value", end) for i, end in callers.ends.items()}
        assert ends == {i: "interrupted" if i == torn else 7 for i in range(calls)}

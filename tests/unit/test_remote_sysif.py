"""The client's door to a server, against a server that we play ourselves."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from rsyscall.near.sysif import SyscallHangup, SyscallSendHangup
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall_protocol import (
    Batch,
    Call,
    Connection,
    Event,
    Feature,
    Hello,
    Limits,
    Out,
    Request,
    Result,
    Role,
)
from wire import SECONDS


@dataclass
class Played:
    """A server that says what the test says."""

    socket: socket.socket
    connection: Connection

    async def hear(self) -> Event:
        while True:
            event = self.connection.next_event()
            if isinstance(event, Event):
                return event
            await trio.lowlevel.wait_readable(self.socket)
            self.connection.receive(self.socket.recv(2**16))

    def say(self, event: Event, *, without: int = 0) -> None:
        """Send a frame, without its last bytes."""
        data, fds = self.connection.send(event)
        socket.send_fds(self.socket, [data[: len(data) - without]], fds)


@asynccontextmanager
async def played(
    limits: Limits, features: Feature = Feature.NONE
) -> AsyncGenerator[tuple[RemoteSyscallInterface, Played]]:
    ours, theirs = socket.socketpair()
    sysif, server = (
        RemoteSyscallInterface(ours, limits=limits),
        Played(theirs, Connection(Role.SERVER)),
    )
    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sysif.start)
            await server.hear()
            info: dict[str, int | str] = {"arch": os.uname().machine}
            limits = server.connection.limits
            server.say(Hello(features=features, limits=limits, info=info))
        yield sysif, server
        await sysif.close_interface()


async def test_a_reply_that_the_window_cannot_hold_is_refused_and_not_waited_for() -> None:
    async with played(Limits(window=8192)) as (sysif, _):
        with pytest.raises(ValueError, match="8192"):
            await sysif.call(39, [Out(8192)])


async def test_a_descriptor_of_an_incomplete_result_is_closed_with_the_connection() -> None:
    ours, theirs = os.pipe()
    async with played(Limits()) as (sysif, server):

        async def call() -> None:
            with pytest.raises(SyscallHangup):
                await sysif.call(39, return_fd=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            heard = await server.hear()
            assert isinstance(heard, Call)
            server.say(Result(heard.id, 5, (), (theirs,)), without=1)
            os.close(theirs)
            await trio.testing.wait_all_tasks_blocked()  # it has read what there is
            sysif.close()
    async with trio.lowlevel.FdStream(ours) as pipe:
        with trio.fail_after(SECONDS):
            assert await pipe.receive_some() == b""


async def test_two_thousand_calls_at_once_never_exceed_the_limit_and_are_sent_in_order() -> None:
    calls, limit = 2000, 100
    returned: list[int] = []

    async def call(number: int) -> None:
        returned.append(await sysif.syscall(number))

    async with played(Limits(outstanding=limit)) as (sysif, server), trio.open_nursery() as nursery:
        for number in range(calls):
            nursery.start_soon(call, number)
        heard: list[int] = []
        while len(heard) < calls:
            held = [await server.hear() for _ in range(limit)]
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(BlockingIOError):  # nothing more has been sent
                server.socket.recv(1, socket.MSG_DONTWAIT)
            for request in reversed(held):
                assert isinstance(request, Call)
                server.say(Result(request.id, request.nr))
            heard += [request.id for request in held if isinstance(request, Call)]
    assert sorted(returned) == list(range(calls))
    assert heard == list(range(1, calls + 1))


async def test_a_call_that_waits_for_room_is_cancelled_without_being_sent() -> None:
    async with played(Limits(outstanding=1)) as (sysif, server), trio.open_nursery() as nursery:
        cancelled = trio.CancelScope()

        async def second() -> None:
            with cancelled:
                await sysif.syscall(2)

        nursery.start_soon(sysif.syscall, 1)
        first = await server.hear()
        nursery.start_soon(second)
        await trio.testing.wait_all_tasks_blocked()
        cancelled.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert cancelled.cancelled_caught
        nursery.start_soon(sysif.syscall, 3)
        assert isinstance(first, Call)
        server.say(Result(first.id, 0))
        third = await server.hear()
        assert isinstance(third, Call)
        server.say(Result(third.id, 0))
    assert (first.nr, third.nr) == (1, 3)


async def test_calls_that_wait_for_room_are_not_sent_when_the_connection_is_closed() -> None:
    ends: list[type[BaseException]] = []

    async def call(number: int) -> None:
        with pytest.raises(SyscallHangup, match="closed by us") as caught:
            await sysif.syscall(number)
        ends.append(type(caught.value))

    async with played(Limits(outstanding=1)) as (sysif, server), trio.open_nursery() as nursery:
        nursery.start_soon(call, 1)
        await server.hear()
        for number in 2, 3:
            nursery.start_soon(call, number)
        await trio.testing.wait_all_tasks_blocked()
        sysif.close()
    assert sorted(ends, key=str) == [SyscallHangup, SyscallSendHangup, SyscallSendHangup]


async def test_calls_that_wait_for_room_are_woken_one_by_one_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each looks a few times whether it is its turn, and not once for every result there is."""
    calls, looks = 300, 0
    async with played(Limits(outstanding=2)) as (sysif, server), trio.open_nursery() as nursery:
        connection = sysif._connection  # pyright: ignore[reportPrivateUsage]
        has_room = connection.has_room

        def counted(request: Request) -> bool:
            nonlocal looks
            looks += 1
            return has_room(request)

        monkeypatch.setattr(connection, "has_room", counted)
        for number in range(calls):
            nursery.start_soon(sysif.syscall, number)
            await trio.testing.wait_all_tasks_blocked()
        for number in range(calls):
            request = await server.hear()
            assert isinstance(request, Call)
            assert request.nr == number
            server.say(Result(request.id, 0))
    assert looks < 5 * calls


async def test_a_small_call_does_not_overtake_a_large_one_that_waits_for_room() -> None:
    async with played(Limits(window=8192)) as (sysif, server), trio.open_nursery() as nursery:
        small = [Out(1000)]
        cancelled = trio.CancelScope()

        async def give_up() -> None:
            with cancelled:
                await sysif.call(5, [Out(8000)])

        for number, args in enumerate([[Out(4000)], small, [Out(5000)], small]):
            nursery.start_soon(sysif.call, number, args)
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(give_up)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(sysif.call, 6, small)
        await trio.testing.wait_all_tasks_blocked()
        first, second = await server.hear(), await server.hear()
        assert isinstance(first, Call)
        assert isinstance(second, Call)
        server.say(Result(second.id, 0, (bytes(1000),)))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(BlockingIOError):  # no room for 5000 yet
            server.socket.recv(1, socket.MSG_DONTWAIT)
        server.say(Result(first.id, 0, (bytes(4000),)))
        third, fourth = await server.hear(), await server.hear()
        assert isinstance(third, Call)
        assert isinstance(fourth, Call)
        assert (third.nr, fourth.nr) == (2, 3)
        cancelled.cancel()  # the first of the queue: the next takes its turn
        last = await server.hear()
        assert isinstance(last, Call)
        assert last.nr == 6
        for request, size in (third, 5000), (fourth, 1000), (last, 1000):
            server.say(Result(request.id, 0, (bytes(size),)))
    assert cancelled.cancelled_caught


async def test_what_is_asked_together_of_a_server_without_batches_is_asked_one_by_one() -> None:
    returned: list[int] = []

    async def call(sysif: RemoteSyscallInterface, number: int) -> None:
        returned.append((await sysif.call_at_once(number)).value)

    async with played(Limits()) as (sysif, server), trio.open_nursery() as nursery:
        sysif.expect(5)
        for number in range(5):
            nursery.start_soon(call, sysif, number)
        for _ in range(5):
            heard = await server.hear()
            assert isinstance(heard, Call)
            server.say(Result(heard.id, heard.nr))
    assert sorted(returned) == list(range(5))


async def test_what_is_asked_together_hangs_up_together() -> None:
    hung_up = 0

    async def call(sysif: RemoteSyscallInterface, number: int) -> None:
        nonlocal hung_up
        with pytest.raises(SyscallHangup):
            await sysif.call_at_once(number)
        hung_up += 1

    async with played(Limits(), Feature.BATCH) as (sysif, server):
        async with trio.open_nursery() as nursery:
            sysif.expect(5)
            for number in range(5):
                nursery.start_soon(call, sysif, number)
            heard = await server.hear()
            assert isinstance(heard, Batch)
            assert len(heard.steps) == 5
            server.socket.shutdown(socket.SHUT_RDWR)
        assert hung_up == 5

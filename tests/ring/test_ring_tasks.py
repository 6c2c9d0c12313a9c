"""Many tasks and one ring: who wakes whom, against a server that the test plays."""

from __future__ import annotations

import os
import socket
import threading

import pytest
import trio
import trio.testing

from e2e.servers import event
from ring.raw import DATA, ROOM, Played, played
from ring.spinning import spin_for
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall_protocol import (
    Call,
    FdArg,
    In,
    Limits,
    Result,
    SideChannel,
    Write,
)


async def blocked(sysif: RemoteSyscallInterface, server: Played) -> Call:
    """A call that is not answered, and whose task sleeps as the one who reads."""
    results: list[int] = []

    async def call() -> None:
        results.append(await sysif.syscall(1))

    server.nursery.start_soon(call)
    request = await server.request()
    assert isinstance(request, Call)
    await trio.testing.wait_all_tasks_blocked()
    assert server.ring.theirs.parked & DATA
    return request


@pytest.mark.parametrize("kind", ["syscall", "call", "outputs", "exchange"])
async def test_the_reader_wakes_if_another_call_takes_its_reply(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with played() as (sysif, server):
        first = await blocked(sysif, server)
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


async def test_the_reader_wakes_for_room_that_another_call_waits_for() -> None:
    async with played() as (sysif, server):
        first = await blocked(sysif, server)
        data = bytes(range(256)) * 256
        server.nursery.start_soon(sysif.write_memory, 4096, data)
        await trio.testing.wait_all_tasks_blocked()
        assert server.ring.available == server.ring.size
        assert server.ring.theirs.parked & (DATA | ROOM) == DATA | ROOM
        request = await server.request()
        assert isinstance(request, Write)
        assert request.data == data
        # The replies may come in any order.
        for answer in Result(request.id, len(data)), Result(first.id, 1):
            server.ring.send(event(answer))


async def test_a_full_socket_stops_nobody_else() -> None:
    """Descriptors go over the socket: those of 1,000 calls are more than it takes at once."""
    async with played() as (sysif, server):
        done: list[int] = []
        pipe = os.pipe()

        async def call() -> None:
            done.append((await sysif.call(2, [FdArg(0)], fds=[pipe[0]])).value)

        for _ in range(1000):
            server.nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        side, packets = SideChannel(Limits()), list[list[int]]()
        for _ in range(1000):
            request = await server.request()
            assert isinstance(request, Call)
            while not packets:
                data, fds, _, _ = socket.recv_fds(server.sock, 2**16, 1)
                packets += side.receive(data, fds)[0]
            (fd,) = packets.pop()
            assert os.fstat(fd) == os.fstat(pipe[0])
            os.close(fd)
            server.ring.send(event(Result(request.id, 7)))
    assert done == [7] * 1000
    for fd in pipe:
        os.close(fd)

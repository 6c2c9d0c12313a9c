"""What passes over the socket beside a ring: bells without end, descriptors, the end itself."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Callable
from functools import partial

import pytest
import trio
import trio.lowlevel
import trio.testing

from e2e.servers import event
from ring.raw import BELL, SEALS, Played, last_words, make_half, played
from rsyscall.near.sysif import Out, ProtocolHangup, SyscallHangup
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall_protocol import Call, ErrorCode, Fds, Limits, Result


def before_each_read(
    sysif: RemoteSyscallInterface, monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]
) -> None:
    """Do something just before the client reads from its socket: what no timing would make sure."""
    read = sysif._from_socket  # pyright: ignore[reportPrivateUsage]

    def patched() -> tuple[bytes, list[int], bool] | None:
        do()
        return read()

    monkeypatch.setattr(sysif, "_from_socket", patched)


async def test_bells_without_end_stop_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async with played() as (sysif, server):
        over = False

        def ring() -> None:
            if not over:
                server.sock.send(BELL * 10)

        before_each_read(sysif, monkeypatch, ring)
        server.nursery.start_soon(sysif.syscall, 39)
        request = await server.request()
        assert isinstance(request, Call)
        server.ring.bell()
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        over = True
        server.ring.send(event(Result(request.id, 0)))


async def test_descriptors_are_found_behind_any_bells() -> None:
    async with played() as (sysif, server):
        ends: list[int | None] = []

        async def call() -> None:
            ends.append((await sysif.call(39, return_fd=True)).fd)

        for _ in range(3):
            server.nursery.start_soon(call)
        requests = [await server.request() for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked()
        pipe = os.pipe()
        server.sock.setblocking(False)
        for i in range(3):
            server.sock.send(BELL * 9000)  # about as much as one read takes
            socket.send_fds(server.sock, [event(Fds(i, 1))], pipe[:1])
        for request in requests:
            assert isinstance(request, Call)
            server.ring.publish(event(Result(request.id, 7, (), (None,))))
        server.ring.wake()
        await trio.testing.wait_all_tasks_blocked()
        assert len(ends) == 3
        for fd in ends:
            assert fd is not None
            assert os.fstat(fd) == os.fstat(pipe[0])
            os.close(fd)
        for fd in pipe:
            os.close(fd)


@pytest.mark.parametrize("packets", [1, 2])
async def test_what_was_published_before_the_end_counts_though_the_end_is_seen_first(
    packets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client looks for descriptors, and finds the end of the stream behind them."""
    async with played() as (sysif, server):
        ends: list[int] = []
        pipe = os.pipe()

        async def call(*, return_fd: bool) -> None:
            reply = await sysif.call(39, return_fd=return_fd)
            ends.append(reply.value)
            if reply.fd is not None:
                os.close(reply.fd)

        for return_fd in (True,) * packets + (False,):
            server.nursery.start_soon(partial(call, return_fd=return_fd))
            await trio.testing.wait_all_tasks_blocked()
        *asking, last = [await server.request() for _ in range(packets + 1)]
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(last, Call)
        late = [event(Result(last.id, 9))]

        def end() -> None:
            if late and server.ring.room != server.ring.size:
                return  # it has not taken the first ones from the ring
            if late:
                server.ring.publish(late.pop())
                server.sock.shutdown(socket.SHUT_WR)

        before_each_read(sysif, monkeypatch, end)
        for i, request in enumerate(asking):
            assert isinstance(request, Call)
            socket.send_fds(server.sock, [event(Fds(i, 1))], pipe[:1])
            server.ring.publish(event(Result(request.id, i, (), (None,))))
        # Without a bell: else the client would look at the socket first.
        sysif._receive()  # pyright: ignore[reportPrivateUsage]
        await trio.testing.wait_all_tasks_blocked()
    assert sorted(ends) == [*range(packets), 9]
    for fd in pipe:
        os.close(fd)


# ---- memory that is not as it must be ----


@contextlib.asynccontextmanager
async def moving() -> AsyncGenerator[tuple[RemoteSyscallInterface, Played, list[BaseException]]]:
    """A client that asks for a ring, and the server before it has answered."""
    ours, theirs = socket.socketpair()
    sysif, server, ends = RemoteSyscallInterface(ours), Played(theirs), list[BaseException]()

    async def start() -> None:
        with pytest.raises(SyscallHangup) as caught:
            await sysif.start(ring=True, ring_size=4096)
        ends.append(caught.value)

    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            yield sysif, server, ends
        await sysif.close_interface()


def a_pipe() -> int:
    read, write = os.pipe()
    os.close(write)
    return read


def read_only() -> int:
    half = make_half(4096)
    fd = os.open(f"/proc/self/fd/{half}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(half)
    return fd


BAD_HALVES: dict[str, Callable[[], int]] = {
    "no seals": lambda: make_half(4096, 0),
    **{f"without {seal:#x}": partial(make_half, 4096, SEALS & ~seal) for seal in (1, 2, 4)},
    "too short": lambda: make_half(2048),
    "too long": lambda: make_half(8192),
    "empty": lambda: make_half(-4096),
    "no memfd": a_pipe,
}


@pytest.mark.parametrize(
    ("kind", "which"),
    # The client writes to its half only.
    [*((kind, which) for kind in BAD_HALVES for which in (0, 1)), ("read only", 0)],
)
async def test_memory_that_is_not_as_it_must_be_is_refused_with_a_word(
    kind: str, which: int
) -> None:
    async with moving() as (_, server, ends):
        request = await server.greet()
        halves = [make_half(4096), make_half(4096)]
        os.close(halves[which])
        halves[which] = (BAD_HALVES | {"read only": read_only})[kind]()
        server.say(Result(request.id, 4096, (), tuple(halves)), halves)
        for fd in halves:
            os.close(fd)
        await trio.testing.wait_all_tasks_blocked()
        assert last_words(server.sock).code is ErrorCode.RING
    (end,) = ends
    assert isinstance(end, ProtocolHangup)
    assert (end.code, end.offset) == (ErrorCode.RING, 0)


async def test_a_ring_without_memory_is_refused_with_a_word() -> None:
    async with moving() as (_, server, ends):
        request = await server.greet()
        server.say(Result(request.id, 4096))
        await trio.testing.wait_all_tasks_blocked()
        assert last_words(server.sock).code is ErrorCode.RING
    (end,) = ends
    assert isinstance(end, ProtocolHangup)
    assert end.code is ErrorCode.RING


async def test_a_reply_that_the_window_cannot_hold_is_refused_and_not_sent() -> None:
    async with played(Limits(window=8192)) as (sysif, server):
        with pytest.raises(ValueError, match="8192"):
            await sysif.call(39, [Out(8192)])
        assert server.ring.available == 0

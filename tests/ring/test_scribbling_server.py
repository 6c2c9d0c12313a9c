"""Servers that write anything anywhere while calls run: the client ends, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from collections.abc import Sequence
from typing import TypeAlias

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from e2e.servers import event, open_fds
from ring.raw import BELL, Played, RawRing, played
from ring.spinning import spin_for
from rsyscall.near.sysif import Out, Ret, SyscallHangup
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall_protocol import Batched, Fds, Result, Size

TASKS = 8
WORDS = [0, 1, 63, 64, 4095, 4096, 4097, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 4096]
OFFSETS = [Size.RING_TAIL // 4, Size.RING_HEAD // 4, Size.RING_PARKED // 4]


class Calls:
    """Tasks that call until the connection ends, and how that was."""

    def __init__(self, sysif: RemoteSyscallInterface) -> None:
        self.sysif = sysif
        self.done = 0
        self.ends: list[BaseException] = []

    async def make(self, i: int) -> None:
        calls = [
            lambda: self.sysif.syscall(39),
            lambda: self.sysif.syscall(39, Out(8), Ret(4)),
            lambda: self.sysif.call(39, [Out(700)]),
            lambda: self.sysif.read_memory(4096, 300),
            lambda: self.sysif.write_memory(4096, bytes(600)),
            self.with_fd,
        ]
        while True:
            try:
                await calls[i % len(calls)]()
            except OSError:  # as the server pleases
                pass
            except SyscallHangup as exc:
                self.ends.append(exc)
                return
            self.done += 1

    async def with_fd(self) -> None:
        reply = await self.sysif.call(39, return_fd=True)
        if reply.fd is not None:
            os.close(reply.fd)


Action: TypeAlias = tuple[str, int, bytes]

actions = st.lists(
    st.tuples(
        st.sampled_from(["word", "add", "data", "send", "answer", "beside", "packet", "bell"]),
        st.sampled_from(WORDS) | st.integers(0, 2**32 - 1) | st.integers(0, 16),
        st.binary(max_size=60) | st.just(b"\xce\0\0\0\6\x95\3\2\0\0\x90"),
    ),
    max_size=12,
)


def act(server: Played, action: Action) -> None:
    kind, number, data = action
    ring, mine = server.ring, server.ring.mine
    with contextlib.suppress(OSError):  # the client has gone, or reads no more
        match kind:
            case "word":
                mine.words[OFFSETS[number % 3]] = number
            case "add":
                mine.words[OFFSETS[number % 2]] = (mine.tail + number) % 2**32
            case "data":
                at = number % (ring.size - 60)
                mine.data[at : at + len(data)] = data
            case "send":
                publish(ring, data)
            case "answer":
                outs = (bytes(number % 9),) if number % 2 else ()
                publish(ring, event(Result(2 + number % (2 * TASKS), number, outs)))
                publish(ring, event(Batched(2 + number % 5, outs, bytes(8), b"\1", 1)))
            case "beside":
                server.sock.send(data or b"\xce")
            case "packet":
                socket.send_fds(
                    server.sock, [event(Fds(number % 3, 1))], [server.sock.fileno()] * 2
                )
            case _:
                server.sock.send(BELL * (number % 500))
        ring.wake()


def publish(ring: RawRing, data: bytes) -> None:
    if len(data) <= ring.room <= ring.size:
        ring.publish(data)


async def play(script: Sequence[Action]) -> None:
    before = open_fds(os.getpid())
    async with played() as (sysif, server):
        server.sock.setblocking(False)
        calls = Calls(sysif)
        for i in range(TASKS):
            server.nursery.start_soon(calls.make, i)
        await trio.testing.wait_all_tasks_blocked()
        for action in script:
            act(server, action)
            await trio.testing.wait_all_tasks_blocked()
        server.sock.shutdown(socket.SHUT_RDWR)
    assert len(calls.ends) == TASKS
    assert open_fds(os.getpid()) == before


@settings(max_examples=150, deadline=None)
@given(actions)
def test_any_words_and_bytes(script: list[Action]) -> None:
    trio.run(play, script)


def answer(server: Played, request: object, rng: random.Random) -> None:
    """A right answer, mostly."""
    id_ = getattr(request, "id", 0)
    length = getattr(request, "length", None)
    if length is not None:
        publish(server.ring, event(Result(id_, length, (bytes(length),))))
    elif hasattr(request, "data"):
        publish(server.ring, event(Result(id_, 600)))
    else:
        outs = [arg for arg in getattr(request, "args", ()) if isinstance(arg, Out | Ret)]
        sizes = [arg.size if isinstance(arg, Out) else min(arg.size, 3) for arg in outs]
        publish(server.ring, event(Result(id_, 3, tuple(map(rng.randbytes, sizes)))))
    server.ring.wake()


@pytest.mark.parametrize("seed", range(25))
async def test_scribbling_from_a_thread_while_calls_run(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers for a while as it should; then all that happens, happens at any time."""
    rng = random.Random(seed)
    async with played() as (sysif, server):
        spin_for(sysif, rng.choice([0, 200, 2000]), monkeypatch)
        server.sock.setblocking(False)
        calls, rightly = Calls(sysif), rng.randrange(60)

        def serve() -> None:
            ring = server.ring
            for turn in range(400):
                if turn < rightly:
                    if (request := ring.poll()) is not None:
                        answer(server, request, rng)
                else:
                    kinds = ["word", "add", "data", "send", "answer", "beside", "packet", "bell"]
                    kind = rng.choice(kinds if turn % 8 == 0 else ["data", "bell", "answer"])
                    number = rng.choice([*WORDS, rng.getrandbits(32), rng.randrange(16)])
                    act(server, (kind, number, rng.randbytes(rng.randrange(40))))
            server.sock.shutdown(socket.SHUT_RDWR)

        thread = threading.Thread(target=serve)
        for i in range(TASKS):
            server.nursery.start_soon(calls.make, i)
        await trio.testing.wait_all_tasks_blocked()
        thread.start()
        await trio.to_thread.run_sync(thread.join)
    assert len(calls.ends) == TASKS

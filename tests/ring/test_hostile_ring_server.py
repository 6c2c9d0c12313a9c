"""Servers that break a rule in the ring or beside it, against the real client."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from e2e.servers import event, message, open_fds
from frames import frame
from ring.raw import BELL, Played, last_words, played
from ring.spinning import spin_for
from rsyscall.near.sysif import Out, ProtocolHangup, Ret, SyscallHangup, SyscallSendHangup
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall_protocol import (
    Batched,
    Bell,
    Bye,
    Call,
    ErrorCode,
    Fds,
    Hello,
    Result,
)

E = ErrorCode
#: Two calls that wait: the first asks for nothing back, the second for outputs, and a descriptor.
FIRST, SECOND = 2, 3
GOOD = event(Result(FIRST, 5))


@dataclass(frozen=True)
class Bad:
    """What the server does, and what the client must say of it."""

    name: str
    code: ErrorCode
    play: Callable[[Played], object]
    fds: bool = False  # whether it is about the descriptor that the second call asks for


def ring(name: str, code: ErrorCode, data: bytes) -> Bad:
    """Bytes in the ring."""
    return Bad(name, code, lambda server: server.ring.send(data))


def words(name: str, **values: int) -> Bad:
    """Where the server is, if it is to be believed: so far beyond the truth, modulo 2**32."""

    def play(server: Played) -> None:
        mine, theirs = server.ring.mine, server.ring.theirs
        if "tail" in values:
            mine.tail += values["tail"]
        if "head" in values:
            mine.head = theirs.tail + values["head"]
        server.ring.bell()

    return Bad(name, E.RING, play)


def beside(name: str, code: ErrorCode, *sends: tuple[bytes, int], then: bytes = b"") -> Bad:
    """Bytes on the socket, each with so many descriptors; then some in the ring."""

    def play(server: Played) -> None:
        with open("/dev/null") as null:
            for data, count in sends:
                socket.send_fds(server.sock, [data], [null.fileno()] * count)
        server.ring.send(then)

    return Bad(name, code, play, fds=True)


def ended(name: str, data: bytes) -> Bad:
    """The end of the stream after part of a frame."""

    def play(server: Played) -> None:
        server.ring.send(data)
        server.sock.shutdown(socket.SHUT_WR)

    return Bad(name, E.TRUNCATED, play)


def result(value: object, outs: object, *, nfds: object = 0, id_: object = SECOND) -> bytes:
    return message(3, id_, nfds, value, outs)


WITH_FD = result(7, [bytes(8), bytes(4)], nfds=1)
FD = event(Fds(0, 1))
HUGE = b"\xff\xff\xff\xff"
CASES = [
    *(words(f"tail+{n}", tail=n) for n in (4097, 2**16, 2**31 - 1, 2**31, 2**32 - 1)),
    *(words(f"head+{n}", head=n) for n in (1, 4096, 2**31, 2**31 - 1, -4097)),
    ring("no-length", E.MALFORMED, b"HTTP/1.1 200 OK\r\n\r\n"),
    ring("empty", E.MALFORMED, frame(b"")),
    ring("large", E.OVERSIZE, b"\xce" + struct.pack(">I", 2**20 + 1)),
    ring("huge", E.OVERSIZE, b"\xce" + HUGE),
    ring("deep", E.DEPTH, frame(b"\x91" * 3000 + b"\0")),
    ring("trailing", E.TRAILING, frame(GOOD[5:] + b"\0")),
    ring("unknown-type", E.UNKNOWN_TYPE, message(99)),
    ring("arity", E.ARITY, message(3, FIRST, 0, 0)),
    ring("hello", E.STATE, event(Hello())),
    ring("call", E.STATE, event(Call(FIRST, 39))),
    ring("bye", E.STATE, event(Bye())),
    ring("bell", E.STATE, event(Bell())),
    ring("packet", E.STATE, FD),
    ring("id-never-sent", E.ID, event(Result(99, 0))),
    ring("id-of-the-ring", E.ID, event(Result(1, 4096))),
    ring("id-later", E.ID, event(Result(SECOND + 1, 0))),
    ring("id-zero", E.ID, event(Result(0, 0))),
    ring("twice", E.ID, event(Result(SECOND, 5, (bytes(8), bytes(4)))) * 2),
    ring("batched", E.FIELD, event(Batched(FIRST, (), bytes(8), b"\1", 1))),
    ring("batched-second", E.FIELD, event(Batched(SECOND, (), b"", b"", 0))),
    ring("outs-surplus", E.FIELD, event(Result(FIRST, 0, (b"",)))),
    ring("outs-missing", E.FIELD, event(Result(SECOND, 0, (bytes(8),)))),
    ring("out-short", E.FIELD, event(Result(SECOND, 0, (bytes(7), b"")))),
    ring("out-long", E.FIELD, event(Result(SECOND, 4, (bytes(9), bytes(4))))),
    ring("ret-long", E.FIELD, event(Result(SECOND, 5, (bytes(8), bytes(5))))),
    ring("ret-of-failure", E.FIELD, event(Result(SECOND, -1, (bytes(8), b"x")))),
    ring("value-large", E.FIELD, result(2**63, [bytes(8), bytes(4)])),
    ring("value-float", E.FIELD, result(1.0, [bytes(8), bytes(4)])),
    ring("outs-text", E.FIELD, result(0, ["x" * 8, ""])),
    ring("claims-bin", E.MALFORMED, frame(b"\x95\x03\3\0\0\xc6" + HUGE)),
    ring("claims-array", E.MALFORMED, frame(b"\x95\x03\3\0\0\xdd" + HUGE)),
    ring("fds-announced", E.TOO_MANY_FDS, result(0, [], nfds=254)),
    ended("half-a-header", GOOD[:3]),
    ended("half-a-frame", GOOD[:-1]),
    beside("fd-missing", E.FDS, then=WITH_FD),
    beside("fd-missing-behind-bells", E.FDS, (BELL * 500, 0), then=WITH_FD),
    beside("fd-without-packet", E.FDS, (BELL, 1)),
    beside("packet-without-fd", E.FDS, (FD, 0)),
    beside("packet-of-two", E.FDS, (event(Fds(0, 2)), 2), then=WITH_FD),
    beside("packet-with-another-count", E.FDS, (FD, 2)),
    beside("packet-numbered-1", E.FDS, (event(Fds(1, 1)), 1)),
    beside("packet-twice", E.FDS, (FD, 1), (FD, 1)),
    beside("packets-surplus", E.FDS, (FD, 1), (event(Fds(1, 1)), 1)),
    beside("packet-and-nonsense", E.FDS, (FD + b"\xc1" * 5, 1)),
    beside("packets-in-one-frame", E.FDS, (FD, 100)),
    beside("fd-of-the-wrong-frame", E.FIELD, (FD, 1), then=result(0, [], nfds=1, id_=FIRST)),
    beside("fd-of-failure", E.FIELD, (FD, 1), then=result(-1, [bytes(8), b""], nfds=1)),
    beside("two-fds", E.FIELD, (FD, 1), then=result(1, [bytes(8), b"1"], nfds=2)),
    beside("result-beside", E.STATE, (GOOD, 0)),
    beside("long-beside", E.FDS, (frame(bytes(301)), 0)),
]


class Ends:
    """How the calls ended."""

    def __init__(self, sysif: RemoteSyscallInterface) -> None:
        self.sysif = sysif
        self.hangups: list[BaseException] = []
        self.values: list[int] = []
        self.two = trio.Event()

    async def first(self) -> None:
        await self.call(())

    async def call(self, args: tuple[Out | Ret, ...], *, return_fd: bool = False) -> None:
        try:
            reply = await self.sysif.call(39, args, return_fd=return_fd)
        except SyscallHangup as exc:
            self.hangups.append(exc)
        else:
            assert reply.fd is None
            self.values.append(reply.value)
        if len(self.hangups) + len(self.values) == 2:
            self.two.set()


@pytest.mark.parametrize("road", ["asleep", "call", "exchange"])
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
async def test_nonsense(case: Bad, road: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found while the client sleeps as while the core looks for a reply."""
    before = open_fds(os.getpid())
    return_fd = road == "exchange" or (road == "asleep" and case.fds)
    async with played() as (sysif, server):
        ends = Ends(sysif)
        server.nursery.start_soon(ends.first)
        first = await server.request()
        assert isinstance(first, Call)
        await trio.testing.wait_all_tasks_blocked()

        def play() -> None:
            second = server.ring.receive()
            assert isinstance(second, Call)
            assert (first.id, second.id) == (FIRST, SECOND)
            case.play(server)

        if road == "asleep":
            server.nursery.start_soon(lambda: ends.call((Out(8), Ret(4)), return_fd=return_fd))
            await trio.testing.wait_all_tasks_blocked()
            play()
        else:
            # It may or may not come before the time is over: what follows is the same.
            spin_for(sysif, 20_000, monkeypatch)
            thread = threading.Thread(target=play)
            thread.start()
            await ends.call((Out(8), Ret(4)), return_fd=return_fd)
            thread.join()
        with trio.fail_after(20):
            await ends.two.wait()
        assert len(ends.values) == (case.name == "twice")
        # Who has not asked for a descriptor may also say that.
        expected = {case.code} if return_fd or not case.fds else {case.code, E.FIELD, E.FDS}
        for exc in ends.hangups:
            assert isinstance(exc, ProtocolHangup)
            assert exc.code in expected, exc
        assert last_words(server.sock).code in expected
        with pytest.raises(SyscallSendHangup):
            await sysif.syscall(39)
    assert open_fds(os.getpid()) == before

"""However the bytes are cut into reads, what they mean is the same."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsyscall_protocol import (
    NEED_DATA,
    Batch,
    Bye,
    Call,
    CallFlag,
    Connection,
    ErrorCode,
    Event,
    Hello,
    RemoteProtocolError,
    Result,
    Role,
)
from rsyscall_protocol import Read as ReadRequest
from rsyscall_protocol._arguments import out_sizes
from strategies import calls, mutated, requests

reads = st.builds(ReadRequest, st.just(1), st.just(0), st.integers(0, 300))
many = settings(deadline=None, max_examples=150)
Read = Callable[[int], tuple[bytes, list[Any]]]


@dataclass(frozen=True)
class Descriptor:
    """Stands for a file descriptor; each is another."""

    number: int


@dataclass
class Segment:
    """What one send brought into a stream."""

    data: bytes
    fds: list[Any]


class Kernel:
    """A UNIX stream socket as far as it matters here: how sends become reads.

    A read takes the sends in their order, as much as fits; it stops behind the first bytes that
    carry file descriptors, and brings those.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = [Segment(s.data, list(s.fds)) for s in segments]

    def read(self, size: int) -> tuple[bytes, list[Any]]:
        data, fds = b"", list[Any]()
        while self.segments and len(data) < size and not fds:
            first = self.segments[0]
            part = first.data[: size - len(data)]
            data += part
            fds, first.fds = first.fds, []
            first.data = first.data[len(part) :]
            if not first.data:
                del self.segments[0]
        return data, fds


@dataclass
class Outcome:
    """What came of a stream."""

    events: list[Event]
    error: tuple[ErrorCode, int] | None
    unclaimed: list[Any]


def greeted() -> dict[Role, Connection]:
    """Both ends after their HELLOs: no descriptor may come before."""
    ends = {role: Connection(role) for role in Role}
    for role in Role.CLIENT, Role.SERVER:
        ends[role.peer].receive(ends[role].send(Hello())[0])
        assert ends[role.peer].next_event() == Hello()
    return ends


def feed(connection: Connection, read: Read, sizes: Iterator[int]) -> Outcome:
    """Read to the end, in pieces of these sizes."""
    outcome = Outcome([], None, [])
    data = None
    while data != b"":
        data, fds = read(next(sizes))
        connection.receive(data, fds)
        try:
            while (event := connection.next_event()) is not NEED_DATA and event is not None:
                outcome.events.append(event)
        except RemoteProtocolError as exc:
            outcome.error = exc.code, exc.offset
        outcome.unclaimed += connection.take_unclaimed()
    return outcome


def all_at_once() -> Iterator[int]:
    while True:
        yield 2**22


@st.composite
def piecemeal(draw: st.DrawFn) -> Iterator[int]:
    """Sizes of reads, small ones mostly."""
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=8))

    def repeat() -> Iterator[int]:
        while True:
            yield from sizes

    return repeat()


@st.composite
def conversations(draw: st.DrawFn) -> list[Event]:
    """What a client says after HELLO, with descriptors of its own for each CALL."""
    said: list[Event] = []
    number = 0
    for i, request in enumerate(draw(st.lists(requests(), max_size=6))):
        numbered = replace(request, id=i + 1)
        if isinstance(numbered, Call | Batch):
            fds = tuple(Descriptor(number + k) for k in range(len(numbered.fds)))
            number += len(fds)
            numbered = replace(numbered, fds=fds)
        said.append(numbered)
    return [*said, *([Bye()] if draw(st.booleans()) else [])]


def say(events: Sequence[Event]) -> list[Segment]:
    """The same as bytes, a send for each frame."""
    client = greeted()[Role.CLIENT]
    return [Segment(data, list(fds)) for data, fds in map(client.send, events)]


@many
@given(conversations(), piecemeal())
def test_a_server_hears_the_same_however_it_is_cut(said: list[Event], sizes: Iterator[int]) -> None:
    outcome = feed(greeted()[Role.SERVER], Kernel(say(said)).read, sizes)
    assert outcome == Outcome(said, None, [])


def answers(draw: Callable[..., Any], asked: Sequence[Call | ReadRequest]) -> Iterator[Result]:
    """A RESULT for each request, out of order, with descriptors of their own."""
    for request in draw(st.permutations(asked)):
        value = draw(st.integers(-3, 3))
        if isinstance(request, Call):
            wanted = request.flags & CallFlag.RETURN_FD and value >= 0
            fds = (Descriptor(request.id),) if wanted and draw(st.booleans()) else ()
            sizes = out_sizes(request.args)
            outs = [bytes(n if exact else min(max(value, 0), n)) for n, exact in sizes]
            yield Result(request.id, value, tuple(outs), fds)
        else:
            value = min(value, request.length)
            yield Result(request.id, value, (bytes(value),) if value >= 0 else ())


@many
@given(st.data(), piecemeal())
def test_a_client_hears_the_same_however_it_is_cut(
    data: st.DataObject, sizes: Iterator[int]
) -> None:
    drawn = data.draw(st.lists(calls(most_fds=0) | reads, max_size=6))
    ends = greeted()
    asked = [replace(request, id=i + 1) for i, request in enumerate(drawn)]
    for request in asked:
        ends[Role.SERVER].receive(ends[Role.CLIENT].send(request)[0])
        assert ends[Role.SERVER].next_event() == request
    said: list[Event] = list(answers(data.draw, asked))
    segments = [Segment(frame, list(fds)) for frame, fds in map(ends[Role.SERVER].send, said)]
    assert feed(ends[Role.CLIENT], Kernel(segments).read, sizes) == Outcome(said, None, [])


@many
@given(conversations(), st.data(), piecemeal())
def test_a_broken_stream_breaks_at_the_same_place_however_it_is_cut(
    said: list[Event], data: st.DataObject, sizes: Iterator[int]
) -> None:
    plain: list[Event] = []
    for event in said:
        match event:
            case Call():
                plain.append(replace(event, fds=(), args=()))
            case Batch():
                plain.append(replace(event, fds=(), steps=()))
            case _:
                plain.append(event)
    whole = b"".join(segment.data for segment in say(plain))
    broken = [Segment(data.draw(mutated(st.just(whole))), [])]
    at_once = feed(greeted()[Role.SERVER], Kernel(broken).read, all_at_once())
    in_pieces = feed(greeted()[Role.SERVER], Kernel(broken).read, sizes)
    assert in_pieces == at_once


@many
@given(conversations(), st.data(), piecemeal())
def test_every_descriptor_is_carried_by_an_event_or_handed_back(
    said: list[Event], data: st.DataObject, sizes: Iterator[int]
) -> None:
    segments: list[Segment] = []
    number = 100
    for segment in say(said):  # with some that were not announced, at the beginning or within
        cut = data.draw(st.integers(1, len(segment.data)))
        parts = [Segment(segment.data[:cut], segment.fds), Segment(segment.data[cut:], [])]
        for part in parts:
            for _ in range(data.draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
                part.fds.append(Descriptor(number))
                number += 1
        segments += parts
    if data.draw(st.booleans()) and segments:
        segments[-1] = Segment(data.draw(mutated(st.just(segments[-1].data))), segments[-1].fds)
    sent = [fd for segment in segments if segment.data for fd in segment.fds]
    outcome = feed(greeted()[Role.SERVER], Kernel([s for s in segments if s.data]).read, sizes)
    carried = [fd for event in outcome.events for fd in getattr(event, "fds", ())]
    assert sorted(fd.number for fd in carried + outcome.unclaimed) == sorted(
        fd.number for fd in sent
    )


@settings(deadline=None, max_examples=60)
@given(conversations(), piecemeal())
def test_the_kernel_cuts_like_that(said: list[Event], sizes: Iterator[int]) -> None:
    """A real socket, with real descriptors: the model above is not what makes it work."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inodes: dict[int, Descriptor] = {}
        for segment in say(said):
            files = [os.memfd_create("test") for _ in segment.fds]
            inodes |= {os.fstat(f).st_ino: fd for f, fd in zip(files, segment.fds, strict=True)}
            socket.send_fds(ours, [segment.data], files)
            for file in files:
                os.close(file)
        ours.shutdown(socket.SHUT_WR)

        def read(size: int) -> tuple[bytes, list[Any]]:
            data, files, _, _ = socket.recv_fds(theirs, size, 253)
            fds = [inodes[os.fstat(file).st_ino] for file in files]
            for file in files:
                os.close(file)
            return data, fds

        assert feed(greeted()[Role.SERVER], read, sizes) == Outcome(said, None, [])


CALL = Call(1, 39, fds=(Descriptor(0), Descriptor(1)))


def test_descriptors_that_were_lost_on_the_way_end_the_connection() -> None:
    (sent,) = say([CALL])
    server = greeted()[Role.SERVER]
    server.receive(sent.data, sent.fds[:1], truncated=True)
    with pytest.raises(RemoteProtocolError) as caught:
        server.next_event()
    assert caught.value.code is ErrorCode.FDS
    assert server.take_unclaimed() == sent.fds[:1]


def test_a_connection_that_is_given_up_hands_back_what_is_incomplete() -> None:
    (sent,) = say([CALL])
    server = greeted()[Role.SERVER]
    server.receive(sent.data[:-1], sent.fds)
    assert server.next_event() is NEED_DATA
    assert server.take_unclaimed() == []  # the rest may come yet
    server.receive(b"")
    assert server.take_unclaimed() == sent.fds

"""One end of a connection: states, limits, and what is left after an error."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rsyscall_protocol import (
    NEED_DATA,
    TRANSITIONS,
    Batch,
    Batched,
    Bell,
    Bye,
    Call,
    CallFlag,
    Cancel,
    Connection,
    Error,
    ErrorCode,
    Event,
    FdArg,
    Fds,
    Feature,
    Hello,
    In,
    InOut,
    Limits,
    LocalProtocolError,
    MessageType,
    Out,
    Prepare,
    Read,
    RemoteProtocolError,
    Result,
    Ret,
    Ring,
    Role,
    Run,
    Size,
    Stall,
    State,
    Step,
    Struct,
    Unprepare,
    Watch,
    Write,
    encode,
)
from rsyscall_protocol._codec import reservation
from rsyscall_protocol._constants import LIMITS
from rsyscall_protocol._msgpack import pack

CLIENT, SERVER = Role.CLIENT, Role.SERVER
EVENTS: dict[MessageType, Event] = {
    MessageType.HELLO: Hello(),
    MessageType.CALL: Call(4, 39),
    MessageType.RESULT: Result(2, -22),
    MessageType.READ: Read(4, 0, 1),
    MessageType.WRITE: Write(4, 0, b"x"),
    MessageType.ERROR: Error(ErrorCode.INTERNAL, 0, "why"),
    MessageType.BYE: Bye(),
    MessageType.RING: Ring(4, 4096, 0),
    MessageType.BELL: Bell(),
    MessageType.FDS: Fds(0, 1),
    MessageType.BATCH: Batch(4, ()),
    MessageType.BATCHED: Batched(3, (), b"", b"", 0),
    MessageType.PREPARE: Prepare(4, ()),
    MessageType.RUN: Run(4, 0),
    MessageType.UNPREPARE: Unprepare(4, 0),
    MessageType.CANCEL: Cancel(2),
    MessageType.STALL: Stall(1),
    MessageType.WATCH: Watch(4, 5),
}
HELLOS: list[tuple[Role, Event]] = [(CLIENT, Hello()), (SERVER, Hello())]
PREPARED: list[tuple[Role, Event]] = [(CLIENT, Prepare(1, ())), (SERVER, Result(1, 0))]
ASKED: list[tuple[Role, Event]] = [(CLIENT, Call(2, 39)), (CLIENT, Batch(3, ()))]
TO_STATE: dict[State, list[tuple[Role, Event]]] = {
    State.IDLE: [],
    State.GREETED: [(CLIENT, Hello())],
    State.OPEN: [*HELLOS, *PREPARED, *ASKED],
    State.MOVING: [*HELLOS, (CLIENT, Ring(2, 4096, 0))],
    State.CLOSING: [*HELLOS, *ASKED, (CLIENT, Bye())],
    State.CLOSED: [*HELLOS, (CLIENT, Bye()), (SERVER, Bye())],
    State.FAILED: [(CLIENT, Hello()), (SERVER, Error(ErrorCode.PEER, 0, "not served"))],
}
QUIET = State.OPEN, MessageType.RING
ROWS = [(s, r, m) for s in State for r in Role for m in MessageType]


def pair(limits: Limits | None = None) -> dict[Role, Connection]:
    return {role: Connection(role, limits) for role in Role}


def step(ends: dict[Role, Connection], role: Role, event: Event) -> Event:
    """Have one end say something and the other hear it."""
    data, fds = ends[role].send(event)
    ends[role.peer].receive(data, fds)
    heard = ends[role.peer].next_event()
    assert isinstance(heard, Event)
    return heard


def opened(limits: Limits | None = None) -> dict[Role, Connection]:
    """Both ends, with these limits agreed upon."""
    ends = pair(limits)
    step(ends, CLIENT, Hello(limits=ends[CLIENT].limits))
    step(ends, SERVER, Hello(limits=ends[SERVER].limits))
    assert ends[CLIENT].limits == ends[SERVER].limits == (limits or Limits())
    return ends


def frame(event: Event) -> bytes:
    """An event's frame, whatever any state says."""
    return framed(encode(event))


def framed(body: bytes) -> bytes:
    return b"\xce" + len(body).to_bytes(4, "big") + body


def snapshot(connection: Connection) -> dict[str, Any]:
    by_identity = "_pending", "_programs"
    return copy.deepcopy({k: v for k, v in vars(connection).items() if k not in by_identity}) | {
        name: dict(vars(connection)[name]) for name in by_identity
    }


# ---- states ----


def in_state(state: State, kind: MessageType | None = None) -> dict[Role, Connection]:
    """Both ends, with requests under way if that is not in the way of such a message."""
    ends = pair()
    for role, event in HELLOS if (state, kind) == QUIET else TO_STATE[state]:
        step(ends, role, event)
    assert ends[CLIENT].state is ends[SERVER].state is state
    return ends


@pytest.mark.parametrize(("state", "role", "kind"), ROWS)
def test_only_what_the_table_has_is_sent(state: State, role: Role, kind: MessageType) -> None:
    end = in_state(state, kind)[role]
    before = snapshot(end)
    after = TRANSITIONS[state].get((role, kind))
    if after is None:
        with pytest.raises(LocalProtocolError) as caught:
            end.send(EVENTS[kind])
        assert caught.value.code is ErrorCode.STATE
        assert snapshot(end) == before
    else:
        end.send(EVENTS[kind])
        assert end.state is after


@pytest.mark.parametrize(("state", "role", "kind"), ROWS)
def test_only_what_the_table_has_is_heard(state: State, role: Role, kind: MessageType) -> None:
    end = in_state(state, kind)[role.peer]
    end.receive(frame(EVENTS[kind]))
    after = TRANSITIONS[state].get((role, kind))
    if after is not None:
        assert end.next_event() == EVENTS[kind]
        assert end.state is after
    elif state is State.FAILED:
        assert end.next_event() is None
    else:
        with pytest.raises(RemoteProtocolError) as caught:
            end.next_event()
        assert caught.value.code is ErrorCode.STATE
        assert end.state is State.FAILED
        assert end.next_event() is None


@pytest.mark.parametrize("state", [s for s in State if s is not State.FAILED])
@pytest.mark.parametrize("role", Role)
def test_the_end_of_the_stream_ends_every_state(state: State, role: Role) -> None:
    end = in_state(state)[role]
    assert end.next_event() is NEED_DATA
    end.receive(b"")
    assert end.next_event() is None
    assert end.state is State.CLOSED
    assert end.next_event() is None


def test_last_word_is_an_error_that_the_peer_understands() -> None:
    ends = opened()
    ends[SERVER].receive(frame(Call(1, 39)) + b"\x00")
    assert ends[SERVER].next_event() == Call(1, 39)
    with pytest.raises(RemoteProtocolError) as caught:
        ends[SERVER].next_event()
    ends[CLIENT].receive(ends[SERVER].last_word(caught.value))
    heard = ends[CLIENT].next_event()
    assert isinstance(heard, Error)
    assert (heard.code, heard.text) == (ErrorCode.MALFORMED, caught.value.text)
    assert heard.offset == len(frame(Hello())) + len(frame(Call(1, 39)))
    assert ends[CLIENT].state is State.FAILED


# ---- misuse that is noticed here ----

MISUSE: dict[str, tuple[Event, ErrorCode]] = {
    "an id again": (Call(3, 39), ErrorCode.ID),
    "an id that is too large": (Call(2**64, 39), ErrorCode.FIELD),
    "a negative number": (Call(4, -1), ErrorCode.FIELD),
    "an unknown flag": (Call(4, 39, (), CallFlag(2)), ErrorCode.FIELD),
    "an integer that is too large": (Call(4, 39, (2**64,)), ErrorCode.FIELD),
    "an integer that is too small": (Call(4, 39, (-(2**63) - 1,)), ErrorCode.FIELD),
    "room for a negative number": (Call(4, 39, (Out(-1),)), ErrorCode.FIELD),
    "a descriptor that is not sent": (Call(4, 39, (FdArg(0),)), ErrorCode.FIELD),
    "a descriptor before the first": (Call(4, 39, (FdArg(-1),), fds=(3,)), ErrorCode.FIELD),
    "a STRUCT that was not flattened": (
        Call(4, 39, (Struct(bytes(8), ((0, In(b"")),)),)),
        ErrorCode.FIELD,
    ),
    "too many entries": (Call(4, 39, (0,) * 1025), ErrorCode.FIELD),
    "too many descriptors": (Call(4, 39, fds=tuple(range(254))), ErrorCode.TOO_MANY_FDS),
    "too large a reply": (Call(4, 39, (Ret(2**20),)), ErrorCode.OVERSIZE),
    "too large a frame": (Write(4, 0, bytes(2**20)), ErrorCode.OVERSIZE),
    "a negative address": (Read(4, -1, 1), ErrorCode.FIELD),
    "a length that is too large": (Read(4, 0, 2**32), ErrorCode.FIELD),
    "a negative offset": (Error(ErrorCode.FIELD, -1, "why"), ErrorCode.FIELD),
    "a text that is none": (Error(ErrorCode.FIELD, 0, "\ud800"), ErrorCode.FIELD),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_by_a_client_changes_nothing(name: str) -> None:
    event, code = MISUSE[name]
    ends = in_state(State.OPEN)
    before = snapshot(ends[CLIENT])
    with pytest.raises(LocalProtocolError) as caught:
        ends[CLIENT].send(event)
    assert caught.value.code is code
    assert snapshot(ends[CLIENT]) == before
    assert step(ends, CLIENT, Call(4, 39)) == Call(4, 39)


WRONG_RESULTS: dict[str, tuple[Result, ErrorCode]] = {
    "of no request": (Result(4, 0), ErrorCode.ID),
    "with an output": (Result(2, 0, (b"",)), ErrorCode.FIELD),
    "with a descriptor": (Result(2, 3, (), (3,)), ErrorCode.FIELD),
    "too large": (Result(2, 2**63), ErrorCode.FIELD),
    "too small": (Result(2, -(2**63) - 1), ErrorCode.FIELD),
}


@pytest.mark.parametrize("name", WRONG_RESULTS)
def test_misuse_by_a_server_changes_nothing(name: str) -> None:
    result, code = WRONG_RESULTS[name]
    ends = in_state(State.OPEN)
    before = snapshot(ends[SERVER])
    with pytest.raises(LocalProtocolError) as caught:
        ends[SERVER].send(result)
    assert caught.value.code is code
    assert snapshot(ends[SERVER]) == before
    assert step(ends, SERVER, Result(2, 0)) == Result(2, 0)


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (Hello(version_min=0), ErrorCode.FIELD),
        (Hello(version_min=2, version_max=2), ErrorCode.VERSION),
        (Hello(features=Feature.RING | Feature.BATCH), ErrorCode.FIELD),
        (Hello(limits=Limits(data=8)), ErrorCode.FIELD),
    ],
)
def test_a_server_cannot_promise_what_was_not_asked_for(hello: Hello, code: ErrorCode) -> None:
    ends = pair()
    asked = Limits(**{**Limits().as_dict(), "data": 7})
    step(ends, CLIENT, Hello(features=Feature.RING, limits=asked))
    before = snapshot(ends[SERVER])
    with pytest.raises(LocalProtocolError) as caught:
        ends[SERVER].send(hello)
    assert caught.value.code is code
    assert snapshot(ends[SERVER]) == before
    promise = Hello(features=Feature.RING, limits=asked)
    assert step(ends, SERVER, promise) == promise


def test_a_client_cannot_offer_a_range_that_is_none() -> None:
    client = Connection(CLIENT)
    with pytest.raises(LocalProtocolError) as caught:
        client.send(Hello(version_min=2, version_max=1))
    assert caught.value.code is ErrorCode.FIELD
    assert client.state is State.IDLE


# ---- programs ----


def test_a_program_is_forgotten_as_soon_as_its_end_is_said() -> None:
    """Its number may come back before the answer does."""
    ends = opened()
    step(ends, CLIENT, Prepare(1, ()))
    step(ends, SERVER, Result(1, 0))
    step(ends, CLIENT, Run(2, 0))
    step(ends, CLIENT, Unprepare(3, 0))
    exceed(copy_of(ends), Run(4, 0), ErrorCode.FIELD)
    step(ends, CLIENT, Prepare(4, ()))
    step(ends, SERVER, Result(4, 0))
    step(ends, SERVER, Result(3, 0))
    step(ends, SERVER, Batched(2, (), b"", b"", 0))
    assert step(ends, CLIENT, Run(5, 0)) == Run(5, 0)


def test_a_run_reserves_what_its_program_needs() -> None:
    ends = limited(window=8192, frame=4096)
    step(ends, CLIENT, Prepare(1, (Step(39, (Out(3000),)),)))
    step(ends, SERVER, Result(1, 0))
    fit(ends, Run(2, 0), Run(3, 0))
    assert ends[CLIENT].reserved == 2 * (Size.BATCH_BASE + Size.BATCH_STEP + Size.REPLY_OUT + 3000)
    assert not ends[CLIENT].has_room(Run(4, 0))
    exceed(ends, Run(4, 0), ErrorCode.WINDOW)


# ---- limits, each at the limit and one past it ----


def copy_of(ends: dict[Role, Connection]) -> dict[Role, Connection]:
    return copy.deepcopy(ends)


def limited(**limits: int) -> dict[Role, Connection]:
    return opened(Limits(**limits))


def fit(ends: dict[Role, Connection], *events: Event) -> None:
    """Both ends take these requests."""
    for event in events:
        assert step(ends, CLIENT, event) == event


def exceed(ends: dict[Role, Connection], event: Event, code: ErrorCode) -> None:
    """The client does not send it, and the server would not take it."""
    with pytest.raises(LocalProtocolError) as local:
        ends[CLIENT].send(event)
    assert local.value.code is code
    ends[SERVER].receive(frame(event), getattr(event, "fds", ()))
    with pytest.raises(RemoteProtocolError) as remote:
        ends[SERVER].next_event()
    assert remote.value.code is code


def write(id_: int, length: int) -> Write:
    """A WRITE with a body of this length."""
    overhead = len(encode(Write(id_, 0, bytes(length)))) - length
    return Write(id_, 0, bytes(length - overhead))


@pytest.mark.parametrize("limit", [4096, 5000, 2**20])
def test_limit_of_a_frame(limit: int) -> None:
    ends = limited(frame=limit)
    fit(ends, write(1, limit))
    exceed(ends, write(2, limit + 1), ErrorCode.OVERSIZE)


@pytest.mark.parametrize("limit", [6, 1024])
def test_limit_of_entries(limit: int) -> None:
    ends = limited(data=limit)
    fit(ends, Call(1, 39, (0,) * limit))
    exceed(ends, Call(2, 39, (0,) * (limit + 1)), ErrorCode.FIELD)


@pytest.mark.parametrize("limit", [0, 1, 253])
def test_limit_of_descriptors(limit: int) -> None:
    ends = limited(fds=limit)
    fit(ends, Call(1, 39, fds=tuple(range(limit))))
    exceed(ends, Call(2, 39, fds=tuple(range(limit + 1))), ErrorCode.TOO_MANY_FDS)


def test_no_descriptor_comes_back_where_none_may() -> None:
    fit(limited(fds=1), Call(1, 39, (), CallFlag.RETURN_FD))
    exceed(limited(fds=0), Call(1, 39, (), CallFlag.RETURN_FD), ErrorCode.TOO_MANY_FDS)


@pytest.mark.parametrize("limit", [1, 2, 1024])
def test_limit_of_outstanding_requests(limit: int) -> None:
    ends = limited(outstanding=limit)
    fit(ends, *[Read(1 + i, 0, 0) for i in range(limit)])
    one_more = Read(limit + 1, 0, 0)
    assert not ends[CLIENT].has_room(one_more)
    step(ends, SERVER, Result(1, 0, (b"",)))
    assert ends[CLIENT].has_room(one_more)
    fit(ends, one_more)
    exceed(ends, Read(limit + 2, 0, 0), ErrorCode.WINDOW)


def test_limit_of_reserved_replies() -> None:
    ends = limited(window=8192, frame=4096)
    base = Size.REPLY_BASE + Size.REPLY_OUT
    fit(ends, Read(1, 0, 4096 - base), Read(2, 0, 4095 - base))
    assert ends[CLIENT].reserved == ends[SERVER].reserved == 8191
    exceed(ends, Write(3, 0, b""), ErrorCode.WINDOW)
    ends = limited(window=8192, frame=4096)
    fit(ends, Read(1, 0, 4096 - base), Read(2, 0, 4096 - base - Size.REPLY_BASE))
    fit(ends, Write(3, 0, b""))
    exceed(ends, Write(4, 0, b""), ErrorCode.WINDOW)


@pytest.mark.parametrize(("frame_", "window"), [(4096, 2**21), (2**20, 8192), (8192, 8192)])
def test_limit_of_one_reply(frame_: int, window: int) -> None:
    ends = limited(frame=frame_, window=window)
    most = min(frame_, window) - Size.REPLY_BASE - Size.REPLY_OUT
    fit(ends, Read(1, 0, most))
    step(ends, SERVER, Result(1, most, (bytes(most),)))
    # Waiting would not help, and so is not asked for.
    assert ends[CLIENT].has_room(Read(2, 0, most + 1))
    exceed(ends, Read(2, 0, most + 1), ErrorCode.OVERSIZE)


def test_reservations_count_every_output() -> None:
    args = (
        Out(100),
        Ret(20),
        InOut(bytes(3)),
        Struct(bytes(9), (), ((0, 4), (1, 1))),
        Struct(bytes(9)),
        In(bytes(50)),
    )
    assert reservation(Call(1, 39, args)) == Size.REPLY_BASE + 4 * Size.REPLY_OUT + 128
    assert reservation(Read(1, 0, 7)) == Size.REPLY_BASE + Size.REPLY_OUT + 7
    assert reservation(Write(1, 0, bytes(50))) == Size.REPLY_BASE


def test_limit_of_a_hello() -> None:
    room = Size.HELLO_MAX - (len(frame(Hello(info={"x": "y" * 300}))) - Size.HEADER - 300)
    largest, larger = (Hello(info={"x": "y" * n}) for n in (room, room + 1))
    assert len(frame(largest)) == Size.HELLO_MAX + Size.HEADER
    fit(pair(), largest)
    exceed(pair(), larger, ErrorCode.OVERSIZE)


def test_limit_of_an_errors_text() -> None:
    heard = step(opened(), CLIENT, Error(ErrorCode.FIELD, 0, "x" * (Size.ERROR_TEXT + 1)))
    assert heard == Error(ErrorCode.FIELD, 0, "x" * Size.ERROR_TEXT)


def test_limit_of_depth() -> None:
    """Only a HELLO has room for what may be deep; and for it the default holds, not our own."""
    start = pack([MessageType.HELLO, "rsyscall", 1, 1, 0])
    start = b"\x96" + start[1:] + b"\x81" + pack("new")  # two levels: the body, and options
    server = Connection(SERVER, Limits(depth=6))
    server.receive(framed(start + b"\x91" * 5 + b"\x90"))
    assert server.next_event() == Hello(features=Feature.NONE)
    server = Connection(SERVER, Limits(depth=6))
    server.receive(framed(start + b"\x91" * 6 + b"\x90"))
    with pytest.raises(RemoteProtocolError) as caught:
        server.next_event()
    assert caught.value.code is ErrorCode.DEPTH


@pytest.mark.parametrize("name", Limits().as_dict())
def test_limits_outside_of_their_range_cannot_be_wished_for(name: str) -> None:
    _, smallest, largest = LIMITS[name]
    for value in (smallest, largest):
        assert Limits(**{name: value}).as_dict()[name] == value
    for value in (smallest - 1, largest + 1):
        with pytest.raises(ValueError, match=f"limit {name}="):
            Limits(**{name: value})


@pytest.mark.parametrize("name", Limits().as_dict())
def test_the_smaller_of_two_limits_holds(name: str) -> None:
    _, smallest, _ = LIMITS[name]
    for low in Role:
        ends = pair()
        ends[low] = Connection(low, Limits(**{name: smallest}))
        step(ends, CLIENT, Hello(limits=ends[CLIENT].limits))
        step(ends, SERVER, Hello(limits=ends[SERVER].limits))
        assert ends[CLIENT].limits == ends[SERVER].limits == Limits(**{name: smallest})

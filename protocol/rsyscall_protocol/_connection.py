"""One end of a connection, without any I/O."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal, TypeAlias

from rsyscall_protocol._codec import HEADER, HEADER_TAG, check_request, decode, encode
from rsyscall_protocol._constants import (
    VERSION_MAX,
    VERSION_MIN,
    ErrorCode,
    Feature,
    MessageType,
    Size,
)
from rsyscall_protocol._errors import LocalProtocolError, RemoteProtocolError
from rsyscall_protocol._events import (
    Batch,
    Batched,
    Bell,
    Bye,
    Call,
    Cancel,
    Error,
    Event,
    Fds,
    Hello,
    Prepare,
    Read,
    Request,
    Result,
    Ring,
    Run,
    Stall,
    Unprepare,
    Watch,
    Write,
)
from rsyscall_protocol._limits import Limits
from rsyscall_protocol._pending import Pending, Program
from rsyscall_protocol._state import TRANSITIONS, Role, State


class _Sentinel(enum.Enum):
    NEED_DATA = enum.auto()


NEED_DATA: Final = _Sentinel.NEED_DATA
NeedData: TypeAlias = Literal[_Sentinel.NEED_DATA]

_TYPES: dict[type[Event], MessageType] = {
    Hello: MessageType.HELLO,
    Call: MessageType.CALL,
    Result: MessageType.RESULT,
    Read: MessageType.READ,
    Write: MessageType.WRITE,
    Error: MessageType.ERROR,
    Bye: MessageType.BYE,
    Ring: MessageType.RING,
    Bell: MessageType.BELL,
    Fds: MessageType.FDS,
    Batch: MessageType.BATCH,
    Batched: MessageType.BATCHED,
    Prepare: MessageType.PREPARE,
    Run: MessageType.RUN,
    Unprepare: MessageType.UNPREPARE,
    Cancel: MessageType.CANCEL,
    Stall: MessageType.STALL,
    Watch: MessageType.WATCH,
}
_NEEDS = {
    MessageType.RING: Feature.RING,
    MessageType.BATCH: Feature.BATCH,
    MessageType.PREPARE: Feature.BATCH,
    MessageType.RUN: Feature.BATCH,
    MessageType.UNPREPARE: Feature.BATCH,
    MessageType.CANCEL: Feature.CANCEL,
    MessageType.STALL: Feature.CANCEL,
    MessageType.WATCH: Feature.CANCEL,
}

_GREETING = (State.IDLE, State.GREETED)
_ALLOWED = {
    (state, role): frozenset(message for sender, message in row if sender is role)
    for state, row in TRANSITIONS.items()
    for role in Role
}


class Connection:
    """One end of a connection.

    `send` turns an event into bytes and file descriptors to send; `receive` takes what one read
    brought; `next_event` gives the events in it, one by one, and then NEED_DATA. File descriptors
    are whatever objects the caller uses for them; those that end up nowhere are handed back by
    `take_unclaimed`, for the caller to close.

    state, limits and features (those in force), batches (whether they are
    among those), ring (whether the stream is in shared memory) and
    peer (the peer's Hello, once it has come) may be read. Of a stream in shared memory the
    descriptors come numbered, beside it: `receive_fds` takes them, and wants_fds says that the next
    frame cannot do without.
    """

    def __init__(self, role: Role, limits: Limits | None = None) -> None:
        """Start in IDLE, with the limits that this end would like."""
        self.role = role
        self.state = State.IDLE
        self.limits = limits if limits is not None else Limits()
        self.peer: Hello | None = None
        self._offer: Hello | None = None  # a client's own HELLO, once it is sent
        self.features = Feature.NONE
        self.batches = False
        self.ring = False
        self.wants_fds = False
        self.reserved = 0
        self._pending: dict[int, Pending] = {}
        self._programs: dict[int, Program] = {}
        self._last_id = 0
        self._buffer = bytearray()
        self._buffer_start = 0  # position in the stream of the buffer's first byte
        self._eof = False
        self._truncated = False
        self._packets: deque[tuple[int, int, list[Any]]] = deque()
        self._unclaimed: list[Any] = []

    # ---- sending ----

    def has_room(self, request: Request) -> bool:
        """Whether the limits admit one more request now, or only once others are answered.

        True if waiting would not help: `send` says what is wrong with the request.
        """
        return self._has_room(Pending(request, self._program(request)))

    def _program(self, request: Request) -> Program | None:
        return self._programs.get(request.program) if isinstance(request, Run) else None

    def _has_room(self, pending: Pending) -> bool:
        if not self._pending:
            return True
        if len(self._pending) >= self.limits.outstanding:
            return False
        return self.reserved + pending.reserved <= self.limits.window

    def send(self, event: Event) -> tuple[bytes, tuple[Any, ...]]:
        """The frame's bytes, and the file descriptors that must go with their first byte.

        LocalProtocolError if the event is not allowed now; nothing has changed then.
        """
        type_ = _TYPES[type(event)]
        after = TRANSITIONS[self.state].get((self.role, type_))
        if after is None or not self._may_use(type_):
            name, role = type(event).__name__.upper(), self.role.value
            raise LocalProtocolError(
                ErrorCode.STATE, f"{name}: a {role} may not send it when {self.state.value}"
            )
        try:
            self._check_local(event)
            body = encode(event)
        except RemoteProtocolError as exc:  # what the peer would say
            raise LocalProtocolError(exc.code, exc.text) from None
        except (OverflowError, ValueError, TypeError) as exc:
            raise LocalProtocolError(ErrorCode.FIELD, f"a field is out of range: {exc}") from exc
        most = Size.HELLO_MAX if isinstance(event, Hello) else self.limits.frame
        if len(body) > most:
            raise LocalProtocolError(
                ErrorCode.OVERSIZE, f"a frame of {len(body)} bytes; the limit is {most}"
            )
        if isinstance(event, Hello):
            self.limits = event.limits
            if self.role is Role.CLIENT:
                self._offer = event
            else:
                self.features = event.features
        self._count(event)
        self.state = after
        return HEADER.pack(HEADER_TAG, len(body)) + body, (
            event.fds if isinstance(event, Call | Result | Batch | Run) else ()
        )

    def begin(self, peer: Hello) -> None:
        """Begin in OPEN, in shared memory: both ends know what HELLO and RING would have said."""
        self.peer = peer
        self.limits = peer.limits
        self.features = peer.features
        self.batches = Feature.BATCH in peer.features
        self.ring = True
        self.state = State.OPEN

    def adopt(self, request: Request, program: Program | None = None) -> None:
        """Take note of a request that was checked, encoded and sent by other means.

        program: of a Batch, what its reply may hold, if it is not to be worked out from its steps.
        """
        self._last_id = request.id
        self._pending[request.id] = pending = Pending(request, program)
        self.reserved += pending.reserved

    def has_room_for(self, reserved: int) -> bool:
        """Whether the limits admit one more request whose reply may have so many bytes."""
        return not self._pending or (
            len(self._pending) < self.limits.outstanding
            and self.reserved + reserved <= self.limits.window
        )

    @property
    def quiet(self) -> bool:
        """Whether no request is under way, and nothing of what has come is left."""
        return not (self._pending or self._buffer or self._packets)

    def forget(self, id_: int) -> None:
        """Take note of a reply that was taken from the stream and checked by other means."""
        self.reserved -= self._pending.pop(id_).reserved

    def advance(self, n: int) -> None:
        """Take note of bytes, whole frames, that were taken from the stream by other means."""
        self._buffer_start += n

    @property
    def outstanding(self) -> int:
        """How many requests have no reply yet."""
        return len(self._pending)

    def _may_use(self, type_: MessageType) -> bool:
        if type_ == MessageType.RING and (self.ring or self._pending):
            return False
        return _NEEDS.get(type_, Feature.NONE) in self.features

    def _check_local(self, event: Event) -> None:
        match event:
            case Hello():
                if event.version_min > event.version_max:
                    raise LocalProtocolError(ErrorCode.FIELD, "version_min: larger than the max")
                if self.peer is not None:
                    self._check_choice(event, self.peer)
            case Result() | Batched():
                self._check_result(event)
            case Error() | Bye() | Bell() | Fds() | Cancel() | Stall():
                pass
            case _:
                check_request(event, self.limits)
                self._check_admission(event)

    # ---- both ways ----

    def _check_choice(self, choice: Hello, offer: Hello) -> None:
        """Whether the server's HELLO is one that the client's admits."""
        version = choice.version_min
        if version != choice.version_max:
            raise RemoteProtocolError(ErrorCode.FIELD, "HELLO: the server chose no version")
        if not offer.version_min <= version <= offer.version_max:
            raise RemoteProtocolError(ErrorCode.VERSION, "HELLO: a version that was not offered")
        if choice.features & ~offer.features:
            raise RemoteProtocolError(ErrorCode.FIELD, "HELLO: features that were not offered")
        if choice.limits != self.limits.clamped(choice.limits.as_dict()):
            raise RemoteProtocolError(ErrorCode.FIELD, "HELLO: larger limits than were asked")

    def _check_admission(self, request: Request) -> None:
        if request.id <= self._last_id:
            raise RemoteProtocolError(
                ErrorCode.ID, "the id of a request is not larger than the one before"
            )
        program = self._program(request)
        if isinstance(request, Run):
            if program is None:
                raise RemoteProtocolError(ErrorCode.FIELD, "RUN: no such program")
            if len(request.args) != program.parameters:
                raise RemoteProtocolError(
                    ErrorCode.FIELD, "RUN: not as many arguments as the program has parameters"
                )
        if not self._has_room(Pending(request, program)):
            raise RemoteProtocolError(
                ErrorCode.WINDOW, "more unanswered requests than the limits allow"
            )

    def _check_result(self, result: Result | Batched) -> None:
        pending = self._pending.get(result.id)
        if pending is None:
            raise RemoteProtocolError(ErrorCode.ID, "RESULT: of no open request")
        if why := pending.mismatch(result):
            raise RemoteProtocolError(ErrorCode.FIELD, why)

    def _count(self, event: Event) -> None:
        match event:
            case Result() | Batched():
                pending = self._pending.pop(event.id)
                self.reserved -= pending.reserved
                if isinstance(event, Result):
                    self._settle(pending, event.value)
            case Hello() | Error() | Bye() | Bell() | Fds() | Cancel() | Stall():
                pass
            case _:
                self._last_id = event.id
                self._pending[event.id] = pending = Pending(event, self._program(event))
                self.reserved += pending.reserved
                if isinstance(event, Unprepare):
                    # Now and not at its result: by then the number may mean another program.
                    self._programs.pop(event.program, None)

    def _settle(self, pending: Pending, value: int) -> None:
        """What follows from the result of a request that concerns the connection itself."""
        match pending.request:
            case Prepare() if value >= 0 and pending.program is not None:
                self._programs[value] = pending.program
            case Ring() if value >= 0:
                self.ring = True
            case _:
                pass

    # ---- receiving ----

    def receive(self, data: bytes, fds: Sequence[Any] = (), *, truncated: bool = False) -> None:
        """Take what one read brought; no data means the end of the stream.

        truncated: whether file descriptors were lost on the way (MSG_CTRUNC).
        """
        start = self._buffer_start + len(self._buffer)
        if fds:
            self._packets.append((start, start + len(data), list(fds)))
        if not data:
            self._eof = True
        self._buffer += data
        self._truncated |= truncated

    def receive_fds(self, packets: Sequence[Sequence[Any]]) -> None:
        """Take the next packets of descriptors that came beside a ring.

        RemoteProtocolError if they are more than a client has asked for: its table must not fill.
        """
        self._packets += ((0, 0, list(fds)) for fds in packets)
        if self.role is Role.CLIENT:
            due = sum(pending.returns_fd for pending in self._pending.values())
            if sum(len(packet) for _, _, packet in self._packets) > due:
                raise RemoteProtocolError(ErrorCode.FDS, "more file descriptors than are asked for")

    def next_event(self) -> Event | NeedData | None:
        """The next event; NEED_DATA when there is none yet; None at the end of the stream.

        RemoteProtocolError if the peer broke the rules: the connection is over, and `last_word`
        is to be sent before it is closed.
        """
        if self.state is State.FAILED:
            return None
        offset = self._buffer_start
        try:
            event = self._next()
        except RemoteProtocolError as exc:
            self.state = State.FAILED
            raise RemoteProtocolError(exc.code, exc.text, offset) from None
        return event

    def abandon(self) -> None:
        """End the connection from this side, as if it had failed: no event will follow."""
        if self.state is not State.CLOSED:
            self.state = State.FAILED

    @staticmethod
    def last_word(exc: RemoteProtocolError) -> bytes:
        """The frame that tells the peer what it did wrong."""
        body = encode(Error(exc.code, exc.offset, exc.text))
        return HEADER.pack(HEADER_TAG, len(body)) + body

    def take_unclaimed(self) -> list[Any]:
        """File descriptors that no event carries. All of them, once the connection is over."""
        fds, self._unclaimed = self._unclaimed, []
        if self.state in (State.FAILED, State.CLOSED) or self._eof:
            while self._packets:
                fds += self._packets.popleft()[2]
        return fds

    def _next(self) -> Event | NeedData | None:
        if self._truncated:
            raise RemoteProtocolError(ErrorCode.FDS, "file descriptors were truncated")
        if self._packets and self.state in _GREETING:
            raise RemoteProtocolError(ErrorCode.FDS, "file descriptors before HELLO")
        frame = self._frame()
        if frame is None:
            if not self._eof:
                if not self.ring and self._packets and self._packets[-1][0] > self._buffer_start:
                    # They came wholly inside of the frame that is not complete. No frame begins
                    # there; a peer that goes on like this must not fill our table meanwhile.
                    raise RemoteProtocolError(
                        ErrorCode.FDS, "file descriptors that no frame announced"
                    )
                return NEED_DATA
            if self._buffer:
                raise RemoteProtocolError(ErrorCode.TRUNCATED, "the stream ended inside a frame")
            self.state = State.CLOSED
            return None
        start = self._buffer_start
        # What comes before the limits are agreed upon is held to the defaults, as SPEC.md says.
        limits = Limits() if self.state in _GREETING else self.limits
        moving = not self.ring
        event = decode(frame, limits, self._allowed())
        if self.ring and isinstance(event, Call | Result | Batch | Run) and event.fds:
            self.wants_fds = not self._packets
            if self.wants_fds:
                return NEED_DATA
        event = self._check(event, start)
        size = Size.HEADER + len(frame)
        del self._buffer[:size]
        self._buffer_start += size
        if self.ring:
            if moving:  # the stream begins anew, in shared memory
                if self._buffer or self._packets:
                    raise RemoteProtocolError(ErrorCode.STATE, "something follows the last frame")
                self._buffer_start = 0
            return event
        if self._packets and self._packets[0][1] <= self._buffer_start:
            # Every frame that could have announced them has been seen. The event's own are lost
            # with the connection, too.
            if isinstance(event, Call | Result | Batch | Run):
                self._unclaimed += event.fds
            raise RemoteProtocolError(ErrorCode.FDS, "file descriptors that no frame announced")
        if isinstance(event, Ring) and (self._buffer or self._packets):
            raise RemoteProtocolError(ErrorCode.STATE, "RING: something follows before its answer")
        return event

    def _allowed(self) -> frozenset[MessageType]:
        messages = _ALLOWED[self.state, self.role.peer]
        if self.role is Role.CLIENT and Feature.CANCEL in self.features:
            return messages
        return frozenset(message for message in messages if self._may_use(message))

    def _frame(self) -> bytes | None:
        if not self._buffer:
            return None
        greeting = self.state in _GREETING
        if self._buffer[0] != HEADER_TAG:
            if greeting:
                raise RemoteProtocolError(ErrorCode.MAGIC, "not the rsyscall protocol")
            raise RemoteProtocolError(ErrorCode.MALFORMED, "a frame does not begin with its length")
        if len(self._buffer) < Size.HEADER:
            return None
        _, length = HEADER.unpack_from(self._buffer)
        if length > (Size.HELLO_MAX if greeting else self.limits.frame):
            raise RemoteProtocolError(ErrorCode.OVERSIZE, "a frame is larger than the limit")
        if len(self._buffer) < Size.HEADER + length:
            return None
        return bytes(self._buffer[Size.HEADER : Size.HEADER + length])

    def _check(self, event: Event, start: int) -> Event:
        if isinstance(event, Hello):
            self._greet(event)
        elif isinstance(event, Result | Batched):
            self._check_result(event)
        elif not isinstance(event, Error | Bye | Bell | Fds | Cancel | Stall):
            self._check_admission(event)
        if isinstance(event, Call | Result | Batch | Run) and event.fds:
            event = replace(event, fds=self._claim(event, start))
        self._count(event)
        self.state = TRANSITIONS[self.state][self.role.peer, _TYPES[type(event)]]
        return event

    def _greet(self, hello: Hello) -> None:
        if self._offer is not None:
            self._check_choice(hello, self._offer)
            self.features = hello.features
            self.batches = Feature.BATCH in hello.features
        elif hello.version_min > VERSION_MAX or hello.version_max < VERSION_MIN:
            raise RemoteProtocolError(
                ErrorCode.VERSION,
                f"no version in common: ours {VERSION_MIN} to {VERSION_MAX},"
                f" theirs {hello.version_min} to {hello.version_max}",
            )
        self.limits = self.limits.clamped(hello.limits.as_dict())
        self.peer = hello

    def _claim(self, event: Call | Result | Batch | Run, start: int) -> tuple[Any, ...]:
        announced = len(event.fds)
        begins = self.ring or (self._packets and self._packets[0][0] <= start < self._packets[0][1])
        if not self._packets or not begins:
            raise RemoteProtocolError(
                ErrorCode.FDS, "a frame came without the file descriptors it announced"
            )
        fds = self._packets.popleft()[2]
        if len(fds) != announced:
            self._unclaimed += fds
            raise RemoteProtocolError(
                ErrorCode.FDS, f"a frame came with {len(fds)} file descriptors, not {announced}"
            )
        return tuple(fds)

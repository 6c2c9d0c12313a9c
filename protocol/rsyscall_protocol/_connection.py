"""One end of a connection, without any I/O."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

from rsyscall_protocol._arguments import out_sizes
from rsyscall_protocol._codec import HEADER, HEADER_TAG, decode, encode, reservation
from rsyscall_protocol._constants import (
    VERSION_MAX,
    VERSION_MIN,
    CallFlag,
    ErrorCode,
    MessageType,
    Size,
)
from rsyscall_protocol._errors import LocalProtocolError, RemoteProtocolError
from rsyscall_protocol._events import Bye, Call, Error, Event, Hello, Read, Request, Result, Write
from rsyscall_protocol._limits import Limits
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
}

_GREETING = (State.IDLE, State.GREETED)
_ALLOWED = {
    (state, role): frozenset(message for sender, message in row if sender is role)
    for state, row in TRANSITIONS.items()
    for role in Role
}


class _Pending:
    """A request that has no result yet: what it reserved and what may come back."""

    __slots__ = ("outs", "reads", "reserved", "returns_fd")

    def __init__(self, request: Request) -> None:
        self.reserved = reservation(request)
        self.reads = request.length if isinstance(request, Read) else None
        self.outs = out_sizes(request.args) if isinstance(request, Call) else []
        self.returns_fd = isinstance(request, Call) and CallFlag.RETURN_FD in request.flags

    def mismatch(self, result: Result) -> str | None:
        """Why the result cannot be this request's, if it cannot."""
        if len(result.fds) > (1 if self.returns_fd and result.value >= 0 else 0):
            return "RESULT: a file descriptor that was not asked for"
        if self.reads is not None:
            sizes = [len(out) for out in result.outs]
            if sizes != ([result.value] if result.value >= 0 else []) or result.value > self.reads:
                return "RESULT: not the bytes that were to be read"
            return None
        if len(result.outs) != len(self.outs):
            return "RESULT: not as many outputs as were asked for"
        for out, (size, exact) in zip(result.outs, self.outs, strict=True):
            expected = size if exact else min(max(result.value, 0), size)
            if len(out) != expected:
                return "RESULT: an output of another size than was asked for"
        return None


class Connection:
    """One end of a connection.

    `send` turns an event into bytes and file descriptors to send; `receive` takes what one read
    brought; `next_event` gives the events in it, one by one, and then NEED_DATA. File descriptors
    are whatever objects the caller uses for them; those that end up nowhere are handed back by
    `take_unclaimed`, for the caller to close.

    state, limits (those in force) and peer (the peer's Hello, once it has come) may be read.
    """

    def __init__(self, role: Role, limits: Limits | None = None) -> None:
        """Start in IDLE, with the limits that this end would like."""
        self.role = role
        self.state = State.IDLE
        self.limits = limits if limits is not None else Limits()
        self.peer: Hello | None = None
        self.reserved = 0
        self._pending: dict[int, _Pending] = {}
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
        if not self._pending:
            return True
        if len(self._pending) >= self.limits.outstanding:
            return False
        return self.reserved + reservation(request) <= self.limits.window

    def send(self, event: Event) -> tuple[bytes, tuple[Any, ...]]:
        """The frame's bytes, and the file descriptors that must go with their first byte.

        LocalProtocolError if the event is not allowed now; nothing has changed then.
        """
        after = TRANSITIONS[self.state].get((self.role, _TYPES[type(event)]))
        if after is None:
            name, role = type(event).__name__.upper(), self.role.value
            raise LocalProtocolError(
                ErrorCode.STATE, f"{name}: a {role} may not send it when {self.state.value}"
            )
        fds: tuple[Any, ...] = ()
        pending: _Pending | None = None
        if isinstance(event, Call | Read | Write):
            pending = self._admit(event)
        if isinstance(event, Call | Result):
            fds = event.fds
            if len(fds) > self.limits.fds:
                raise LocalProtocolError(
                    ErrorCode.TOO_MANY_FDS, f"fds: {len(fds)} are more than {self.limits.fds}"
                )
        if isinstance(event, Result) and event.id not in self._pending:
            raise LocalProtocolError(ErrorCode.ID, f"id: {event.id} is no open request")
        try:
            body = encode(event)
        except (OverflowError, ValueError, TypeError) as exc:
            raise LocalProtocolError(ErrorCode.FIELD, f"a field is out of range: {exc}") from exc
        most = Size.HELLO_MAX if isinstance(event, Hello) else self.limits.frame
        if len(body) > most:
            raise LocalProtocolError(
                ErrorCode.OVERSIZE, f"a frame of {len(body)} bytes; the limit is {most}"
            )
        if pending is not None and isinstance(event, Call | Read | Write):
            self._open(event, pending)
        elif isinstance(event, Result):
            self.reserved -= self._pending.pop(event.id).reserved
        elif isinstance(event, Hello) and self.role is Role.SERVER:
            self.limits = event.limits
        self.state = after
        return HEADER.pack(HEADER_TAG, len(body)) + body, fds

    def _admit(self, request: Request) -> _Pending:
        if request.id <= self._last_id:
            raise LocalProtocolError(ErrorCode.ID, f"id: {request.id} is not larger than the last")
        pending = _Pending(request)
        most = min(self.limits.frame, self.limits.window)
        if pending.reserved > most:
            raise LocalProtocolError(
                ErrorCode.OVERSIZE,
                f"a reply of up to {pending.reserved} bytes; the limit is {most}",
            )
        if not self.has_room(request):
            raise LocalProtocolError(ErrorCode.WINDOW, "too many requests are not answered yet")
        if isinstance(request, Call) and len(request.args) > self.limits.data:
            raise LocalProtocolError(ErrorCode.FIELD, f"args: more than {self.limits.data} entries")
        return pending

    def _open(self, request: Request, pending: _Pending) -> None:
        self._last_id = request.id
        self._pending[request.id] = pending
        self.reserved += pending.reserved

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

    def next_event(self) -> Event | NeedData | None:
        """The next event; NEED_DATA when there is none yet; None at the end of the stream.

        RemoteProtocolError if the peer broke the rules: the connection is over, and `refusal`
        is the event to send as a last word.
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
                return NEED_DATA
            if self._buffer:
                raise RemoteProtocolError(ErrorCode.TRUNCATED, "the stream ended inside a frame")
            self.state = State.CLOSED
            return None
        start = self._buffer_start
        # What comes before the limits are agreed upon is held to the defaults, as SPEC.md says.
        limits = Limits() if self.state in _GREETING else self.limits
        event = self._check(decode(frame, limits, _ALLOWED[self.state, self.role.peer]), start)
        size = Size.HEADER + len(frame)
        del self._buffer[:size]
        self._buffer_start += size
        if self._packets and self._packets[0][1] <= self._buffer_start:
            # Every frame that could have announced them has been seen. The event's own are lost
            # with the connection, too.
            if isinstance(event, Call | Result):
                self._unclaimed += event.fds
            raise RemoteProtocolError(ErrorCode.FDS, "file descriptors that no frame announced")
        return event

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
        elif isinstance(event, Call | Read | Write):
            if event.id <= self._last_id:
                raise RemoteProtocolError(
                    ErrorCode.ID, "the id of a request is not larger than the one before"
                )
            if not self.has_room(event):
                raise RemoteProtocolError(
                    ErrorCode.WINDOW, "more unanswered requests than the limits allow"
                )
        elif isinstance(event, Result):
            pending = self._pending.get(event.id)
            if pending is None:
                raise RemoteProtocolError(ErrorCode.ID, "RESULT: of no open request")
            if why := pending.mismatch(event):
                raise RemoteProtocolError(ErrorCode.FIELD, why)
        if isinstance(event, Call):
            event = Call(event.id, event.nr, event.args, event.flags, self._claim(event, start))
        elif isinstance(event, Result) and event.fds:
            event = Result(event.id, event.value, event.outs, self._claim(event, start))
        if isinstance(event, Call | Read | Write):
            self._open(event, _Pending(event))
        elif isinstance(event, Result):
            self.reserved -= self._pending.pop(event.id).reserved
        self.state = TRANSITIONS[self.state][self.role.peer, _TYPES[type(event)]]
        return event

    def _greet(self, hello: Hello) -> None:
        if hello.version_min > VERSION_MAX or hello.version_max < VERSION_MIN:
            raise RemoteProtocolError(
                ErrorCode.VERSION,
                f"no version in common: ours {VERSION_MIN} to {VERSION_MAX},"
                f" theirs {hello.version_min} to {hello.version_max}",
            )
        if self.role is Role.CLIENT:
            if hello.version_min != hello.version_max:
                raise RemoteProtocolError(ErrorCode.FIELD, "HELLO: the server chose no version")
            if hello.limits != self.limits.clamped(hello.limits.as_dict()):
                raise RemoteProtocolError(ErrorCode.FIELD, "HELLO: larger limits than were asked")
        self.limits = self.limits.clamped(hello.limits.as_dict())
        self.peer = hello

    def _claim(self, event: Call | Result, start: int) -> tuple[Any, ...]:
        announced = len(event.fds)
        if not announced:
            return ()
        if not self._packets or not self._packets[0][0] <= start < self._packets[0][1]:
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

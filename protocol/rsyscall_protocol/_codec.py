"""Messages from bytes. msgpack-python does the work; here are the shapes and the checks."""

from __future__ import annotations

from collections.abc import Container
from typing import cast

from rsyscall_protocol._constants import LIMITS, MAGIC, ErrorCode, Feature, MessageType, Size
from rsyscall_protocol._encode import HEADER, HEADER_TAG, encode, reservation
from rsyscall_protocol._errors import RemoteProtocolError
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
from rsyscall_protocol._fields import (
    INT32,
    INT64,
    MAX_ERRNO,
    UINT32,
    UINT64,
    fail,
    is_strings,
    is_uint,
    uint,
    unpack_body,
)
from rsyscall_protocol._limits import Limits
from rsyscall_protocol._msgpack import Map, scan
from rsyscall_protocol._requests import (
    check_call,
    check_ring_size,
    check_run,
    check_steps,
    decode_batch,
    decode_call,
    decode_nfds,
    decode_ring,
    decode_run,
)

__all__ = ["HEADER", "HEADER_TAG", "check_request", "decode", "encode", "reservation"]


def _decode_limits(asked: object) -> dict[str, int]:
    wanted: dict[str, int] = {}
    if not isinstance(asked, Map):
        fail(ErrorCode.FIELD, "HELLO: limits is not a map")
    for key, value in asked:
        if not isinstance(key, str):
            fail(ErrorCode.FIELD, "HELLO: a key of limits is not a string")
        if key in LIMITS:
            if not is_uint(value, UINT64) or value < LIMITS[key][1]:
                fail(ErrorCode.FIELD, f"HELLO: limit {key} is too small or no integer")
            wanted[key] = value
    return wanted


def _decode_hello(fields: list[object]) -> Hello:
    if len(fields) < 2 or fields[1] != MAGIC:
        fail(ErrorCode.MAGIC, "HELLO: not the rsyscall protocol")
    if len(fields) != 6:
        fail(ErrorCode.ARITY, "HELLO: not six fields")
    low, high = fields[2], fields[3]
    if not (is_uint(low, UINT32) and is_uint(high, UINT32)) or low > high:
        fail(ErrorCode.FIELD, "HELLO: no range of versions")
    features = uint(fields[4], UINT64, "HELLO: features")
    options = fields[5]
    if not isinstance(options, Map):
        fail(ErrorCode.FIELD, "HELLO: options is not a map")
    wanted: dict[str, int] = {}
    info: dict[str, int | str] = {}
    for key, value in options:
        if not isinstance(key, str):
            fail(ErrorCode.FIELD, "HELLO: a key of options is not a string")
        if key == "limits":
            wanted = _decode_limits(value)
        elif type(value) in (int, str):
            info[key] = cast("int | str", value)
    largest = Limits(**{name: most for name, (_, _, most) in LIMITS.items()})
    return Hello(low, high, Feature(features), largest.clamped(wanted), info)


def _decode_result(fields: list[object], limits: Limits) -> Result:
    nfds = decode_nfds(fields[2], limits)
    value = fields[3]
    if type(value) is not int or not -INT64 <= value < INT64:
        fail(ErrorCode.FIELD, "RESULT: the value is out of range")
    outs = fields[4]
    if not is_strings(outs):
        fail(ErrorCode.FIELD, "RESULT: the outputs are not strings of bytes")
    id_ = uint(fields[1], UINT64, "the id of a result")
    return Result(id_, value, tuple(outs), (None,) * nfds)


def _decode_batched(fields: list[object], limits: Limits) -> Batched:
    id_ = uint(fields[1], UINT64, "the id of a result")
    outs, values, statuses = fields[2:5]
    if not is_strings(outs) or not isinstance(values, bytes) or not isinstance(statuses, bytes):
        fail(ErrorCode.FIELD, "BATCHED: not strings of bytes")
    stopped = uint(fields[5], limits.steps, "BATCHED: the step that ended it")
    return Batched(id_, tuple(outs), values, statuses, stopped)


def _decode_error(fields: list[object]) -> Error:
    code = uint(fields[1], UINT32, "ERROR: the code")
    offset = uint(fields[2], UINT64, "ERROR: the offset")
    text = fields[3]
    if not isinstance(text, str):
        fail(ErrorCode.FIELD, "ERROR: the text is not a string")
    # What it says may stand in a terminal or a log: no bytes that are not text.
    text = text[: Size.ERROR_TEXT].encode(errors="replace").decode()
    known = code in ErrorCode.__members__.values()
    return Error(ErrorCode(code) if known else ErrorCode.INTERNAL, offset, text)


_FIELDS = {
    MessageType.CALL: 6,
    MessageType.RESULT: 5,
    MessageType.READ: 4,
    MessageType.WRITE: 4,
    MessageType.ERROR: 4,
    MessageType.BYE: 1,
    MessageType.RING: 4,
    MessageType.BELL: 1,
    MessageType.FDS: 3,
    MessageType.BATCH: 5,
    MessageType.BATCHED: 6,
    MessageType.PREPARE: 5,
    MessageType.RUN: 5,
    MessageType.UNPREPARE: 3,
    MessageType.CANCEL: 2,
    MessageType.STALL: 2,
    MessageType.WATCH: 3,
}


def _shape(value: object, limits: Limits, allowed: Container[MessageType]) -> Event:
    if not isinstance(value, list):
        fail(ErrorCode.FIELD, "a message is not an array")
    fields = cast("list[object]", value)
    if not fields:
        fail(ErrorCode.ARITY, "a message without a type")
    type_ = uint(fields[0], UINT64, "a message's type")
    if type_ not in MessageType.__members__.values():
        fail(ErrorCode.UNKNOWN_TYPE, "a message of unknown type")
    type_ = MessageType(type_)
    if type_ not in allowed:
        fail(ErrorCode.STATE, f"{type_.name}: may not be sent now, or not by this side")
    if type_ == MessageType.HELLO:
        return _decode_hello(fields)
    if len(fields) != _FIELDS[type_]:
        fail(ErrorCode.ARITY, "a message with the wrong number of fields")
    request: Request
    match type_:
        case MessageType.RESULT:
            return _decode_result(fields, limits)
        case MessageType.BATCHED:
            return _decode_batched(fields, limits)
        case MessageType.BELL:
            return Bell()
        case MessageType.FDS:
            number = uint(fields[1], UINT32, "FDS: the number")
            return Fds(number, uint(fields[2], limits.fds, "FDS: the count"))
        case MessageType.ERROR:
            return _decode_error(fields)
        case MessageType.BYE:
            return Bye()
        case MessageType.CANCEL:
            return Cancel(uint(fields[1], UINT64, "the id of a request"))
        case MessageType.STALL:
            return Stall(uint(fields[1], MAX_ERRNO, "STALL: the errno"))
        case MessageType.CALL:
            request = decode_call(fields, limits)
        case MessageType.BATCH | MessageType.PREPARE:
            request = decode_batch(type_, fields, limits)
        case MessageType.RUN:
            request = decode_run(fields, limits)
        case MessageType.RING:
            request = decode_ring(fields)
        case MessageType.UNPREPARE:
            id_ = uint(fields[1], UINT64, "the id of a request")
            request = Unprepare(id_, uint(fields[2], UINT32, "UNPREPARE: the program"))
        case MessageType.WATCH:
            id_ = uint(fields[1], UINT64, "the id of a request")
            request = Watch(id_, uint(fields[2], INT32, "WATCH: the file descriptor"))
        case _:
            id_ = uint(fields[1], UINT64, "the id of a request")
            address = uint(fields[2], UINT64, "READ or WRITE: the address")
            if type_ == MessageType.READ:
                request = Read(id_, address, uint(fields[3], UINT32, "READ: the length"))
            elif isinstance(fields[3], bytes):
                request = Write(id_, address, fields[3])
            else:
                fail(ErrorCode.FIELD, "WRITE: no bytes")
    _check_reply_size(request, limits)
    return request


def _check_reply_size(request: Request, limits: Limits) -> None:
    # Larger than the window it could never be admitted, however long the client waits.
    most, size = min(limits.frame, limits.window), reservation(request)
    if size > most:
        fail(ErrorCode.OVERSIZE, f"a reply of up to {size} bytes; the limit is {most}")


def check_request(request: Request, limits: Limits) -> None:
    """Refuse a request that the peer's `decode` would refuse: RemoteProtocolError, as there."""
    uint(int(request.id), UINT64, "id")
    if isinstance(request, Call | Batch | Run) and len(request.fds) > limits.fds:
        fail(ErrorCode.TOO_MANY_FDS, f"fds: more than {limits.fds}")
    match request:
        case Call():
            check_call(request, limits)
        case Batch() | Prepare():
            check_steps(request, limits)
        case Run():
            check_run(request, limits)
        case Unprepare(_, program):
            uint(int(program), UINT32, "program")
        case Watch(_, fd):
            uint(int(fd), INT32, "fd")
        case Ring(_, size, spin):
            check_ring_size(size)
            uint(spin, UINT32, "spin")
        case Read(_, address, length):
            uint(int(address), UINT64, "address")
            uint(int(length), UINT32, "length")
        case Write(_, address, _):
            uint(int(address), UINT64, "address")
    _check_reply_size(request, limits)


def decode(
    body: bytes, limits: Limits, allowed: Container[MessageType] = frozenset(MessageType)
) -> Event:
    """The event in a frame's body, if it is one of the allowed; fds are as many Nones as announced.

    RemoteProtocolError, with offset 0, if it is none.
    """
    value = unpack_body(body, limits.depth, limits.data)
    try:
        event = _shape(value, limits, allowed)
    except RemoteProtocolError:
        scan(body, limits.depth)  # what is wrong with the form comes before the contents
        raise
    if isinstance(event, Hello):  # the only message with room for what we do not know
        scan(body, limits.depth)
    return event

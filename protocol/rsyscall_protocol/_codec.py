"""Messages to bytes and back. msgpack-python does the work; here are the shapes and the checks."""

from __future__ import annotations

import struct
from collections.abc import Container, Sequence
from typing import Any, NoReturn, TypeGuard, cast

from rsyscall_protocol._arguments import (
    Argument,
    FdArg,
    In,
    InOut,
    Out,
    Ret,
    Struct,
    out_sizes,
)
from rsyscall_protocol._constants import (
    LIMITS,
    MAGIC,
    ArgumentType,
    CallFlag,
    ErrorCode,
    MessageType,
    Size,
)
from rsyscall_protocol._errors import RemoteProtocolError
from rsyscall_protocol._events import Bye, Call, Error, Event, Hello, Read, Request, Result, Write
from rsyscall_protocol._limits import Limits
from rsyscall_protocol._msgpack import ExtType, Map, pack, scan, unpack

UINT32, UINT64, INT32, INT64 = 2**32 - 1, 2**64 - 1, 2**31 - 1, 2**63


def _fail(code: ErrorCode, text: str) -> NoReturn:
    raise RemoteProtocolError(code, text)


def reservation(request: Request) -> int:
    """Bytes that the reply may take at most, its header included: what the window counts."""
    match request:
        case Read(length=length):
            return Size.REPLY_BASE + Size.REPLY_OUT + length
        case Write():
            return Size.REPLY_BASE
        case Call(args=args):
            size = int(Size.REPLY_BASE)
            for n, _ in out_sizes(args):
                size += Size.REPLY_OUT + n
            return size


def _ext(arg: Argument) -> object:
    match arg:
        case int():
            return arg
        case In(data):
            return ExtType(ArgumentType.IN, bytes(data))
        case Out(size):
            return ExtType(ArgumentType.OUT, size.to_bytes(4, "big"))
        case Ret(size):
            return ExtType(ArgumentType.RET, size.to_bytes(4, "big"))
        case InOut(data):
            return ExtType(ArgumentType.INOUT, bytes(data))
        case FdArg(index):
            return ExtType(ArgumentType.FD, bytes([index]))
        case Struct(data, relocations, outs):
            flat = [[n for pair in pairs for n in pair] for pairs in (relocations, outs)]
            return ExtType(ArgumentType.STRUCT, pack([bytes(data), *flat]))


def encode(event: Event) -> bytes:
    """The body of the event's frame."""
    match event:
        case Call(id, nr, args, flags, fds):
            exts = [arg if type(arg) is int else _ext(arg) for arg in args]
            return pack([MessageType.CALL, id, len(fds), flags, nr, exts])
        case Result(id, value, outs, fds):
            return pack([MessageType.RESULT, id, len(fds), value, outs])
        case Read(id, address, length):
            return pack([MessageType.READ, id, address, length])
        case Write(id, address, data):
            return pack([MessageType.WRITE, id, address, data])
        case Hello():
            options: dict[str, Any] = {"limits": event.limits.as_dict(), **event.info}
            versions = event.version_min, event.version_max
            return pack([MessageType.HELLO, MAGIC, *versions, event.features, options])
        case Error(code, offset, text):
            _uint(offset, UINT64, "ERROR: the offset")
            text = text.encode()[: Size.ERROR_TEXT].decode(errors="ignore")
            return pack([MessageType.ERROR, code, offset, text])
        case Bye():
            return pack([MessageType.BYE])


def _is_uint(value: object, most: int) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= most


def _uint(value: object, most: int, what: str) -> int:
    if not _is_uint(value, most):
        _fail(ErrorCode.FIELD, f"{what} is no unsigned integer, or out of range")
    return value


def _unpack(body: bytes, depth: int, most: int) -> object:
    try:
        return unpack(body, most)
    except ValueError:
        scan(body, depth)
    return unpack(body, len(body))  # well-formed, only with more items than anything should have


def _pairs(value: object, what: str) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list):
        _fail(ErrorCode.FIELD, f"CALL: the {what} of a STRUCT are not pairs of integers")
    flat = cast("list[object]", value)
    if len(flat) % 2 or not all(_is_uint(n, UINT64) for n in flat):
        _fail(ErrorCode.FIELD, f"CALL: the {what} of a STRUCT are not pairs of integers")
    numbers = cast("list[int]", flat)
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _check_argument(arg: Argument, self_: int, count: int, nfds: int) -> None:
    """What one entry of a list of `count` may refer to."""
    if isinstance(arg, FdArg):
        if not 0 <= arg.index < nfds:
            _fail(ErrorCode.FIELD, "CALL: an FD names none of the frame's file descriptors")
    elif isinstance(arg, Struct):
        size = len(arg.data)
        for offset, target in arg.relocations:
            if not 0 <= offset <= size - 8:
                _fail(ErrorCode.FIELD, "CALL: a relocation lies outside of its STRUCT")
            # Forward only, so that no chain of them can be a circle.
            if not isinstance(target, int) or not self_ < target < count:
                _fail(ErrorCode.FIELD, "CALL: a relocation names no later argument")
        for offset, n in arg.outs:
            if not (0 <= offset <= size and 0 <= n <= size - offset):
                _fail(ErrorCode.FIELD, "CALL: an output lies outside of its STRUCT")


def _decode_struct(payload: bytes) -> Struct:
    scan(payload, 2)
    parts = unpack(payload, len(payload))
    if not isinstance(parts, list) or len(cast("list[object]", parts)) != 3:
        _fail(ErrorCode.ARITY, "CALL: a STRUCT has not three parts")
    data, relocations, outs = cast("list[object]", parts)
    if not isinstance(data, bytes):
        _fail(ErrorCode.FIELD, "CALL: a STRUCT without bytes")
    return Struct(data, _pairs(relocations, "relocations"), _pairs(outs, "outputs"))


def _decode_argument(value: object, self_: int, count: int, nfds: int) -> Argument:
    arg = value if type(value) is int else _decode_ext(value)
    _check_argument(arg, self_, count, nfds)
    return arg


def _decode_ext(value: object) -> Argument:
    if not isinstance(value, ExtType):
        _fail(ErrorCode.FIELD, "CALL: an argument is neither an integer nor an ext")
    code, data = value.code, value.data
    match code:
        case ArgumentType.IN:
            return In(data)
        case ArgumentType.INOUT:
            return InOut(data)
        case ArgumentType.OUT | ArgumentType.RET:
            if len(data) != 4:
                _fail(ErrorCode.FIELD, "CALL: the size of an OUT is not four bytes")
            size = int.from_bytes(data, "big")
            return Out(size) if code == ArgumentType.OUT else Ret(size)
        case ArgumentType.FD:
            if len(data) != 1:
                _fail(ErrorCode.FIELD, "CALL: an FD names none of the frame's file descriptors")
            return FdArg(data[0])
        case ArgumentType.STRUCT:
            return _decode_struct(data)
        case _:
            _fail(ErrorCode.FIELD, "CALL: an argument of unknown type")


def _check_depth(args: Sequence[Argument]) -> None:
    depth = [0] * len(args)
    for i in reversed(range(len(args))):
        arg = args[i]
        depth[i] = 0 if isinstance(arg, int | FdArg) else 1
        if isinstance(arg, Struct):
            for _, target in arg.relocations:
                below = depth[cast(int, target)]
                if below == 0:
                    _fail(ErrorCode.FIELD, "CALL: a relocation names an argument that is not data")
                depth[i] = max(depth[i], below + 1)
        if depth[i] > Size.STRUCT_DEPTH:
            _fail(ErrorCode.DEPTH, "CALL: relocations lead too deep")


def _decode_call(fields: list[object], limits: Limits) -> Call:
    id_ = _uint(fields[1], UINT64, "the id of a request")
    nfds = _uint(fields[2], UINT32, "CALL: the number of file descriptors")
    if nfds > limits.fds:
        _fail(ErrorCode.TOO_MANY_FDS, "CALL: more file descriptors than the limit")
    flags = _uint(fields[3], CallFlag.RETURN_FD, "CALL: flags")
    if flags & CallFlag.RETURN_FD and limits.fds == 0:
        _fail(ErrorCode.TOO_MANY_FDS, "CALL: asks for a file descriptor, and the limit is none")
    nr = _uint(fields[4], INT32, "CALL: the number of the system call")
    if not isinstance(fields[5], list):
        _fail(ErrorCode.FIELD, "CALL: the arguments are not an array")
    values = cast("list[object]", fields[5])
    if len(values) > limits.data:
        _fail(ErrorCode.FIELD, "CALL: more arguments than the limit")
    args = [_decode_argument(v, i, len(values), nfds) for i, v in enumerate(values)]
    _check_depth(args)
    return Call(id_, nr, tuple(args), CallFlag(flags), (None,) * nfds)


def _decode_limits(asked: object) -> dict[str, int]:
    wanted: dict[str, int] = {}
    if not isinstance(asked, Map):
        _fail(ErrorCode.FIELD, "HELLO: limits is not a map")
    for key, value in asked:
        if not isinstance(key, str):
            _fail(ErrorCode.FIELD, "HELLO: a key of limits is not a string")
        if key in LIMITS:
            if not _is_uint(value, UINT64) or value < LIMITS[key][1]:
                _fail(ErrorCode.FIELD, f"HELLO: limit {key} is too small or no integer")
            wanted[key] = value
    return wanted


def _decode_hello(fields: list[object]) -> Hello:
    if len(fields) < 2 or fields[1] != MAGIC:
        _fail(ErrorCode.MAGIC, "HELLO: not the rsyscall protocol")
    if len(fields) != 6:
        _fail(ErrorCode.ARITY, "HELLO: not six fields")
    low, high = fields[2], fields[3]
    if not (_is_uint(low, UINT32) and _is_uint(high, UINT32)) or low > high:
        _fail(ErrorCode.FIELD, "HELLO: no range of versions")
    features = _uint(fields[4], UINT64, "HELLO: features")
    options = fields[5]
    if not isinstance(options, Map):
        _fail(ErrorCode.FIELD, "HELLO: options is not a map")
    wanted: dict[str, int] = {}
    info: dict[str, int | str] = {}
    for key, value in options:
        if not isinstance(key, str):
            _fail(ErrorCode.FIELD, "HELLO: a key of options is not a string")
        if key == "limits":
            wanted = _decode_limits(value)
        elif type(value) in (int, str):
            info[key] = cast("int | str", value)
    largest = Limits(**{name: most for name, (_, _, most) in LIMITS.items()})
    return Hello(low, high, features, largest.clamped(wanted), info)


def _decode_result(fields: list[object], limits: Limits) -> Result:
    nfds = _uint(fields[2], UINT32, "RESULT: the number of file descriptors")
    if nfds > limits.fds:
        _fail(ErrorCode.TOO_MANY_FDS, "RESULT: more file descriptors than the limit")
    value = fields[3]
    if type(value) is not int or not -INT64 <= value < INT64:
        _fail(ErrorCode.FIELD, "RESULT: the value is out of range")
    outs = fields[4]
    if not isinstance(outs, list) or not all(
        isinstance(out, bytes) for out in cast("list[object]", outs)
    ):
        _fail(ErrorCode.FIELD, "RESULT: the outputs are not strings of bytes")
    id_ = _uint(fields[1], UINT64, "the id of a result")
    return Result(id_, value, tuple(cast("list[bytes]", outs)), (None,) * nfds)


def _decode_error(fields: list[object]) -> Error:
    code = _uint(fields[1], UINT32, "ERROR: the code")
    offset = _uint(fields[2], UINT64, "ERROR: the offset")
    text = fields[3]
    if not isinstance(text, str):
        _fail(ErrorCode.FIELD, "ERROR: the text is not a string")
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
}


def _shape(value: object, limits: Limits, allowed: Container[MessageType]) -> Event:
    if not isinstance(value, list):
        _fail(ErrorCode.FIELD, "a message is not an array")
    fields = cast("list[object]", value)
    if not fields:
        _fail(ErrorCode.ARITY, "a message without a type")
    type_ = _uint(fields[0], UINT64, "a message's type")
    if type_ not in MessageType.__members__.values():
        _fail(ErrorCode.UNKNOWN_TYPE, "a message of unknown type")
    type_ = MessageType(type_)
    if type_ not in allowed:
        _fail(ErrorCode.STATE, f"{type_.name}: may not be sent now, or not by this side")
    if type_ == MessageType.HELLO:
        return _decode_hello(fields)
    if len(fields) != _FIELDS[type_]:
        _fail(ErrorCode.ARITY, "a message with the wrong number of fields")
    match type_:
        case MessageType.RESULT:
            return _decode_result(fields, limits)
        case MessageType.ERROR:
            return _decode_error(fields)
        case MessageType.BYE:
            return Bye()
        case MessageType.CALL:
            request: Request = _decode_call(fields, limits)
        case _:
            id_ = _uint(fields[1], UINT64, "the id of a request")
            address = _uint(fields[2], UINT64, "READ or WRITE: the address")
            if type_ == MessageType.READ:
                request = Read(id_, address, _uint(fields[3], UINT32, "READ: the length"))
            elif isinstance(fields[3], bytes):
                request = Write(id_, address, fields[3])
            else:
                _fail(ErrorCode.FIELD, "WRITE: no bytes")
    _check_reply_size(request, limits)
    return request


def _check_reply_size(request: Request, limits: Limits) -> None:
    # Larger than the window it could never be admitted, however long the client waits.
    most, size = min(limits.frame, limits.window), reservation(request)
    if size > most:
        _fail(ErrorCode.OVERSIZE, f"a reply of up to {size} bytes; the limit is {most}")


def check_request(request: Request, limits: Limits) -> None:
    """Refuse a request that the peer's `decode` would refuse: RemoteProtocolError, as there.

    Here an enumeration's member is the integer it is. Integers that msgpack cannot hold, and sizes
    that do not fit, are left to `encode`.
    """
    _uint(int(request.id), UINT64, "id")
    match request:
        case Call(_, nr, args, flags, fds):
            if len(fds) > limits.fds:
                _fail(ErrorCode.TOO_MANY_FDS, f"fds: more than {limits.fds}")
            _uint(int(flags), CallFlag.RETURN_FD, "flags")
            if flags & CallFlag.RETURN_FD and limits.fds == 0:
                _fail(ErrorCode.TOO_MANY_FDS, "RETURN_FD: the limit of file descriptors is 0")
            _uint(int(nr), INT32, "nr")
            if len(args) > limits.data:
                _fail(ErrorCode.FIELD, f"args: more than {limits.data} entries")
            for i, arg in enumerate(args):
                if type(arg) is not int:
                    _check_argument(arg, i, len(args), len(fds))
            _check_depth(args)
        case Read(_, address, length):
            _uint(int(address), UINT64, "address")
            _uint(int(length), UINT32, "length")
        case Write(_, address, _):
            _uint(int(address), UINT64, "address")
    _check_reply_size(request, limits)


def decode(
    body: bytes, limits: Limits, allowed: Container[MessageType] = frozenset(MessageType)
) -> Event:
    """The event in a frame's body, if it is one of the allowed; fds are as many Nones as announced.

    RemoteProtocolError, with offset 0, if it is none.
    """
    value = _unpack(body, limits.depth, limits.data)
    try:
        event = _shape(value, limits, allowed)
    except RemoteProtocolError:
        scan(body, limits.depth)  # what is wrong with the form comes before the contents
        raise
    if isinstance(event, Hello):  # the only message with room for what we do not know
        scan(body, limits.depth)
    return event


HEADER = struct.Struct(">BI")
HEADER_TAG = 0xCE

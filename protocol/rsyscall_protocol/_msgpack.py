"""msgpack-python, with the types it does not have, and what it does not check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import msgpack  # pyright: ignore[reportMissingTypeStubs] - that is what this module is for

from rsyscall_protocol._constants import ErrorCode
from rsyscall_protocol._errors import RemoteProtocolError

__all__ = ["ExtType", "Map", "pack", "scan", "unpack"]


class _Ext(NamedTuple):
    code: int
    data: bytes


ExtType = cast("type[_Ext]", msgpack.ExtType)


class Map(tuple[tuple[object, object], ...]):
    """A map as it was sent: its keys may be anything, and anything may be there twice."""

    __slots__ = ()


_module = cast("Any", msgpack)  # its functions are unannotated, each in its own way

#: Any value as msgpack.
pack: Callable[[object], bytes] = _module.Packer().pack

_unpackb: Callable[..., object] = _module.unpackb


def unpack(body: bytes, most: int) -> object:
    """One value, if no array has more than `most` items; ValueError if it is none.

    msgpack makes room for as many items as an array claims to have, at every level anew, and goes
    down a thousand levels. So `most` must be small unless `scan` has passed the bytes.
    """
    return _unpackb(
        body,
        raw=False,
        unicode_errors="surrogateescape",
        object_pairs_hook=Map,
        strict_map_key=False,
        max_array_len=most,
        max_map_len=most,
        max_str_len=len(body),
        max_bin_len=len(body),
        max_ext_len=len(body),
    )


# By first byte: how many bytes the length of a string or ext has; the size of a number without its
# first byte; how many bytes the count of an array or map has.
_LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_NUMBERS = {
    0xC0: 0,
    0xC2: 0,
    0xC3: 0,
    0xCA: 4,
    0xCB: 8,
    **{0xCC + i: 1 << i for i in range(4)},
    **{0xD0 + i: 1 << i for i in range(4)},
}
_COUNTS = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}


def _step(body: bytes, at: int) -> tuple[int, int]:
    """Behind the value that begins at `at`; how many values inside it follow, or -1 if it is none.

    Past the end of the body if that is too short.
    """
    if at >= len(body):
        return at + 1, -1
    tag = body[at]
    at += 1
    if tag < 0x80 or tag >= 0xE0:
        return at, -1
    if tag < 0xA0:
        return at, (tag & 15) * (2 if tag < 0x90 else 1)
    if tag < 0xC0:
        return at + (tag & 31), -1
    if tag in _NUMBERS:
        return at + _NUMBERS[tag], -1
    if tag in _COUNTS:
        end = at + _COUNTS[tag]
        return end, int.from_bytes(body[at:end], "big") * (2 if tag >= 0xDE else 1)
    if tag in _LENGTHS:
        end = at + _LENGTHS[tag]
        at, length = end, int.from_bytes(body[at:end], "big")
    elif 0xD4 <= tag <= 0xD8:
        length = 1 << (tag - 0xD4)
    else:  # 0xc1, which msgpack never uses
        return len(body) + 1, -1
    if 0xC7 <= tag <= 0xC9 or 0xD4 <= tag <= 0xD8:
        if at < len(body) and body[at] >= 0x80:  # an ext of msgpack's own, which we do not use
            return len(body) + 1, -1
        length += 1
    return at + length, -1


def scan(body: bytes, depth: int) -> None:
    """Check that the bytes are exactly one value with at most `depth` containers in each other.

    RemoteProtocolError with the first thing that is wrong: the same as the server's rs_validate.
    """
    left: list[int] = []  # values still to come in each open container
    at = 0
    while True:
        at, inside = _step(body, at)
        if at > len(body):
            raise RemoteProtocolError(ErrorCode.MALFORMED, "not well-formed msgpack")
        if left:
            left[-1] -= 1
        if inside >= 0:
            if len(left) == depth:
                raise RemoteProtocolError(ErrorCode.DEPTH, "arrays and maps are nested too deeply")
            left.append(inside)
        while left and left[-1] == 0:
            left.pop()
        if not left:
            break
    if at < len(body):
        raise RemoteProtocolError(ErrorCode.TRAILING, "bytes follow the message inside its frame")

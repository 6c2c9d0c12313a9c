"""What the decoders of all messages share: checks of single values, and the error they raise."""

from __future__ import annotations

from typing import NoReturn, TypeGuard, cast

from rsyscall_protocol._constants import ErrorCode
from rsyscall_protocol._errors import RemoteProtocolError
from rsyscall_protocol._msgpack import scan, unpack

UINT32, UINT64, INT32, INT64 = 2**32 - 1, 2**64 - 1, 2**31 - 1, 2**63
MAX_ERRNO = 4095


def fail(code: ErrorCode, text: str) -> NoReturn:
    """Raise RemoteProtocolError."""
    raise RemoteProtocolError(code, text)


def is_uint(value: object, most: int) -> TypeGuard[int]:
    """Whether it is an integer from 0 to `most`."""
    return type(value) is int and 0 <= value <= most


def uint(value: object, most: int, what: str) -> int:
    """The value, if it is such an integer."""
    if not is_uint(value, most):
        fail(ErrorCode.FIELD, f"{what} is no unsigned integer, or out of range")
    return value


def unpack_body(body: bytes, depth: int, most: int) -> object:
    """One value; `most` items in an array are usual."""
    try:
        return unpack(body, most)
    except ValueError:
        scan(body, depth)
    return unpack(body, len(body))  # well-formed, only with more items than anything should have


def is_strings(value: object) -> TypeGuard[list[bytes]]:
    """Whether it is a list of strings of bytes."""
    return isinstance(value, list) and all(
        isinstance(item, bytes) for item in cast("list[object]", value)
    )

"""msgpack-python, with the types it does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import msgpack  # pyright: ignore[reportMissingTypeStubs] - that is what this module is for
from msgpack.exceptions import (  # pyright: ignore[reportMissingTypeStubs] - the same
    ExtraData as _ExtraData,
)
from msgpack.exceptions import (  # pyright: ignore[reportMissingTypeStubs] - the same
    StackError as _StackError,
)

__all__ = ["ExtType", "ExtraData", "StackError", "is_timestamp", "pack", "unpack"]


class _Ext(NamedTuple):
    code: int
    data: bytes


ExtType = cast("type[_Ext]", msgpack.ExtType)
ExtraData = cast("type[ValueError]", _ExtraData)
StackError = cast("type[ValueError]", _StackError)

_module = cast("Any", msgpack)  # its functions are unannotated, each in its own way

#: Any value as msgpack.
pack: Callable[[object], bytes] = _module.Packer().pack

_unpackb: Callable[..., object] = _module.unpackb
_Timestamp = cast("type[object]", msgpack.Timestamp)


def is_timestamp(value: object) -> bool:
    """Whether it is msgpack's own extension, which the protocol does not use."""
    return isinstance(value, _Timestamp)


def unpack(body: bytes) -> object:
    """One value. ExtraData, StackError or another ValueError; TypeError for unhashable keys."""
    return _unpackb(
        body,
        raw=False,
        strict_map_key=False,
        unicode_errors="surrogateescape",
        max_str_len=len(body),
        max_bin_len=len(body),
        max_ext_len=len(body),
    )

"""The messages, as objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from rsyscall_protocol._arguments import Argument
from rsyscall_protocol._constants import (
    FEATURES,
    VERSION_MAX,
    VERSION_MIN,
    CallFlag,
    ErrorCode,
)
from rsyscall_protocol._limits import Limits


@dataclass(frozen=True, slots=True)
class Hello:
    """Who is there.

    A client names the range of versions it speaks, the features it would use and its limits; the
    server answers with the one version chosen, the features granted, the limits that hold, and in
    `info` what is known of it: arch, page_size (bytes), pid.
    """

    version_min: int = VERSION_MIN
    version_max: int = VERSION_MAX
    features: int = FEATURES
    limits: Limits = field(default_factory=Limits)
    info: Mapping[str, int | str] = field(default_factory=dict[str, "int | str"])


@dataclass(frozen=True, slots=True)
class Call:
    """Make system call `nr` with these (flat) arguments; `fds` travel with the frame."""

    id: int
    nr: int
    args: tuple[Argument, ...] = ()
    flags: CallFlag = CallFlag.NONE
    fds: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    """Read `length` bytes of the server's memory."""

    id: int
    address: int
    length: int


@dataclass(frozen=True, slots=True)
class Write:
    """Write bytes into the server's memory."""

    id: int
    address: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """What a request returned (-errno on failure), and its outputs in the order of its entries."""

    id: int
    value: int
    outs: tuple[bytes, ...] = ()
    fds: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Error:
    """Why the sender ends the connection, and where in the bytes it received the reason stands."""

    code: ErrorCode
    offset: int
    text: str


@dataclass(frozen=True, slots=True)
class Bye:
    """The client has no more requests; or the server has answered all of them."""


Request: TypeAlias = Call | Read | Write
Event: TypeAlias = Hello | Call | Result | Read | Write | Error | Bye

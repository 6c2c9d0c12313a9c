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
    BatchFlag,
    CallFlag,
    ErrorCode,
    Feature,
    StepFlag,
)
from rsyscall_protocol._limits import Limits
from rsyscall_protocol._record import record


@dataclass(frozen=True, slots=True)  # no record: info can be changed
class Hello:
    """Who is there.

    A client names the range of versions it speaks, the features it would use and its limits; the
    server answers with the one version chosen, the features granted, the limits that hold, and in
    `info` what is known of it: arch, page_size (bytes), pid.
    """

    version_min: int = VERSION_MIN
    version_max: int = VERSION_MAX
    features: Feature = FEATURES
    limits: Limits = field(default_factory=Limits)
    info: Mapping[str, int | str] = field(default_factory=dict[str, "int | str"])


@record
class Call:
    """Make system call `nr` with these (flat) arguments; `fds` travel with the frame."""

    id: int
    nr: int
    args: tuple[Argument, ...] = ()
    flags: CallFlag = CallFlag.NONE
    fds: tuple[Any, ...] = ()


@record
class Read:
    """Read `length` bytes of the server's memory."""

    id: int
    address: int
    length: int


@record
class Write:
    """Write bytes into the server's memory."""

    id: int
    address: int
    data: bytes


@record
class Result:
    """What a request returned (-errno on failure), and its outputs in the order of its entries."""

    id: int
    value: int
    outs: tuple[bytes, ...] = ()
    fds: tuple[Any, ...] = ()


@record
class Ring:
    """Go on in shared memory, with `size` bytes in each direction.

    spin: how many microseconds the server may look for the next frame before it sleeps.
    """

    id: int
    size: int
    spin: int


@record
class Bell:
    """Beside a ring: there is something in it, or room."""


@record
class Fds:
    """Beside a ring: the number-th packet of `count` file descriptors, counted from 0."""

    number: int
    count: int


@record
class Step:
    """One call of a batch.

    ok: which results are a success: None, all that are no error; a number, only that; or, besides
    those that are no error, these errors. undo: what to do if a later step fails, as number and
    (flat) arguments.
    """

    nr: int
    args: tuple[Argument, ...] = ()
    ok: int | tuple[int, ...] | None = None
    flags: StepFlag = StepFlag.NONE
    undo: tuple[int, tuple[Argument, ...]] | None = None


@record
class Batch:
    """Make these calls, one after the other; `fds` travel with the frame."""

    id: int
    steps: tuple[Step, ...]
    flags: BatchFlag = BatchFlag.NONE
    fds: tuple[Any, ...] = ()


@record
class Prepare:
    """Keep a batch whose steps may have so many parameters."""

    id: int
    steps: tuple[Step, ...]
    parameters: int = 0
    flags: BatchFlag = BatchFlag.NONE


@record
class Run:
    """Run a prepared batch with these arguments: numbers, In or FdArg."""

    id: int
    program: int
    args: tuple[Argument, ...] = ()
    fds: tuple[Any, ...] = ()


@record
class Unprepare:
    """Forget a prepared batch."""

    id: int
    program: int


@record
class Watch:
    """Answer once a file descriptor of the server is readable."""

    id: int
    fd: int


@record
class Batched:
    """What became of a batch.

    outs: the outputs of all steps that were started. values: what they returned, as 64-bit numbers
    in the byte order of the machine (BatchFlag.BRIEF: only the last). statuses: a byte for each
    step (BRIEF: none if all succeeded). stopped: the step that ended it, or how many there are.
    """

    id: int
    outs: tuple[bytes, ...]
    values: bytes
    statuses: bytes
    stopped: int


@record
class Cancel:
    """Interrupt the request with this id, if it is under way: not a request, and not answered."""

    id: int


@record
class Stall:
    """From now on a call that blocks holds up the others.

    errno: why no thread can be made that would go on with them.
    """

    errno: int


@record
class Error:
    """Why the sender ends the connection, and where in the bytes it received the reason stands."""

    code: ErrorCode
    offset: int
    text: str


@record
class Bye:
    """The client has no more requests; or the server has answered all of them."""


Request: TypeAlias = Call | Read | Write | Ring | Batch | Prepare | Run | Unprepare | Watch
Event: TypeAlias = Hello | Request | Result | Batched | Error | Bye | Bell | Fds | Cancel | Stall

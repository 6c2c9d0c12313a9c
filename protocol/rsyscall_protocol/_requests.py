"""The requests that hold arguments: from bytes, and whether a peer would take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from rsyscall_protocol._arguments import (
    RESULT,
    Argument,
    FdArg,
    In,
    InOut,
    Out,
    Param,
    Ref,
    Ret,
    Struct,
    out_sizes,
)
from rsyscall_protocol._constants import (
    ArgumentType,
    BatchFlag,
    CallFlag,
    ErrorCode,
    MessageType,
    Size,
    StepFlag,
)
from rsyscall_protocol._encode import REF
from rsyscall_protocol._events import Batch, Call, Prepare, Ring, Run, Step
from rsyscall_protocol._fields import (
    INT32,
    INT64,
    MAX_ERRNO,
    UINT32,
    UINT64,
    fail,
    is_uint,
    uint,
)
from rsyscall_protocol._limits import Limits
from rsyscall_protocol._msgpack import ExtType, scan, unpack

MAX_PARAMETERS = 255


def pairs(value: object, what: str) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list):
        fail(ErrorCode.FIELD, f"the {what} of a STRUCT are not pairs of integers")
    flat = cast("list[object]", value)
    if len(flat) % 2 or not all(is_uint(n, UINT64) for n in flat):
        fail(ErrorCode.FIELD, f"the {what} of a STRUCT are not pairs of integers")
    numbers = cast("list[int]", flat)
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


class Scope:
    """Where an argument list stands, and so what its entries may refer to."""

    __slots__ = ("batch", "first_outs", "nfds", "parameters")

    def __init__(self, nfds: int = 0, parameters: int = 0, *, batch: bool = False) -> None:
        """nfds: how many file descriptors came with the frame."""
        self.nfds = nfds
        self.parameters = parameters
        self.batch = batch
        #: Of each earlier step: the size of its first output, if a Ref may name it.
        self.first_outs: list[int] = []


def _check_ref(ref: Ref, scope: Scope) -> None:
    if not scope.batch:
        fail(ErrorCode.FIELD, "a REF outside of a batch")
    if not 0 <= ref.step < len(scope.first_outs):
        fail(ErrorCode.FIELD, "a REF names no earlier step")
    if ref.width not in (4, 8):
        fail(ErrorCode.FIELD, "a REF is neither four nor eight bytes wide")
    if ref.offset != RESULT and not 0 <= ref.offset <= scope.first_outs[ref.step] - 4:
        fail(ErrorCode.FIELD, "a REF lies outside of the step's first output")


def check_argument(arg: Argument, self_: int, count: int, scope: Scope) -> None:
    """What one entry of a list of `count` may refer to."""
    if isinstance(arg, Ref):
        _check_ref(arg, scope)
    elif isinstance(arg, Param):
        if not 0 <= arg.index < scope.parameters:
            fail(ErrorCode.FIELD, "a PARAM names no parameter")
    elif isinstance(arg, FdArg):
        if not 0 <= arg.index < scope.nfds:
            fail(ErrorCode.FIELD, "an FD names none of the frame's file descriptors")
    elif isinstance(arg, Struct):
        size = len(arg.data)
        for offset, target in arg.relocations:
            if not 0 <= offset <= size - 8:
                fail(ErrorCode.FIELD, "a relocation lies outside of its STRUCT")
            # Forward only, so that no chain of them can be a circle.
            if not isinstance(target, int) or not self_ < target < count:
                fail(ErrorCode.FIELD, "a relocation names no later argument")
        for offset, n in arg.outs:
            if not (0 <= offset <= size and 0 <= n <= size - offset):
                fail(ErrorCode.FIELD, "an output lies outside of its STRUCT")


def _decode_struct(payload: bytes) -> Struct:
    scan(payload, 2)
    parts = unpack(payload, len(payload))
    if not isinstance(parts, list) or len(cast("list[object]", parts)) != 3:
        fail(ErrorCode.ARITY, "a STRUCT has not three parts")
    data, relocations, outs = cast("list[object]", parts)
    if not isinstance(data, bytes):
        fail(ErrorCode.FIELD, "a STRUCT without bytes")
    return Struct(data, pairs(relocations, "relocations"), pairs(outs, "outputs"))


def _decode_argument(value: object, self_: int, count: int, scope: Scope) -> Argument:
    arg = value if type(value) is int else _decode_ext(value)
    check_argument(arg, self_, count, scope)
    return arg


def _decode_ext(value: object) -> Argument:
    if not isinstance(value, ExtType):
        fail(ErrorCode.FIELD, "an argument is neither an integer nor an ext")
    code, data = value.code, value.data
    match code:
        case ArgumentType.IN:
            return In(data)
        case ArgumentType.INOUT:
            return InOut(data)
        case ArgumentType.OUT | ArgumentType.RET:
            if len(data) != 4:
                fail(ErrorCode.FIELD, "the size of an OUT is not four bytes")
            size = int.from_bytes(data, "big")
            return Out(size) if code == ArgumentType.OUT else Ret(size)
        case ArgumentType.FD:
            if len(data) != 1:
                fail(ErrorCode.FIELD, "an FD names none of the frame's file descriptors")
            return FdArg(data[0])
        case ArgumentType.STRUCT:
            return _decode_struct(data)
        case ArgumentType.REF:
            if len(data) != REF.size:
                fail(ErrorCode.FIELD, "a REF is not three times four bytes")
            return Ref(*REF.unpack(data))
        case ArgumentType.PARAM:
            if len(data) != 1:
                fail(ErrorCode.FIELD, "a PARAM names no parameter")
            return Param(data[0])
        case _:
            fail(ErrorCode.FIELD, "an argument of unknown type")


def check_depth(args: Sequence[Argument]) -> None:
    """How far the relocations lead."""
    depth = [0] * len(args)
    for i in reversed(range(len(args))):
        arg = args[i]
        depth[i] = 0 if isinstance(arg, int | FdArg) else 1
        if isinstance(arg, Struct):
            for _, target in arg.relocations:
                below = depth[cast(int, target)]
                if below == 0:
                    fail(ErrorCode.FIELD, "a relocation names an argument that is not data")
                depth[i] = max(depth[i], below + 1)
        if depth[i] > Size.STRUCT_DEPTH:
            fail(ErrorCode.DEPTH, "relocations lead too deep")


def decode_nfds(value: object, limits: Limits) -> int:
    """How many file descriptors a frame announces."""
    nfds = uint(value, UINT32, "the number of file descriptors")
    if nfds > limits.fds:
        fail(ErrorCode.TOO_MANY_FDS, "more file descriptors than the limit")
    return nfds


def _decode_arguments(value: object, limits: Limits, scope: Scope) -> tuple[Argument, ...]:
    if not isinstance(value, list):
        fail(ErrorCode.FIELD, "the arguments are not an array")
    values = cast("list[object]", value)
    if len(values) > limits.data:
        fail(ErrorCode.FIELD, "more arguments than the limit")
    args = [_decode_argument(v, i, len(values), scope) for i, v in enumerate(values)]
    check_depth(args)
    return tuple(args)


def decode_call(fields: list[object], limits: Limits) -> Call:
    """A CALL, from its fields."""
    id_ = uint(fields[1], UINT64, "the id of a request")
    nfds = decode_nfds(fields[2], limits)
    flags = uint(fields[3], CallFlag.RETURN_FD, "CALL: flags")
    if flags & CallFlag.RETURN_FD and limits.fds == 0:
        fail(ErrorCode.TOO_MANY_FDS, "CALL: asks for a file descriptor, and the limit is none")
    nr = uint(fields[4], INT32, "the number of the system call")
    args = _decode_arguments(fields[5], limits, Scope(nfds))
    return Call(id_, nr, args, CallFlag(flags), (None,) * nfds)


def _decode_ok(value: object) -> int | tuple[int, ...] | None:
    if value is None:
        return None
    if type(value) is int:
        if value >= INT64:
            fail(ErrorCode.FIELD, "a step's ok is out of range")
        return value
    if not isinstance(value, list):
        fail(ErrorCode.FIELD, "a step's ok is neither nil, a number nor an array")
    errnos = cast("list[object]", value)
    return tuple(uint(n, MAX_ERRNO, "an error in a step's ok") for n in errnos)


def first_out(args: Sequence[Argument]) -> int:
    """The size of the first output, if a Ref of a later step may name it."""
    for arg in args:
        match arg:
            case Out(size):
                return size
            case InOut(data):
                return len(data)
            case Ret():
                return 0
            case Struct(outs=outs) if outs:
                return 0
            case _:
                pass
    return 0


def _decode_step(value: object, limits: Limits, scope: Scope) -> Step:
    if not isinstance(value, list):
        fail(ErrorCode.FIELD, "a step is not an array")
    fields = cast("list[object]", value)
    if not 2 <= len(fields) <= 5:
        fail(ErrorCode.ARITY, "a step has not two to five fields")
    nr = uint(fields[0], INT32, "the number of the system call")
    args = _decode_arguments(fields[1], limits, scope)
    ok = _decode_ok(fields[2]) if len(fields) > 2 else None
    flags = uint(fields[3], StepFlag.CONTINUE, "flags of a step") if len(fields) > 3 else 0
    scope.first_outs.append(first_out(args))
    undo = None
    if len(fields) > 4:
        parts = cast("list[object]", fields[4])
        if not isinstance(fields[4], list) or len(parts) != 2:
            fail(ErrorCode.ARITY, "an undo has not two fields")
        undo_nr = uint(parts[0], INT32, "the number of the system call")
        undo = (undo_nr, _decode_arguments(parts[1], limits, scope))
        if out_sizes(undo[1]):
            fail(ErrorCode.FIELD, "an undo has outputs")
    return Step(nr, args, ok, StepFlag(flags), undo)


def decode_batch(type_: MessageType, fields: list[object], limits: Limits) -> Batch | Prepare:
    """A BATCH or PREPARE, from its fields."""
    id_ = uint(fields[1], UINT64, "the id of a request")
    scope = Scope(batch=True)
    if type_ == MessageType.BATCH:
        scope.nfds = decode_nfds(fields[2], limits)
    else:
        most = min(limits.data, MAX_PARAMETERS)
        scope.parameters = uint(fields[2], most, "PREPARE: the number of parameters")
    flags = BatchFlag(uint(fields[3], BatchFlag.BRIEF, "flags of a batch"))
    if not isinstance(fields[4], list):
        fail(ErrorCode.FIELD, "the steps are not an array")
    values = cast("list[object]", fields[4])
    if len(values) > limits.steps:
        fail(ErrorCode.FIELD, "more steps than the limit")
    steps = tuple([_decode_step(step, limits, scope) for step in values])
    if type_ == MessageType.BATCH:
        return Batch(id_, steps, flags, (None,) * scope.nfds)
    return Prepare(id_, steps, scope.parameters, flags)


def decode_run(fields: list[object], limits: Limits) -> Run:
    """A RUN, from its fields."""
    id_ = uint(fields[1], UINT64, "the id of a request")
    nfds = decode_nfds(fields[2], limits)
    program = uint(fields[3], UINT32, "RUN: the program")
    args = _decode_arguments(fields[4], limits, Scope(nfds))
    _check_run(args)
    return Run(id_, program, args, (None,) * nfds)


def _check_run(args: Sequence[Argument]) -> None:
    if not all(isinstance(arg, int | In | FdArg) for arg in args):
        fail(ErrorCode.FIELD, "RUN: an argument is neither an integer nor an IN nor an FD")


def decode_ring(fields: list[object]) -> Ring:
    """A RING, from its fields."""
    id_ = uint(fields[1], UINT64, "the id of a request")
    size = uint(fields[2], Size.RING_MAX, "RING: the size")
    check_ring_size(size)
    return Ring(id_, size, uint(fields[3], UINT32, "RING: the time to spin"))


def check_ring_size(size: int) -> None:
    """Whether half a ring may be as large."""
    if not Size.RING_MIN <= size <= Size.RING_MAX or size & (size - 1):
        fail(ErrorCode.FIELD, "RING: the size is no power of two, or out of range")


# ---- before sending ----
# Here an enumeration's member is the integer it is. Integers that msgpack cannot hold, and sizes
# that do not fit, are left to `encode`.


def check_arguments(args: Sequence[Argument], limits: Limits, scope: Scope) -> None:
    """Refuse arguments that the peer would refuse."""
    if len(args) > limits.data:
        fail(ErrorCode.FIELD, f"args: more than {limits.data} entries")
    plain = True
    for i, arg in enumerate(args):
        if type(arg) is not int:
            plain = False
            check_argument(arg, i, len(args), scope)
    if not plain:
        check_depth(args)


def check_call(call: Call, limits: Limits) -> None:
    """Refuse a CALL that the peer would refuse."""
    uint(int(call.flags), CallFlag.RETURN_FD, "flags")
    if call.flags & CallFlag.RETURN_FD and limits.fds == 0:
        fail(ErrorCode.TOO_MANY_FDS, "RETURN_FD: the limit of file descriptors is 0")
    uint(int(call.nr), INT32, "nr")
    check_arguments(call.args, limits, Scope(len(call.fds)))


def check_steps(request: Batch | Prepare, limits: Limits) -> None:
    """Refuse a BATCH or PREPARE that the peer would refuse."""
    scope = Scope(batch=True)
    if isinstance(request, Batch):
        scope.nfds = len(request.fds)
    else:
        most = min(limits.data, MAX_PARAMETERS)
        scope.parameters = uint(request.parameters, most, "parameters")
    uint(int(request.flags), BatchFlag.BRIEF, "flags")
    if len(request.steps) > limits.steps:
        fail(ErrorCode.FIELD, f"steps: more than {limits.steps}")
    for step in request.steps:
        uint(int(step.nr), INT32, "nr")
        check_arguments(step.args, limits, scope)
        if step.ok is not None:
            _decode_ok(list(step.ok) if isinstance(step.ok, tuple) else int(step.ok))
        uint(int(step.flags), StepFlag.CONTINUE, "flags of a step")
        scope.first_outs.append(first_out(step.args) if step.args else 0)
        if step.undo is not None:
            uint(int(step.undo[0]), INT32, "nr of an undo")
            check_arguments(step.undo[1], limits, scope)
            if out_sizes(step.undo[1]):
                fail(ErrorCode.FIELD, "undo: has outputs")


def check_run(run: Run, limits: Limits) -> None:
    """Refuse a RUN that the peer would refuse, whatever the program."""
    uint(int(run.program), UINT32, "program")
    check_arguments(run.args, limits, Scope(len(run.fds)))
    _check_run(run.args)

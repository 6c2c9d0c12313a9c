"""Messages to bytes. msgpack-python does the work; here are the shapes."""

from __future__ import annotations

import struct
from typing import Any

from rsyscall_protocol._arguments import (
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
from rsyscall_protocol._constants import MAGIC, ArgumentType, MessageType, Size
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
    Step,
    Unprepare,
    Watch,
    Write,
)
from rsyscall_protocol._fields import UINT64, uint
from rsyscall_protocol._msgpack import ExtType, pack

HEADER = struct.Struct(">BI")
HEADER_TAG = 0xCE
#: The payload of a REF: step, offset, width.
REF = struct.Struct(">III")


def reservation(request: Request) -> int:
    """Bytes that the reply may take at most, its header included: what the window counts.

    Of a Run only the Prepare says it.
    """
    match request:
        case Read(length=length):
            return Size.REPLY_BASE + Size.REPLY_OUT + length
        case Call(args=args):
            return Size.REPLY_BASE + _outputs(args)
        case Batch(steps=steps) | Prepare(steps=steps):
            outs = sum(_outputs(step.args) for step in steps if step.args)
            return Size.BATCH_BASE + Size.BATCH_STEP * len(steps) + outs
        case _:
            return Size.REPLY_BASE


def _outputs(args: tuple[Argument, ...]) -> int:
    return sum(Size.REPLY_OUT + n for n, _ in out_sizes(args))


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
        case Ref(step, offset, width):
            return ExtType(ArgumentType.REF, REF.pack(step, offset, width))
        case Param(index):
            return ExtType(ArgumentType.PARAM, bytes([index]))
        case Struct(data, relocations, outs):
            flat = [[n for pair in pairs for n in pair] for pairs in (relocations, outs)]
            return ExtType(ArgumentType.STRUCT, pack([bytes(data), *flat]))


def _exts(args: tuple[Argument, ...]) -> list[object]:
    return [arg if type(arg) is int else _ext(arg) for arg in args]


def _steps(steps: tuple[Step, ...]) -> list[object]:
    result: list[object] = []
    for step in steps:
        fields: list[object] = [step.nr, _exts(step.args)]
        if step.ok is not None or step.flags or step.undo is not None:
            fields.append(step.ok)
        if step.flags or step.undo is not None:
            fields.append(step.flags)
        if step.undo is not None:
            fields.append([step.undo[0], _exts(step.undo[1])])
        result.append(fields)
    return result


def encode(event: Event) -> bytes:
    """The body of the event's frame."""
    match event:
        case Call(id, nr, args, flags, fds):
            return pack([MessageType.CALL, id, len(fds), flags, nr, _exts(args)])
        case Result(id, value, outs, fds):
            return pack([MessageType.RESULT, id, len(fds), value, outs])
        case Batch(id, steps, flags, fds):
            return pack([MessageType.BATCH, id, len(fds), flags, _steps(steps)])
        case Prepare(id, steps, parameters, flags):
            return pack([MessageType.PREPARE, id, parameters, flags, _steps(steps)])
        case Run(id, program, args, fds):
            return pack([MessageType.RUN, id, len(fds), program, _exts(args)])
        case Unprepare(id, program):
            return pack([MessageType.UNPREPARE, id, program])
        case Watch(id, fd):
            return pack([MessageType.WATCH, id, fd])
        case Batched(id, outs, values, statuses, stopped):
            return pack([MessageType.BATCHED, id, outs, values, statuses, stopped])
        case Ring(id, size, spin):
            return pack([MessageType.RING, id, size, spin])
        case Bell():
            return pack([MessageType.BELL])
        case Fds(number, count):
            return pack([MessageType.FDS, number, count])
        case Read(id, address, length):
            return pack([MessageType.READ, id, address, length])
        case Write(id, address, data):
            return pack([MessageType.WRITE, id, address, data])
        case Hello():
            options: dict[str, Any] = {"limits": event.limits.as_dict(), **event.info}
            versions = event.version_min, event.version_max
            return pack([MessageType.HELLO, MAGIC, *versions, event.features, options])
        case Error(code, offset, text):
            uint(offset, UINT64, "ERROR: the offset")
            text = text.encode()[: Size.ERROR_TEXT].decode(errors="ignore")
            return pack([MessageType.ERROR, code, offset, text])
        case Cancel(id):
            return pack([MessageType.CANCEL, id])
        case Stall(errno):
            return pack([MessageType.STALL, errno])
        case Bye():
            return pack([MessageType.BYE])

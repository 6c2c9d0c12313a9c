"""Batches of the library's own: calls by number, of which the first that fails is an OSError."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rsyscall._core import Frame
from rsyscall._errors import noted
from rsyscall.batch.batch import Batch as Steps
from rsyscall.near.sysif import SyscallInterface, check_reply
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import Argument, Batch, Batched, In, Ref, Step, StepFlag, flatten

__all__ = ["Done", "Plain", "call", "raise_failure", "run", "write_file"]

_AT_FDCWD = -100


@dataclass(frozen=True, slots=True)
class Done:
    """What a batch has come to: the result of each step that was started, and all outputs."""

    values: tuple[int, ...]
    outs: tuple[bytes, ...]


def call(
    number: SYS,
    *args: Argument,
    ok: Sequence[int] = (),
    undo: tuple[int, tuple[Argument, ...]] | None = None,
    more: StepFlag = StepFlag.NONE,
) -> Step:
    """A call as a step. ok: errors that count as a success. more: its flags."""
    if undo is not None:
        undo = undo[0], flatten(undo[1])
    return Step(int(number), flatten(args), ok=tuple(sorted(ok)) or None, flags=more, undo=undo)


def write_file(path: bytes, data: bytes, *, index: int = 0, dirfd: int = _AT_FDCWD) -> list[Step]:
    """Steps, from the index-th on, that write all of the data to a file that is there.

    If one fails nothing stays open. But then the number is closed even if that was done before: no
    other step may fail after these if others have the table as well.
    """
    undo = (int(SYS.close), (Ref(index),))
    write = call(SYS.write, Ref(index), In(data), len(data))
    return [
        call(SYS.openat, dirfd, In(path + b"\0"), os.O_WRONLY | os.O_CLOEXEC, 0, undo=undo),
        replace(write, ok=len(data)),
        call(SYS.close, Ref(index)),
    ]


def raise_failure(steps: Sequence[Step], reply: Batched, names: Sequence[str] = ()) -> Done:
    """The OSError of the step that stopped the batch, if one did.

    names: what each step is for, for the error's notes.
    """
    values = struct.unpack(f"{len(reply.values) // 8}q", reply.values)
    if reply.stopped < len(steps):
        step = steps[reply.stopped]
        try:
            check_reply(step.nr, step.args[:6], values[reply.stopped])  # type: ignore[arg-type] # what is not described is shown as what it is
        except OSError as exc:
            if names:
                exc.add_note(f"while {names[reply.stopped]}")
            raise
        if step.ok is None:
            raise AssertionError("a step stopped a batch and had not failed")
        raise noted(
            OSError(errno.EIO, os.strerror(errno.EIO)),
            f"{SYS(step.nr).name} returned {values[reply.stopped]}, not {step.ok}",
            *([f"while {names[reply.stopped]}"] if names else ()),
        )
    return Done(values, reply.outs)


async def run(sysif: SyscallInterface, steps: Sequence[Step], names: Sequence[str] = ()) -> Done:
    """Make the calls. OSError of the one that failed, with the call and what it was for as notes.

    A checkpoint; if cancelled, nothing was sent.
    """
    return raise_failure(steps, await sysif.batch(Batch(0, tuple(steps))), names)


class Plain(Steps):
    """Steps of numbers and bytes, without an undo: the core encodes them."""

    __slots__ = ()

    async def run(self, sysif: SyscallInterface) -> Done:
        """See `run`."""
        frame = self.encode()
        if not isinstance(frame, Frame):
            raise AssertionError("these steps are plain")
        reply = await sysif.batch_frame(frame, self)
        values = struct.unpack(f"{len(reply.values) // 8}q", reply.values)
        if reply.stopped < len(self.steps):
            step = self.steps[reply.stopped]
            check_reply(step.number, step.args, values[reply.stopped])
            raise AssertionError("a step stopped a batch and had not failed")
        return Done(values, reply.outs)

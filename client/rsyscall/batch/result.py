"""What a batch has come to."""

from __future__ import annotations

import os
from array import array
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rsyscall.batch.step import BatchError, Step
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.handle.pair import is_end
from rsyscall.near.sysif import describe_call
from rsyscall.sys.mman import MemoryMapping
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import Batched, Status

if TYPE_CHECKING:
    from rsyscall.batch.batch import Batch
    from rsyscall.handle import Task

__all__ = ["BatchResult"]

T = TypeVar("T")
_DONE = int(Status.DONE)


class BatchResult:
    """The results of one run of a batch.

    values: what the steps that were started returned, -errno for errors, as 64-bit numbers (of a
    brief batch only the last). started: how many those are. stopped: the step at which it ended, or
    how many there are.
    """

    def __init__(self, batch: Batch, task: Task, reply: Batched, outs: list[Any]) -> None:
        """outs: of each step, what its outputs may be; as many come of those that were started."""
        self._key = batch.ledger.key
        self._task = task
        self._reply = reply
        self._values: array[int] | None = None
        self._out_counts = outs
        self._offsets: list[int] | None = None
        self._converted: dict[int, object] = {}
        self._unwanted: list[object] = []
        self.stopped: int = reply.stopped
        self.started: int = min(reply.stopped + 1, len(outs))
        #: The steps that made what the batch itself has closed or unmapped.
        self._gone: Collection[int] = ()
        if batch.closers:
            self._gone = {i for i, closer in batch.closers.items() if self.ended(closer)}
        #: Of a step that made two, where in its output the number of a closed one stands.
        self._gone_ends: dict[int, list[int]] = {}
        for (index, offset), closer in batch.end_closers.items():
            if self.ended(closer):
                self._gone_ends.setdefault(index, []).append(offset)

    @property
    def values(self) -> array[int]:
        """What the calls returned."""
        if self._values is None:
            self._values = array("q", self._reply.values)
        return self._values

    def status(self, step: Step[object]) -> Status:
        """What became of a step."""
        self._check(step)
        return Status(self.code(step.index))

    def code(self, index: int) -> int:
        """What became of the index-th step, as the number that Status has for it."""
        if index >= len(self._out_counts):  # added since
            return Status.NOT_STARTED
        statuses = self._reply.statuses
        return statuses[index] if statuses else _DONE

    def ended(self, step: Step[object]) -> bool:
        """Whether a step that closes or unmaps has done so, whatever is a success for it."""
        code = self.code(step.index)
        if code in (Status.NOT_STARTED, Status.BLOCKED):
            return False
        if step.number == SYS.close:  # a close that failed has closed
            return True
        try:
            value = self.number(step)
            return value == 0 or (value > 0 and step.number == SYS.mremap)
        except BatchError:  # brief
            return code != Status.FAILED

    def _check(self, step: Step[object]) -> None:
        if step.ledger.key is not self._key:
            raise BatchError(f"{step!r} belongs to another batch")
        if step.index >= len(self._out_counts):
            raise BatchError(f"{step!r}: it was added after the batch had run")

    def number(self, step: Step[object]) -> int:
        """The number that a step returned; BatchError if it was not started or not asked for."""
        self._check(step)
        if step.index >= self.started:
            raise BatchError(f"{step!r}: it was not started")
        index = step.index - (self.started - len(self.values))
        if index < 0:
            raise BatchError(f"{step!r}: of a brief batch only the last result is known")
        return self.values[index]

    def outs(self, step: Step[object]) -> tuple[bytes, ...]:
        """The outputs of a step; BatchError if it was not started."""
        self._check(step)
        if step.index >= self.started:
            raise BatchError(f"{step!r}: it was not started")
        if self._offsets is None:
            at, offsets = 0, [0]
            for outs in self._out_counts[: self.started]:
                at += len(outs)
                offsets.append(at)
            self._offsets = offsets
        return self._reply.outs[self._offsets[step.index] : self._offsets[step.index + 1]]

    def error(self, step: Step[object]) -> OSError | None:
        """The error of a step that has failed, with the call as a note; None of any other."""
        self._check(step)
        if self.code(step.index) != Status.FAILED:
            return None
        value = self.number(step)
        call = describe_call(step.number, step.args)
        if -4095 <= value < 0:
            exc = OSError(-value, os.strerror(-value))
            exc.add_note(f"in step {step.index} of a batch: {call}")
        else:
            exc = OSError(0, f"returned {value}, not {step.ok}")
            exc.add_note(f"in step {step.index} of a batch, which returned {value}: {call}")
        return exc

    def __getitem__(self, step: Step[T]) -> T:
        """The value of a step, as its method would return it; see Step.value."""
        self._check(step)
        index = step.index
        if index in self._converted:
            return cast("T", self._converted[index])
        code = self.code(index)
        if code == Status.FAILED and (error := self.error(step)) is not None:
            raise error
        if code not in (_DONE, Status.UNDO_FAILED):
            raise BatchError(f"{step!r}: {Status(code).name.lower().replace('_', ' ')}")
        value = self._converted[index] = self._convert(step)
        return cast("T", value)

    def _convert(self, step: Step[object]) -> object:
        value = self.number(step)
        if -4095 <= value < 0:  # an error that counts as a success
            return None
        if step.call is None:
            return value
        made = step.call.convert(self._task, value, self.outs(step) if step.call.outs else ())
        for offset in self._gone_ends.get(step.index, ()):
            end = is_end(made, offset)
            if end is not None:
                end.forget()
        if step.call.handle and step.index in self._gone:
            if isinstance(made, BaseFileDescriptor):
                made.forget()
            elif isinstance(made, MemoryMapping):
                made.mark_unmapped()
                made.forget_unmapped()
        return made

    def settle(self, makers: list[Step[Any]]) -> None:
        """Make the handles of all that these steps have made and that is still there."""
        for step in makers:
            if step.index in self._gone:
                continue
            code = self.code(step.index)
            if code in (Status.NOT_STARTED, Status.UNDONE):
                continue
            try:
                if code != Status.FAILED:
                    self[step]
                elif not -4095 <= self.number(step) < 0:
                    # What it returned was not what was wanted; all the same it has made something.
                    self._unwanted.append(self._convert(step))
            except BatchError:  # brief: nobody can know what it made
                continue

    def raise_failure(self, steps: list[Step[Any]]) -> None:
        """Raise the error of the step that stopped the batch, if one did."""
        if self.stopped < len(self._out_counts):
            error = self.error(steps[self.stopped])
            if error is not None:
                raise error

"""What a batch has come to."""

from __future__ import annotations

import os
from array import array
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rsyscall.batch.step import BatchError, Step
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.near.sysif import describe_call
from rsyscall.sys.mman import MemoryMapping
from rsyscall_protocol import Batched, Status

if TYPE_CHECKING:
    from rsyscall.batch.batch import Batch
    from rsyscall.handle import Task

__all__ = ["BatchResult"]

T = TypeVar("T")


class BatchResult:
    """The results of one run of a batch.

    values: what the steps that were started returned, -errno for errors, as 64-bit numbers (of a
    brief batch only the last). stopped: the step at which it ended, or how many there are.
    """

    def __init__(self, batch: Batch, task: Task, reply: Batched, outs: list[Any]) -> None:
        """outs: of each step, what its outputs may be; as many come of those that were started."""
        self._batch = batch
        self._task = task
        self.values: array[int] = array("q", reply.values)
        self.stopped = reply.stopped
        self._brief = batch.brief
        self._steps = batch.steps
        self._statuses = reply.statuses
        self._outs = reply.outs
        self._out_counts = outs
        self._offsets: list[int] | None = None
        self._converted: dict[int, object] = {}

    @property
    def started(self) -> int:
        """How many steps were started."""
        return min(self.stopped + 1, len(self._steps))

    def status(self, step: Step[object]) -> Status:
        """What became of a step."""
        self._check(step)
        return self._status(step.index)

    def _status(self, index: int) -> Status:
        return Status(self._statuses[index]) if self._statuses else Status.DONE

    def _check(self, step: Step[object]) -> None:
        if step.batch is not self._batch:
            raise BatchError(f"{step!r} belongs to another batch")

    def number(self, step: Step[object]) -> int:
        """The number that a step returned; BatchError if it was not started or not asked for."""
        self._check(step)
        index = step.index - (self.started - len(self.values))
        if index < 0:
            raise BatchError(f"{step!r}: of a brief batch only the last result is known")
        if step.index >= self.started:
            raise BatchError(f"{step!r}: it was not started")
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
        return self._outs[self._offsets[step.index] : self._offsets[step.index + 1]]

    def error(self, step: Step[object]) -> OSError | None:
        """The error of a step that has failed, with the call as a note; None of any other."""
        self._check(step)
        if self._status(step.index) != Status.FAILED:
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
        status = self.status(step)
        if status in (Status.NOT_STARTED, Status.BLOCKED, Status.UNDONE):
            raise BatchError(f"{step!r}: {status.name.lower().replace('_', ' ')}")
        if (error := self.error(step)) is not None:
            raise error
        if step.index not in self._converted:
            self._converted[step.index] = self._convert(step)
        return cast("T", self._converted[step.index])

    def _convert(self, step: Step[object]) -> object:
        value = self.number(step)
        if -4095 <= value < 0:  # an error that counts as a success
            return None
        if step.call is None:
            return value
        return step.call.convert(self._task, value, self.outs(step) if step.call.outs else ())

    def settle(self) -> None:
        """Make the handles of what was made, and mark those that the batch itself has closed."""
        for step in self._batch.makers:
            if self._status(step.index) in (Status.DONE, Status.UNDO_FAILED):
                try:
                    self[step]
                except BatchError:  # brief: nobody can know what it made
                    continue
        for closer, made in self._batch.closers:
            done = self._status(closer.index) in (Status.DONE, Status.UNDONE)
            handle = self._converted.get(made.index)
            if not done or handle is None:
                continue
            if isinstance(handle, BaseFileDescriptor) and handle.valid:
                handle.forget()
            elif isinstance(handle, MemoryMapping):
                handle.mark_unmapped()

    def raise_failure(self) -> None:
        """Raise the error of the step that stopped the batch, if one did."""
        if self.stopped < len(self._steps):
            error = self.error(self._steps[self.stopped])
            if error is not None:
                raise error

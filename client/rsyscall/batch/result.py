"""What a batch has come to."""

from __future__ import annotations

import os
from array import array
from typing import Any, NoReturn

from rsyscall._core import Results, setup_result
from rsyscall._errors import noted
from rsyscall.batch.step import BatchError, Step
from rsyscall.handle.pair import is_end
from rsyscall.near.sysif import describe_call
from rsyscall.sys.mman import MemoryMapping
from rsyscall_protocol import Status

__all__ = ["BatchResult"]

_DONE = int(Status.DONE)
_FAILED = int(Status.FAILED), int(Status.BLOCKED)


class BatchResult(Results):
    """The results of one run of a batch.

    values: what the steps that were started returned, -errno for errors, as 64-bit numbers (of a
    brief batch only the last). started: how many those are. stopped: the step at which it ended, or
    how many there are.
    """

    __slots__ = ()

    @property
    def values(self) -> array[int]:
        """What the calls returned."""
        if self._array is None:
            self._array = array("q", self._values)
        return self._array

    def _note_ends(self, closers: dict[tuple[int, int], Step[Any]]) -> None:
        """Keep in mind which of two handles that a step makes the batch has closed."""
        self._gone_ends = {}
        for (index, offset), closer in closers.items():
            if self.ended(closer):
                self._gone_ends.setdefault(index, []).append(offset)

    def status(self, step: Step[object]) -> Status:
        """What became of a step."""
        self._check(step)
        return Status(self.code(step.index))

    def _check(self, step: Step[object]) -> None:
        if not self._is_mine(step):
            if self._is_from(step):
                raise BatchError(f"{step!r}: it was added after the batch had run")
            raise BatchError(f"{step!r} belongs to another batch")

    def _no_number(self, step: Step[object]) -> NoReturn:
        """Say why nobody knows what a step returned."""
        self._check(step)
        if step.index >= self.started:
            raise BatchError(f"{step!r}: it was not started")
        raise BatchError(f"{step!r}: of a brief batch only the last result is known")

    def error(self, step: Step[object]) -> OSError | None:
        """The error of a step that failed or was blocked, with the call as a note; or None."""
        self._check(step)
        return self._failure(step) if self.code(step.index) in _FAILED else None

    def _failure(self, step: Step[object]) -> OSError:
        value = self.number(step)
        call = describe_call(step.number, step.args)
        if -4095 <= value < 0:
            exc = OSError(-value, os.strerror(-value))
            return noted(exc, f"in step {step.index} of a batch: {call}")
        exc = OSError(0, f"returned {value}, not {step.ok}")
        return noted(exc, f"in step {step.index} of a batch, which returned {value}: {call}")

    def _no_value(self, step: Step[object]) -> NoReturn:
        """Say why a step has no value."""
        self._check(step)
        code = self.code(step.index)
        if code in _FAILED:
            raise self._failure(step)
        if code not in (_DONE, Status.UNDO_FAILED):
            raise BatchError(f"{step!r}: {Status(code).name.lower().replace('_', ' ')}")
        self._no_number(step)

    def _convert(self, step: Step[object]) -> object:
        """The handle that a step has made."""
        call = step.call
        if call is None:
            raise AssertionError("a raw call has made a handle")
        number, outs = self.number(step), self.outs(step) if call.outs else ()
        if self._gone is not None and step.index in self._gone:
            with self._task.fd_table.making_bygones():
                made = call.convert(self._task, number, outs)
            if isinstance(made, MemoryMapping):
                made.mark_unmapped()
                made.forget_unmapped()
            return made
        made = call.convert(self._task, number, outs)
        if self._gone_ends is not None:
            for offset in self._gone_ends.get(step.index, ()):
                end = is_end(made, offset)
                if end is not None:
                    end.forget()
        return made

    def _settle(self, step: Step[Any]) -> None:
        """Make the handle of what a step has made, if it has."""
        code = self.code(step.index)
        if code in (Status.NOT_STARTED, Status.UNDONE):
            return
        try:
            if code not in _FAILED:
                self[step]
            elif not -4095 <= self.number(step) < 0:
                # What it returned was not what was wanted; all the same it has made something.
                self._unwanted = [*(self._unwanted or ()), self._convert(step)]
        except BatchError:  # brief: nobody can know what it made
            return

    def raise_failure(self, steps: list[Step[Any]]) -> None:
        """Raise the error of the step that stopped the batch, if one did."""
        if self.stopped < self._steps:
            step = steps[self.stopped]
            self._check(step)
            if self.code(step.index) in _FAILED:
                raise self._failure(step)


setup_result(BatchResult)

"""What stands for results before there are any."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

from rsyscall._core import Placeholder, Step, setup_batch
from rsyscall.near.sysif import SyscallArgument

if TYPE_CHECKING:
    from rsyscall.batch.batch import Batch

__all__ = [
    "RESULT",
    "BatchError",
    "OnError",
    "Parameter",
    "Step",
    "StepOptions",
    "StepOutput",
    "Success",
    "Undo",
]

#: Which results are a success: None, all that are no error; a number, only that one; several
#: numbers of errors (errno.ENOENT, ...), these besides those that are no error.
Success: TypeAlias = "int | Collection[int] | None"
OnError: TypeAlias = Literal["stop", "continue"]
#: A call to make if a later step fails: number and arguments, RESULT among them.
Undo: TypeAlias = "tuple[SyscallArgument, ...]"


class StepOptions(TypedDict, total=False):
    """What every step may be told.

    ok: see Success. on_error: whether the batch stops or continues if this step fails. undo: see
    Undo; if the batch stops at a later step, the undos of the steps that were done are made, the
    last one first.
    """

    ok: Success
    on_error: OnError
    undo: Undo | None


class BatchError(Exception):
    """A step has no value: the batch has not run, or the step was not done or was undone."""


class _Result(Placeholder):
    __slots__ = ()

    def __repr__(self) -> str:
        return "RESULT"


#: In an undo: what the step that is undone has returned.
RESULT: Placeholder = _Result()


class Parameter(Placeholder):
    """A number, a name or data that is known only when a prepared batch runs.

    length: the size in bytes of the data, as a further parameter that nobody has to give.
    """

    __slots__ = ("batch", "index", "name")

    def __init__(self, batch: Batch, index: int, name: str) -> None:
        """See Batch.parameter."""
        self.batch: Batch = batch
        self.index: int = index
        self.name: str = name

    @property
    def length(self) -> Parameter:
        """How many bytes the argument has when the batch runs."""
        return self.batch.length_of(self)

    def __repr__(self) -> str:
        """For people."""
        return f"<parameter {self.name}>"


class StepOutput(Placeholder):
    """An int of four bytes in the first output of a step, such as one end of a pipe."""

    __slots__ = ("offset", "step")

    def __init__(self, step: Step[object], offset: int) -> None:
        """See Step.int_at."""
        self.step: Step[object] = step
        self.offset: int = offset

    def __repr__(self) -> str:
        """For people."""
        return f"<int at byte {self.offset} of the output of step {self.step.index}>"


setup_batch(BatchError, StepOutput)

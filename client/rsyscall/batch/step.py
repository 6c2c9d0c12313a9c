"""What stands for results before there are any."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypedDict, TypeVar

from rsyscall.near.sysif import Placeholder, SyscallArgument
from rsyscall_protocol import Status

if TYPE_CHECKING:
    from rsyscall.batch.batch import Batch
    from rsyscall.batch.result import BatchResult
    from rsyscall.near.typed import TypedCall

__all__ = [
    "RESULT",
    "BatchError",
    "Ledger",
    "OnError",
    "Parameter",
    "Step",
    "StepOptions",
    "StepOutput",
    "Success",
    "Undo",
]

T_co = TypeVar("T_co", covariant=True)

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


class Ledger:
    """Which batch a step belongs to, and the results of its last run.

    Steps have this and not their batch, which has them: without a circle a batch that is no longer
    needed is gone at once, and its memory still warm when the next one is made.
    """

    __slots__ = ("key", "result")

    def __init__(self) -> None:
        """Nothing has run yet."""
        #: The same object for the results of the same batch, and for nothing else.
        self.key: object = object()
        self.result: BatchResult | None = None

    def get(self) -> BatchResult:
        """The results; BatchError if there are none."""
        if self.result is None:
            raise BatchError("the batch has not run")
        return self.result


class Step(Placeholder, Generic[T_co]):
    """One call of a batch: its result, for later steps and once the batch has run.

    index: its place, from 0. number, args: the call. ledger: which batch that is.
    """

    __slots__ = ("args", "call", "index", "ledger", "number", "ok", "on_error", "undo")

    def __init__(
        self,
        ledger: Ledger,
        index: int,
        number: int,
        args: tuple[SyscallArgument, ...],
        ok: Success,
        on_error: OnError,
        undo: Undo | None,
        call: TypedCall[T_co] | None,
    ) -> None:
        """Only a batch makes them."""
        self.ledger: Ledger = ledger
        self.index: int = index
        self.number: int = number
        self.args: tuple[SyscallArgument, ...] = args
        self.ok: Success = ok
        self.on_error: OnError = on_error
        self.undo: Undo | None = undo
        self.call: TypedCall[T_co] | None = call

    def int_at(self, offset: int) -> StepOutput:
        """The int of four bytes at an offset in bytes of the step's first output, for later steps.

        The output must be an Out or InOut.
        """
        return StepOutput(self, offset)

    @property
    def value(self) -> T_co:
        """What the call returned, as its method would have; the OSError it failed with, raised.

        BatchError if it was not done, or was undone, or the batch has not run.
        """
        return self.ledger.get()[self]

    @property
    def result(self) -> int:
        """The number that the call returned, -errno if it failed; BatchError as for value."""
        return self.ledger.get().number(self)

    @property
    def outs(self) -> tuple[bytes, ...]:
        """The outputs of the call, in the order of its arguments; BatchError as for value."""
        return self.ledger.get().outs(self)

    @property
    def status(self) -> Status:
        """What became of it; BatchError if the batch has not run."""
        return self.ledger.get().status(self)

    def __repr__(self) -> str:
        """For people."""
        return f"<result of step {self.index}>"

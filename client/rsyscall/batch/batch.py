"""Collecting the steps, and running them."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import trio

from rsyscall.batch._encode import encode
from rsyscall.batch._typed import TypedSteps
from rsyscall.batch.result import BatchResult
from rsyscall.batch.step import Ledger, OnError, Parameter, Step, Success, Undo
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.near.sysif import SyscallArgument, SyscallSendError
from rsyscall.near.typed import TypedCall
from rsyscall.sys.mman import MemoryMapping
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import BatchFlag

if TYPE_CHECKING:
    from rsyscall.handle import Task

__all__ = ["Batch", "BoundBatch"]

T = TypeVar("T")
_NONE, _BRIEF = BatchFlag.NONE, BatchFlag.BRIEF


class Batch(TypedSteps):
    """Calls that are made one after the other, by the process itself, in one round trip.

    steps: what was collected so far. brief: whether only the last result comes back, and what
    became of the others only if one failed. See this package's documentation.
    """

    def __init__(self, *, brief: bool = False) -> None:
        """No process is needed before it is prepared."""
        self.brief = brief
        self.steps: list[Step[Any]] = []
        #: Steps whose values are handles; by the index of one, the step that closes or unmaps it.
        self.makers: list[Step[Any]] = []
        self.closers: dict[int, Step[Any]] = {}
        #: Likewise, for one of the two that a step makes: by its index and the output's offset.
        self.end_closers: dict[tuple[int, int], Step[Any]] = {}
        #: Handles that are used, and those that are closed or unmapped, with the step that does so.
        self.used: list[BaseFileDescriptor | MemoryMapping] = []
        self.ended: list[tuple[Step[Any], BaseFileDescriptor | MemoryMapping]] = []
        #: Parameters that are closed, likewise, and what no further step may use.
        self.ended_parameters: list[tuple[Step[Any], Parameter]] = []
        self.gone: set[object] = set()
        self.parameters: list[Parameter] = []
        self._lengths: dict[int, Parameter] = {}
        self.ledger: Ledger = Ledger()

    @property
    def result(self) -> BatchResult:
        """The results of the last run; BatchError if there is none."""
        return self.ledger.get()

    def parameter(self, name: str) -> Parameter:
        """A number, name or data to be given at each run of the prepared batch, by this name.

        ValueError if there is one of that name, or run() has its own use for the name.
        """
        if name == "array":
            raise ValueError("name: array says what run() returns")
        if any(parameter.name == name for parameter in self.parameters):
            raise ValueError(f"name: there is a parameter {name} already")
        parameter = Parameter(self, len(self.parameters), name)
        self.parameters.append(parameter)
        return parameter

    def length_of(self, parameter: Parameter) -> Parameter:
        """See Parameter.length."""
        if parameter.index not in self._lengths:
            self._lengths[parameter.index] = self.parameter(f"{parameter.name}.length")
        return self._lengths[parameter.index]

    @property
    def lengths(self) -> dict[int, Parameter]:
        """The parameters that are lengths, by the index of what they are the length of."""
        return self._lengths

    def syscall(
        self,
        number: SYS | int,
        *args: SyscallArgument,
        ok: Success = None,
        on_error: OnError = "stop",
        undo: Undo | None = None,
    ) -> Step[int]:
        """Any system call: its number and up to six arguments, see SyscallInterface.call.

        ok, on_error, undo: see StepOptions. Nothing is checked before the batch is sent.
        """
        steps = self.steps
        step: Step[int] = Step(self.ledger, len(steps), number, args, ok, on_error, undo, None)
        steps.append(step)
        return step

    def add(
        self,
        call: TypedCall[T],
        *,
        ok: Success = None,
        on_error: OnError = "stop",
        undo: Undo | None = None,
    ) -> Step[T]:
        """A typed call as a step."""
        steps = self.steps
        step = Step(self.ledger, len(steps), call.number, call.args, ok, on_error, undo, call)
        steps.append(step)
        if call.handle:
            self.makers.append(step)
        return step

    def check(self, task: Task) -> None:
        """Whether every handle that is used may be used by the task."""
        for handle in self.used:
            if isinstance(handle, BaseFileDescriptor):
                with handle.borrow(task):
                    pass
            else:
                handle.for_task(task).check_valid()
        for _, handle in self.ended:
            if isinstance(handle, BaseFileDescriptor):
                handle.check_only()

    def end_handles(self) -> None:
        """Before it is sent: what is closed or unmapped may be somebody else's at any moment."""
        for _, handle in self.ended:
            if isinstance(handle, BaseFileDescriptor):
                handle.forget()
            else:
                handle.mark_unmapped()

    def revive_handles(self, result: BatchResult | None) -> None:
        """What was not closed or unmapped after all."""
        for step, handle in self.ended:
            if result is not None and result.ended(step):
                if isinstance(handle, MemoryMapping):
                    handle.forget_unmapped()
                continue
            if isinstance(handle, MemoryMapping):
                handle.mark_unmapped(False)
            else:
                handle.revive()

    def finish(self, result: BatchResult) -> None:
        """Take the results."""
        self.ledger.result = result
        if self.makers:
            result.settle(self.makers)
        if self.ended:
            self.revive_handles(result)


class BoundBatch(Batch):
    """A batch of one process, which runs at the end of its block."""

    def __init__(self, task: Task, *, brief: bool = False) -> None:
        """See Process.batch."""
        super().__init__(brief=brief)
        self.task = task

    async def __aenter__(self) -> Self:
        """Begin. Not a checkpoint."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Run it, unless the block has failed; see run."""
        if exc_type is None and self.ledger.result is None:
            await self.run()

    async def run(self) -> BatchResult:
        """Send the steps, and return what became of them.

        OSError of the step that stopped the batch, with the step and the call as a note; the
        results of those before stay available. ValueError for what cannot be sent, and see the
        contract of near.sysif. A checkpoint; if cancelled, nothing was sent.
        """
        if self.parameters:
            raise ValueError(f"{self.parameters[0]!r}: parameters are for batches to be prepared")
        sysif = self.task.sysif
        if self.used:
            self.check(self.task)
        flags = _BRIEF if self.brief else _NONE
        encoded = encode(self, flags, numbers=sysif.wants_numbers)
        if self.ended:
            self.end_handles()
        try:
            reply = await sysif.batch(encoded.request, encoded.frame, encoded.program)
        except (SyscallSendError, ValueError, trio.Cancelled):
            self.revive_handles(None)
            raise
        result = BatchResult(self, self.task, reply, encoded.program.outs)
        self.finish(result)
        result.raise_failure(self.steps)
        return result

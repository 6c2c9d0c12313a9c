"""Collecting the steps, and running them."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, Self

import trio

from rsyscall._core import Frame, Outcome, setup_bound
from rsyscall.abi import ABI
from rsyscall.batch._encode import wire_steps
from rsyscall.batch._steps import Change
from rsyscall.batch._typed import TypedSteps
from rsyscall.batch.result import BatchResult
from rsyscall.batch.step import BatchError, Parameter
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.near.sysif import SyscallSendError
from rsyscall.near.typed import make_room
from rsyscall.sys.mman import MemoryMapping
from rsyscall_protocol import Batch as Request
from rsyscall_protocol import Batched, BatchFlag
from rsyscall_protocol._pending import Program

if TYPE_CHECKING:
    from rsyscall.handle import Task

__all__ = ["Batch", "BoundBatch"]

_NONE = Request(0, ())


class Batch(TypedSteps):
    """Calls that are made one after the other, by the process itself, in one round trip.

    steps: what was collected so far. brief: whether only the last result comes back, and what
    became of the others only if one failed. See this package's documentation.
    """

    __slots__ = ("__weakref__",)

    def __init__(self, *, brief: bool = False) -> None:
        """No process is needed before it is prepared."""
        self.brief = brief

    @property
    def result(self) -> BatchResult:
        """The results of the last run; BatchError if there is none."""
        if self.last is None:
            raise BatchError("the batch has not run")
        return self.last

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
        if parameter.index not in self.lengths:
            self.lengths[parameter.index] = self.parameter(f"{parameter.name}.length")
        return self.lengths[parameter.index]

    def check(self, task: Task) -> None:
        """Whether every handle that is used may be used by the task."""
        for handle in self.used:
            if isinstance(handle, BaseFileDescriptor):
                with handle.borrow(task):
                    pass
            elif isinstance(handle, MemoryMapping):
                handle.for_task(task).check_valid()
            else:
                handle()
        for _, handle in self.ended:
            if isinstance(handle, BaseFileDescriptor):
                handle.check_only()

    def changing(self) -> contextlib.ExitStack:
        """From here on what it changes gets no views, until what is returned is closed."""
        stack = contextlib.ExitStack()
        for used in self.used:
            if isinstance(used, Change):
                stack.enter_context(used.mapping.changing())
        return stack

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


class BoundBatch(Batch):
    """A batch of one process, which runs at the end of its block."""

    __slots__ = ()

    def __init__(self, task: Task, *, brief: bool = False) -> None:
        """See Process.batch."""
        self.task = task
        self.brief = brief

    @property
    def abi(self) -> ABI:
        """That of the process."""
        return self.task.abi

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
        if exc_type is None and self.last is None:
            await self.run()

    async def run(self) -> BatchResult:
        """Send the steps, and return what became of them.

        OSError of the step that stopped the batch, with the step and the call as a note; the
        results of those before stay available. ValueError for what cannot be sent, and see the
        contract of near.sysif. A checkpoint; if cancelled, nothing was sent.
        """
        task, plain = self.task, self.plain
        if task.fd_table.lost or task.fd_table.garbage:
            await make_room(task)
        if not plain:
            if self.parameters:
                what = f"{self.parameters[0]!r}: parameters are for batches to be prepared"
                raise ValueError(what)
            self.check(task)
        frame = self.encode()
        if isinstance(frame, Frame):
            request, outs = _NONE, frame.outs
        else:
            request = Request(
                0, wire_steps(self), BatchFlag.BRIEF if self.brief else BatchFlag.NONE
            )
            outs = Program(request).outs
        changes = None
        if not plain:
            self.end_handles()
            changes = self.changing()
        reply: Outcome | Batched
        try:
            if isinstance(frame, Frame):
                reply = await task.sysif.batch_frame(frame, self)
            else:
                reply = await task.sysif.batch(request)
        except (SyscallSendError, ValueError, trio.Cancelled):
            self.revive_handles(None)
            raise
        finally:
            if changes is not None:
                changes.close()
        result = self.finish(task, reply, outs)
        if result.stopped < len(outs):
            result.raise_failure(self.steps)
        return result


setup_bound(BoundBatch)

"""Batches that are sent once and run again and again."""

from __future__ import annotations

import os
from array import array as to_array
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, overload

import trio

from rsyscall.batch._encode import run_frame, wire_steps
from rsyscall.batch.batch import Batch
from rsyscall.batch.result import BatchResult
from rsyscall.batch.step import BatchError, Step
from rsyscall.handle.fd import BaseFileDescriptor, SharedHandleError
from rsyscall.near.sysif import (
    In,
    SyscallHangup,
    SyscallInterface,
    SyscallSendError,
    convert_argument,
)
from rsyscall.struct import path_to_bytes
from rsyscall_protocol import Argument, BatchFlag, Prepare
from rsyscall_protocol._pending import Program

if TYPE_CHECKING:
    from rsyscall.handle import Task

__all__ = ["PreparedBatch", "RunArgument"]

#: What a parameter may be given: a number, a handle, a name (which gets a NUL), or data.
RunArgument: TypeAlias = "int | str | os.PathLike[str] | bytes | BaseFileDescriptor"


class PreparedBatch:
    """A batch that a process keeps; see Process.prepare.

    batch: the steps. result: of the last run, also of one that failed; BatchError before the first.
    Leaving its block as a context manager has the process forget it.
    """

    def __init__(
        self, batch: Batch, task: Task, sysif: SyscallInterface, number: int, program: Program
    ) -> None:
        """Only Process.prepare makes them."""
        self.batch = batch
        self.task = task
        self._sysif = sysif
        self._number: int | None = number
        self._program = program
        self._frame = run_frame(number, ())
        self._runs = 0
        self._idle = trio.lowlevel.ParkingLot()
        # Of the batch as it was sent: it may grow.
        self._lengths = dict(batch.lengths)
        self._ended = list(batch.ended_parameters)
        known = batch.parameters[: program.parameters]
        given = [p for p in known if p not in self._lengths.values()]
        self._indexes = {parameter.name: parameter.index for parameter in given}
        self._names = self._indexes.keys()
        self.result: BatchResult | None = None

    @classmethod
    async def make(cls, batch: Batch, task: Task) -> PreparedBatch:
        """See Process.prepare."""
        if batch.ended:
            raise ValueError("batch: what a handle stands for cannot be closed again and again")
        batch.check(task)
        flags = BatchFlag.BRIEF if batch.brief else BatchFlag.NONE
        steps = wire_steps(batch)
        program = Program(Prepare(0, steps, len(batch.parameters), flags))
        number = await task.sysif.prepare(steps, len(batch.parameters), flags)
        return cls(batch, task, task.sysif, number, program)

    def _arguments(self, arguments: dict[str, RunArgument]) -> tuple[Argument, ...]:
        if arguments.keys() != self._names:
            missing = ", ".join(sorted(self._names - arguments.keys()))
            what = f"missing {missing}" if missing else f"no {', '.join(arguments)}"
            raise TypeError(f"arguments: {what}; the parameters are {', '.join(self._names)}")
        values: list[Argument] = [0] * self._program.parameters
        for name, value in arguments.items():
            index = self._indexes[name]
            argument = values[index] = self._argument(name, value)
            if index in self._lengths:
                if not isinstance(argument, In):
                    raise TypeError(f"{name}: its length is needed, and it has none")
                values[self._lengths[index].index] = len(argument.data)
        return tuple(values)

    def _argument(self, name: str, value: RunArgument) -> Argument:
        if type(value) is int:
            return convert_argument(name, value)
        if isinstance(value, bytes):
            return In(value)
        if isinstance(value, BaseFileDescriptor):
            with value.borrow(self.task) as number:
                return int(number)
        if isinstance(value, int):
            return convert_argument(name, value)
        try:
            path = os.fspath(value)
        except TypeError:
            raise TypeError(f"{name}: {value!r} is no number, handle, name or data") from None
        return In(path_to_bytes(path, name))

    def _handles_ended(
        self, arguments: dict[str, RunArgument]
    ) -> list[tuple[Step[Any], BaseFileDescriptor]]:
        """The handles that are closed, with the steps that do so."""
        ended: list[tuple[Step[Any], BaseFileDescriptor]] = []
        for step, parameter in self._ended:
            handle = arguments[parameter.name]
            if not isinstance(handle, BaseFileDescriptor):
                continue
            handle.check_only()
            if sum(value is handle for value in arguments.values()) > 1:
                raise SharedHandleError(f"{handle} is to be closed and given for something else")
            ended.append((step, handle))
        return ended

    @overload
    async def run(self, /, *, array: Literal[True], **arguments: RunArgument) -> to_array[int]: ...
    @overload
    async def run(
        self, /, *, array: Literal[False] = False, **arguments: RunArgument
    ) -> BatchResult: ...

    async def run(
        self, /, *, array: bool = False, **arguments: RunArgument
    ) -> BatchResult | to_array[int]:
        """Run the steps with these arguments, one for each parameter.

        Returns what became of them; with `array` only what the calls returned, as 64-bit numbers,
        -errno for errors that did not stop it. OSError of the step that stopped it, with the step
        and the call as a note; `result` has the others. TypeError for arguments that do not match
        the parameters, ValueError for those that cannot be sent, BatchError once it was forgotten,
        SharedHandleError for a handle that is closed and has siblings, and see the contract of
        near.sysif. A checkpoint; if cancelled, nothing was sent.
        """
        batch = self.batch
        if self._number is None:
            raise BatchError("the process has forgotten the prepared batch")
        if batch.used:
            batch.check(self.task)
        values = self._arguments(arguments) if self._program.parameters or arguments else ()
        frame = run_frame(self._number, values) if values else self._frame
        ended = self._handles_ended(arguments) if self._ended else ()
        for _, handle in ended:
            handle.forget()
        self._runs += 1
        try:
            reply = await self._sysif.run(self._number, values, frame, self._program)
        except (SyscallSendError, ValueError, trio.Cancelled):
            for _, handle in ended:
                handle.revive()
            raise
        finally:
            self._runs -= 1
            if not self._runs:
                self._idle.unpark_all()
        result = self.result = BatchResult(batch, self.task, reply, self._program.outs)
        for step, handle in ended:
            if not result.ended(step):
                handle.revive()
        batch.finish(result)
        result.raise_failure(batch.steps)
        return result.values if array else result

    async def unprepare(self) -> None:
        """Have the process forget it, once its runs are over; nothing if that was done before.

        A checkpoint; if cancelled, the process still knows it.
        """
        number = self._number
        if number is None:
            await trio.lowlevel.checkpoint()
            return
        # From here on no run begins: a server that is asked for what it has forgotten hangs up.
        self._number = None
        try:
            while self._runs:
                await self._idle.park()
            await self._sysif.unprepare(number)
        except (SyscallSendError, trio.Cancelled):
            self._number = number
            raise

    async def __aenter__(self) -> Self:
        """Itself. Not a checkpoint."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Have the process forget it, even when cancelled; nothing if the process has ended."""
        with trio.CancelScope(shield=True):
            try:
                await self.unprepare()
            except SyscallHangup:
                self._number = None

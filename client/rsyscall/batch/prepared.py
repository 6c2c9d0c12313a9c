"""Batches that are sent once and run again and again."""

from __future__ import annotations

import os
from array import array as to_array
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, overload

import trio

from rsyscall._core import Frame, encode_run
from rsyscall.batch._encode import wire_steps
from rsyscall.batch.batch import Batch
from rsyscall.batch.result import BatchResult
from rsyscall.batch.step import BatchError, Step
from rsyscall.handle.fd import BaseFileDescriptor, SharedHandleError
from rsyscall.near.sysif import (
    SyscallHangup,
    SyscallInterface,
    SyscallSendError,
    convert_argument,
)
from rsyscall.near.typed import make_room
from rsyscall.struct import path_to_bytes
from rsyscall_protocol import BatchFlag, Prepare
from rsyscall_protocol._pending import Program

if TYPE_CHECKING:
    from rsyscall.handle import Task

__all__ = ["PreparedBatch", "RunArgument"]


def _number(name: str, value: int) -> int:
    number = convert_argument(name, value)
    if not isinstance(number, int):
        raise TypeError(f"{name}: {value!r} is no number")
    return number


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
        self._no_values: list[int | bytes] = []
        self._frame = self._encode(number, [])
        self._runs = 0
        self._idle = trio.lowlevel.ParkingLot()
        # Of the batch as it was sent: it may grow.
        self._lengths = dict(batch.lengths)
        self._ended = list(batch.ended_parameters)
        known = batch.parameters[: program.parameters]
        given = [p for p in known if p not in self._lengths.values()]
        self._indexes = {parameter.name: parameter.index for parameter in given}
        self.result: BatchResult | None = None

    @classmethod
    async def make(cls, batch: Batch, task: Task) -> PreparedBatch:
        """See Process.prepare."""
        if batch.ended:
            raise ValueError("batch: what a handle stands for cannot be closed again and again")
        if batch.abi != task.abi:
            machines = f"{batch.abi.machine}, and the process one of {task.abi.machine}"
            raise ValueError(f"batch: it is made for a machine of {machines}")
        batch.check(task)
        flags = BatchFlag.BRIEF if batch.brief else BatchFlag.NONE
        steps = wire_steps(batch)
        program = Program(Prepare(0, steps, len(batch.parameters), flags))
        number = await task.sysif.prepare(steps, len(batch.parameters), flags)
        return cls(batch, task, task.sysif, number, program)

    def _encode(self, number: int, values: list[int | bytes]) -> Frame:
        program = self._program
        frame = encode_run(number, values, program.outs, program.reserved, program.brief)
        if not isinstance(frame, Frame):
            raise ValueError("arguments: they cannot be sent")
        return frame

    def _arguments(self, arguments: dict[str, RunArgument]) -> list[int | bytes]:
        indexes = self._indexes
        if arguments.keys() != indexes.keys():
            missing = ", ".join(sorted(indexes.keys() - arguments.keys()))
            what = f"missing {missing}" if missing else f"no {', '.join(arguments)}"
            raise TypeError(f"arguments: {what}; the parameters are {', '.join(indexes)}")
        values: list[int | bytes] = [0] * self._program.parameters
        for name, value in arguments.items():
            index = indexes[name]
            argument = values[index] = self._argument(name, value)
            if self._lengths and index in self._lengths:
                if not isinstance(argument, bytes):
                    raise TypeError(f"{name}: its length is needed, and it has none")
                values[self._lengths[index].index] = len(argument)
        return values

    def _argument(self, name: str, value: RunArgument) -> int | bytes:
        if isinstance(value, str):
            return path_to_bytes(value, name)
        if isinstance(value, int):
            return _number(name, value)
        if isinstance(value, bytes):
            return bytes(value)
        if isinstance(value, BaseFileDescriptor):
            with value.borrow(self.task) as number:
                return int(number)
        try:
            path = os.fspath(value)
        except TypeError:
            raise TypeError(f"{name}: {value!r} is no number, handle, name or data") from None
        return path_to_bytes(path, name)

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
        batch, table = self.batch, self.task.fd_table
        if self._number is None:
            raise BatchError("the process has forgotten the prepared batch")
        if table.lost or table.garbage:
            await make_room(self.task)
        if batch.used:
            batch.check(self.task)
        values, frame = self._no_values, self._frame
        if self._program.parameters or arguments:
            values = self._arguments(arguments)
            frame = self._encode(self._number, values)
        ended = self._handles_ended(arguments) if self._ended else ()
        for _, handle in ended:
            handle.forget()
        self._runs += 1
        changes = batch.changing() if batch.used else None
        try:
            reply = await self._sysif.run(self._number, values, frame)
        except (SyscallSendError, ValueError, trio.Cancelled):
            for _, handle in ended:
                handle.revive()
            raise
        finally:
            self._runs -= 1
            if changes is not None:
                changes.close()
            if not self._runs and self._idle:  # an unprepare waits
                self._idle.unpark_all()
        before = batch.last
        try:
            result = self.result = batch.finish(self.task, reply, self._program.outs)
        finally:
            last = batch.last
            for step, handle in ended:
                if last is None or last is before or not last.ended(step):
                    handle.revive()
        if result.stopped < len(self._program.outs):
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

"""Batches that are sent once and run again and again."""

from __future__ import annotations

import os
from array import array as to_array
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, overload

import trio

from rsyscall.batch._encode import run_frame, wire_steps
from rsyscall.batch.batch import Batch
from rsyscall.batch.result import BatchResult
from rsyscall.batch.step import BatchError
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.near.sysif import In, SyscallHangup, SyscallInterface, convert_argument
from rsyscall.struct import path_to_bytes
from rsyscall_protocol import Argument, BatchFlag, Prepare, Step
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
        self._lengths = batch.lengths
        given = [p for p in batch.parameters if p not in self._lengths.values()]
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
        steps: tuple[Step, ...] = wire_steps(batch)
        program = Program(Prepare(0, steps, len(batch.parameters), flags))
        number = await task.sysif.prepare(steps, len(batch.parameters), flags)
        return cls(batch, task, task.sysif, number, program)

    def _arguments(self, arguments: dict[str, RunArgument]) -> tuple[Argument, ...]:
        if arguments.keys() != self._names:
            missing = ", ".join(sorted(self._names - arguments.keys()))
            what = f"missing {missing}" if missing else f"no {', '.join(arguments)}"
            raise TypeError(f"arguments: {what}; the parameters are {', '.join(self._names)}")
        values: list[Argument] = [0] * len(self.batch.parameters)
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
        return In(path_to_bytes(value, name))

    @overload
    async def run(self, *, array: Literal[True], **arguments: RunArgument) -> to_array[int]: ...
    @overload
    async def run(
        self, *, array: Literal[False] = False, **arguments: RunArgument
    ) -> BatchResult: ...

    async def run(
        self, *, array: bool = False, **arguments: RunArgument
    ) -> BatchResult | to_array[int]:
        """Run the steps with these arguments, one for each parameter.

        Returns what became of them; with `array` only what the calls returned, as 64-bit numbers,
        -errno for errors that did not stop it. OSError of the step that stopped it, with the step
        and the call as a note; `result` has the others. TypeError for arguments that do not match
        the parameters, ValueError for those that cannot be sent, BatchError once it was forgotten,
        and see the contract of near.sysif. A checkpoint; if cancelled, nothing was sent.
        """
        batch = self.batch
        if self._number is None:
            raise BatchError("the process has forgotten the prepared batch")
        if batch.used:
            batch.check(self.task)
        values = self._arguments(arguments) if batch.parameters or arguments else ()
        frame = run_frame(self._number, values) if values else self._frame
        reply = await self._sysif.run(self._number, values, frame, self._program)
        if array and reply.stopped == len(batch.steps) and not batch.makers:
            return to_array("q", reply.values)
        result = self.result = BatchResult(batch, self.task, reply, self._program.outs)
        batch.finish(result)
        result.raise_failure()
        return result.values if array else result

    async def unprepare(self) -> None:
        """Have the process forget it; nothing if that was done before.

        A checkpoint; if cancelled, the process still knows it.
        """
        if self._number is not None:
            await self._sysif.unprepare(self._number)
            self._number = None

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

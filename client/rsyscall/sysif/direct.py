"""Calls on the interpreter itself."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn, TypeVar

import outcome
import trio

from rsyscall._checkpoint import checkpoint
from rsyscall._core import Frame, StepList, wait_child
from rsyscall._errors import noted
from rsyscall._raw import ffi, lib
from rsyscall.near.sysif import (
    Probe,
    Reply,
    SyscallArgument,
    SyscallSendError,
    check_reply,
    convert_arguments,
    describe_call,
)
from rsyscall.sys.syscall import SYS
from rsyscall.sysif._interrupt import MadeCall, without_effect
from rsyscall.sysif.memory import MemoryRoads
from rsyscall_protocol import (
    Argument,
    Batch,
    Batched,
    BatchFlag,
    Call,
    Event,
    In,
    Limits,
    Param,
    Prepare,
    Read,
    RemoteProtocolError,
    Request,
    Result,
    Size,
    Step,
    Write,
    flatten,
)
from rsyscall_protocol._codec import check_request, decode, encode, reservation
from rsyscall_protocol._syscalls import BLOCKS, CALLS, CREDENTIALS, REFUSED, RETURNS_FD

if TYPE_CHECKING:
    from rsyscall._raw import CData

__all__ = ["DirectSyscallInterface"]

T_reply = TypeVar("T_reply", Result, Batched)
_CLONE_PIDFD = 0x1000
_LIMITS = Limits()
_CHUNK = _LIMITS.frame - Size.REPLY_BASE - Size.REPLY_OUT
_FLAGS = {int(SYS[name]): CALLS[name][1] for name in SYS.__members__}


def _check(request: Request) -> None:
    """Refuse what no server would accept, in the same way as before it is sent to one."""
    try:
        check_request(request, _LIMITS)
    except RemoteProtocolError as exc:
        raise ValueError(f"the call cannot be made: {exc.text}") from None


def _returns_fd(number: int, args: Sequence[int]) -> bool:
    if number == SYS.fcntl:
        return len(args) > 1 and args[1] in (fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC)
    return bool(_FLAGS.get(number, 0) & RETURNS_FD)


def _execute(request: Call | Read | Write, job: CData | None = None) -> Result:
    """Have the compiled core make the call, by the same code as a server's."""
    result = _run_body(bytearray(encode(request)), reservation(request), job)
    if not isinstance(result, Result):
        raise AssertionError("the core wrote something else than a RESULT")
    return result


def _execute_batch(body: bytearray, reserved: int, job: CData | None) -> Batched:
    result = _run_body(body, reserved, job)
    if not isinstance(result, Batched):
        raise AssertionError("the core wrote something else than a BATCHED")
    return result


def _run_body(body: bytearray, room: int, job: CData | None) -> Event:
    if max(len(body), room) > _LIMITS.frame:
        raise ValueError(f"arguments or results of more than {_LIMITS.frame} bytes in one call")
    reply = bytearray(room)
    data, to = ffi.from_buffer("uint8_t[]", body), ffi.from_buffer("uint8_t[]", reply)
    if job is None:
        n = lib.rs_direct_request(data, len(body), to, room)
    else:
        n = lib.rs_job_request(job, data, len(body), to, room)
    if n < 0:
        raise ValueError(f"the arguments were refused with code {-n}")
    return decode(bytes(reply[Size.HEADER : n]), _LIMITS)


async def _in_thread(execute: Callable[[CData], T_reply], call: MadeCall | None) -> T_reply:
    """Have a thread make a call or a batch that may block, and interrupt it if we are cancelled.

    call: what it is, if it is no batch. A checkpoint; if cancelled, nothing has happened.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    job = ffi.new("struct rs_job *")
    task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
    cancelled: Callable[[], NoReturn] | None = None

    def deliver(result: outcome.Outcome[T_reply]) -> None:
        token.run_sync_soon(trio.lowlevel.reschedule, task, result)

    def abort(raise_cancel: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
        nonlocal cancelled
        cancelled = raise_cancel
        lib.rs_job_interrupt(job)
        return trio.lowlevel.Abort.FAILED  # it has not returned yet

    # Not trio.to_thread.run_sync: that cannot be told to interrupt anything.
    trio.lowlevel.start_thread_soon(lambda: execute(job), deliver, "a call that blocks")
    reply: T_reply = await trio.lowlevel.wait_task_rescheduled(abort)
    if cancelled is not None and without_effect(reply, call):
        cancelled()
    return reply


def _numbers(steps: tuple[Step, ...]) -> Collection[int]:
    undos = {step.undo[0] for step in steps if step.undo is not None}
    return undos | {step.nr for step in steps}


def _filled(step: Step, args: tuple[Argument, ...]) -> Step:
    """The step with the arguments of a run in the place of its parameters."""

    def fill(given: tuple[Argument, ...]) -> tuple[Argument, ...]:
        return tuple([args[arg.index] if isinstance(arg, Param) else arg for arg in given])

    undo = None if step.undo is None else (step.undo[0], fill(step.undo[1]))
    return replace(step, args=fill(step.args), undo=undo)


class DirectSyscallInterface(MemoryRoads):
    """The door of the interpreter's own process.

    A call that may block is made in a worker thread, so that trio and others go on, however many
    there are. If it is cancelled it is interrupted, by a real-time signal that nobody else has a
    handler for: the last such when the first call of this kind is made.

    Calls that change ids or capabilities are refused (SyscallSendError) while the interpreter has
    more than one thread: they concern one thread only, and the others would keep what they had.
    What happens with signals is Python's, and sigaction is refused.
    """

    immediate = True

    def __init__(self) -> None:
        """Nothing is opened."""
        self._programs: dict[int, tuple[tuple[Step, ...], BatchFlag]] = {}
        self._numbers = itertools.count()
        self._unanswered = set[trio.Event]()

    async def _run(
        self,
        numbers: Collection[int],
        execute: Callable[[CData | None], T_reply],
        call: MadeCall | None,
    ) -> T_reply:
        for number in numbers:
            self._check(number)
        if any(_FLAGS.get(number, BLOCKS) & BLOCKS for number in numbers):
            answered = trio.Event()
            self._unanswered.add(answered)
            try:
                # However many there are: calls that wait for each other must not wait for a thread.
                return await _in_thread(execute, call)
            finally:
                self._unanswered.remove(answered)
                answered.set()
        await checkpoint()
        return execute(None)

    def _check(self, number: int) -> None:
        flags = _FLAGS.get(number, BLOCKS)
        if flags & REFUSED or number in (SYS.clone, SYS.clone3):
            raise SyscallSendError(
                f"{describe_call(number, ())}: cannot be made as a plain call; nothing was done"
            )
        if number == SYS.rt_sigaction:
            raise SyscallSendError(
                f"{describe_call(number, ())}: Python would not know what has become of its"
                " handlers; use signal.signal() for the interpreter; nothing was done"
            )
        if flags & CREDENTIALS and len(os.listdir("/proc/self/task")) > 1:
            raise SyscallSendError(
                f"{describe_call(number, ())}: concerns one thread only, and the interpreter has"
                " several; nothing was done"
            )

    async def batch(self, request: Batch) -> Batched:
        """See SyscallInterface."""
        body, numbers = bytearray(encode(replace(request, id=1))), _numbers(request.steps)
        room = reservation(request)
        return await self._run(numbers, lambda job: _execute_batch(body, room, job), None)

    async def batch_frame(self, frame: Frame, batch: StepList) -> Batched:
        """See SyscallInterface."""
        body, numbers = frame.data(1)[Size.HEADER :], {int(step.number) for step in batch.steps}
        room = frame.reserved
        return await self._run(numbers, lambda job: _execute_batch(body, room, job), None)

    async def prepare(self, steps: tuple[Step, ...], parameters: int, flags: BatchFlag) -> int:
        """See SyscallInterface: here only the steps are kept."""
        _check(Prepare(1, steps, parameters, flags))
        await checkpoint()
        if len(self._programs) >= _LIMITS.programs:  # as any server
            no_room = os.strerror(errno.ENOMEM)
            raise noted(OSError(errno.ENOMEM, no_room), "while preparing a batch")
        number = next(self._numbers)
        self._programs[number] = steps, flags
        return number

    async def run(self, number: int, args: list[int | bytes], frame: Frame) -> Batched:
        """See SyscallInterface."""
        kept, flags = self._programs[number]
        given = tuple([In(arg) if isinstance(arg, bytes) else arg for arg in args])
        return await self.batch(Batch(1, tuple([_filled(step, given) for step in kept]), flags))

    async def unprepare(self, number: int) -> None:
        """See SyscallInterface."""
        await checkpoint()
        del self._programs[number]

    async def call(
        self,
        number: SYS | int,
        args: Sequence[SyscallArgument] = (),
        *,
        fds: Sequence[int] = (),
        return_fd: bool = False,
    ) -> Reply:
        """See SyscallInterface; a file descriptor that is asked for is already here."""
        if fds:
            raise ValueError("fds: there is no other process to send them to")
        if len(args) > 6:
            raise ValueError(f"args: a system call takes at most six arguments, not {len(args)}")
        values = convert_arguments(args)
        numbers = [value for value in values if isinstance(value, int)]
        nr = int(number)
        _check(Call(1, nr, flatten(values)))
        if len(numbers) == len(values):
            a = [n & (2**64 - 1) for n in numbers] + [0] * (6 - len(numbers))

            def make(job: CData | None) -> Result:
                if job is None:
                    return Result(1, lib.rs_direct(nr, a[0], a[1], a[2], a[3], a[4], a[5]))
                return Result(1, lib.rs_job_call(job, nr, a[0], a[1], a[2], a[3], a[4], a[5]))

            result = await self._run((nr,), make, (nr, args))
        else:
            request = Call(1, nr, flatten(values))
            result = await self._run((nr,), lambda job: _execute(request, job), (nr, args))
        check_reply(nr, args, result.value)
        made = return_fd and _returns_fd(nr, numbers)
        return Reply(result.value, result.outs, result.value if made else None)

    async def call_at_once(
        self,
        number: SYS | int,
        args: Sequence[SyscallArgument] = (),
        probe: Probe | None = None,
    ) -> Reply:
        """See SyscallInterface: here without a worker thread."""
        values = convert_arguments(args)
        nr = int(number)
        self._check(nr)
        request = Call(1, nr, flatten(values))
        _check(request)
        await checkpoint()
        result = _execute(request)
        check_reply(nr, args, result.value)
        return Reply(result.value, result.outs)

    async def read_by_frames(self, address: int, length: int) -> bytes | None:
        """See MemoryRoads. Without process_vm there is no way that is safe but to try the same."""
        parts: list[bytes] = []
        for at in range(address, address + length, _CHUNK):
            n = min(_CHUNK, address + length - at)
            result = _execute(Read(1, at, n))
            if result.value != n:
                return None
            parts += result.outs
        return b"".join(parts)

    async def write_by_frames(self, address: int, data: memoryview) -> bool:
        """See MemoryRoads."""
        chunk = _CHUNK - 64
        for at in range(0, len(data), chunk):
            part = bytes(data[at : at + chunk])
            if _execute(Write(1, address + at, part)).value != len(part):
                return False
        return True

    async def barrier(self) -> None:
        """See SyscallInterface."""
        await checkpoint()
        for answered in list(self._unanswered):
            await answered.wait()

    async def start_child(
        self, flags: int, stack: int, *, parent: int = 0, first: bool = False
    ) -> tuple[int, int, int]:
        """See SyscallInterface. Not a checkpoint."""
        return self.start_child_into(flags, stack, -1)

    def start_child_into(self, flags: int, stack: int, cgroup: int) -> tuple[int, int, int]:
        """start_child, into the cgroup whose directory has that number, unless it is -1."""
        pidfd = ffi.new("int32_t *")
        pid = lib.rs_clone(flags | _CLONE_PIDFD, stack, pidfd, cgroup)
        check_reply(SYS.clone, (flags, stack), pid)
        return pid, pidfd[0], pidfd[0]

    def start_bare_child(self, flags: int, stack: int) -> tuple[int, int, int]:
        """start_child, of one that does not serve: its stack holds what it likes."""
        pidfd = ffi.new("int32_t *")
        pid = lib.rs_clone_bare(flags | _CLONE_PIDFD, stack, pidfd)
        check_reply(SYS.clone, (flags, stack), pid)
        return pid, pidfd[0], pidfd[0]

    async def wait_readable(self, fd: int) -> bool:
        """See SyscallInterface."""
        await trio.lowlevel.wait_readable(fd)
        return True

    async def wait_child(self, pidfd: int, options: int) -> tuple[bytes, bytes]:
        """See SyscallInterface. Not a checkpoint."""
        told = wait_child(pidfd, int(options))
        if isinstance(told, int):
            check_reply(SYS.waitid, (os.P_PIDFD, pidfd, 0, int(options)), told)
            raise AssertionError("an error is no result")
        return told

    async def close_interface(self) -> None:
        """Nothing to close. Not a checkpoint."""

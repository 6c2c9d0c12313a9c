"""The syscall interface: the one door through which a task's calls leave.

**The contract.** A call through it ends in one of these ways, and no other:

1. It returns: the call was made and this is its result. Errors of the kernel are `OSError`, with
   the decoded call as a note.
2. `SyscallSendError`: nothing was sent, or the far side has refused it: nothing has happened.
3. `SyscallHangup`: it was sent, and the far side died before it answered: it may have happened.
4. `trio.Cancelled`: nothing was sent, or it was interrupted before it had an effect. A call that
   has been sent is waited for: if cancelled, it is interrupted if it is blocked, and if it has had
   an effect all the same, it returns as ever (a part of the bytes, say), or raises `Interrupted`
   where EINTR does not mean that nothing has happened; then the cancellation is delivered at the
   next checkpoint.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import os
import struct
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, SupportsInt, TypeAlias

from rsyscall._checkpoint import checkpoint, shield
from rsyscall._core import Frame, Outcome, Placeholder, StepList, setup
from rsyscall._errors import noted
from rsyscall.near._describe import SyscallArgument, describe_call
from rsyscall.near._pidfd import open_child
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import (
    Batch,
    Batched,
    BatchFlag,
    FdArg,
    In,
    InOut,
    Out,
    RemoteProtocolError,
    Ret,
    Step,
    Struct,
)
from rsyscall_protocol._record import record
from rsyscall_protocol._syscalls import CALLS

if TYPE_CHECKING:
    from rsyscall.handle.pointer import Pointer
    from rsyscall.near.types import FileDescriptor

__all__ = [
    "MAX_IO",
    "Buffer",
    "FdArg",
    "ForkedError",
    "In",
    "InOut",
    "Interrupted",
    "OtherCallsBlocked",
    "Out",
    "Placeholder",
    "Probe",
    "ProtocolHangup",
    "Reply",
    "Ret",
    "Struct",
    "SyscallArgument",
    "SyscallError",
    "SyscallHangup",
    "SyscallInterface",
    "SyscallSendError",
    "SyscallSendHangup",
    "describe_call",
    "raise_if_error",
]


#: Bytes as they are written; what they were copied from is not kept.
Buffer: TypeAlias = bytes | bytearray | memoryview

setup(In, Out, Ret, InOut, FdArg)
_DATA = (In, Out, Ret, InOut, Struct, FdArg)
_MAX_ERRNO = 4095
_MOST_SHOWN = 5
_NUMBERS = frozenset(int(number) for number in SYS)

#: A call without outputs that looks at what another one has left: number and arguments.
Probe: TypeAlias = tuple[SYS, tuple[SyscallArgument, ...]]

#: Bytes that one call moves at most when its data travels inside the request.
MAX_IO = 1024 * 1024 - 4096

_CLONE_PIDFD, _F_DUPFD_CLOEXEC = 0x1000, 1030
_SIGKILL = 9
_P_PIDFD, _WEXITED, _WALL = 3, 4, 0x40000000
#: Bytes of what waitid(2) fills in.
SIGINFO_SIZE, RUSAGE_SIZE = 128, 144


class SyscallError(Exception):
    """The call could not be made; see the subclasses for whether it may have happened."""


class SyscallHangup(SyscallError):
    """The far side died before it answered; the call may or may not have happened."""


class SyscallSendError(SyscallError):
    """The call was not sent: nothing has happened."""


class OtherCallsBlocked(SyscallSendError):
    """Not made, because other calls are blocked in the process: nothing has happened.

    It concerns the state of one thread (ids, capabilities, namespaces, filters, exec, ...), and the
    threads of those others would keep what they have. It has waited for a second: none of them has
    ended, or others were blocked by then. blocked: what they are.
    """

    def __init__(self, call: str, blocked: Sequence[str]) -> None:
        """call: what was not made."""
        self.blocked: tuple[str, ...] = tuple(blocked)
        shown = [*self.blocked[:_MOST_SHOWN], *(["..."] if len(blocked) > _MOST_SHOWN else [])]
        super().__init__(
            f"{call}: concerns the state of one thread, and other calls are blocked in theirs"
            f" ({', '.join(shown)}); nothing was done"
        )


class Interrupted(InterruptedError):
    """The call was interrupted (EINTR); effect says what that means.

    effect: "" if nothing has happened; "continues" if it goes on in the background (connect: the
    socket becomes writable); "done" if it has happened all the same (close); "remaining" if only
    the time that is left was written down (nanosleep).
    """

    effect: str = ""


class SyscallSendHangup(SyscallSendError, SyscallHangup):
    """The call was not sent, because the far side has died or was closed."""


class ForkedError(SyscallSendError):
    """The connection belongs to the process that this one was forked from."""


class ProtocolHangup(SyscallHangup, RemoteProtocolError):
    """The connection ended because a rule of the protocol was broken; the code says which."""


@record
class Reply:
    """What a call returned.

    value: the result, never negative. outs: the bytes of each Out, Ret, InOut and Struct with
    outputs, in the order of the arguments (data that structs point at comes after them). fd: a file
    descriptor of this process, if one was asked for. probed: what a Probe returned, if it was made.
    """

    value: int
    outs: tuple[bytes, ...] = ()
    fd: int | None = None
    probed: int | None = None


def raise_if_error(response: int) -> None:
    """Raise the OSError that a raw result stands for, if it is -errno; see errno(3)."""
    if -_MAX_ERRNO <= response < 0:
        raise OSError(-response, os.strerror(-response))


def check_reply(number: int, args: Sequence[SyscallArgument], value: int) -> None:
    """Raise the OSError of a failed call, with the call as a note."""
    if -_MAX_ERRNO <= value < 0:
        raise noted(_error(number, -value), f"in {describe_call(number, args)}")


def _error(call: int, number: int) -> OSError:
    if number != errno.EINTR:
        return OSError(number, os.strerror(number))
    exc = Interrupted(number, os.strerror(number))
    effect = CALLS[SYS(call).name][2] if call in _NUMBERS else ""
    exc.effect = "" if effect == "partial" else effect
    return exc


_Plain: TypeAlias = int | In | Out | Ret | InOut | Struct | FdArg


def convert_argument(name: str, arg: SyscallArgument) -> _Plain:
    """A number as an int that fits a register; data as it is. ValueError naming what does not."""
    if isinstance(arg, _DATA):
        return arg
    if isinstance(arg, Placeholder):
        raise ValueError(f"{name}: {arg!r} has no value outside of a batch")
    number = int(arg)
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"{name}: {number} does not fit into 64 bits")
    return number


def convert_arguments(args: Sequence[SyscallArgument]) -> list[_Plain]:
    """All arguments of a call, see convert_argument."""
    return [convert_argument(f"arg{i}", arg) for i, arg in enumerate(args, 1)]


class SyscallInterface(abc.ABC):
    """The door of one task; see this module's documentation for the contract."""

    @abc.abstractmethod
    async def call(
        self,
        number: SYS | int,
        args: Sequence[SyscallArgument] = (),
        *,
        fds: Sequence[int] = (),
        return_fd: bool = False,
    ) -> Reply:
        """Make a system call whose arguments may be data inside the request.

        number: of the call. args: at most six, see SyscallArgument. fds: file descriptors of this
        process that travel along; FdArg(k) stands for the k-th, and they are closed on the far side
        after the call. return_fd: the result is a new file descriptor: have it sent here.

        Raises OSError if the call fails, ValueError for arguments that cannot be sent, and see the
        contract. A checkpoint; if cancelled, nothing has been sent. syscall(2).
        """

    async def syscall(
        self,
        number: SYS | int,
        arg1: SyscallArgument = 0,
        arg2: SyscallArgument = 0,
        arg3: SyscallArgument = 0,
        arg4: SyscallArgument = 0,
        arg5: SyscallArgument = 0,
        arg6: SyscallArgument = 0,
    ) -> int:
        """Make a system call and return its result, which is never negative.

        Raises OSError if it fails, and see the contract. A checkpoint; if cancelled, nothing has
        been sent. syscall(2).
        """
        return (await self.call(number, (arg1, arg2, arg3, arg4, arg5, arg6))).value

    async def call_at_once(
        self,
        number: SYS | int,
        args: Sequence[SyscallArgument] = (),
        probe: Probe | None = None,
    ) -> Reply:
        """`call`, where the caller knows that the call will not block this time.

        That of a descriptor with O_NONBLOCK, for one: nothing need be done so that others can go on
        meanwhile. probe: a call that may be made directly after it, if that costs no trip of its
        own.
        """
        return await self.call(number, args)

    async def call_giving_way(
        self, number: SYS | int, args: Sequence[SyscallArgument] = ()
    ) -> Reply | None:
        """`call` of what blocks, and is given up when something else must be made alone.

        None then, and where it would hold up others, or too many do so already: nothing has
        happened. A checkpoint; if cancelled, likewise.
        """
        del number, args
        await checkpoint()
        return None

    async def wait_readable(self, fd: int) -> bool:
        """Wait until a descriptor of the task can be read, or is none any more, holding up nothing.

        fd: its number. Of a signalfd it counts what its own threads have been sent, not we. Whether
        that is known: False, at once, if there is no way but to ask again and again. A checkpoint;
        if cancelled, nothing has happened. poll(2).
        """
        await checkpoint()
        return False

    def expect(self, callers: int) -> None:
        """So many tasks have been woken just now and will use call_at_once: a hint, no promise."""
        return

    @abc.abstractmethod
    async def read_memory(self, address: SupportsInt, length: int) -> bytes:
        """Read exactly `length` bytes at `address` of the task's memory.

        OSError (EFAULT) if not all of them can be read. A checkpoint; if cancelled, nothing has
        happened. process_vm_readv(2).
        """

    async def read_memory_into(self, address: SupportsInt, buffer: bytearray | memoryview) -> None:
        """Fill a buffer of our own from what is at `address` of the task's memory.

        ValueError if it cannot be written. OSError (EFAULT) if not all of it can be read; a leading
        part may have been. A checkpoint; if cancelled, a leading part may have been read.
        process_vm_readv(2).
        """
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise ValueError("buffer: it cannot be written")
        view[:] = await self.read_memory(address, len(view))

    @abc.abstractmethod
    async def write_memory(self, address: SupportsInt, data: Buffer) -> None:
        """Write all of `data` at `address` of the task's memory.

        OSError (EFAULT) if not all of it can be written; what lies before the first bad page may
        have been. A checkpoint; if cancelled, nothing or, of more than a mebibyte or one frame's
        worth, a leading part has been written. process_vm_writev(2).
        """

    async def read(self, src: Pointer[Any]) -> bytes:
        """Read what a pointer points at; see read_memory."""
        with src.pinned() as address:
            return await self.read_memory(address, src.size())

    async def write(self, dest: Pointer[Any], data: bytes) -> None:
        """Write to where a pointer points; ValueError if it is too small; see write_memory."""
        if len(data) > dest.size():
            raise ValueError(f"data: {len(data)} bytes for a pointer to {dest.size()}")
        with dest.pinned() as address:
            await self.write_memory(address, data)

    # An interface need not know batches.

    def _no_batches(self) -> SyscallSendError:
        return SyscallSendError(f"{type(self).__name__} makes no batches; nothing was sent")

    async def batch(self, request: Batch) -> Batched:
        """Make the calls of a batch, one after the other.

        request: the batch, whose id does not count. ValueError for what cannot be sent, and see the
        contract. A checkpoint; if cancelled, nothing has been sent.
        """
        raise self._no_batches()

    async def batch_frame(self, frame: Frame, batch: StepList) -> Outcome | Batched:
        """The same for steps that have been encoded and checked already.

        frame: what `batch` encodes to.
        """
        raise self._no_batches()

    async def prepare(self, steps: tuple[Step, ...], parameters: int, flags: BatchFlag) -> int:
        """Have a batch kept; returns its number.

        parameters: how many it has. OSError (ENOMEM) if there is no room for it, ValueError for
        what cannot be sent, and see the contract. A checkpoint; if cancelled, nothing has happened.
        """
        raise self._no_batches()

    async def run(self, number: int, args: list[int | bytes], frame: Frame) -> Outcome | Batched:
        """Make the calls of a batch that was prepared.

        args: a number or data for each parameter. frame: the same as a RUN. Otherwise as `batch`.
        """
        raise self._no_batches()

    async def unprepare(self, number: int) -> None:
        """Have a batch forgotten. A checkpoint; if cancelled, it is still there."""
        raise self._no_batches()

    # Children: what an interface of our own process can do better.

    #: Whether calls are made at once, without a checkpoint, as far as children are concerned.
    immediate = False

    #: How many children are being made: nobody knows them yet, and nobody else may wait for them.
    starting = 0

    async def start_child(
        self, flags: int, stack: int, *, parent: int = 0, first: bool = False
    ) -> tuple[int, int, int]:
        """clone(2), for a child that finds on its stack where to begin.

        flags: without CLONE_PIDFD, which is added. stack: where the child's stack pointer leads.
        parent: the caller's pid, as it sees itself; 0: unknown. first: whether it must be made by
        the first thread, since it asks for a signal when that ends. Returns the pid, and the number
        of a pidfd here and in the caller. OSError as the call reports it, or if the pidfd cannot
        come here, and then the child has been killed; OtherCallsBlocked. A checkpoint; if
        cancelled, there is no child.
        """
        clone = (int(flags) | _CLONE_PIDFD, stack, Out(4))
        if first:
            pid, outs = await self._call_alone(SYS.clone, clone)
        else:
            made = await self.call(SYS.clone, clone)
            pid, outs = made.value, made.outs
        there = int.from_bytes(outs[0], sys.byteorder)
        with shield():
            return pid, await self.bring_pidfd(there, pid, parent), there

    async def _call_alone(
        self, number: SYS, args: Sequence[SyscallArgument]
    ) -> tuple[int, tuple[bytes, ...]]:
        """Make a call as if it concerned the state of one thread."""
        batch = StepList()
        batch.syscall(SYS.gettid)  # which does
        batch.syscall(number, *args, on_error="continue")
        frame = batch.encode()
        if not isinstance(frame, Frame):
            raise AssertionError("these steps are plain")
        reply = await self.batch_frame(frame, batch)
        (value,) = struct.unpack_from("q", reply.values, 8)
        check_reply(number, args, value)
        return value, reply.outs

    async def bring_pidfd(self, there: int, pid: int, parent: int = 0) -> int:
        """A pidfd here of a child, from its number in the caller.

        pid, parent: its pid and that of the caller, as the caller sees them; 0: unknown. OSError if
        it cannot come, and then the child has been killed. A checkpoint, to be shielded.
        """
        try:
            here = open_child(pid, parent) if parent else -1
            if here >= 0:
                return here
            dup = (there, _F_DUPFD_CLOEXEC, 0)
            came = (await self.call(SYS.fcntl, dup, return_fd=True)).fd
            if came is None:
                raise OSError(errno.EOPNOTSUPP, "no file descriptor can come from there")
        except (OSError, SyscallSendError):
            with contextlib.suppress(OSError, SyscallError):
                await self.call(SYS.pidfd_send_signal, (there, _SIGKILL, 0, 0))
                await self.call(SYS.waitid, (_P_PIDFD, there, 0, _WEXITED | _WALL, 0))
                await self.call(SYS.close, (there,))
            raise
        return came

    async def wait_child(self, pidfd: int, options: int) -> tuple[bytes, bytes]:
        """What waitid(2) says of the child whose pidfd has that number in the caller.

        options: with WNOHANG. Returns a siginfo and a rusage. OSError as the call reports it. A
        checkpoint; if cancelled, nothing has happened.
        """
        args = (_P_PIDFD, pidfd, Out(SIGINFO_SIZE), int(options), Out(RUSAGE_SIZE))
        siginfo, rusage = (await self.call(SYS.waitid, args)).outs
        return siginfo, rusage

    @abc.abstractmethod
    async def barrier(self) -> None:
        """Return when every call sent before has been answered, also one that blocks.

        A checkpoint.
        """

    @abc.abstractmethod
    async def close_interface(self) -> None:
        """Close the door; calls that are under way end with SyscallHangup. Not a checkpoint."""

    @property
    def stall_reason(self) -> str | None:
        """Why one call that blocks holds up all others, as far as is known; None if none does."""
        return None

    # Its end, for who waits for something else than an answer.

    def on_end(self, function: Callable[[], None]) -> None:
        """Have something done once no call can be made any more, as soon as that is known."""
        return

    def forget_on_end(self, function: Callable[[], None]) -> None:
        """Take on_end back, if it was not done yet."""
        return

    def get_end_fds(self) -> list[tuple[int, int]]:
        """Descriptors of ours that tell of the end of the far side, with no call under way.

        Each with the events of epoll(7) that do so.
        """
        return []

    def get_activity_fd(self) -> FileDescriptor | None:
        """A descriptor of ours that is readable when the far side has something to say, if any."""
        return None


def check_range(address: int, length: int) -> None:
    """Raise ValueError unless there are `length` bytes at `address` in 64 bits."""
    if address < 0:
        raise ValueError(f"address: {address} is negative")
    if length < 0:
        raise ValueError(f"length: {length} is negative")
    if address + length > 2**64:
        raise ValueError(f"length: {length} bytes at {address:#x} do not lie below 2**64")


def unreadable(address: int, length: int) -> OSError:
    """The error of an access that came to a page it may not touch."""
    exc = OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    exc.add_note(f"in memory {address:#x}-{address + length:x}")
    return exc

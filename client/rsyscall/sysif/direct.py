"""Calls on the interpreter itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import SupportsInt

import trio

from rsyscall._checkpoint import checkpoint
from rsyscall._raw import ffi, lib
from rsyscall.near.sysif import (
    Reply,
    SyscallArgument,
    SyscallInterface,
    SyscallSendError,
    check_reply,
    convert_arguments,
    describe_call,
    unreadable,
)
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import Call, Limits, Read, Result, Size, Write, flatten
from rsyscall_protocol._codec import decode, encode, reservation
from rsyscall_protocol._syscalls import BLOCKS, CALLS, CREDENTIALS, REFUSED

__all__ = ["DirectSyscallInterface"]

_LIMITS = Limits()
_CHUNK = _LIMITS.frame - Size.REPLY_BASE - Size.REPLY_OUT
_FLAGS = {int(SYS[name]): CALLS[name][1] for name in SYS.__members__}


def _execute(request: Call | Read | Write) -> Result:
    """Have the compiled core make the call, by the same code as a server's."""
    body = bytearray(encode(request))
    room = reservation(request)
    if max(len(body), room) > _LIMITS.frame:
        raise ValueError(f"arguments or results of more than {_LIMITS.frame} bytes in one call")
    reply = bytearray(room)
    n = lib.rs_direct_request(
        ffi.from_buffer("uint8_t[]", body), len(body), ffi.from_buffer("uint8_t[]", reply), room
    )
    if n < 0:
        raise ValueError(f"the arguments were refused with code {-n}")
    result = decode(bytes(reply[Size.HEADER : n]), _LIMITS)
    if not isinstance(result, Result):
        raise AssertionError("the core wrote something else than a RESULT")
    return result


class DirectSyscallInterface(SyscallInterface):
    """The door of the interpreter's own process.

    A call that may block is made in a worker thread, so that trio goes on. Calls that change ids or
    capabilities are refused (SyscallSendError) while the interpreter has more than one thread: they
    concern one thread only, and the others would keep what they had.
    """

    def __init__(self) -> None:
        """There is nothing to connect to."""
        self._unanswered = set[trio.Event]()

    async def _run(self, number: int, execute: Callable[[], Result]) -> Result:
        flags = _FLAGS.get(number, BLOCKS)
        if flags & REFUSED:
            raise SyscallSendError(
                f"{describe_call(number, ())}: cannot be made as a plain call; nothing was done"
            )
        if flags & CREDENTIALS and len(os.listdir("/proc/self/task")) > 1:
            raise SyscallSendError(
                f"{describe_call(number, ())}: concerns one thread only, and the interpreter has"
                " several; nothing was done"
            )
        if flags & BLOCKS:
            answered = trio.Event()
            self._unanswered.add(answered)
            try:
                return await trio.to_thread.run_sync(execute)
            finally:
                self._unanswered.remove(answered)
                answered.set()
        await checkpoint()
        return execute()

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
        if len(numbers) == len(values):
            a = [n & (2**64 - 1) for n in numbers] + [0] * (6 - len(numbers))
            result = await self._run(
                nr, lambda: Result(1, lib.rs_direct(nr, a[0], a[1], a[2], a[3], a[4], a[5]))
            )
        else:
            request = Call(1, nr, flatten(values))
            result = await self._run(nr, lambda: _execute(request))
        check_reply(nr, args, result.value)
        return Reply(result.value, result.outs, result.value if return_fd else None)

    async def read_memory(self, address: SupportsInt, length: int) -> bytes:
        """See SyscallInterface. By way of the kernel: a bad address is an error, not a crash."""
        if length < 0:
            raise ValueError(f"length: {length} is negative")
        start, parts = int(address), list[bytes]()
        for at in range(start, start + length, _CHUNK):
            await checkpoint()
            n = min(_CHUNK, start + length - at)
            result = _execute(Read(1, at, n))
            if result.value != n:
                raise unreadable(start, length)
            parts += result.outs
        if not parts:
            await checkpoint()
        return b"".join(parts)

    async def write_memory(self, address: SupportsInt, data: bytes) -> None:
        """See SyscallInterface."""
        start, chunk = int(address), _CHUNK - 64
        if not data:
            await checkpoint()
        for at in range(0, len(data), chunk):
            await checkpoint()
            part = bytes(data[at : at + chunk])
            if _execute(Write(1, start + at, part)).value != len(part):
                raise unreadable(start, len(data))

    async def barrier(self) -> None:
        """See SyscallInterface."""
        await checkpoint()
        for answered in list(self._unanswered):
            await answered.wait()

    async def close_interface(self) -> None:
        """Nothing to close. Not a checkpoint."""

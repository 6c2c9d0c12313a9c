"""Calls that go to a server.

Through a ring most are one call of the compiled core: it encodes, publishes, spins and takes the
answer. What does not fit there, or is not answered in time, goes the same way as over a socket.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import trio

from rsyscall._checkpoint import checkpoint, due, pause
from rsyscall._core import Frame as BatchFrame
from rsyscall._core import Outcome, StepList
from rsyscall._core import Ring as _Ring
from rsyscall._errors import noted
from rsyscall.near.sysif import (
    OtherCallsBlocked,
    Reply,
    SyscallArgument,
    SyscallHangup,
    check_reply,
    convert_arguments,
    describe_call,
)
from rsyscall.sys.syscall import SYS
from rsyscall.sysif._frames import Dead, Frame, Waiter
from rsyscall.sysif.gather import Gathering
from rsyscall.sysif.memory import MemoryRoads
from rsyscall.sysif.patience import PatientLink
from rsyscall.sysif.requests import Answer
from rsyscall.sysif.ring import RING_SIZE, SharedHalves, make_ring
from rsyscall_protocol import (
    Batch,
    Batched,
    BatchFlag,
    Call,
    CallFlag,
    ErrorCode,
    Feature,
    Hello,
    Prepare,
    Read,
    RemoteProtocolError,
    Result,
    Ring,
    Run,
    SideChannel,
    Size,
    Status,
    Step,
    Unprepare,
    Watch,
    Write,
    flatten,
)

__all__ = ["RemoteSyscallInterface"]

#: How many calls may be blocked that give way: each has a thread to itself.
_MOST_GIVING_WAY = 16
#: What a server reads of its memory in a microsecond, at least.
_BYTES_PER_US = 2048
#: The status and the value of the first step of a batch that was refused.
_BLOCKED = bytes([Status.BLOCKED])
_REFUSED = (-int(Size.REFUSAL)).to_bytes(8, sys.byteorder, signed=True)


class RemoteSyscallInterface(PatientLink, MemoryRoads, Gathering):
    """The door of a process behind a socket; see sysif.requests for how many tasks share it."""

    async def start(
        self,
        *,
        ring: bool | None = None,
        ring_size: int = RING_SIZE,
        halves: SharedHalves | None = None,
    ) -> Hello:
        """Exchange HELLOs; returns the server's.

        ring: whether calls are to go through shared memory; None: if the server can. ring_size: the
        bytes of each half of it. halves: such memory, if the server is in this process and has it
        too. SyscallHangup if the server ends first, ProtocolHangup if it refuses or does not speak
        the protocol; OSError if there is no ring and it was asked for. A checkpoint; if cancelled,
        the connection is of no use.
        """
        features = Feature.BATCH | Feature.CANCEL
        if ring is not False:
            features |= Feature.RING
        hello = Hello(features=features, limits=self._connection.limits)
        data, _ = self._connection.send(hello)
        self._out.append(Frame(data, (), None))
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._dead is None:
            self._flush()
            if self._connection.peer is not None:
                break
            if not self._receive():
                with contextlib.suppress(trio.ClosedResourceError):
                    await self._wait_readable()
        if self._dead is not None:
            raise await self._explain()
        arch = self.peer.info.get("arch")
        if arch != os.uname().machine:
            self._die(Dead(f"the server runs on {arch}, which is not supported yet"))
            raise self._hangup()
        self._most_steps = self._connection.limits.steps if self._connection.batches else -1
        self._core.frame_limit = min(self._connection.limits.frame, self._connection.limits.window)
        if ring is not False:
            await self._start_ring(
                ring_size if halves is None else halves.size, halves, must=bool(ring)
            )
        return self.peer

    async def _start_ring(self, size: int, halves: SharedHalves | None, *, must: bool) -> None:
        if Feature.RING not in self._connection.features:
            number, why = None, "the server has no shared memory for us"
        else:
            result = await self._exchange(lambda id_: Ring(id_, size, self._core.spin_us))
            if result.value >= 0:
                fds = result.fds
                shared = (fds[0], fds[1]) if len(fds) == 2 else halves
                if shared is not None:
                    self._ring = self._map_ring(size, shared)
                    self._halves = halves
                    self._side = SideChannel(self._connection.limits)
                    return
                raise self._no_ring("the server gave no shared memory")
            number, why = -result.value, os.strerror(-result.value)
        if must:
            problem = OSError(why) if number is None else OSError(number, why)
            raise noted(problem, "while moving the connection into shared memory")

    def _map_ring(self, size: int, halves: tuple[int, int] | SharedHalves) -> _Ring:
        limits = self._connection.limits
        most = min(limits.frame, limits.window)
        try:
            first, spin = self._core.last_id + 1, self._core.spin_us
            return make_ring(size, self._sock.fileno(), first, most, halves, spin)
        except ValueError as exc:
            raise self._no_ring(str(exc)) from exc
        except OSError as exc:
            # Of what was no memfd, or one that forbids it, the kernel says so; or it has no room.
            if exc.errno in (errno.EINVAL, errno.EACCES, errno.EPERM):
                raise self._no_ring(f"the memory of a ring is none: {exc}") from exc
            self._die(Dead(f"the shared memory cannot be used: {exc}"))
            raise self._hangup() from exc

    def _no_ring(self, text: str) -> SyscallHangup:
        """End the connection: the server has moved into memory that we cannot use."""
        self._break(RemoteProtocolError(ErrorCode.RING, text))
        return self._hangup()

    # ---- calls ----

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
        """See SyscallInterface."""
        if due():
            await pause()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        ring = self._ring
        try:
            if ring is None:
                if self._is_quiet:
                    sent = self._core.call(number, arg1, arg2, arg3, arg4, arg5, arg6)
                    if type(sent) is int:
                        if sent < 0:
                            self._check_reply(number, (arg1, arg2, arg3, arg4, arg5, arg6), sent)
                        return sent
                    if sent is None or isinstance(sent, bytes | tuple):
                        args = (arg1, arg2, arg3, arg4, arg5, arg6)
                        return (await self._answer(number, args, sent)).value
            elif not self._out and (not self._waiters or self._quiet()):
                answer = ring.call(number, arg1, arg2, arg3, arg4, arg5, arg6)
                if type(answer) is int:
                    if ring.rung or (self._reading and ring.ready):
                        self._look_again(ring)
                    if answer < 0:
                        self._check_reply(number, (arg1, arg2, arg3, arg4, arg5, arg6), answer)
                    return answer
                if answer is None or isinstance(answer, tuple):
                    args = (arg1, arg2, arg3, arg4, arg5, arg6)
                    return (await self._finish(ring, number, args, answer)).value
            args = (arg1, arg2, arg3, arg4, arg5, arg6)
            return (await self._call(number, args, (), False)).value
        except OtherCallsBlocked as exc:
            args = (arg1, arg2, arg3, arg4, arg5, arg6)
            again = partial(self._call, number, args, (), False)
            return (await self._patiently(exc, again)).value

    async def _answer(
        self, number: int, args: Sequence[SyscallArgument], sent: Answer | bytes | None
    ) -> Reply:
        """The reply to a call that is alone on its way over the socket: see Socket.call."""

        def make(id_: int) -> Call:
            return Call(id_, int(number), flatten(convert_arguments(args)))

        if sent is None or isinstance(sent, bytes):
            answer = await self._alone(make, None, sent, (number, args))
        else:
            answer = sent
        outs: tuple[bytes, ...] = ()
        if isinstance(answer, int):
            value = answer
        elif isinstance(answer, Result):
            value, outs = answer.value, answer.outs
        elif isinstance(answer, tuple) and len(answer) == 2:
            value, outs = answer
        else:
            raise AssertionError("the connection let a BATCHED through as a RESULT")
        if value < 0:
            self._check_reply(number, args, value)
        return Reply(value, outs)

    def _quiet(self) -> bool:
        """Whether one more call, if it is not too large, is certainly within the limits."""
        connection = self._connection
        return (
            2 * connection.outstanding < connection.limits.outstanding
            and connection.reserved + connection.limits.frame <= connection.limits.window
        )

    async def _finish(
        self,
        ring: _Ring,
        number: int,
        args: Sequence[SyscallArgument],
        answer: tuple[int, tuple[bytes, ...]] | None,
    ) -> Reply:
        """The reply to a call that the core has sent, from what it has returned."""
        if answer is not None:
            value, outs = answer
            self._look_again(ring)
        else:
            request = Call(ring.last_id, int(number), flatten(convert_arguments(args)))
            self._connection.adopt(request)
            waiter = self._waiters[request.id] = Waiter(request.id)
            waiter.begun, waiter.call = ring.begun, (number, args)
            try:
                self._look_again(ring)
                reply = await self._reply(waiter)
            finally:
                del self._waiters[request.id]
            if not isinstance(reply, Result):
                raise AssertionError("the connection let a BATCHED through as a RESULT")
            value, outs = reply.value, reply.outs
        if value < 0:
            self._check_reply(number, args, value)
        return Reply(value, outs)

    async def call(
        self,
        number: SYS | int,
        args: Sequence[SyscallArgument] = (),
        *,
        fds: Sequence[int] = (),
        return_fd: bool = False,
    ) -> Reply:
        """See SyscallInterface."""
        if len(args) > 6:
            raise ValueError(f"args: a system call takes at most six arguments, not {len(args)}")
        try:
            if not fds and not return_fd:
                await checkpoint()
                ring = self._ring
                if ring is None:
                    if self._is_quiet:
                        sent = self._core.call(number, *args)
                        if sent is None or isinstance(sent, int | bytes | tuple):
                            return await self._answer(number, args, sent)
                elif not self._out and (not self._waiters or self._quiet()):
                    answer = ring.call(number, *args)
                    if type(answer) is int:
                        self._look_again(ring)
                        self._check_reply(number, args, answer)
                        return Reply(answer)
                    if answer is None or isinstance(answer, tuple):
                        return await self._finish(ring, number, args, answer)
            return await self._call(number, args, fds, return_fd)
        except OtherCallsBlocked as exc:
            return await self._patiently(exc, partial(self._call, number, args, fds, return_fd))

    async def call_giving_way(
        self, number: SYS | int, args: Sequence[SyscallArgument] = ()
    ) -> Reply | None:
        """See SyscallInterface."""
        if len(self._giving_way) >= _MOST_GIVING_WAY or self.stall_reason is not None:
            await checkpoint()
            return None
        with trio.CancelScope() as scope:
            self._giving_way.add(scope)
            try:
                return await self.call(number, args)
            finally:
                self._giving_way.discard(scope)
        return None

    async def _call(
        self,
        number: SYS | int,
        args: Sequence[SyscallArgument],
        fds: Sequence[int],
        return_fd: bool,
    ) -> Reply:
        values = convert_arguments(args)
        while values and type(values[-1]) is int and values[-1] == 0:
            values.pop()  # what is not there is zero
        flat, nr, sent = flatten(values), int(number), tuple(fds)
        for i, fd in enumerate(sent):
            if not 0 <= fd < 2**31:
                raise ValueError(f"fds[{i}]: {fd} is not the number of a file descriptor")
        flags = CallFlag.RETURN_FD if return_fd else CallFlag.NONE
        result = await self._exchange(lambda id_: Call(id_, nr, flat, flags, sent), call=(nr, args))
        self._check_reply(nr, args, result.value)
        return Reply(result.value, result.outs, result.fds[0] if result.fds else None)

    async def wait_readable(self, fd: int) -> bool:
        """See SyscallInterface."""
        connection = self._connection
        few = connection.limits.outstanding <= 2 * Size.WATCHES  # others would wait for their turn
        if few or Feature.CANCEL not in connection.features:
            return await super().wait_readable(fd)
        result = await self._exchange(lambda id_: Watch(id_, fd), spin=-1)
        return result.value != -errno.EBUSY

    async def batch(self, request: Batch) -> Batched:
        """See SyscallInterface."""
        try:
            return await self._batch_once(request)
        except OtherCallsBlocked as exc:
            return await self._patiently(exc, partial(self._batch_once, request))

    async def _batch_once(self, request: Batch) -> Batched:
        spin = 0 if self._ring is None else self._ring.spin_for(len(request.steps))
        reply = await self.exchange(lambda id_: replace(request, id=id_), spin=spin)
        if not isinstance(reply, Batched):
            raise AssertionError("the connection let a RESULT through as a BATCHED")
        self._made(reply)
        return reply

    async def batch_frame(self, frame: BatchFrame, batch: StepList) -> Outcome | Batched:
        """See SyscallInterface."""

        def make(id_: int) -> Batch:
            return Batch(id_, (), BatchFlag.BRIEF if frame.brief else BatchFlag.NONE)

        try:
            return self._made(await self.exchange_frame(frame, make))
        except OtherCallsBlocked as exc:
            return await self._patiently(exc, partial(self._frame_once, frame, make))

    async def _frame_once(
        self, frame: BatchFrame, make: Callable[[int], Batch | Run]
    ) -> Outcome | Batched:
        return self._made(await self.exchange_frame(frame, make))

    async def batch_fds(
        self, frame: BatchFrame, request: Batch, fds: tuple[int, ...]
    ) -> Outcome | Batched:
        """A batch of which the core has made the frame, with descriptors of ours.

        request: the same. Otherwise as `batch`.
        """
        reply = await self.exchange_fds(frame, lambda id_: replace(request, id=id_), fds)
        return await self.batch(replace(request, fds=fds)) if reply is None else reply

    async def prepare(self, steps: tuple[Step, ...], parameters: int, flags: BatchFlag) -> int:
        """See SyscallInterface."""
        result = await self._exchange(lambda id_: Prepare(id_, steps, parameters, flags))
        if result.value < 0:
            why = os.strerror(-result.value)
            raise noted(OSError(-result.value, why), "while preparing a batch")
        return result.value

    async def run(
        self, number: int, args: list[int | bytes], frame: BatchFrame
    ) -> Outcome | Batched:
        """See SyscallInterface."""

        def make(id_: int) -> Run:
            return Run(id_, number, ())

        try:
            return self._made(await self.exchange_frame(frame, make))
        except OtherCallsBlocked as exc:
            return await self._patiently(exc, partial(self._frame_once, frame, make))

    async def unprepare(self, number: int) -> None:
        """See SyscallInterface."""
        await self._exchange(lambda id_: Unprepare(id_, number))

    async def read_by_frames(self, address: int, length: int) -> bytes | None:
        """See MemoryRoads. A long read is made in pieces of one frame each."""
        parts: list[bytes] = []
        limits = self._connection.limits
        chunk = min(limits.frame, limits.window) - Size.REPLY_BASE - Size.REPLY_OUT
        for at in range(address, address + length, chunk):
            n = min(chunk, address + length - at)

            def read(id_: int, at: int = at, n: int = n) -> Read:
                return Read(id_, at, n)

            result = await self._exchange(read, spin=n // _BYTES_PER_US)
            if result.value != n:
                return None
            parts += result.outs
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def write_by_frames(self, address: int, data: memoryview) -> bool:
        """See MemoryRoads. A long write is made in pieces of one frame each."""
        chunk = self._connection.limits.frame - 64
        for at in range(0, len(data), chunk):
            part = bytes(data[at : at + chunk])

            def write(id_: int, at: int = address + at, part: bytes = part) -> Write:
                return Write(id_, at, part)

            if (await self._exchange(write)).value != len(part):
                return False
        return True

    def _die(self, dead: Dead) -> None:
        super()._die(dead)
        self.leave()

    def after_fork(self) -> None:
        """See RequestLink."""
        super().after_fork()
        self.leave()

    def _check_reply(self, number: int, args: Sequence[SyscallArgument], value: int) -> None:
        if value == -Size.REFUSAL:
            raise OtherCallsBlocked(describe_call(number, args), self.under_way())
        check_reply(number, args, value)

    def _made(self, reply: Outcome | Batched) -> Outcome | Batched:
        """The reply to a batch, unless that was refused as a whole."""
        if reply.statuses[:1] == _BLOCKED and reply.values[:8] == _REFUSED:
            raise OtherCallsBlocked("a batch", self.under_way())
        return reply

    @property
    def stall_reason(self) -> str | None:
        """See SyscallInterface."""
        if Feature.CANCEL not in self._connection.features:
            return "its server makes one call at a time"
        if self._stall is not None:
            return f"no thread can be made in it: {os.strerror(self._stall)}"
        return None

    async def barrier(self) -> None:
        """See SyscallInterface."""
        before = self._working()
        await self._exchange(lambda id_: Read(id_, 0, 0))
        for waiter in before:  # most have been answered by now
            while self._is_open(waiter):
                await self._wait_change()

"""Calls that go to a server.

Through a ring most are one call of the compiled core: it encodes, publishes, spins and takes the
answer. What does not fit there, or is not answered in time, goes the same way as over a socket.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from dataclasses import replace

import trio

from rsyscall._checkpoint import checkpoint, due, pause
from rsyscall._ring import Ring as _Ring
from rsyscall._ring import setup
from rsyscall.near.sysif import (
    Reply,
    SyscallArgument,
    SyscallHangup,
    check_reply,
    convert_arguments,
)
from rsyscall.sys.syscall import SYS
from rsyscall.sysif._frames import Dead, Frame, Waiter
from rsyscall.sysif.memory import MemoryRoads
from rsyscall.sysif.requests import Answer, RequestLink
from rsyscall.sysif.ring import RING_SIZE, SharedHalves, make_ring, spin_us
from rsyscall_protocol import (
    Argument,
    Batch,
    Batched,
    BatchFlag,
    Call,
    CallFlag,
    ErrorCode,
    Feature,
    Hello,
    In,
    InOut,
    Out,
    Prepare,
    Read,
    RemoteProtocolError,
    Result,
    Ret,
    Ring,
    Run,
    SideChannel,
    Size,
    Step,
    Unprepare,
    Write,
    flatten,
)
from rsyscall_protocol._pending import Program

__all__ = ["RemoteSyscallInterface"]

#: Longer than this a batch does not keep trio's other tasks waiting.
_MOST_SPIN_US = 1000

setup(In, Out, Ret, InOut)


class RemoteSyscallInterface(RequestLink, MemoryRoads):
    """The door of a process behind a socket; see sysif.requests for how many tasks share it."""

    #: How long a step of a batch has taken of late, in microseconds.
    _step_us = 0.5

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
        features = Feature.BATCH if ring is False else Feature.BATCH | Feature.RING
        hello = Hello(features=features, limits=self._connection.limits)
        data, _ = self._connection.send(hello)
        self._out.append(Frame(data, (), None))
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._dead is None:
            self._flush()
            if self._connection.peer is not None:
                break
            if not self._receive():
                await trio.lowlevel.wait_readable(self._sock.fileno())
        if self._dead is not None:
            raise await self._explain()
        arch = self.peer.info.get("arch")
        if arch != os.uname().machine:
            self._die(Dead(f"the server runs on {arch}, which is not supported yet"))
            raise self._hangup()
        self._core.frame_limit = min(self._connection.limits.frame, self._connection.limits.window)
        if ring is not False:
            await self._start_ring(
                ring_size if halves is None else halves.size, halves, must=bool(ring)
            )
        return self.peer

    async def _start_ring(self, size: int, halves: SharedHalves | None, *, must: bool) -> None:
        problem: Exception
        if Feature.RING not in self._connection.features:
            problem = OSError("the server has no shared memory for us")
        else:
            result = await self._exchange(lambda id_: Ring(id_, size, spin_us()))
            if result.value >= 0:
                fds = result.fds
                shared = (fds[0], fds[1]) if len(fds) == 2 else halves
                if shared is not None:
                    self._ring = self._map_ring(size, shared)
                    self._halves = halves
                    self._side = SideChannel(self._connection.limits)
                    return
                raise self._no_ring("the server gave no shared memory")
            problem = OSError(-result.value, os.strerror(-result.value))
        if must:
            problem.add_note("while moving the connection into shared memory")
            raise problem

    def _map_ring(self, size: int, halves: tuple[int, int] | SharedHalves) -> _Ring:
        limits = self._connection.limits
        most = min(limits.frame, limits.window)
        try:
            return make_ring(size, self._sock.fileno(), self._core.last_id + 1, most, halves)
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
        if ring is None:
            if self._is_quiet:
                sent = self._core.call(number, arg1, arg2, arg3, arg4, arg5, arg6)
                if type(sent) is int:
                    if sent < 0:
                        check_reply(number, (arg1, arg2, arg3, arg4, arg5, arg6), sent)
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
                    check_reply(number, (arg1, arg2, arg3, arg4, arg5, arg6), answer)
                return answer
            if answer is None or isinstance(answer, tuple):
                args = (arg1, arg2, arg3, arg4, arg5, arg6)
                return (await self._finish(ring, number, args, answer)).value
        return (await self._call(number, (arg1, arg2, arg3, arg4, arg5, arg6), (), False)).value

    async def _answer(
        self, number: int, args: Sequence[SyscallArgument], sent: Answer | bytes | None
    ) -> Reply:
        """The reply to a call that is alone on its way over the socket: see Socket.call."""

        def make(id_: int) -> Call:
            return Call(id_, int(number), flatten(convert_arguments(args)))

        if sent is None or isinstance(sent, bytes):
            answer = await self._alone(make, None, sent)
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
            check_reply(number, args, value)
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
            waiter = self._waiters[request.id] = Waiter()
            waiter.begun = ring.begun
            try:
                self._look_again(ring)
                reply = await self._reply(waiter)
            finally:
                del self._waiters[request.id]
            if not isinstance(reply, Result):
                raise AssertionError("the connection let a BATCHED through as a RESULT")
            value, outs = reply.value, reply.outs
        if value < 0:
            check_reply(number, args, value)
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
                    check_reply(number, args, answer)
                    return Reply(answer)
                if answer is None or isinstance(answer, tuple):
                    return await self._finish(ring, number, args, answer)
        return await self._call(number, args, fds, return_fd)

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
        result = await self._exchange(lambda id_: Call(id_, nr, flat, flags, sent))
        check_reply(nr, args, result.value)
        return Reply(result.value, result.outs, result.fds[0] if result.fds else None)

    async def batch(self, request: Batch, frame: bytearray | None, program: Program) -> Batched:
        """See SyscallInterface."""
        if frame is not None:
            return await self._timed(request, frame, program)
        spin = self._batch_spin(len(program.outs))
        reply = await self.exchange(lambda id_: replace(request, id=id_), spin=spin)
        if not isinstance(reply, Batched):
            raise AssertionError("the connection let a RESULT through as a BATCHED")
        return reply

    async def _timed(self, request: Batch | Run, frame: bytearray, program: Program) -> Batched:
        steps = len(program.outs)
        start = time.monotonic()
        reply = await self.exchange_batch(request, frame, program, self._batch_spin(steps))
        if steps:
            took = (time.monotonic() - start) * 1e6 / steps
            self._step_us += (took - self._step_us) / 8
        return reply

    async def prepare(self, steps: tuple[Step, ...], parameters: int, flags: BatchFlag) -> int:
        """See SyscallInterface."""
        result = await self._exchange(lambda id_: Prepare(id_, steps, parameters, flags))
        if result.value < 0:
            exc = OSError(-result.value, os.strerror(-result.value))
            exc.add_note("while preparing a batch")
            raise exc
        return result.value

    async def run(
        self, number: int, args: tuple[Argument, ...], frame: bytearray, program: Program
    ) -> Batched:
        """See SyscallInterface."""
        return await self._timed(Run(0, number, args), frame, program)

    async def unprepare(self, number: int) -> None:
        """See SyscallInterface."""
        await self._exchange(lambda id_: Unprepare(id_, number))

    def _batch_spin(self, steps: int) -> int:
        """For how many microseconds to wait for the reply of a batch: twice as long as usual."""
        return min(_MOST_SPIN_US, int(2 * steps * self._step_us))

    async def read_by_frames(self, address: int, length: int) -> bytes | None:
        """See MemoryRoads. A long read is made in pieces of one frame each."""
        parts: list[bytes] = []
        limits = self._connection.limits
        chunk = min(limits.frame, limits.window) - Size.REPLY_BASE - Size.REPLY_OUT
        for at in range(address, address + length, chunk):
            n = min(chunk, address + length - at)

            def read(id_: int, at: int = at, n: int = n) -> Read:
                return Read(id_, at, n)

            result = await self._exchange(read)
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

    async def barrier(self) -> None:
        """Return when every call sent before has been answered. A checkpoint.

        The server answers in order, so one more answer means all the earlier ones.
        """
        await self._exchange(lambda id_: Read(id_, 0, 0))

"""Requests through a connection: sent, and their replies waited for.

Without a task of the connection's own: whoever waits for a reply and finds nobody reading reads,
hands the others what is theirs, and passes the role on when its own reply has come. So too for
writing when the socket is full. A task that waits for a reply goes on waiting when it is cancelled,
since the request has been sent and its reply must not be lost; but the server is asked to interrupt
it.

With a ring, whoever reads sleeps on the socket beside it until the server rings the bell.
Over a socket a request that is alone on its way goes a shorter one: the core has encoded and sent
it, and takes its answer, if that comes alone too. As soon as anything else is under way, or comes,
the connection is told of the request and looks after it as after any other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeAlias

import trio

from rsyscall._checkpoint import checkpoint, due, pause
from rsyscall._core import Frame as BatchFrame
from rsyscall._core import Outcome
from rsyscall._core import Ring as _Ring
from rsyscall._core import Socket as _Socket
from rsyscall.near.sysif import ForkedError
from rsyscall.sysif import _interrupt
from rsyscall.sysif._frames import Dead, Frame, Waiter
from rsyscall.sysif._interrupt import MadeCall, describe, stuck, without_effect
from rsyscall.sysif.link import Link
from rsyscall.sysif.ring import spin_us
from rsyscall_protocol import (
    Batch,
    Batched,
    Cancel,
    Feature,
    LocalProtocolError,
    RemoteProtocolError,
    Request,
    Result,
    Run,
    Size,
    State,
)
from rsyscall_protocol._pending import Program

__all__ = ["Answer", "RequestLink"]

_LOOK_AGAIN_SECONDS = 1.0
#: A result, perhaps with outputs.
Answer: TypeAlias = int | tuple[int, tuple[bytes, ...]]


def _program(frame: BatchFrame) -> Program:
    return Program.known(frame.reserved, frame.outs, brief=frame.brief)


def _batched(answer: Answer | Outcome | Result | Batched) -> Outcome | Batched:
    if not isinstance(answer, Outcome | Batched):
        raise AssertionError("the connection let a RESULT through as a BATCHED")
    return answer


class RequestLink(Link):
    """A connection, with the requests that are under way in it."""

    #: How many steps a batch may have; none if the server knows no batches.
    _most_steps = -1

    def _take_id(self) -> int:
        if self._ring is not None:
            return self._ring.take_id()
        return self._core.take_id()

    def under_way(self) -> list[str]:
        """What has been sent and has no reply yet, the oldest first."""
        return [describe(waiter.call) for waiter in self._working()]

    def _working(self) -> list[Waiter]:
        """Those for which the server does something."""
        return [waiter for waiter in self._waiters.values() if not waiter.held]

    def _join(self) -> None:
        """Have the connection look after the request that was alone, since it is not any more."""
        adopt, self._adopt_alone = self._adopt_alone, None
        if adopt is not None:
            self._core.disown()
            adopt()

    async def _admit(self, has_room: Callable[[], bool]) -> None:
        """Wait until the limits admit a request."""
        await checkpoint()
        if self._dead is None and (self._room or not has_room()):
            await self._room.wait(has_room)
        if self._forked:
            raise ForkedError("the connection belongs to the process we were forked from")
        if self._dead is not None:
            await self._explain()
            raise self._dead.not_sent()

    async def exchange(
        self, make: Callable[[int], Request], *, spin: int = 0, call: MadeCall | None = None
    ) -> Result | Batched:
        """Send a request, made with the id it is given, and wait for its reply.

        call: what it is, if it is one call. spin: for how many microseconds an answer may well be
        worth waiting; -1 for one that the server holds. ValueError for one that cannot be sent; see
        the contract of near.sysif. A checkpoint; if cancelled, nothing was sent.
        """
        connection = self._connection
        self._join()
        await self._admit(lambda: not connection.outstanding or connection.has_room(make(1)))
        self._join()  # another may have been alone meanwhile
        request = make(self._take_id())
        try:
            data, fds = connection.send(request)
        except LocalProtocolError as exc:
            raise ValueError(f"the call cannot be sent: {exc.text}") from exc
        return await self._send(request.id, data, fds, spin, call)

    async def exchange_frame(
        self, frame: BatchFrame, make: Callable[[int], Batch | Run]
    ) -> Outcome | Batched:
        """Send a batch that was encoded already, but for its id; otherwise as `exchange`.

        make: the same for the connection, perhaps without steps.
        """
        if due():
            await pause()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()
        if self._dead is None and not self._waiters and frame.steps <= self._most_steps:
            ring = self._ring
            if ring is None:
                if self._is_quiet:
                    came = self._core.batch(frame)
                    if isinstance(came, Outcome):
                        return came
                    if came is None or isinstance(came, bytes):
                        return _batched(await self._alone(make, _program(frame), came))
            elif not self._out:
                answer = ring.batch(frame)
                if isinstance(answer, Outcome):
                    if ring.rung or (self._reading and ring.ready):
                        self._look_again(ring)
                    return answer
                if isinstance(answer, int):
                    return await self._finish_frame(ring, frame, make, answer)
        return await self._frame_in_turn(frame, make)

    async def exchange_fds(
        self, frame: BatchFrame, make: Callable[[int], Batch], fds: tuple[int, ...]
    ) -> Outcome | Batched | None:
        """The same with descriptors, through a ring; None, and nothing was sent, if it is busy."""
        await checkpoint()
        ring, side = self._ring, self._side
        if ring is None or side is None or self._waiters or self._out or not ring.can_send(frame):
            return None
        try:  # before the frame that needs them is published
            if self._to_socket(side.fds_frame(len(fds)), fds) is None:
                return None
        except OSError:
            return None
        side.fds_sent()
        answer = ring.batch(frame)
        if isinstance(answer, Outcome):
            self._look_again(ring)
            return answer
        if not isinstance(answer, int):
            raise AssertionError("a ring that could send has not")
        return await self._finish_frame(ring, frame, make, answer)

    async def _frame_in_turn(
        self, frame: BatchFrame, make: Callable[[int], Batch | Run]
    ) -> Outcome | Batched:
        """The same where others are under way, or the limits do not admit it."""
        connection = self._connection
        self._join()
        await self._admit(lambda: connection.has_room_for(frame.reserved))
        self._join()  # another may have been alone meanwhile
        limits = connection.limits
        if not connection.batches:
            raise ValueError("the batch cannot be sent: the server knows none")
        if frame.steps > limits.steps:
            raise ValueError(f"the batch cannot be sent: more than {limits.steps} steps")
        most = min(limits.frame, limits.window)
        if len(frame) - Size.HEADER > limits.frame or frame.reserved > most:
            raise ValueError(f"the batch cannot be sent: it or its reply has over {most} bytes")
        id_ = self._take_id()
        connection.adopt(make(id_), _program(frame))
        waiter = self._waiters[id_] = Waiter(id_)
        try:
            if self._ring is not None:
                self._look_again(self._ring)
            return _batched(await self._push(waiter, frame.data(id_), ()))
        finally:
            del self._waiters[id_]

    async def _finish_frame(
        self, ring: _Ring, frame: BatchFrame, make: Callable[[int], Batch | Run], sent: int
    ) -> Outcome | Batched:
        """The reply to a batch of which the core has sent so many bytes."""
        id_ = ring.last_id
        self._connection.adopt(make(id_), _program(frame))
        waiter = self._waiters[id_] = Waiter(id_)
        waiter.begun = ring.begun
        try:
            self._look_again(ring)
            return _batched(await self._push(waiter, frame.data(id_)[sent:], ()))
        finally:
            del self._waiters[id_]

    async def _send(
        self,
        id_: int,
        data: bytes | bytearray,
        fds: tuple[int, ...],
        spin: int,
        call: MadeCall | None,
    ) -> Result | Batched:
        waiter = self._waiters[id_] = Waiter(id_)
        waiter.call, waiter.held = call, spin < 0
        try:
            if self._ring is not None and not self._out and not fds and spin >= 0:
                data = self._at_once(self._ring, data, id_, waiter, spin)
            return await self._push(waiter, data, fds)
        finally:
            del self._waiters[id_]

    async def _push(
        self, waiter: Waiter, data: bytes | bytearray, fds: tuple[int, ...]
    ) -> Result | Batched:
        """Send what is still to be sent, and wait for the reply."""
        if data:
            self._out.append(Frame(data, fds, waiter))
            self._flush()
            if self._ring is not None and self._reader is not None:
                self._park_again(self._ring)
            if self._unwritten():
                await self._drain()
        return await self._reply(waiter)

    def _at_once(
        self, ring: _Ring, data: bytes | bytearray, id_: int, waiter: Waiter, spin: int
    ) -> bytes | bytearray:
        """Send as much as goes and wait for the reply a little; what is still to be sent."""
        answer = ring.exchange(data, id_, spin)
        waiter.begun = ring.begun
        if isinstance(answer, int):
            self._look_again(ring)
            return data[answer:]
        self._take_reply(answer)
        self._look_again(ring)
        return b""

    def _look_again(self, ring: _Ring) -> None:
        """Take what came just before the core parked in place of the one who sleeps.

        While the core looks itself nobody rings, and it does not look again after it has parked.
        While it sleeps the bell rings for it, and is left in the socket.
        """
        if ring.rung:
            ring.rung = 0
            try:
                self._receive_side(1)
            except RemoteProtocolError as exc:
                self._break(exc)
        if self._reading and ring.ready:
            self._receive()

    def _wants_room(self) -> bool:
        """Whether something waits for room in the ring, and not in the socket."""
        return bool(self._out) and not self._side_full

    def _park_again(self, ring: _Ring) -> None:
        """Have the one who sleeps woken by room too, if something waits for that by now."""
        if self._wants_room():
            while self._dead is None and not ring.park(self._wants_room()):
                self._receive()

    def _take_reply(self, frame: bytes) -> None:
        """Hand out a whole frame that was taken from the ring."""
        try:
            if self._ring is not None:
                self._connection.advance(self._ring.take_skipped())
            self._connection.receive(frame)
            self._dispatch_ring()
        except RemoteProtocolError as exc:
            self._break(exc)

    async def _exchange(
        self, make: Callable[[int], Request], *, spin: int = 0, call: MadeCall | None = None
    ) -> Result:
        reply = await self.exchange(make, spin=spin, call=call)
        if not isinstance(reply, Result):
            raise AssertionError("the connection let a BATCHED through as a RESULT")
        return reply

    async def _drain(self) -> None:
        self._flushing = True
        try:
            while self._out:
                with trio.CancelScope(shield=True):
                    try:
                        self._known_to_trio = True
                        await trio.lowlevel.wait_writable(self._sock.fileno())
                    except trio.ClosedResourceError:
                        return
                self._flush()
                if self._ring is not None and not self._side_full:
                    return  # then it is the ring that is full: whoever reads sees to that
        finally:
            self._flushing = False
            if self._unwritten() and self._reader is not None:
                self._end_sleep()  # torn away by KeyboardInterrupt: another is to go on

    def _unwritten(self) -> bool:
        """Whether something waits for room in the socket, and nobody sees to it."""
        return bool(self._out) and not self._flushing and (self._ring is None or self._side_full)

    async def _reply(self, waiter: Waiter) -> Result | Batched:
        try:
            while waiter.reply is None and self._dead is None:
                if self._unwritten():
                    await self._drain()
                elif self._reading:
                    waiter.task = trio.lowlevel.current_task()

                    def abort(_: object) -> trio.lowlevel.Abort:
                        self._interrupt(waiter)
                        return trio.lowlevel.Abort.FAILED

                    await trio.lowlevel.wait_task_rescheduled(abort)
                else:
                    await self._read(waiter)
                    if waiter.reply is None:  # there is something to be written first
                        self._pass_on()
        finally:
            waiter.task = None
            self._pass_on()  # KeyboardInterrupt may have torn us away before we took the role
        if waiter.reply is not None:
            if isinstance(waiter.reply, OSError):
                raise waiter.refusal(waiter.reply)
            if waiter.cancelled is not None and without_effect(waiter.reply, waiter.call):
                await trio.lowlevel.checkpoint_if_cancelled()
            return waiter.reply
        await self._explain()
        raise self._hangup() if waiter.sent or self._dead is None else self._dead.not_sent()

    async def _read(self, waiter: Waiter) -> None:
        """Be the one who reads."""
        self._reading = True
        try:
            await self._read_until(waiter)
        except trio.ClosedResourceError:
            pass  # self._dead says why
        finally:
            self._reading = False
            if self._ring is not None:
                self._ring.unpark()

    def _pass_on(self) -> None:
        """Let the first one who waits read, if nobody does."""
        if not self._reading:
            for other in self._waiters.values():
                if other.task is not None:
                    self._wake(other)
                    break

    def _look_at_cpus(self, core: _Ring | _Socket) -> None:
        """See now and then whether it still pays to spin."""
        now = time.monotonic()
        if now - self._looked > _LOOK_AGAIN_SECONDS:
            self._looked = now
            core.spin_us = spin_us()

    def _interrupt(self, waiter: Waiter) -> None:
        """Ask for the interruption of a request, once. May be called while its task is woken."""
        if waiter.cancelled is not None or self._dead is not None:
            return
        waiter.cancelled = time.monotonic()
        stalls = self._stall is not None and not waiter.held
        if Feature.CANCEL not in self._connection.features or stalls:
            return  # nobody would read it before it is answered
        if self._connection.state is not State.OPEN:
            return  # it is about to be answered, from shared memory
        data, _ = self._connection.send(Cancel(waiter.id))
        self._out.append(Frame(data, (), None))
        self._flush()
        self._grace_until = min(self._grace_until, trio.current_time() + _interrupt.GRACE_SECONDS)
        if self._sleep is not None:
            self._sleep.deadline = self._grace_until
        if self._ring is not None and self._reader is not None:
            self._park_again(self._ring)

    def _look_for_stuck(self) -> None:
        """End the connection if a request has not been interrupted for so long."""
        # By the machine's clock: trio's may be one for tests, which runs ahead.
        now, left = time.monotonic(), math.inf
        for waiter in self._waiters.values():
            if waiter.cancelled is not None and waiter.reply is None:
                left = min(left, waiter.cancelled + _interrupt.GRACE_SECONDS - now)
                if left <= 0:
                    self._die(Dead(stuck(waiter.call)))
                    return
        self._grace_until = trio.current_time() + left

    async def _sleep_until_readable(self, waiter: Waiter) -> bool:
        """Sleep as the reader, and be cancelled as any other; whether the socket has something."""
        try:
            shielded = waiter.cancelled is not None
            with trio.CancelScope(shield=shielded, deadline=self._grace_until) as sleep:
                self._sleep = sleep
                await self._wait_readable()
        except (trio.Cancelled, BaseExceptionGroup) as exc:
            if isinstance(exc, BaseExceptionGroup) and exc.split(trio.Cancelled)[1] is not None:
                raise
            self._interrupt(waiter)
            return False
        if sleep.cancelled_caught and trio.current_time() >= self._grace_until:
            self._look_for_stuck()
        return not sleep.cancelled_caught

    async def _read_until(self, waiter: Waiter) -> None:
        woken = False
        while waiter.reply is None and self._dead is None and not self._unwritten():
            if self._receive(woken=woken):
                woken = False
                if due() and waiter.reply is None:  # the server may publish byte by byte
                    with trio.CancelScope(shield=True):
                        await pause()
                continue
            ring = self._ring
            if ring is not None:
                self._look_at_cpus(ring)
                if not ring.park(self._wants_room()):
                    continue
            self._reader = waiter
            try:
                woken = await self._sleep_until_readable(waiter)
            finally:
                self._reader = None
            if ring is not None:
                ring.unpark()

    # ---- the short way over a socket ----

    @property
    def _is_quiet(self) -> bool:
        """Whether a request would be alone."""
        return not self._waiters and not self._out and self._connection.quiet

    async def _alone(
        self,
        make: Callable[[int], Request],
        program: Program | None,
        rest: bytes | None,
        call: MadeCall | None = None,
    ) -> Answer | Outcome | Result | Batched:
        """The answer to the request that the core has just sent, and that has not come at once.

        make, program: the request, should others have to look after it. rest: what could not be
        sent yet. Not a checkpoint, and cannot be cancelled.
        """
        core, connection = self._core, self._connection
        id_ = core.last_id
        waiter = self._waiters[id_] = Waiter(id_)
        waiter.call = call
        try:
            if rest is not None:
                connection.adopt(make(id_), program)
                return await self._push(waiter, rest, ())
            waiter.sent = self._reading = True
            self._adopt_alone = lambda: connection.adopt(make(id_), program)
            try:
                while self._adopt_alone is not None and self._dead is None:
                    if not core.ready:
                        self._look_at_cpus(core)
                        if not await self._readable():
                            self._join()
                            self._interrupt(waiter)
                    if self._adopt_alone is None or self._dead is not None:
                        break
                    got = core.take()
                    if isinstance(got, list):
                        self._join()
                        self._hand_in(*got)
                    elif got is not None:
                        self._adopt_alone = None
                        return got
            finally:
                self._join()
                self._reading = False
                self._pass_on()
            return await self._reply(waiter)
        finally:
            del self._waiters[id_]

    async def _readable(self) -> bool:
        """Wait until the socket is readable, or closed by us; whether that was not cancelled.

        The cancellation will be delivered again by the next checkpoint.
        """
        try:
            await self._wait_readable()
        except trio.ClosedResourceError:
            pass  # self._dead says why
        except trio.Cancelled:
            return False
        return True

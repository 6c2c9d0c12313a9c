"""A connection with a server, over a socket or through a ring.

One connection is used by many trio tasks at once, without a task of its own: whoever waits for a
reply and finds nobody reading reads, hands the others what is theirs, and passes the role on when
its own reply has come. So too for writing when the socket is full. A task that waits for a reply
cannot be cancelled: the request has been sent, and its reply must not be lost.

With a ring, whoever reads sleeps on the socket beside it until the server rings the bell.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace

import trio

from rsyscall._checkpoint import checkpoint, due, pause
from rsyscall._ring import Ring as _Ring
from rsyscall.near.sysif import (
    ForkedError,
    SyscallHangup,
)
from rsyscall.near.types import FileDescriptor
from rsyscall.sysif._frames import Dead, Frame, Waiter, never, unknown_end
from rsyscall.sysif.ring import SharedHalves, spin_us
from rsyscall_protocol import (
    NEED_DATA,
    Batch,
    Batched,
    Bye,
    Connection,
    Error,
    ErrorCode,
    Event,
    Hello,
    Limits,
    LocalProtocolError,
    RemoteProtocolError,
    Request,
    Result,
    Role,
    Run,
    SideChannel,
    Size,
    State,
)
from rsyscall_protocol._pending import Program

__all__ = ["Link"]

_RECV_SIZE = 65536
_CONTROL_SIZE = socket.CMSG_SPACE(Limits().fds * 4)
_LOOK_AGAIN_SECONDS = 1.0
# Where the id of a request stands in a frame that was encoded with eight bytes of room for it.
_ID = struct.Struct(">Q")
_ID_AT = Size.HEADER + 3

_links: weakref.WeakSet[Link] = weakref.WeakSet()


class Link:
    """A connection with a server, and the requests that are under way in it.

    post_mortem: asked once when the stream has ended unexpectedly; what is known of the cause.
    peer: what the server said of itself (arch, page_size, pid), after `start`.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        limits: Limits | None = None,
        post_mortem: Callable[[], Awaitable[str]] = unknown_end,
    ) -> None:
        """Take over a connected stream socket; nothing is sent before `start`."""
        sock.setblocking(False)
        self._sock = sock
        self._connection = Connection(Role.CLIENT, limits)
        self._post_mortem = post_mortem
        self._inquiry = trio.Lock()
        self._next_id = 1
        self._waiters: dict[int, Waiter] = {}
        self._out: deque[Frame] = deque()
        self._reading = False
        self._reader: Waiter | None = None  # whose task sleeps on the socket
        self._sleep = trio.CancelScope()  # and what ends that
        self._flushing = False
        self._room = trio.lowlevel.ParkingLot()  # requests that the limits do not admit yet
        self._dead: Dead | None = None
        self._gone = False  # nothing more can be sent
        self._forked = False
        self._ring: _Ring | None = None
        self._halves: SharedHalves | None = None
        self._side: SideChannel | None = None
        self._side_full = False
        self._looked = 0.0
        _links.add(self)

    @property
    def peer(self) -> Hello:
        """What the server said of itself; LocalProtocolError before it has."""
        if self._connection.peer is None:
            raise LocalProtocolError(ErrorCode.STATE, "the server has not said HELLO yet")
        return self._connection.peer

    @property
    def busy(self) -> bool:
        """Whether calls are under way."""
        return bool(self._waiters)

    @property
    def uses_ring(self) -> bool:
        """Whether calls go through shared memory."""
        return self._ring is not None

    # ---- the beginning and the end ----

    def say_bye(self) -> None:
        """Tell the server that no request will follow, as far as that can be done at once."""
        if self._dead is None and self._connection.state is State.OPEN:
            data, _ = self._connection.send(Bye())
            self._out.append(Frame(data, (), None))
            self._flush()

    def close(self) -> None:
        """Close the socket; calls that are under way end with SyscallHangup."""
        self._die(Dead("the connection was closed by us"))

    async def close_interface(self) -> None:
        """Say BYE and close the socket. Not a checkpoint."""
        self.say_bye()
        self.close()

    def get_activity_fd(self) -> FileDescriptor | None:
        """The socket, while it is open."""
        return None if self._sock.fileno() < 0 else FileDescriptor(self._sock.fileno())

    def _die(self, dead: Dead) -> None:
        if self._dead is not None:
            return
        self._dead = dead
        self._out.clear()
        if self._ring is not None:
            read = self._ring.consumed
            for waiter in self._waiters.values():
                waiter.sent = waiter.begun is not None and waiter.begun < read
            self._ring.close()
            self._ring = None
        self._close_socket()
        self._connection.abandon()
        self._close_unclaimed()
        for waiter in self._waiters.values():
            self._wake(waiter)
        self._room.unpark_all()

    def _close_socket(self) -> None:
        if self._sock.fileno() >= 0:
            if not self._forked:
                trio.lowlevel.notify_closing(self._sock.fileno())
            self._sock.close()

    def _close_unclaimed(self) -> None:
        fds = self._connection.take_unclaimed()
        if self._side is not None:
            fds += self._side.take_unclaimed()
        for fd in fds:
            os.close(fd)

    def after_fork(self) -> None:
        """In a forked child: this connection is the parent's; forget it without a word."""
        self._forked = True
        self._dead = Dead("the connection belongs to the process we were forked from")
        self._out.clear()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self._sock.close()
        self._connection.abandon()
        self._close_unclaimed()

    def _hangup(self) -> SyscallHangup:
        return (self._dead or Dead("the connection is closed")).hangup()

    async def _explain(self) -> SyscallHangup:
        """The exception for a call that was under way, with what can be learnt of the cause."""
        dead = self._dead
        if dead is not None and dead.reason == "":
            with trio.CancelScope(shield=True):
                async with self._inquiry:
                    if dead.reason == "":  # nobody was faster
                        dead.reason = await self._post_mortem()
        return self._hangup()

    # ---- bytes ----

    def _flush(self) -> None:
        """Send what can be sent without waiting."""
        try:
            while self._out:
                frame = self._out[0]
                if self._ring is not None and self._connection.ring:
                    n = self._to_ring(self._ring, frame)
                else:
                    n = self._to_socket(frame.data, frame.fds)
                if n is None:
                    return
                frame.fds = ()
                if frame.waiter is not None:
                    frame.waiter.sent = True
                frame.data = frame.data[n:]
                if frame.data:
                    if n == 0:
                        return
                else:
                    self._out.popleft()
        except OSError:
            if self._gone:
                return  # the loop below has read on, and tried to send
            # The peer is gone; what it said last, perhaps why, is still to be read.
            self._gone = True
            while self._dead is None and self._receive(woken=True):
                pass
            self._die(Dead(""))

    def _to_socket(self, data: memoryview | bytes, fds: tuple[int, ...]) -> int | None:
        """How many bytes the socket took, or None if it is full."""
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            return self._sock.sendmsg([data], control, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return None

    def _to_ring(self, ring: _Ring, frame: Frame) -> int | None:
        if frame.fds and self._side is not None:
            # Before the frame that needs them is published.
            packet = self._side.fds_frame(len(frame.fds))
            self._side_full = self._to_socket(packet, frame.fds) is None
            if self._side_full:
                return None
            self._side.fds_sent()
            frame.fds = ()
        if frame.waiter is not None and frame.waiter.begun is None:
            frame.waiter.begun = ring.written
        return ring.send(frame.data)

    def _from_socket(self) -> tuple[bytes, list[int], bool] | None:
        """What one read brings, or None if there is nothing yet."""
        fds: list[int] = []
        try:
            data, control, flags, _ = self._sock.recvmsg(
                _RECV_SIZE, _CONTROL_SIZE, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except OSError:  # ECONNRESET: closed with bytes of ours unread
            return b"", [], False
        for level, type_, payload in control:
            if (level, type_) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds += array.array("i", payload[: len(payload) // 4 * 4])
        return data, fds, bool(flags & socket.MSG_CTRUNC)

    def _receive(self, *, woken: bool = False) -> bool:
        """Read what there is and hand it out; False if there is nothing yet.

        woken: the socket beside a ring is known to have something.
        """
        try:
            if self._ring is not None:
                return self._receive_ring(self._ring, woken=woken)
            got = self._from_socket()
            if got is None:
                return False
            data, fds, truncated = got
            self._connection.receive(data, fds, truncated=truncated)
            self._dispatch_all()
        except RemoteProtocolError as exc:
            self._last_word(exc)
            self._die(Dead(f"the server broke the protocol: {exc.text}", exc))
            return True
        if fds:
            self._close_unclaimed()
        return True

    def _receive_ring(self, ring: _Ring, *, woken: bool) -> bool:
        ended = woken and self._receive_side()
        if self._dead is not None:
            return True
        try:
            data = ring.recv()
        except ValueError as exc:
            raise RemoteProtocolError(ErrorCode.RING, str(exc)) from exc
        self._connection.advance(ring.take_skipped())
        if data:
            self._connection.receive(data)
            ended |= self._dispatch_ring()
        if self._dead is None:
            self._flush()
        if ended and self._dead is None:
            self._connection.receive(b"")
            self._dispatch_all()
        return bool(data) or ended

    def _dispatch_ring(self) -> bool:
        """Hand out what has come through the ring; True if the socket is found to have ended."""
        ended = False
        self._dispatch_all()
        if self._connection.wants_fds and self._dead is None:
            # They were sent before the frame was published: they are there.
            ended = self._receive_side()
            self._dispatch_all()
            if self._connection.wants_fds and self._dead is None:
                raise RemoteProtocolError(ErrorCode.FDS, "a frame without its descriptors")
        return ended

    def _receive_side(self) -> bool:
        """Read what came over the socket beside the ring; True if that has ended."""
        while self._side is not None and (got := self._from_socket()) is not None:
            data, fds, truncated = got
            if not data:
                return True
            packets, error = self._side.receive(data, fds)
            for packet in packets:
                self._connection.receive_fds(packet)
            if truncated:
                raise RemoteProtocolError(ErrorCode.FDS, "file descriptors were truncated")
            if error is not None:
                self._dispatch(error)
                return False
        return False

    def _dispatch_all(self) -> None:
        while self._dead is None and (event := self._connection.next_event()) is not NEED_DATA:
            if event is None:
                self._die(Dead(""))
            else:
                self._dispatch(event)

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, Result | Batched):
            waiter = self._waiters.get(event.id)
            if waiter is not None:
                waiter.reply = event
                self._wake(waiter)
            elif isinstance(event, Result):  # its caller was torn away by KeyboardInterrupt
                for fd in event.fds:
                    os.close(fd)
            self._room.unpark_all()
        elif isinstance(event, Error):
            # It will stand in a terminal or a log, and they may obey what is not printable.
            text = "".join(
                c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in event.text
            )
            reason = f"the server refused: {event.code.name}: {text}"
            self._die(Dead(reason, RemoteProtocolError(event.code, reason, event.offset)))

    def _last_word(self, exc: RemoteProtocolError) -> None:
        with contextlib.suppress(OSError):  # if it does not listen either, nothing can be done
            self._sock.sendmsg([Connection.last_word(exc)], [], socket.MSG_NOSIGNAL)

    async def _wait_readable(self) -> None:
        """Return when the socket has something, or the server has ended. A checkpoint."""
        await trio.lowlevel.wait_readable(self._sock.fileno())

    # ---- requests ----

    def _wake(self, waiter: Waiter) -> None:
        if waiter.task is not None:
            trio.lowlevel.reschedule(waiter.task)
            waiter.task = None
        elif waiter is self._reader:
            # Another task has taken its reply out of the ring: no bell will ring for it.
            self._sleep.cancel()

    def _take_id(self) -> int:
        if self._ring is not None:
            return self._ring.take_id()
        self._next_id += 1
        return self._next_id - 1

    async def _admit(self, has_room: Callable[[], bool]) -> None:
        """Wait until the limits admit a request."""
        await checkpoint()
        while self._dead is None and not has_room():
            await self._room.park()
        if self._forked:
            raise ForkedError("the connection belongs to the process we were forked from")
        if self._dead is not None:
            await self._explain()
            raise self._dead.not_sent()

    async def exchange(self, make: Callable[[int], Request], *, spin: int = 0) -> Result | Batched:
        """Send a request, made with the id it is given, and wait for its reply.

        spin: for how many microseconds an answer may well be worth waiting. ValueError for one that
        cannot be sent; see the contract of near.sysif. A checkpoint; if cancelled, nothing was
        sent.
        """
        example = make(1)
        await self._admit(lambda: self._connection.has_room(example))
        request = make(self._take_id())
        try:
            data, fds = self._connection.send(request)
        except LocalProtocolError as exc:
            raise ValueError(f"the call cannot be sent: {exc.text}") from exc
        return await self._send(request.id, data, fds, spin)

    async def exchange_batch(
        self, request: Batch | Run, frame: bytearray, program: Program, spin: int
    ) -> Batched:
        """Send a batch that was encoded already, but for its id; otherwise as `exchange`.

        request: the same for the connection, perhaps without steps; its id does not count.
        """
        connection = self._connection
        if self._dead is None and not self._waiters:
            if due():
                await pause()
            else:
                await trio.lowlevel.checkpoint_if_cancelled()
        if self._dead is not None or self._waiters:
            await self._admit(lambda: connection.has_room_for(program.reserved))
        limits = connection.limits
        if not connection.batches:
            raise ValueError("the batch cannot be sent: the server knows none")
        if len(program.outs) > limits.steps:
            raise ValueError(f"the batch cannot be sent: more than {limits.steps} steps")
        most = min(limits.frame, limits.window)
        if len(frame) - Size.HEADER > limits.frame or program.reserved > most:
            raise ValueError(f"the batch cannot be sent: it or its reply has over {most} bytes")
        ring, id_, sent, begun = self._ring, 0, 0, None
        if ring is not None and not self._out:
            answer = ring.batch(frame, program.outs, program.brief, spin)
            if isinstance(answer, tuple):
                self._look_again(ring)
                return Batched(ring.last_id, *answer)
            if isinstance(answer, int):
                id_, sent, begun = ring.last_id, answer, ring.begun
        if begun is None:
            id_ = self._take_id()
            _ID.pack_into(frame, _ID_AT, id_)
        connection.adopt(replace(request, id=id_), program)
        waiter = self._waiters[id_] = Waiter()
        waiter.begun = begun
        try:
            if ring is not None:
                self._look_again(ring)
            reply = await self._push(waiter, frame[sent:], ())
        finally:
            del self._waiters[id_]
        if not isinstance(reply, Batched):
            raise AssertionError("the connection let a RESULT through as a BATCHED")
        return reply

    async def _send(
        self, id_: int, data: bytes | bytearray, fds: tuple[int, ...], spin: int
    ) -> Result | Batched:
        waiter = self._waiters[id_] = Waiter()
        try:
            if self._ring is not None and not self._out and not fds:
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
            if self._out and not self._flushing and (self._ring is None or self._side_full):
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
        """
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
            self._last_word(exc)
            self._die(Dead(f"the server broke the protocol: {exc.text}", exc))

    async def _exchange(self, make: Callable[[int], Request]) -> Result:
        reply = await self.exchange(make)
        if not isinstance(reply, Result):
            raise AssertionError("the connection let a BATCHED through as a RESULT")
        return reply

    async def _drain(self) -> None:
        self._flushing = True
        try:
            while self._out:
                with trio.CancelScope(shield=True):
                    try:
                        await trio.lowlevel.wait_writable(self._sock.fileno())
                    except trio.ClosedResourceError:
                        return
                self._flush()
                if self._ring is not None and not self._side_full:
                    return  # then it is the ring that is full: whoever reads sees to that
        finally:
            self._flushing = False

    async def _reply(self, waiter: Waiter) -> Result | Batched:
        while waiter.reply is None and self._dead is None:
            if self._reading:
                waiter.task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(never)
                continue
            self._reading = True
            try:
                await self._read_until(waiter)
            except trio.ClosedResourceError:
                pass  # self._dead says why
            finally:
                self._reading = False
                if self._ring is not None:
                    self._ring.unpark()
                for other in self._waiters.values():
                    if other.task is not None:  # the role is free: the first one takes it
                        self._wake(other)
                        break
        if waiter.reply is not None:
            return waiter.reply
        hangup = await self._explain()
        if waiter.sent or self._dead is None:
            raise hangup
        raise self._dead.not_sent()

    async def _read_until(self, waiter: Waiter) -> None:
        woken = False
        while waiter.reply is None and self._dead is None:
            if self._receive(woken=woken):
                woken = False
                continue
            ring = self._ring
            if ring is not None:
                now = time.monotonic()
                if now - self._looked > _LOOK_AGAIN_SECONDS:
                    self._looked = now
                    ring.spin_us = spin_us()
                if not ring.park(self._wants_room()):
                    continue
            self._reader = waiter
            try:
                with trio.CancelScope(shield=True) as self._sleep:
                    await self._wait_readable()
                woken = not self._sleep.cancelled_caught
            finally:
                self._reader = None
            if ring is not None:
                ring.unpark()


def _after_fork_in_child() -> None:
    for link in list(_links):
        link.after_fork()
    _links.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)

"""A connection with a server, over a socket or through a ring: its life, and the bytes in it.

What they are for, and who waits for them, is in sysif.requests.
"""

from __future__ import annotations

import array
import contextlib
import errno
import functools
import math
import os
import select
import socket
import weakref
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from rsyscall._checkpoint import Turn
from rsyscall._core import Ring as _Ring
from rsyscall._core import Socket as _Socket
from rsyscall.near.sysif import (
    SyscallHangup,
)
from rsyscall.near.types import FileDescriptor
from rsyscall.sysif._frames import Dead, Frame, Waiter, unknown_end
from rsyscall.sysif._queue import Queue
from rsyscall.sysif.ring import SharedHalves, spin_us
from rsyscall_protocol import (
    NEED_DATA,
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
    Result,
    Role,
    SideChannel,
    Stall,
    State,
)

__all__ = ["Link"]

#: What was in the socket when a frame was published has been read by then: more than it can hold.
_MOST_READS = 64

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
        spin: int | None = None,
    ) -> None:
        """Take over a connected stream socket; nothing is sent before `start`.

        spin: for how many microseconds it pays to spin, if that is known.
        """
        if sock.gettimeout() != 0:
            sock.setblocking(False)
        self._sock = sock
        self._limits = Limits() if limits is None else limits
        self._spin = spin_us() if spin is None else spin
        #: What the server has said without a word, if it begins in shared memory.
        self._greeting: Callable[[], Hello] | None = None
        self._post_mortem = post_mortem
        self._inquiry = Turn()
        self._adopt_alone: Callable[[], None] | None = None  # the request the core looks after
        self._waiters: dict[int, Waiter] = {}
        self._out: deque[Frame] = deque()
        self._reading = False
        self._reader: Waiter | None = None  # whose task sleeps on the socket
        self._sleep: trio.CancelScope | None = None  # and what ends that
        self._known_to_trio = False  # whether anybody has waited for the socket
        self._grace_until = math.inf  # when the first that was interrupted has to be over
        self._flushing = False
        self._change: trio.Event | None = None  # set once a reply has come
        self._room = Queue()  # requests that the limits do not admit yet
        self._dead: Dead | None = None
        self._gone = False  # nothing more can be sent
        self._forked = False
        self._ring: _Ring | None = None
        self._halves: SharedHalves | None = None
        self._side: SideChannel | None = None
        self._side_full = False
        self._looked = 0.0
        self._stall: int | None = None  # the errno that keeps the server from having threads
        self._on_end: list[Callable[[], None]] = []
        _links.add(self)

    # Both are made when they are first needed: most children that begin in shared memory have ended
    # by then.

    @functools.cached_property
    def _connection(self) -> Connection:
        connection = Connection(Role.CLIENT, self._limits)
        if self._greeting is not None:
            connection.begin(self._greeting())
        if self._dead is not None:
            connection.abandon()
        return connection

    @functools.cached_property
    def _core(self) -> _Socket:
        return _Socket(self._sock.fileno(), self._limits.frame, self._spin)

    def _is_made(self, name: str) -> bool:
        return name in self.__dict__

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
        self._known_to_trio = True
        return None if self._sock.fileno() < 0 else FileDescriptor(self._sock.fileno())

    def on_end(self, function: Callable[[], None]) -> None:
        """See SyscallInterface."""
        if self._dead is None:
            self._on_end.append(function)
        else:
            function()

    def forget_on_end(self, function: Callable[[], None]) -> None:
        """See SyscallInterface."""
        if function in self._on_end:
            self._on_end.remove(function)

    def get_end_fds(self) -> list[tuple[int, int]]:
        """See SyscallInterface: the socket, when the other end is closed."""
        return [] if self._sock.fileno() < 0 else [(self._sock.fileno(), select.EPOLLRDHUP)]

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
        if self._is_made("_connection"):
            self._connection.abandon()
        self._close_unclaimed()
        for waiter in self._waiters.values():
            self._wake(waiter)
        self._room.end()
        while self._on_end:
            self._on_end.pop()()

    def _close_socket(self) -> None:
        if self._sock.fileno() >= 0:
            if self._known_to_trio and not self._forked:
                trio.lowlevel.notify_closing(self._sock.fileno())
            if self._is_made("_core"):
                self._core.close()
            os.close(self._sock.detach())

    def _close_unclaimed(self) -> None:
        fds = self._connection.take_unclaimed() if self._is_made("_connection") else []
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
        if self._is_made("_core"):
            self._core.close()
        self._sock.close()
        if self._is_made("_connection"):
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
        except OSError as exc:
            if self._refused(exc):
                self._flush()
                return
            if self._gone:
                return  # the loop below has read on, and tried to send
            # The peer is gone; what it said last, perhaps why, is still to be read.
            self._gone = True
            while self._dead is None and self._receive(woken=True):
                pass
            self._die(Dead(""))

    def _refused(self, exc: OSError) -> bool:
        """Whether it was for its descriptors that the next frame could not be sent.

        Nothing of it has left then: it ends alone.
        """
        frame = self._out[0]
        theirs = exc.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)
        if theirs or not frame.fds or frame.waiter is None or self._sock.fileno() < 0:
            return False
        ids = [id_ for id_, waiter in self._waiters.items() if waiter is frame.waiter]
        if not ids:
            return False
        self._out.popleft()
        self._connection.forget(ids[0])
        exc.add_note("while sending the file descriptors of a call (fds); nothing was sent")
        frame.waiter.reply = exc
        self._wake(frame.waiter)
        self._room.wake()
        return True

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
        """What one read brings, or None if there is nothing yet; no bytes at the end."""
        while (got := self._core.take()) is not None:
            if isinstance(got, list):
                return got[0], got[1], got[2]
            # Otherwise it is an answer whose caller was torn away by KeyboardInterrupt.
        return None

    def _receive(self, *, woken: bool = False) -> bool:
        """Read what there is and hand it out; False if there is nothing yet.

        woken: the socket beside a ring is known to have something.
        """
        try:
            if self._ring is not None:
                return self._receive_ring(self._ring, woken=woken)
        except RemoteProtocolError as exc:
            self._break(exc)
            return True
        got = self._from_socket()
        if got is not None:
            self._hand_in(*got)
        return got is not None

    def _hand_in(self, data: bytes, fds: list[int], truncated: bool) -> None:
        """Hand out what one read of the socket has brought."""
        self._connection.advance(self._core.take_skipped())
        try:
            self._connection.receive(data, fds, truncated=truncated)
            self._dispatch_all()
        except RemoteProtocolError as exc:
            self._break(exc)
        else:
            if fds:
                self._close_unclaimed()

    def _receive_ring(self, ring: _Ring, *, woken: bool) -> bool:
        brought = ended = False
        if woken:
            # If nothing can be sent any more we want the server's last word, behind whatever it is.
            brought, ended = self._receive_side(_MOST_READS if self._gone else 1)
        if self._dead is not None:
            return True
        try:
            data = ring.recv()
        except ValueError as exc:
            raise RemoteProtocolError(ErrorCode.RING, str(exc)) from exc
        self._connection.advance(ring.take_skipped())
        if data:
            self._connection.receive(data)
            self._dispatch_ring()
        if self._dead is None:
            self._flush()
        if ended and self._dead is None:
            self._connection.receive(b"")
            self._dispatch_all()
        return bool(data) or brought or ended

    def _dispatch_ring(self) -> None:
        """Hand out what has come through the ring."""
        self._dispatch_all()
        while self._connection.wants_fds and self._dead is None:
            # They were sent before the frame was published: they are there. If the socket ends
            # behind them, whoever reads will see that again, once the ring holds nothing more.
            brought, _ = self._receive_side(_MOST_READS)
            if not brought:
                raise RemoteProtocolError(ErrorCode.FDS, "a frame without its descriptors")
            self._dispatch_all()

    def _receive_side(self, most: int) -> tuple[bool, bool]:
        """Read what came over the socket beside the ring.

        Returns whether that was anything but bells, and whether the socket has ended. most: how
        many reads to make in search of the former; for the server may ring for ever.
        """
        for _ in range(most):
            got = None if self._side is None else self._from_socket()
            if self._side is None or got is None:
                break
            data, fds, truncated = got
            if not data:
                return False, True
            packets, error = self._side.receive(data, fds)
            if packets:
                self._connection.receive_fds(packets)
            if truncated:
                raise RemoteProtocolError(ErrorCode.FDS, "file descriptors were truncated")
            if error is not None:
                self._dispatch(error)
            if packets or error is not None:
                return True, False
        return False, False

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
            self._room.wake()
        elif isinstance(event, Stall):
            self._stall = event.errno
        elif isinstance(event, Error):
            # It will stand in a terminal or a log, and they may obey what is not printable.
            text = "".join(
                c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in event.text
            )
            reason = f"the server refused: {event.code.name}: {text}"
            self._die(Dead(reason, RemoteProtocolError(event.code, reason, event.offset)))

    def _break(self, exc: RemoteProtocolError) -> None:
        """End the connection with a last word, because the server broke a rule."""
        with contextlib.suppress(OSError):  # if it does not listen either, nothing can be done
            self._sock.sendmsg([Connection.last_word(exc)], [], socket.MSG_NOSIGNAL)
        self._die(Dead(f"the server broke the protocol: {exc.text}", exc))

    async def _wait_readable(self) -> None:
        """Return when the socket has something, or the server has ended. A checkpoint."""
        self._known_to_trio = True
        await trio.lowlevel.wait_readable(self._sock.fileno())

    def _is_open(self, waiter: Waiter) -> bool:
        """Whether a reply may still come."""
        open_ = waiter.reply is None and self._waiters.get(waiter.id) is waiter
        return open_ and self._dead is None

    async def _wait_change(self) -> None:
        """Wait for a reply to any request but our own, or for the end. A checkpoint."""
        if self._change is None:
            self._change = trio.Event()
        await self._change.wait()

    def _end_sleep(self) -> None:
        """Have the one who reads look again, if it sleeps."""
        if self._sleep is not None:
            self._sleep.cancel()

    def _wake(self, waiter: Waiter) -> None:
        if self._change is not None:
            self._change.set()
            self._change = None
        if waiter.task is not None:
            trio.lowlevel.reschedule(waiter.task)
            waiter.task = None
        elif waiter is self._reader:
            # Another task has taken its reply out of the ring: no bell will ring for it.
            self._end_sleep()


def _after_fork_in_child() -> None:
    for link in list(_links):
        link.after_fork()
    _links.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)

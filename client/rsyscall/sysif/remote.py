"""Calls that go to a server over a socket.

One connection is used by many trio tasks at once, without a task of its own: whoever waits for a
result and finds nobody reading reads, hands the others what is theirs, and passes the role on when
its own result has come. So too for writing when the socket is full. A task that waits for a result
cannot be cancelled: the call has been sent, and its result must not be lost.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, SupportsInt

import trio

from rsyscall._checkpoint import checkpoint
from rsyscall.near.sysif import (
    ForkedError,
    ProtocolHangup,
    Reply,
    SyscallArgument,
    SyscallHangup,
    SyscallInterface,
    SyscallSendError,
    SyscallSendHangup,
    check_reply,
    convert_arguments,
    unreadable,
)
from rsyscall.near.types import FileDescriptor
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import (
    NEED_DATA,
    Bye,
    Call,
    CallFlag,
    Connection,
    Error,
    ErrorCode,
    Event,
    Hello,
    Limits,
    LocalProtocolError,
    Read,
    RemoteProtocolError,
    Request,
    Result,
    Role,
    Size,
    State,
    Write,
    flatten,
)

__all__ = ["RemoteSyscallInterface"]

_RECV_SIZE = 65536
_CONTROL_SIZE = socket.CMSG_SPACE(Limits().fds * 4)


class _Waiter:
    """A request on its way: whether its first byte has left, and the result once it is there."""

    __slots__ = ("result", "sent", "task")

    def __init__(self) -> None:
        self.result: Result | None = None
        self.sent = False
        self.task: trio.lowlevel.Task | None = None


class _Frame:
    """A frame that has not left completely."""

    __slots__ = ("data", "fds", "waiter")

    def __init__(self, data: bytes, fds: tuple[int, ...], waiter: _Waiter | None) -> None:
        self.data = memoryview(data)
        self.fds = fds
        self.waiter = waiter


def _never(_: Any) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


async def _unknown_end() -> str:
    return "the server closed the connection"


class _Dead:
    """Why a connection is over, and the exceptions that say so: a fresh one for every waiter."""

    def __init__(self, reason: str, cause: RemoteProtocolError | None = None) -> None:
        self.reason = reason
        self.cause = cause
        self.asking = trio.Lock()

    def hangup(self) -> SyscallHangup:
        if self.cause is not None:
            return ProtocolHangup(self.cause.code, self.reason, self.cause.offset)
        return SyscallHangup(self.reason)

    def not_sent(self) -> SyscallSendError:
        return SyscallSendHangup(f"not sent: {self.reason}")


_connections: weakref.WeakSet[RemoteSyscallInterface] = weakref.WeakSet()


class RemoteSyscallInterface(SyscallInterface):
    """The door of a process behind a socket.

    post_mortem: asked once when the stream has ended unexpectedly; what is known of the cause.
    peer: what the server said of itself (arch, page_size, pid), after `start`.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        limits: Limits | None = None,
        post_mortem: Callable[[], Awaitable[str]] = _unknown_end,
    ) -> None:
        """Take over a connected stream socket; nothing is sent before `start`."""
        sock.setblocking(False)
        self._sock = sock
        self._connection = Connection(Role.CLIENT, limits)
        self._post_mortem = post_mortem
        self._next_id = 1
        self._waiters: dict[int, _Waiter] = {}
        self._out: deque[_Frame] = deque()
        self._reading = False
        self._flushing = False
        self._room = trio.lowlevel.ParkingLot()  # requests that the limits do not admit yet
        self._dead: _Dead | None = None
        self._forked = False
        _connections.add(self)

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

    # ---- the beginning and the end ----

    async def start(self) -> Hello:
        """Exchange HELLOs; returns the server's.

        SyscallHangup if the server ends first, ProtocolHangup if it refuses or does not speak the
        protocol. A checkpoint; if cancelled, the connection is of no use.
        """
        data, _ = self._connection.send(Hello(limits=self._connection.limits))
        self._out.append(_Frame(data, (), None))
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
            self._die(_Dead(f"the server runs on {arch}, which is not supported yet"))
            raise self._hangup()
        return self.peer

    def say_bye(self) -> None:
        """Tell the server that no request will follow, as far as that can be done at once."""
        if self._dead is None and self._connection.state is State.OPEN:
            data, _ = self._connection.send(Bye())
            self._out.append(_Frame(data, (), None))
            self._flush()

    def close(self) -> None:
        """Close the socket; calls that are under way end with SyscallHangup."""
        self._die(_Dead("the connection was closed by us"))

    async def close_interface(self) -> None:
        """Say BYE and close the socket. Not a checkpoint."""
        self.say_bye()
        self.close()

    def get_activity_fd(self) -> FileDescriptor | None:
        """The socket, while it is open."""
        return None if self._sock.fileno() < 0 else FileDescriptor(self._sock.fileno())

    def _die(self, dead: _Dead) -> None:
        if self._dead is not None:
            return
        self._dead = dead
        self._out.clear()
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
        for fd in self._connection.take_unclaimed():
            os.close(fd)

    def after_fork(self) -> None:
        """In a forked child: this connection is the parent's; forget it without a word."""
        self._forked = True
        self._dead = _Dead("the connection belongs to the process we were forked from")
        self._out.clear()
        self._sock.close()
        self._connection.abandon()
        self._close_unclaimed()

    def _hangup(self) -> SyscallHangup:
        return (self._dead or _Dead("the connection is closed")).hangup()

    async def _explain(self) -> SyscallHangup:
        """The exception for a call that was under way, with what can be learnt of the cause."""
        dead = self._dead
        if dead is not None and dead.reason == "":
            with trio.CancelScope(shield=True):
                async with dead.asking:  # every waiter comes here; the first one asks
                    if dead.reason == "":
                        dead.reason = await self._post_mortem()
        return self._hangup()

    # ---- bytes ----

    def _flush(self) -> None:
        """Send what the socket takes without waiting."""
        while self._out:
            frame = self._out[0]
            if frame.fds:
                control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", frame.fds))]
            else:
                control = []
            try:
                n = self._sock.sendmsg([frame.data], control, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:
                # The peer is gone; what it said last, perhaps why, is still to be read.
                while self._dead is None and self._receive():
                    pass
                self._die(_Dead(""))
                return
            if frame.waiter is not None:
                frame.waiter.sent = True
            frame.fds = ()
            frame.data = frame.data[n:]
            if not frame.data:
                self._out.popleft()

    def _receive(self) -> bool:
        """Read what there is and hand it out; False if there is nothing yet."""
        fds: list[int] = []
        try:
            data, control, flags, _ = self._sock.recvmsg(
                _RECV_SIZE, _CONTROL_SIZE, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError:  # ECONNRESET: closed with bytes of ours unread
            data, control, flags = b"", [], 0
        for level, type_, payload in control:
            if (level, type_) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds += array.array("i", payload[: len(payload) // 4 * 4])
        try:
            self._connection.receive(data, fds, truncated=bool(flags & socket.MSG_CTRUNC))
            while (event := self._connection.next_event()) is not NEED_DATA:
                if event is None:
                    self._die(_Dead(""))
                    break
                self._dispatch(event)
        except RemoteProtocolError as exc:
            self._last_word(exc)
            self._die(_Dead(f"the server broke the protocol: {exc.text}", exc))
        if fds:
            self._close_unclaimed()
        return True

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, Result):
            waiter = self._waiters.get(event.id)
            if waiter is None:  # its caller was torn away by KeyboardInterrupt
                for fd in event.fds:
                    os.close(fd)
            else:
                waiter.result = event
                self._wake(waiter)
            self._room.unpark_all()
        elif isinstance(event, Error):
            # It will stand in a terminal or a log, and they may obey what is not printable.
            text = "".join(
                c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in event.text
            )
            reason = f"the server refused: {event.code.name}: {text}"
            self._die(_Dead(reason, RemoteProtocolError(event.code, reason, event.offset)))

    def _last_word(self, exc: RemoteProtocolError) -> None:
        with contextlib.suppress(OSError):  # if it does not listen either, nothing can be done
            self._sock.sendmsg([Connection.last_word(exc)], [], socket.MSG_NOSIGNAL)

    # ---- requests ----

    def _wake(self, waiter: _Waiter) -> None:
        if waiter.task is not None:
            trio.lowlevel.reschedule(waiter.task)
            waiter.task = None

    def _admits(self, request: Request) -> bool:
        return self._dead is not None or self._connection.has_room(request)

    async def _exchange(self, make: Callable[[int], Request]) -> Result:
        """Send a request once the limits admit it, and wait for its result."""
        await checkpoint()
        while not self._admits(make(self._next_id)):
            await self._room.park()
        if self._forked:
            raise ForkedError("the connection belongs to the process we were forked from")
        if self._dead is not None:
            await self._explain()
            raise self._dead.not_sent()
        request = make(self._next_id)
        try:
            data, fds = self._connection.send(request)
        except LocalProtocolError as exc:
            raise ValueError(f"the call cannot be sent: {exc.text}") from exc
        self._next_id += 1
        waiter = self._waiters[request.id] = _Waiter()
        try:
            self._out.append(_Frame(data, fds, waiter))
            self._flush()
            if self._out and not self._flushing:
                await self._drain()
            return await self._result(waiter)
        finally:
            del self._waiters[request.id]

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
        finally:
            self._flushing = False

    async def _result(self, waiter: _Waiter) -> Result:
        while waiter.result is None and self._dead is None:
            if self._reading:
                waiter.task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(_never)
                continue
            self._reading = True
            try:
                while waiter.result is None and self._dead is None:
                    if not self._receive():
                        with trio.CancelScope(shield=True):
                            await trio.lowlevel.wait_readable(self._sock.fileno())
            except trio.ClosedResourceError:
                pass  # self._dead says why
            finally:
                self._reading = False
                for other in self._waiters.values():
                    if other.task is not None:  # the role is free: the first one takes it
                        self._wake(other)
                        break
        if waiter.result is not None:
            return waiter.result
        hangup = await self._explain()
        if waiter.sent or self._dead is None:
            raise hangup
        raise self._dead.not_sent()

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
        values = convert_arguments(args)
        while values and type(values[-1]) is int and values[-1] == 0:
            values.pop()  # what is not there is zero
        flat, nr, sent = flatten(values), int(number), tuple(fds)
        flags = CallFlag.RETURN_FD if return_fd else CallFlag.NONE
        result = await self._exchange(lambda id_: Call(id_, nr, flat, flags, sent))
        check_reply(nr, args, result.value)
        return Reply(result.value, result.outs, result.fds[0] if result.fds else None)

    async def read_memory(self, address: SupportsInt, length: int) -> bytes:
        """See SyscallInterface. A long read is made in pieces of one frame each."""
        if length < 0:
            raise ValueError(f"length: {length} is negative")
        start, parts = int(address), list[bytes]()
        limits = self._connection.limits
        chunk = min(limits.frame, limits.window) - Size.REPLY_BASE - Size.REPLY_OUT
        if length == 0:
            await checkpoint()
        for at in range(start, start + length, chunk):
            n = min(chunk, start + length - at)

            def read(id_: int, at: int = at, n: int = n) -> Read:
                return Read(id_, at, n)

            result = await self._exchange(read)
            if result.value != n:
                raise unreadable(start, length)
            parts += result.outs
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def write_memory(self, address: SupportsInt, data: bytes) -> None:
        """See SyscallInterface. A long write is made in pieces of one frame each."""
        start, chunk = int(address), self._connection.limits.frame - 64
        if not data:
            await checkpoint()
        for at in range(0, len(data), chunk):
            part = bytes(data[at : at + chunk])

            def write(id_: int, at: int = start + at, part: bytes = part) -> Write:
                return Write(id_, at, part)

            result = await self._exchange(write)
            if result.value != len(part):
                raise unreadable(start, len(data))

    async def barrier(self) -> None:
        """Return when every call sent before has been answered. A checkpoint.

        The server answers in order, so one more answer means all the earlier ones.
        """
        await self._exchange(lambda id_: Read(id_, 0, 0))


def _after_fork_in_child() -> None:
    for connection in list(_connections):
        connection.after_fork()
    _connections.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)

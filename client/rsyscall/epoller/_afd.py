"""Descriptors that are read and written without holding up their process."""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Callable, Sequence
from typing import Any, Self, SupportsInt, TypeVar, cast, overload

import trio

from rsyscall import near
from rsyscall._checkpoint import checkpoint, shield
from rsyscall.epoller._epoller import Epoller
from rsyscall.epoller._watched import EpolledFileDescriptor
from rsyscall.fcntl import F, O
from rsyscall.handle import FileDescriptor
from rsyscall.handle.pointer import Pointer, ReadablePointer, WrittenPointer
from rsyscall.near.sysif import In, Probe, SyscallArgument, SyscallError
from rsyscall.near.typed import TypedCall, make_room, number, perform_at_once
from rsyscall.poll import POLL
from rsyscall.struct import HasSerializer
from rsyscall.sys.epoll import EPOLL
from rsyscall.sys.socket import (
    MSG,
    SOCK,
    Sockaddr,
    Sockbuf,
    accept_addr_call,
    accept_call,
    connect_call,
    recv_call,
    send_call,
)
from rsyscall.sys.syscall import SYS
from rsyscall.unistd.io import MAX_IO, read_call, write_call

__all__ = ["AsyncFileDescriptor"]

T = TypeVar("T")

_WATCHED = EPOLL.IN | EPOLL.OUT | EPOLL.RDHUP | EPOLL.PRI | EPOLL.ERR | EPOLL.HUP
_TO_READ = int(EPOLL.IN | EPOLL.RDHUP | EPOLL.ERR | EPOLL.HUP)
_TO_WRITE = int(EPOLL.OUT | EPOLL.ERR | EPOLL.HUP)
#: What a full queue of a listening UNIX socket is tried again after, in seconds: nothing tells.
_SHORTEST, _LONGEST = 0.001, 0.1


_POLLFD, _TIMESPEC = struct.Struct("=ihh"), struct.Struct("=qq")
#: For ppoll(2): what there is when a try to read would not be too early.
_READABLE = int(POLL.IN | POLL.RDHUP)
_AT_ONCE = In(_TIMESPEC.pack(0, 0))


def _writable_call(fd: SyscallArgument) -> TypedCall[int]:
    """ppoll(2): whether it can be written."""
    pollfd = In(_POLLFD.pack(int(cast("SupportsInt", fd)), int(POLL.OUT), 0))
    return TypedCall(SYS.ppoll, (pollfd, 1, _AT_ONCE, 0, 8), number)


class _State:
    """What all handles of one descriptor share."""

    def __init__(self) -> None:
        self.epolled: EpolledFileDescriptor | None = None
        self.closed = False
        self.calls = 0
        self.idle = trio.Event()
        self.lock = trio.Lock()


class AsyncFileDescriptor:
    """A descriptor of any process, with O_NONBLOCK, that is tried and, if too early, waited for.

    epoller: what waits. handle: the descriptor. Nothing is registered before something has to be
    waited for. Several tasks may wait for the same; who is served is not said. Not for signalfd(2):
    whether that is readable depends on who asks, and it is asked here; see monitor.AsyncSignalfd.

    Every method but `close` raises trio.ClosedResourceError once it is closed, also where it waits
    then; OSError as the call reports it; SyscallHangup if the process ends, also where it waits
    then. All are checkpoints, and cancelled only while they wait or before they begin: a call that
    was made is never lost.
    """

    def __init__(self, epoller: Epoller, fd: FileDescriptor) -> None:
        """Take a descriptor that is known to have O_NONBLOCK; see make."""
        self.epoller = epoller
        self.handle = fd
        self._state = _State()
        self._looks: Probe | None = None

    @staticmethod
    async def make(
        epoller: Epoller, fd: FileDescriptor, set_nonblock: bool = False
    ) -> AsyncFileDescriptor:
        """Take a descriptor of the epoller's process.

        set_nonblock: whether O_NONBLOCK is to be set, for all who have the same file open; without
        it, ValueError if it is not set: reading would hold up the process. OSError as the calls
        report it; errors of handles. A checkpoint; if cancelled, nothing has happened, or
        O_NONBLOCK is set. fcntl(2).
        """
        flags = await fd.fcntl(F.GETFL)
        if not flags & O.NONBLOCK:
            if not set_nonblock:
                raise ValueError(f"fd: {fd} has no O_NONBLOCK, and set_nonblock was not given")
            await fd.fcntl(F.SETFL, flags | O.NONBLOCK)
        return AsyncFileDescriptor(epoller, fd)

    async def make_new_afd(
        self, fd: FileDescriptor, set_nonblock: bool = False
    ) -> AsyncFileDescriptor:
        """Another one with the same epoller; see make."""
        return await AsyncFileDescriptor.make(self.epoller, fd, set_nonblock)

    def with_handle(self, fd: FileDescriptor) -> AsyncFileDescriptor:
        """The same descriptor, used through another handle; closing one closes both."""
        other = AsyncFileDescriptor(self.epoller, fd)
        other._state = self._state
        return other

    # ---- trying and waiting ----

    async def _register(self) -> None:
        state = self._state
        async with state.lock:
            if state.epolled is None and not state.closed:
                state.epolled = await self.epoller.register(self.handle, _WATCHED)

    def _number(self) -> SyscallArgument:
        handle = self.handle
        handle._validate()  # pyright: ignore[reportPrivateUsage] - ours
        return handle.near

    def check_open(self) -> None:
        """Raise trio.ClosedResourceError if it was closed."""
        if self._state.closed:
            raise trio.ClosedResourceError(f"{self.handle} was closed")

    async def _try(
        self,
        call: TypedCall[T],
        watched: EpolledFileDescriptor | None = None,
        counts: Sequence[tuple[int, int]] = (),
    ) -> T:
        """counts: what is consumed if there is nothing more to be read."""
        state = self._state
        state.calls += 1
        try:
            if watched is None:
                return await perform_at_once(self.handle.task, call)
            task = self.handle.task
            reply = await task.sysif.call_at_once(call.number, call.args, self._probe())
            if reply.probed == 0:
                watched.consume_counts(counts)
            return call.convert(task, reply.value, reply.outs)
        finally:
            state.calls -= 1
            if state.closed and not state.calls:
                state.idle.set()

    def _probe(self) -> Probe:
        """Whether there is more to be read."""
        if self._looks is None:
            pollfd = In(_POLLFD.pack(int(cast("SupportsInt", self._number())), _READABLE, 0))
            self._looks = SYS.ppoll, (pollfd, 1, _AT_ONCE, 0, 8)
        return self._looks

    async def _do(self, mask: int, declare: Callable[[SyscallArgument], TypedCall[T]]) -> T:
        """Make a call until it was not too early."""
        state = self._state
        while True:
            self.check_open()
            watched = state.epolled
            counts: list[tuple[int, int]] = []
            if watched is not None:
                if not watched.is_ready(mask):
                    await watched.wait(mask)
                counts = watched.snapshot(mask)
            try:
                call = declare(self._number())
                if mask == _TO_READ:
                    return await self._try(call, watched, counts)
                return await self._try(call)
            except BlockingIOError:
                pass
            if watched is None:
                await self._register()
            else:
                watched.consume_counts(counts)

    async def _with_memory(
        self, mask: int, nr: SYS, buf: Pointer[Any], *more: SyscallArgument
    ) -> int:
        def declare(fd: SyscallArgument) -> TypedCall[int]:
            with buf.borrow(self.handle.task) as address:
                return TypedCall(nr, (fd, address, buf.size(), *more), number)

        return await self._do(mask, declare)

    async def wait_for(self, flags: EPOLL) -> None:
        """Return once one of the events was told and not consumed; see EpolledFileDescriptor."""
        self.check_open()
        await self._register()
        self.check_open()
        if self._state.epolled is not None:
            await self._state.epolled.wait_for(flags)

    async def wait_for_rdhup(self) -> None:
        """Return once the other end has closed, or will not send any more."""
        await self.wait_for(EPOLL.RDHUP | EPOLL.HUP)

    async def wait_writable(self) -> None:
        """Return once something can be written, or at least tried."""
        self.check_open()
        watched = self._state.epolled
        counts = [] if watched is None else watched.snapshot(_TO_WRITE)
        if await self._try(_writable_call(self._number())):
            return
        if watched is None:
            await self._register()
            watched = self._state.epolled
        else:
            watched.consume_counts(counts)
        self.check_open()
        if watched is not None:
            await watched.wait(_TO_WRITE)

    # ---- reading and writing ----

    @overload
    async def read(self, ptr: int) -> bytes: ...
    @overload
    async def read(self, ptr: Pointer[T]) -> tuple[ReadablePointer[T], Pointer[T]]: ...

    async def read(self, ptr: int | Pointer[T]) -> bytes | tuple[ReadablePointer[T], Pointer[T]]:
        """Wait until there is something, and read it; otherwise as FileDescriptor.read.

        If cancelled, nothing was read. read(2).
        """
        if isinstance(ptr, int):
            count = ptr
            return await self._do(_TO_READ, lambda fd: read_call(fd, count))
        n = await self._with_memory(_TO_READ, SYS.read, ptr)
        return ptr.readable_split(n)

    async def read_some_bytes(self, count: int = 4096) -> bytes:
        """Wait until there is something, and read up to `count` bytes; none: the end.

        ValueError for a negative count. If cancelled, nothing was read. read(2).
        """
        return await self._do(_TO_READ, lambda fd: read_call(fd, count))

    @overload
    async def write(self, buf: bytes) -> int: ...
    @overload
    async def write(self, buf: Pointer[T]) -> tuple[Pointer[T], Pointer[T]]: ...

    async def write(self, buf: bytes | Pointer[T]) -> int | tuple[Pointer[T], Pointer[T]]:
        """Wait until something can be written, and write it; otherwise as FileDescriptor.write.

        If cancelled, nothing was written. write(2).
        """
        if not isinstance(buf, Pointer):
            data = buf
            return await self._do(_TO_WRITE, lambda fd: write_call(fd, data))
        return buf.split(await self._with_memory(_TO_WRITE, SYS.write, buf))

    async def write_all(self, to_write: Pointer[Any]) -> None:
        """Write all that memory holds.

        If cancelled, or if it fails, a part of unknown length has been written, from the beginning;
        the pointer is consumed. write(2).
        """
        while to_write.size() > 0:
            _, to_write = await self.write(to_write)

    async def write_all_bytes(self, buf: bytes | bytearray | memoryview | HasSerializer) -> None:
        """Write all bytes.

        If cancelled, or if it fails, a part of unknown length has been written, from the beginning;
        `write` tells after each part. write(2).
        """
        data, at = self._bytes(buf), 0
        if not data:
            self.check_open()
            await checkpoint()
        while at < len(data):
            at += await self.write(data[at : at + MAX_IO])

    def _bytes(self, buf: bytes | bytearray | memoryview | HasSerializer) -> bytes:
        if isinstance(buf, HasSerializer):
            return buf.get_self_serializer(self.handle.task).to_bytes(buf)
        return bytes(buf)

    # ---- sockets ----

    async def recv(self, count: int, flags: MSG = MSG.NONE) -> bytes:
        """Wait until there is something, and receive up to `count` bytes.

        If cancelled, nothing was received. recv(2).
        """
        return await self._do(_TO_READ, lambda fd: recv_call(fd, count, flags))

    @overload
    async def send(self, buf: bytes, flags: MSG = MSG.NONE) -> int: ...
    @overload
    async def send(
        self, buf: Pointer[T], flags: MSG = MSG.NONE
    ) -> tuple[Pointer[T], Pointer[T]]: ...

    async def send(
        self, buf: bytes | Pointer[T], flags: MSG = MSG.NONE
    ) -> int | tuple[Pointer[T], Pointer[T]]:
        """Wait until something can be sent, and send it; otherwise as FileDescriptor.send.

        If cancelled, nothing was sent. send(2).
        """
        if not isinstance(buf, Pointer):
            data = buf
            return await self._do(_TO_WRITE, lambda fd: send_call(fd, data, flags))
        return buf.split(await self._with_memory(_TO_WRITE, SYS.sendto, buf, flags))

    async def send_all(self, to_write: Pointer[Any], flags: MSG = MSG.NONE) -> None:
        """Send all that memory holds; see write_all. send(2)."""
        while to_write.size() > 0:
            _, to_write = await self.send(to_write, flags)

    async def send_all_bytes(
        self, buf: bytes | bytearray | memoryview | HasSerializer, flags: MSG = MSG.NONE
    ) -> None:
        """Send all bytes; see write_all_bytes. send(2)."""
        data, at = self._bytes(buf), 0
        if not data:
            self.check_open()
            await checkpoint()
        while at < len(data):
            at += await self.send(data[at : at + MAX_IO], flags)

    @overload
    async def accept(self, flags: SOCK = SOCK.NONE, addr: None = None) -> FileDescriptor: ...
    @overload
    async def accept(
        self, flags: SOCK, addr: WrittenPointer[Sockbuf[T]]
    ) -> tuple[FileDescriptor, ReadablePointer[Sockbuf[T]]]: ...

    async def accept(
        self, flags: SOCK = SOCK.NONE, addr: WrittenPointer[Sockbuf[T]] | None = None
    ) -> FileDescriptor | tuple[FileDescriptor, ReadablePointer[Sockbuf[T]]]:
        """Wait for a connection, and take it; it is closed on exec, as with SOCK.CLOEXEC.

        addr: where the address of who has connected is left; it is consumed. If cancelled, none was
        taken. accept4(2).
        """
        await make_room(self.handle.task)
        if addr is None:
            made = await self._do(_TO_READ, lambda fd: accept_call(fd, flags))
            return cast("FileDescriptor", made)

        def declare(fd: SyscallArgument) -> TypedCall[int]:
            task = self.handle.task
            with addr.borrow(task) as length, addr.value.buf.borrow(task) as buf:
                args = (fd, buf, length, flags | SOCK.CLOEXEC)
                return TypedCall(SYS.accept4, args, number)

        n = await self._do(_TO_READ, declare)
        made = self.handle.task.adopt_fd(near.FileDescriptor(n))
        return cast("FileDescriptor", made), addr.unsafe()

    async def accept_addr(self, flags: SOCK = SOCK.NONE) -> tuple[FileDescriptor, Sockaddr]:
        """accept, with the address of who has connected. accept4(2)."""
        await make_room(self.handle.task)
        made = await self._do(
            _TO_READ, lambda fd: accept_addr_call(fd, flags, abi=self.handle.task.abi)
        )
        return cast("tuple[FileDescriptor, Sockaddr]", made)

    async def bind(self, addr: Sockaddr | WrittenPointer[Any]) -> None:
        """Give the socket an address; see FileDescriptor.bind."""
        await self.handle.bind(addr)

    async def connect(self, addr: Sockaddr | WrittenPointer[Any]) -> None:
        """Connect the socket, and wait until it is.

        A UNIX socket that finds the other's queue full tries again, ever less often but at least
        every 100 ms. If cancelled, it may be connected, or go on connecting: connect may be called
        again with the same address, otherwise the socket is only good to be closed. connect(2).
        """

        def declare(fd: SyscallArgument) -> TypedCall[None]:
            if isinstance(addr, Sockaddr):
                return connect_call(fd, addr, abi=self.handle.task.abi)
            with addr.borrow(self.handle.task) as address:
                return connect_call(fd, (address, addr.size()), abi=self.handle.task.abi)

        pause = _SHORTEST
        began = False
        while True:
            try:
                if began:
                    await self._do(_TO_WRITE, declare)
                else:
                    self.check_open()
                    await self._try(declare(self._number()))
                return
            except BlockingIOError as exc:
                if exc.errno == errno.EAGAIN:
                    await trio.sleep(pause)
                    pause = min(2 * pause, _LONGEST)
                    continue
                await self._register()
            except OSError as exc:
                if exc.errno == errno.EISCONN and began:
                    return
                raise
            began = True

    # ---- the end ----

    async def close(self) -> None:
        """Close it, cancelled or not; nothing if that was done before.

        Whoever waits gets trio.ClosedResourceError, whoever is being answered still is. The
        descriptor is closed unless it has other handles. OSError as the call reports it; it is
        closed all the same. A checkpoint. close(2).
        """
        state = self._state
        if not state.closed:
            state.closed = True
            with shield():
                async with state.lock:
                    if state.epolled is not None:
                        await self.epoller.remove(state.epolled)
                if state.calls:
                    await state.idle.wait()
                if self.handle.valid:
                    with contextlib.suppress(SyscallError):
                        await self.handle.invalidate()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        """Itself; leaving the block closes it. Not a checkpoint."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """See close."""
        await self.close()

    def __repr__(self) -> str:
        """For people."""
        return f"AsyncFileDescriptor({self.handle}{', closed' if self._state.closed else ''})"

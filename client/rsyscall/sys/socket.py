"""`#include <sys/socket.h>`"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from rsyscall import near
from rsyscall.handle.borrow import perform_with
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.handle.pair import HandlePair, PairSerializer, makes_pair
from rsyscall.handle.pointer import LinearPointer, Pointer, ReadablePointer, WrittenPointer
from rsyscall.near.sysif import MAX_IO, In, InOut, Out, Ret, SyscallArgument
from rsyscall.near.typed import (
    TypedCall,
    declares,
    first_out,
    nothing,
    number,
    perform,
    perform_making,
)
from rsyscall.sys._msghdr import Message, recvmsg_args, sendmsg_args
from rsyscall.sys._sockaddr import AF, Sockaddr, SockaddrStorage
from rsyscall.sys._socket import MSG, SCM, SHUT, SO, SOCK, SOL
from rsyscall.sys.syscall import SYS

if TYPE_CHECKING:
    from rsyscall.handle import FileDescriptor

__all__ = [
    "AF",
    "MSG",
    "SCM",
    "SHUT",
    "SO",
    "SOCK",
    "SOL",
    "Message",
    "Sockaddr",
    "SockaddrStorage",
    "SocketFileDescriptor",
    "SocketTask",
    "Socketpair",
    "SocketpairSerializer",
    "accept_addr_call",
    "accept_call",
    "bind_call",
    "connect_call",
    "getpeername_call",
    "getsockname_call",
    "getsockopt_call",
    "listen_call",
    "recv_call",
    "recvfrom_call",
    "recvmsg_call",
    "send_call",
    "sendmsg_call",
    "sendto_call",
    "setsockopt_call",
    "shutdown_call",
    "socket_call",
    "socketpair_call",
]

T = TypeVar("T")
_INT = struct.Struct("=i")


class Socketpair(HandlePair):
    """Two sockets that are connected with each other."""

    def __init__(self, first: FileDescriptor, second: FileDescriptor) -> None:
        """Take both."""
        super().__init__(first, second)
        self.first: FileDescriptor = first
        self.second: FileDescriptor = second


SocketpairSerializer = PairSerializer[Socketpair]


def _handle(task: Any, value: int, _outs: tuple[bytes, ...]) -> Any:
    return task.adopt_fd(near.FileDescriptor(value))


@declares("socket")
def socket_call(domain: AF, type: SOCK, protocol: int = 0) -> TypedCall[BaseFileDescriptor]:
    """socket(2)."""
    return TypedCall(SYS.socket, (domain, type | SOCK.CLOEXEC, protocol), _handle, handle=True)


@declares("socketpair")
def socketpair_call(domain: AF, type: SOCK, protocol: int = 0) -> TypedCall[Socketpair]:
    """socketpair(2)."""
    args = (domain, type | SOCK.CLOEXEC, protocol, Out(Socketpair.sizeof()))
    return makes_pair(Socketpair, SYS.socketpair, args)


def _socketpair_into(domain: AF, type: SOCK, protocol: int, sv: SyscallArgument) -> TypedCall[None]:
    return TypedCall(SYS.socketpair, (domain, type | SOCK.CLOEXEC, protocol, sv), nothing)


# ---- declarations ----


def _room() -> tuple[Out, InOut]:
    """For an address, and its length."""
    return Out(SockaddrStorage.sizeof()), InOut(_INT.pack(SockaddrStorage.sizeof()))


def _parse_address(data: bytes, length: bytes) -> Sockaddr | None:
    (size,) = _INT.unpack(length)
    return SockaddrStorage.from_bytes(data[:size]).parse() if size >= 2 else None


def _address(_task: object, _value: int, outs: tuple[bytes, ...]) -> Sockaddr:
    address = _parse_address(*outs)
    if address is None:
        raise ValueError("the kernel gave an address without a family")
    return address


def _in_address(addr: Sockaddr | tuple[SyscallArgument, int]) -> tuple[SyscallArgument, int]:
    """An address and its length; or both of one that is in memory already."""
    if isinstance(addr, Sockaddr):
        data = addr.to_bytes()
        return In(data), len(data)
    return addr


def _check_count(name: str, count: int) -> int:
    if count < 0:
        raise ValueError(f"{name}: {count} is negative")
    return min(count, MAX_IO)


@declares("bind")
def bind_call(fd: SyscallArgument, addr: Sockaddr | tuple[SyscallArgument, int]) -> TypedCall[None]:
    """bind(2). addr: or where it is, and its length in bytes."""
    return TypedCall(SYS.bind, (fd, *_in_address(addr)), nothing)


@declares("connect")
def connect_call(
    fd: SyscallArgument, addr: Sockaddr | tuple[SyscallArgument, int]
) -> TypedCall[None]:
    """connect(2). addr: or where it is, and its length in bytes."""
    return TypedCall(SYS.connect, (fd, *_in_address(addr)), nothing)


@declares("listen")
def listen_call(fd: SyscallArgument, backlog: int) -> TypedCall[None]:
    """listen(2)."""
    return TypedCall(SYS.listen, (fd, backlog), nothing)


@declares("accept")
def accept_call(fd: SyscallArgument, flags: SOCK = SOCK.NONE) -> TypedCall[BaseFileDescriptor]:
    """accept4(2), without the address."""
    return TypedCall(SYS.accept4, (fd, 0, 0, flags | SOCK.CLOEXEC), _handle, handle=True)


def _accepted(
    task: Any, value: int, outs: tuple[bytes, ...]
) -> tuple[BaseFileDescriptor, Sockaddr]:
    data, length = outs
    # Whatever the address is, the descriptor must not be lost with it.
    address = SockaddrStorage.from_bytes(data[: max(2, _INT.unpack(length)[0])])
    return _handle(task, value, ()), address.parsed()


@declares("accept_addr")
def accept_addr_call(
    fd: SyscallArgument, flags: SOCK = SOCK.NONE
) -> TypedCall[tuple[BaseFileDescriptor, Sockaddr]]:
    """accept4(2)."""
    args = (fd, *_room(), flags | SOCK.CLOEXEC)
    return TypedCall(SYS.accept4, args, _accepted, outs=True, handle=True)


@declares("shutdown")
def shutdown_call(fd: SyscallArgument, how: SHUT) -> TypedCall[None]:
    """shutdown(2)."""
    return TypedCall(SYS.shutdown, (fd, SHUT(how)), nothing)


@declares("getsockname")
def getsockname_call(fd: SyscallArgument) -> TypedCall[Sockaddr]:
    """getsockname(2)."""
    return TypedCall(SYS.getsockname, (fd, *_room()), _address, outs=True)


@declares("getpeername")
def getpeername_call(fd: SyscallArgument) -> TypedCall[Sockaddr]:
    """getpeername(2)."""
    return TypedCall(SYS.getpeername, (fd, *_room()), _address, outs=True)


def _option(_task: object, _value: int, outs: tuple[bytes, ...]) -> bytes:
    return outs[0][: _INT.unpack(outs[1])[0]]


@declares("getsockopt")
def getsockopt_call(
    fd: SyscallArgument, level: int, optname: int, optval: int = 4
) -> TypedCall[bytes]:
    """getsockopt(2). optval: how many bytes there is room for."""
    size = _check_count("optval", optval)
    args = (fd, level, optname, Out(size), InOut(_INT.pack(size)))
    return TypedCall(SYS.getsockopt, args, _option, outs=True)


@declares("setsockopt")
def setsockopt_call(
    fd: SyscallArgument,
    level: int,
    optname: int,
    optval: int | bytes | tuple[SyscallArgument, int],
) -> TypedCall[None]:
    """setsockopt(2). optval: or where it is, and its length in bytes."""
    if isinstance(optval, int):
        optval = _INT.pack(optval)
    where = (In(optval), len(optval)) if isinstance(optval, bytes) else optval
    return TypedCall(SYS.setsockopt, (fd, level, optname, *where), nothing)


@declares("send")
def send_call(fd: SyscallArgument, buf: bytes, flags: MSG = MSG.NONE) -> TypedCall[int]:
    """send(2) of MAX_IO bytes at most."""
    data = bytes(buf[:MAX_IO])
    return TypedCall(SYS.sendto, (fd, In(data), len(data), flags), number)


@declares("sendto")
def sendto_call(fd: SyscallArgument, buf: bytes, flags: MSG, addr: Sockaddr) -> TypedCall[int]:
    """sendto(2) of MAX_IO bytes at most."""
    data = bytes(buf[:MAX_IO])
    return TypedCall(SYS.sendto, (fd, In(data), len(data), flags, *_in_address(addr)), number)


@declares("recv")
def recv_call(fd: SyscallArgument, buf: int, flags: MSG = MSG.NONE) -> TypedCall[bytes]:
    """recv(2) of up to `buf` bytes, and of MAX_IO at most."""
    n = _check_count("buf", buf)
    return TypedCall(SYS.recvfrom, (fd, Ret(n), n, flags), first_out, outs=True)


def _received(_task: object, _value: int, outs: tuple[bytes, ...]) -> tuple[bytes, Sockaddr | None]:
    return outs[0], _parse_address(outs[1], outs[2])


@declares("recvfrom")
def recvfrom_call(
    fd: SyscallArgument, buf: int, flags: MSG = MSG.NONE
) -> TypedCall[tuple[bytes, Sockaddr | None]]:
    """recvfrom(2) of up to `buf` bytes, and of MAX_IO at most."""
    n = _check_count("buf", buf)
    return TypedCall(SYS.recvfrom, (fd, Ret(n), n, flags, *_room()), _received, outs=True)


@declares("sendmsg")
def sendmsg_call(
    fd: SyscallArgument,
    msg: Sequence[bytes],
    flags: MSG = MSG.NONE,
    fds: Sequence[BaseFileDescriptor] = (),
    addr: Sockaddr | None = None,
) -> TypedCall[int]:
    """sendmsg(2)."""
    where = None if addr is None else addr.to_bytes()
    msghdr = sendmsg_args(msg, [int(one.near) for one in fds], where)
    return TypedCall(SYS.sendmsg, (fd, msghdr, flags), number)


@declares("recvmsg")
def recvmsg_call(
    fd: SyscallArgument, msg: int, flags: MSG = MSG.NONE, fds: int = 0
) -> TypedCall[Message]:
    """recvmsg(2). fds: for how many descriptors there is room."""
    count = _check_count("msg", msg)
    if not 0 <= fds <= 253:
        raise ValueError(f"fds: {fds} is not from 0 to 253")
    msghdr, convert = recvmsg_args(count, fds)
    args = (fd, msghdr, flags | MSG.CMSG_CLOEXEC)
    return TypedCall(SYS.recvmsg, args, convert, outs=True, handle=True)


def _recv_into(fd: SyscallArgument, to: SyscallArgument, n: int, flags: MSG) -> TypedCall[int]:
    return TypedCall(SYS.recvfrom, (fd, to, n, flags), number)


def _send_from(fd: SyscallArgument, at: SyscallArgument, n: int, flags: MSG) -> TypedCall[int]:
    return TypedCall(SYS.sendto, (fd, at, n, flags), number)


# ---- methods ----


class SocketFileDescriptor(BaseFileDescriptor):
    """A file descriptor of a socket.

    All of these raise InvalidHandleError; UseAfterFreeError and AddressSpaceMismatchError for
    pointers; OSError as the call reports it. They are checkpoints; if cancelled, nothing has
    happened. What waits holds up a process whose calls are made one by one: rsyscall.epoller waits
    without.
    """

    async def bind(self, addr: Sockaddr | WrittenPointer[Any]) -> None:
        """Give the socket an address of its own. bind(2)."""

        def declare(fd: SyscallArgument, at: Sockaddr | SyscallArgument) -> TypedCall[None]:
            return bind_call(fd, at if isinstance(at, Sockaddr) else (at, _size(addr)))

        await perform_with(self.task, declare, self, addr)

    async def connect(self, addr: Sockaddr | WrittenPointer[Any]) -> None:
        """Connect the socket with the one that has an address. connect(2)."""

        def declare(fd: SyscallArgument, at: Sockaddr | SyscallArgument) -> TypedCall[None]:
            return connect_call(fd, at if isinstance(at, Sockaddr) else (at, _size(addr)))

        await perform_with(self.task, declare, self, addr)

    async def listen(self, backlog: int) -> None:
        """Let others connect with it. backlog: how many may wait for accept. listen(2)."""
        self._validate()
        await perform(self.task, listen_call(self.near, backlog))

    async def accept(self, flags: SOCK = SOCK.NONE) -> FileDescriptor:
        """Take a connection; it is closed on exec, as with SOCK.CLOEXEC. accept4(2)."""
        self._validate()
        return cast(
            "FileDescriptor", await perform_making(self.task, accept_call(self.near, flags))
        )

    async def accept_addr(self, flags: SOCK = SOCK.NONE) -> tuple[FileDescriptor, Sockaddr]:
        """accept, with the address of who has connected. accept4(2)."""
        self._validate()
        made = await perform_making(self.task, accept_addr_call(self.near, flags))
        return cast("tuple[FileDescriptor, Sockaddr]", made)

    async def shutdown(self, how: SHUT) -> None:
        """End one direction of a connection, or both. ValueError for none. shutdown(2)."""
        self._validate()
        await perform(self.task, shutdown_call(self.near, how))

    async def getsockname(self) -> Sockaddr:
        """Its own address, as the class of its family. getsockname(2)."""
        self._validate()
        return await perform(self.task, getsockname_call(self.near))

    async def getpeername(self) -> Sockaddr:
        """The address of the other end, as the class of its family. getpeername(2)."""
        self._validate()
        return await perform(self.task, getpeername_call(self.near))

    async def getsockopt(self, level: int, optname: int, optval: int = 4) -> bytes:
        """An option.

        level, optname: see SOL and SO, or those of the protocol. optval: how many bytes there is
        room for; ValueError if negative. Most options are an int in the machine's byte order.
        getsockopt(2).
        """
        self._validate()
        return await perform(self.task, getsockopt_call(self.near, level, optname, optval))

    async def setsockopt(
        self, level: int, optname: int, optval: int | bytes | Pointer[Any]
    ) -> None:
        """Set an option; see getsockopt. setsockopt(2)."""
        if not isinstance(optval, Pointer):
            self._validate()
            await perform(self.task, setsockopt_call(self.near, level, optname, optval))
            return
        size = optval.size()

        def declare(fd: SyscallArgument, at: SyscallArgument) -> TypedCall[None]:
            return setsockopt_call(fd, level, optname, (at, size))

        await perform_with(self.task, declare, self, optval)

    @overload
    async def recv(self, buf: int, flags: MSG = MSG.NONE) -> bytes: ...
    @overload
    async def recv(
        self, buf: Pointer[T], flags: MSG = MSG.NONE
    ) -> tuple[ReadablePointer[T], Pointer[T]]: ...

    async def recv(
        self, buf: int | Pointer[T], flags: MSG = MSG.NONE
    ) -> bytes | tuple[ReadablePointer[T], Pointer[T]]:
        """Receive up to `buf` bytes and return them; or into memory, see FileDescriptor.read.

        ValueError for a negative count. recv(2).
        """
        if isinstance(buf, int):
            self._validate()
            return await perform(self.task, recv_call(self.near, buf, flags))
        n = await perform_with(self.task, _recv_into, self, buf, buf.size(), flags)
        return buf.readable_split(min(n, buf.size()))  # MSG.TRUNC: more than there was room for

    @overload
    async def send(self, buf: bytes, flags: MSG = MSG.NONE) -> int: ...
    @overload
    async def send(
        self, buf: Pointer[T], flags: MSG = MSG.NONE
    ) -> tuple[Pointer[T], Pointer[T]]: ...

    async def send(
        self, buf: bytes | Pointer[T], flags: MSG = MSG.NONE
    ) -> int | tuple[Pointer[T], Pointer[T]]:
        """Send bytes, or from memory, see FileDescriptor.write. send(2)."""
        if not isinstance(buf, Pointer):
            self._validate()
            return await perform(self.task, send_call(self.near, buf, flags))
        n = await perform_with(self.task, _send_from, self, buf, buf.size(), flags)
        return buf.split(n)

    async def recvfrom(self, buf: int, flags: MSG = MSG.NONE) -> tuple[bytes, Sockaddr | None]:
        """Receive up to `buf` bytes, and from whom, if that has an address. recvfrom(2)."""
        self._validate()
        return await perform(self.task, recvfrom_call(self.near, buf, flags))

    async def sendto(self, buf: bytes, flags: MSG, addr: Sockaddr) -> int:
        """Send bytes to an address; returns how many were. sendto(2)."""
        self._validate()
        return await perform(self.task, sendto_call(self.near, buf, flags, addr))

    async def sendmsg(
        self,
        msg: Sequence[bytes],
        flags: MSG = MSG.NONE,
        fds: Sequence[BaseFileDescriptor] = (),
        addr: Sockaddr | None = None,
    ) -> int:
        """Send the bytes of all buffers, one after the other; returns how many were.

        fds: descriptors to send along, of the same table; they stay open here. addr: to whom.
        FDTableMismatchError. sendmsg(2).
        """

        def declare(fd: SyscallArgument, *_: SyscallArgument) -> TypedCall[int]:
            return sendmsg_call(fd, msg, flags, fds, addr)

        return await perform_with(self.task, declare, self, *fds)

    async def recvmsg(self, msg: int, flags: MSG = MSG.NONE, fds: int = 0) -> Message:
        """Receive up to `msg` bytes, and what came with them.

        fds: for how many descriptors there is room, at most 253; what comes is closed on exec.
        ValueError for other numbers. recvmsg(2).
        """
        self._validate()
        return await perform_making(self.task, recvmsg_call(self.near, msg, flags, fds))


def _size(addr: Sockaddr | WrittenPointer[Any]) -> int:
    # What the value takes: the rest of the memory would be part of the name.
    if not isinstance(addr, WrittenPointer):
        return 0
    return len(addr.serializer.to_bytes(addr.value))


class SocketTask(FileDescriptorTask[T_fd]):
    """A task that can make sockets."""

    async def socket(self, domain: AF, type: SOCK, protocol: int = 0) -> T_fd:
        """Make a socket; it is closed on exec, as with SOCK.CLOEXEC.

        OSError as the call reports it. A checkpoint; if cancelled, nothing was made. socket(2).
        """
        return cast("T_fd", await perform_making(self, socket_call(domain, type, protocol)))

    @overload
    async def socketpair(
        self, domain: AF, type: SOCK, protocol: int = 0, sv: None = None
    ) -> Socketpair: ...
    @overload
    async def socketpair(
        self, domain: AF, type: SOCK, protocol: int, sv: Pointer[Socketpair]
    ) -> LinearPointer[Socketpair]: ...

    async def socketpair(
        self, domain: AF, type: SOCK, protocol: int = 0, sv: Pointer[Socketpair] | None = None
    ) -> Socketpair | LinearPointer[Socketpair]:
        """Make two sockets that are connected; they are closed on exec, as with SOCK.CLOEXEC.

        They are returned, or left where sv points, which is consumed. ValueError if that is too
        small; UseAfterFreeError or AddressSpaceMismatchError; OSError as the call reports it. A
        checkpoint; if cancelled, nothing was made. socketpair(2).
        """
        if sv is None:
            return await perform_making(self, socketpair_call(domain, type, protocol))
        if sv.size() < Socketpair.sizeof():
            raise ValueError(f"sv: {sv.size()} bytes, two descriptors have {Socketpair.sizeof()}")
        await perform_with(self, _socketpair_into, domain, type, protocol, sv)
        return sv.filled_once()

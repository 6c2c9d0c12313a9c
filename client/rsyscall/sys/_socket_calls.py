"""`#include <sys/socket.h>`: the calls, as they are declared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rsyscall import near
from rsyscall.abi import ABI, NATIVE, Layout
from rsyscall.far import Task
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.handle.pair import HandlePair, PairSerializer, makes_pair
from rsyscall.near.sysif import MAX_IO, In, InOut, Out, Ret, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, first_out, nothing, number
from rsyscall.sys._msghdr import Message, recvmsg_args, sendmsg_args
from rsyscall.sys._sockaddr import AF, Sockaddr, SockaddrStorage
from rsyscall.sys._socket import MSG, SHUT, SOCK
from rsyscall.sys.syscall import SYS

if TYPE_CHECKING:
    from rsyscall.handle import FileDescriptor

__all__ = [
    "Socketpair",
    "SocketpairSerializer",
    "accept_addr_call",
    "accept_call",
    "bind_call",
    "connect_call",
    "getpeername_call",
    "getsockname_call",
    "getsockopt_call",
    "handle",
    "listen_call",
    "recv_call",
    "recv_into",
    "recvfrom_call",
    "recvmsg_call",
    "send_call",
    "send_from",
    "sendmsg_call",
    "sendto_call",
    "setsockopt_call",
    "shutdown_call",
    "socket_call",
    "socketpair_call",
    "socketpair_into",
]

_INT = Layout("int", "i32 number")


class Socketpair(HandlePair):
    """Two sockets that are connected with each other."""

    def __init__(self, first: FileDescriptor, second: FileDescriptor) -> None:
        """Take both."""
        super().__init__(first, second)
        self.first: FileDescriptor = first
        self.second: FileDescriptor = second


SocketpairSerializer = PairSerializer[Socketpair]


def handle(task: Any, value: int, _outs: tuple[bytes, ...]) -> Any:
    return task.adopt_fd(near.FileDescriptor(value))


@declares("socket")
def socket_call(domain: AF, type: SOCK, protocol: int = 0) -> TypedCall[BaseFileDescriptor]:
    """socket(2)."""
    return TypedCall(SYS.socket, (domain, type | SOCK.CLOEXEC, protocol), handle, handle=True)


@declares("socketpair")
def socketpair_call(domain: AF, type: SOCK, protocol: int = 0) -> TypedCall[Socketpair]:
    """socketpair(2)."""
    args = (domain, type | SOCK.CLOEXEC, protocol, Out(Socketpair.sizeof()))
    return makes_pair(Socketpair, SYS.socketpair, args)


def socketpair_into(domain: AF, type: SOCK, protocol: int, sv: SyscallArgument) -> TypedCall[None]:
    return TypedCall(SYS.socketpair, (domain, type | SOCK.CLOEXEC, protocol, sv), nothing)


# ---- declarations ----


def _room(abi: ABI) -> tuple[Out, InOut]:
    """For an address, and its length."""
    size = SockaddrStorage.sizeof_for(abi)
    return Out(size), InOut(_INT.pack(abi, size))


def _parse_address(abi: ABI, data: bytes, length: bytes) -> Sockaddr | None:
    (size,) = _INT.unpack(abi, length)
    return SockaddrStorage.from_bytes_for(data[:size], abi).parse() if size >= 2 else None


def _address(task: Task, _value: int, outs: tuple[bytes, ...]) -> Sockaddr:
    address = _parse_address(task.abi, *outs)
    if address is None:
        raise ValueError("the kernel gave an address without a family")
    return address


def _in_address(
    addr: Sockaddr | tuple[SyscallArgument, int], abi: ABI
) -> tuple[SyscallArgument, int]:
    """An address and its length; or both of one that is in memory already."""
    if isinstance(addr, Sockaddr):
        data = addr.to_bytes_for(abi)
        return In(data), len(data)
    return addr


def _check_count(name: str, count: int) -> int:
    if count < 0:
        raise ValueError(f"{name}: {count} is negative")
    return min(count, MAX_IO)


@declares("bind")
def bind_call(
    fd: SyscallArgument, addr: Sockaddr | tuple[SyscallArgument, int], *, abi: ABI = NATIVE
) -> TypedCall[None]:
    """bind(2). addr: or where it is, and its length in bytes."""
    return TypedCall(SYS.bind, (fd, *_in_address(addr, abi)), nothing)


@declares("connect")
def connect_call(
    fd: SyscallArgument, addr: Sockaddr | tuple[SyscallArgument, int], *, abi: ABI = NATIVE
) -> TypedCall[None]:
    """connect(2). addr: or where it is, and its length in bytes."""
    return TypedCall(SYS.connect, (fd, *_in_address(addr, abi)), nothing)


@declares("listen")
def listen_call(fd: SyscallArgument, backlog: int) -> TypedCall[None]:
    """listen(2)."""
    return TypedCall(SYS.listen, (fd, backlog), nothing)


@declares("accept")
def accept_call(fd: SyscallArgument, flags: SOCK = SOCK.NONE) -> TypedCall[BaseFileDescriptor]:
    """accept4(2), without the address."""
    return TypedCall(SYS.accept4, (fd, 0, 0, flags | SOCK.CLOEXEC), handle, handle=True)


def _accepted(
    task: Any, value: int, outs: tuple[bytes, ...]
) -> tuple[BaseFileDescriptor, Sockaddr]:
    data, length = outs
    # Whatever the address is, the descriptor must not be lost with it.
    size = max(2, _INT.unpack(task.abi, length)[0])
    address = SockaddrStorage.from_bytes_for(data[:size], task.abi)
    return handle(task, value, ()), address.parsed()


@declares("accept_addr")
def accept_addr_call(
    fd: SyscallArgument, flags: SOCK = SOCK.NONE, *, abi: ABI = NATIVE
) -> TypedCall[tuple[BaseFileDescriptor, Sockaddr]]:
    """accept4(2)."""
    args = (fd, *_room(abi), flags | SOCK.CLOEXEC)
    return TypedCall(SYS.accept4, args, _accepted, outs=True, handle=True)


@declares("shutdown")
def shutdown_call(fd: SyscallArgument, how: SHUT) -> TypedCall[None]:
    """shutdown(2)."""
    return TypedCall(SYS.shutdown, (fd, SHUT(how)), nothing)


@declares("getsockname")
def getsockname_call(fd: SyscallArgument, *, abi: ABI = NATIVE) -> TypedCall[Sockaddr]:
    """getsockname(2)."""
    return TypedCall(SYS.getsockname, (fd, *_room(abi)), _address, outs=True)


@declares("getpeername")
def getpeername_call(fd: SyscallArgument, *, abi: ABI = NATIVE) -> TypedCall[Sockaddr]:
    """getpeername(2)."""
    return TypedCall(SYS.getpeername, (fd, *_room(abi)), _address, outs=True)


def _option(task: Task, _value: int, outs: tuple[bytes, ...]) -> bytes:
    return outs[0][: _INT.unpack(task.abi, outs[1])[0]]


@declares("getsockopt")
def getsockopt_call(
    fd: SyscallArgument, level: int, optname: int, optval: int = 4, *, abi: ABI = NATIVE
) -> TypedCall[bytes]:
    """getsockopt(2). optval: how many bytes there is room for."""
    size = _check_count("optval", optval)
    args = (fd, level, optname, Out(size), InOut(_INT.pack(abi, size)))
    return TypedCall(SYS.getsockopt, args, _option, outs=True)


@declares("setsockopt")
def setsockopt_call(
    fd: SyscallArgument,
    level: int,
    optname: int,
    optval: int | bytes | tuple[SyscallArgument, int],
    *,
    abi: ABI = NATIVE,
) -> TypedCall[None]:
    """setsockopt(2). optval: or where it is, and its length in bytes."""
    if isinstance(optval, int):
        optval = _INT.pack(abi, optval)
    where = (In(optval), len(optval)) if isinstance(optval, bytes) else optval
    return TypedCall(SYS.setsockopt, (fd, level, optname, *where), nothing)


@declares("send")
def send_call(fd: SyscallArgument, buf: bytes, flags: MSG = MSG.NONE) -> TypedCall[int]:
    """send(2) of MAX_IO bytes at most."""
    data = bytes(buf[:MAX_IO])
    return TypedCall(SYS.sendto, (fd, In(data), len(data), flags), number)


@declares("sendto")
def sendto_call(
    fd: SyscallArgument, buf: bytes, flags: MSG, addr: Sockaddr, *, abi: ABI = NATIVE
) -> TypedCall[int]:
    """sendto(2) of MAX_IO bytes at most."""
    data = bytes(buf[:MAX_IO])
    return TypedCall(SYS.sendto, (fd, In(data), len(data), flags, *_in_address(addr, abi)), number)


@declares("recv")
def recv_call(fd: SyscallArgument, buf: int, flags: MSG = MSG.NONE) -> TypedCall[bytes]:
    """recv(2) of up to `buf` bytes, and of MAX_IO at most."""
    n = _check_count("buf", buf)
    return TypedCall(SYS.recvfrom, (fd, Ret(n), n, flags), first_out, outs=True)


def _received(task: Task, _value: int, outs: tuple[bytes, ...]) -> tuple[bytes, Sockaddr | None]:
    return outs[0], _parse_address(task.abi, outs[1], outs[2])


@declares("recvfrom")
def recvfrom_call(
    fd: SyscallArgument, buf: int, flags: MSG = MSG.NONE, *, abi: ABI = NATIVE
) -> TypedCall[tuple[bytes, Sockaddr | None]]:
    """recvfrom(2) of up to `buf` bytes, and of MAX_IO at most."""
    n = _check_count("buf", buf)
    return TypedCall(SYS.recvfrom, (fd, Ret(n), n, flags, *_room(abi)), _received, outs=True)


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


def recv_into(fd: SyscallArgument, to: SyscallArgument, n: int, flags: MSG) -> TypedCall[int]:
    return TypedCall(SYS.recvfrom, (fd, to, n, flags), number)


def send_from(fd: SyscallArgument, at: SyscallArgument, n: int, flags: MSG) -> TypedCall[int]:
    return TypedCall(SYS.sendto, (fd, at, n, flags), number)

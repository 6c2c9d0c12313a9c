"""`#include <sys/socket.h>`"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, cast, overload

from rsyscall import near
from rsyscall._raw import lib
from rsyscall.handle.borrow import perform_with
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.handle.pair import HandlePair, PairSerializer, makes_pair
from rsyscall.handle.pointer import LinearPointer, Pointer
from rsyscall.near.sysif import Out, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, nothing, perform
from rsyscall.sys.syscall import SYS

if TYPE_CHECKING:
    from rsyscall.handle import FileDescriptor

__all__ = [
    "AF",
    "SOCK",
    "SocketTask",
    "Socketpair",
    "SocketpairSerializer",
    "socket_call",
    "socketpair_call",
]


class AF(enum.IntEnum):
    """Families of addresses."""

    UNIX = lib.AF_UNIX
    INET = lib.AF_INET
    INET6 = lib.AF_INET6
    NETLINK = lib.AF_NETLINK


class SOCK(enum.IntFlag):
    """Types of sockets, and flags of those who make them."""

    NONE = 0
    STREAM = lib.SOCK_STREAM
    DGRAM = lib.SOCK_DGRAM
    RAW = lib.SOCK_RAW
    SEQPACKET = lib.SOCK_SEQPACKET
    CLOEXEC = lib.SOCK_CLOEXEC
    NONBLOCK = lib.SOCK_NONBLOCK


class Socketpair(HandlePair):
    """Two sockets that are connected with each other."""

    def __init__(self, first: FileDescriptor, second: FileDescriptor) -> None:
        """Take both."""
        super().__init__(first, second)
        self.first: FileDescriptor = first
        self.second: FileDescriptor = second


SocketpairSerializer = PairSerializer[Socketpair]


def _handle(task: Any, value: int, _outs: tuple[bytes, ...]) -> Any:
    return task.make_fd_handle(near.FileDescriptor(value))


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


class SocketTask(FileDescriptorTask[T_fd]):
    """A task that can make sockets."""

    async def socket(self, domain: AF, type: SOCK, protocol: int = 0) -> T_fd:
        """Make a socket; it is closed on exec, as with SOCK.CLOEXEC.

        OSError as the call reports it. A checkpoint; if cancelled, nothing was made. socket(2).
        """
        return cast("T_fd", await perform(self, socket_call(domain, type, protocol)))

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
            return await perform(self, socketpair_call(domain, type, protocol))
        if sv.size() < Socketpair.sizeof():
            raise ValueError(f"sv: {sv.size()} bytes, two descriptors have {Socketpair.sizeof()}")
        await perform_with(self, _socketpair_into, domain, type, protocol, sv)
        return sv.filled_once()

"""The typed methods of a batch that concern sockets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from rsyscall.batch._steps import FdArgument, Steps
from rsyscall.batch.step import Step, StepOptions
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.sys.socket import (
    AF,
    MSG,
    SHUT,
    SOCK,
    Message,
    Sockaddr,
    Socketpair,
    accept_addr_call,
    accept_call,
    bind_call,
    connect_call,
    getpeername_call,
    getsockname_call,
    getsockopt_call,
    listen_call,
    recv_call,
    recvfrom_call,
    recvmsg_call,
    send_call,
    sendmsg_call,
    sendto_call,
    setsockopt_call,
    shutdown_call,
    socket_call,
    socketpair_call,
)

if TYPE_CHECKING:
    from typing import Unpack

    from rsyscall.handle import FileDescriptor

__all__ = ["SocketSteps"]


class SocketSteps(Steps):
    """The calls by name. What they return is said by their namesakes of tasks and handles."""

    __slots__ = ()

    def socket(
        self, domain: AF, type: SOCK, protocol: int = 0, **options: Unpack[StepOptions]
    ) -> Step[FileDescriptor]:
        """Make a socket. socket(2)."""
        return cast(
            "Step[FileDescriptor]", self.add(socket_call(domain, type, protocol), **options)
        )

    def socketpair(
        self, domain: AF, type: SOCK, protocol: int = 0, **options: Unpack[StepOptions]
    ) -> Step[Socketpair]:
        """Make two sockets; int_at(0) and int_at(4) are they, for later steps. socketpair(2)."""
        return self.add(socketpair_call(domain, type, protocol), **options)

    def bind(self, fd: FdArgument, addr: Sockaddr, **options: Unpack[StepOptions]) -> Step[None]:
        """Give a socket an address. bind(2)."""
        return self.add(bind_call(self._fd(fd), addr, abi=self.abi), **options)

    def connect(self, fd: FdArgument, addr: Sockaddr, **options: Unpack[StepOptions]) -> Step[None]:
        """Connect a socket. connect(2)."""
        return self.add(connect_call(self._fd(fd), addr, abi=self.abi), **options)

    def listen(self, fd: FdArgument, backlog: int, **options: Unpack[StepOptions]) -> Step[None]:
        """Let others connect with a socket. listen(2)."""
        return self.add(listen_call(self._fd(fd), backlog), **options)

    def accept(
        self, fd: FdArgument, flags: SOCK = SOCK.NONE, **options: Unpack[StepOptions]
    ) -> Step[FileDescriptor]:
        """Take a connection. accept4(2)."""
        call = accept_call(self._fd(fd), flags)
        return cast("Step[FileDescriptor]", self.add(call, **options))

    def accept_addr(
        self, fd: FdArgument, flags: SOCK = SOCK.NONE, **options: Unpack[StepOptions]
    ) -> Step[tuple[FileDescriptor, Sockaddr]]:
        """Take a connection, and the address of the other end. accept4(2)."""
        call = accept_addr_call(self._fd(fd), flags, abi=self.abi)
        return cast("Step[tuple[FileDescriptor, Sockaddr]]", self.add(call, **options))

    def shutdown(self, fd: FdArgument, how: SHUT, **options: Unpack[StepOptions]) -> Step[None]:
        """End a direction of a connection. shutdown(2)."""
        return self.add(shutdown_call(self._fd(fd), how), **options)

    def getsockname(self, fd: FdArgument, **options: Unpack[StepOptions]) -> Step[Sockaddr]:
        """A socket's own address. getsockname(2)."""
        return self.add(getsockname_call(self._fd(fd), abi=self.abi), **options)

    def getpeername(self, fd: FdArgument, **options: Unpack[StepOptions]) -> Step[Sockaddr]:
        """The address of the other end. getpeername(2)."""
        return self.add(getpeername_call(self._fd(fd), abi=self.abi), **options)

    def getsockopt(
        self,
        fd: FdArgument,
        level: int,
        optname: int,
        optval: int = 4,
        **options: Unpack[StepOptions],
    ) -> Step[bytes]:
        """An option, of at most `optval` bytes. getsockopt(2)."""
        return self.add(
            getsockopt_call(self._fd(fd), level, optname, optval, abi=self.abi), **options
        )

    def setsockopt(
        self,
        fd: FdArgument,
        level: int,
        optname: int,
        optval: int | bytes,
        **options: Unpack[StepOptions],
    ) -> Step[None]:
        """Set an option. setsockopt(2)."""
        return self.add(
            setsockopt_call(self._fd(fd), level, optname, optval, abi=self.abi), **options
        )

    def recv(
        self, fd: FdArgument, buf: int, flags: MSG = MSG.NONE, **options: Unpack[StepOptions]
    ) -> Step[bytes]:
        """Receive up to `buf` bytes. recv(2)."""
        return self.add(recv_call(self._fd(fd), buf, flags), **options)

    def send(
        self, fd: FdArgument, buf: bytes, flags: MSG = MSG.NONE, **options: Unpack[StepOptions]
    ) -> Step[int]:
        """Send bytes. send(2)."""
        return self.add(send_call(self._fd(fd), buf, flags), **options)

    def recvfrom(
        self, fd: FdArgument, buf: int, flags: MSG = MSG.NONE, **options: Unpack[StepOptions]
    ) -> Step[tuple[bytes, Sockaddr | None]]:
        """Receive up to `buf` bytes, and from whom. recvfrom(2)."""
        return self.add(recvfrom_call(self._fd(fd), buf, flags, abi=self.abi), **options)

    def sendto(
        self,
        fd: FdArgument,
        buf: bytes,
        flags: MSG,
        addr: Sockaddr,
        **options: Unpack[StepOptions],
    ) -> Step[int]:
        """Send bytes to an address. sendto(2)."""
        return self.add(sendto_call(self._fd(fd), buf, flags, addr, abi=self.abi), **options)

    def sendmsg(
        self,
        fd: FdArgument,
        msg: Sequence[bytes],
        flags: MSG = MSG.NONE,
        fds: Sequence[BaseFileDescriptor] = (),
        addr: Sockaddr | None = None,
        **options: Unpack[StepOptions],
    ) -> Step[int]:
        """Send bytes, and descriptors along with them. sendmsg(2)."""
        for one in fds:
            self._fd(one)
        return self.add(sendmsg_call(self._fd(fd), msg, flags, fds, addr), **options)

    def recvmsg(
        self,
        fd: FdArgument,
        msg: int,
        flags: MSG = MSG.NONE,
        fds: int = 0,
        **options: Unpack[StepOptions],
    ) -> Step[Message]:
        """Receive up to `msg` bytes, and what came with them. recvmsg(2)."""
        return self.add(recvmsg_call(self._fd(fd), msg, flags, fds), **options)

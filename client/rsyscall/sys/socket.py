"""`#include <sys/socket.h>`"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from rsyscall import near
from rsyscall.handle.borrow import perform_with
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.handle.pointer import LinearPointer, Pointer, ReadablePointer, WrittenPointer
from rsyscall.near.sysif import SyscallArgument
from rsyscall.near.typed import TypedCall, make_room, perform, perform_making
from rsyscall.sys._cmsg import (
    Cmsg,
    CmsgList,
    CmsgListSerializer,
    CmsgSCMRights,
    CmsgSerializer,
    MsghdrFlags,
    RecvmsgFlags,
    RecvMsghdr,
    RecvMsghdrOut,
    RecvMsghdrOutSerializer,
    SendmsgFlags,
    SendMsghdr,
)
from rsyscall.sys._msghdr import Message
from rsyscall.sys._sockaddr import AF, Sockaddr, SockaddrStorage
from rsyscall.sys._sockbuf import Sockbuf, SockbufSerializer
from rsyscall.sys._socket import MSG, SCM, SHUT, SO, SOCK, SOL
from rsyscall.sys._socket_calls import (
    Socketpair,
    SocketpairSerializer,
    accept_addr_call,
    accept_call,
    bind_call,
    connect_call,
    getpeername_call,
    getsockname_call,
    getsockopt_call,
    listen_call,
    recv_call,
    recv_into,
    recvfrom_call,
    recvmsg_call,
    send_call,
    send_from,
    sendmsg_call,
    sendto_call,
    setsockopt_call,
    shutdown_call,
    socket_call,
    socketpair_call,
    socketpair_into,
)
from rsyscall.sys.syscall import SYS
from rsyscall.sys.uio import IovecList

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
    "Cmsg",
    "CmsgList",
    "CmsgListSerializer",
    "CmsgSCMRights",
    "CmsgSerializer",
    "Message",
    "MsghdrFlags",
    "RecvMsghdr",
    "RecvMsghdrOut",
    "RecvMsghdrOutSerializer",
    "RecvmsgFlags",
    "SendMsghdr",
    "SendmsgFlags",
    "Sockaddr",
    "SockaddrStorage",
    "Sockbuf",
    "SockbufSerializer",
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
            return bind_call(
                fd, at if isinstance(at, Sockaddr) else (at, _size(addr)), abi=self.task.abi
            )

        await perform_with(self.task, declare, self, addr)

    async def connect(self, addr: Sockaddr | WrittenPointer[Any]) -> None:
        """Connect the socket with the one that has an address. connect(2)."""

        def declare(fd: SyscallArgument, at: Sockaddr | SyscallArgument) -> TypedCall[None]:
            return connect_call(
                fd, at if isinstance(at, Sockaddr) else (at, _size(addr)), abi=self.task.abi
            )

        await perform_with(self.task, declare, self, addr)

    async def listen(self, backlog: int) -> None:
        """Let others connect with it. backlog: how many may wait for accept. listen(2)."""
        self._validate()
        await perform(self.task, listen_call(self.near, backlog))

    @overload
    async def accept(self, flags: SOCK = SOCK.NONE, addr: None = None) -> FileDescriptor: ...
    @overload
    async def accept(
        self, flags: SOCK, addr: WrittenPointer[Sockbuf[T]]
    ) -> tuple[FileDescriptor, ReadablePointer[Sockbuf[T]]]: ...

    async def accept(
        self, flags: SOCK = SOCK.NONE, addr: WrittenPointer[Sockbuf[T]] | None = None
    ) -> FileDescriptor | tuple[FileDescriptor, ReadablePointer[Sockbuf[T]]]:
        """Take a connection; it is closed on exec, as with SOCK.CLOEXEC.

        addr: where the address of who has connected is left; it is consumed. accept4(2).
        """
        self._validate()
        if addr is None:
            return cast(
                "FileDescriptor", await perform_making(self.task, accept_call(self.near, flags))
            )
        await make_room(self.task)
        n = await self._fill(SYS.accept4, addr, behind=flags | SOCK.CLOEXEC)
        made = cast("FileDescriptor", self.task.adopt_fd(near.FileDescriptor(n)))
        return made, addr.unsafe()

    async def _fill(
        self, nr: SYS, sockbuf: WrittenPointer[Sockbuf[Any]], *before: int, behind: int = 0
    ) -> int:
        """A call that fills a buffer and changes its length."""
        with sockbuf.borrow(self.task) as length, sockbuf.value.buf.borrow(self.task) as buf:
            args: list[SyscallArgument] = [self.near, *before, buf, length, behind]
            return (await self.task.sysif.call(nr, args)).value

    async def accept_addr(self, flags: SOCK = SOCK.NONE) -> tuple[FileDescriptor, Sockaddr]:
        """accept, with the address of who has connected. accept4(2)."""
        self._validate()
        made = await perform_making(
            self.task, accept_addr_call(self.near, flags, abi=self.task.abi)
        )
        return cast("tuple[FileDescriptor, Sockaddr]", made)

    async def shutdown(self, how: SHUT) -> None:
        """End one direction of a connection, or both. ValueError for none. shutdown(2)."""
        self._validate()
        await perform(self.task, shutdown_call(self.near, how))

    @overload
    async def getsockname(self, addr: None = None) -> Sockaddr: ...
    @overload
    async def getsockname(
        self, addr: WrittenPointer[Sockbuf[T]]
    ) -> ReadablePointer[Sockbuf[T]]: ...

    async def getsockname(
        self, addr: WrittenPointer[Sockbuf[T]] | None = None
    ) -> Sockaddr | ReadablePointer[Sockbuf[T]]:
        """Its own address, as the class of its family.

        addr: where it is left instead; it is consumed. getsockname(2).
        """
        self._validate()
        if addr is None:
            return await perform(self.task, getsockname_call(self.near, abi=self.task.abi))
        await self._fill(SYS.getsockname, addr)
        return addr.unsafe()

    @overload
    async def getpeername(self, addr: None = None) -> Sockaddr: ...
    @overload
    async def getpeername(
        self, addr: WrittenPointer[Sockbuf[T]]
    ) -> ReadablePointer[Sockbuf[T]]: ...

    async def getpeername(
        self, addr: WrittenPointer[Sockbuf[T]] | None = None
    ) -> Sockaddr | ReadablePointer[Sockbuf[T]]:
        """The address of the other end, as the class of its family.

        addr: where it is left instead; it is consumed. getpeername(2).
        """
        self._validate()
        if addr is None:
            return await perform(self.task, getpeername_call(self.near, abi=self.task.abi))
        await self._fill(SYS.getpeername, addr)
        return addr.unsafe()

    @overload
    async def getsockopt(self, level: int, optname: int, optval: int = 4) -> bytes: ...
    @overload
    async def getsockopt(
        self, level: int, optname: int, optval: WrittenPointer[Sockbuf[T]]
    ) -> ReadablePointer[Sockbuf[T]]: ...

    async def getsockopt(
        self, level: int, optname: int, optval: int | WrittenPointer[Sockbuf[T]] = 4
    ) -> bytes | ReadablePointer[Sockbuf[T]]:
        """An option.

        level, optname: see SOL and SO, or those of the protocol. optval: how many bytes there is
        room for, ValueError if negative; or where it is left instead, and then that is consumed.
        Most options are an int in the machine's byte order. getsockopt(2).
        """
        self._validate()
        if isinstance(optval, WrittenPointer):
            await self._fill(SYS.getsockopt, optval, level, optname)
            return optval.unsafe()
        return await perform(
            self.task, getsockopt_call(self.near, level, optname, optval, abi=self.task.abi)
        )

    async def setsockopt(
        self, level: int, optname: int, optval: int | bytes | Pointer[Any]
    ) -> None:
        """Set an option; see getsockopt. setsockopt(2)."""
        if not isinstance(optval, Pointer):
            self._validate()
            await perform(
                self.task, setsockopt_call(self.near, level, optname, optval, abi=self.task.abi)
            )
            return
        size = optval.size()

        def declare(fd: SyscallArgument, at: SyscallArgument) -> TypedCall[None]:
            return setsockopt_call(fd, level, optname, (at, size), abi=self.task.abi)

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
        n = await perform_with(self.task, recv_into, self, buf, buf.size(), flags)
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
        n = await perform_with(self.task, send_from, self, buf, buf.size(), flags)
        return buf.split(n)

    async def recvfrom(self, buf: int, flags: MSG = MSG.NONE) -> tuple[bytes, Sockaddr | None]:
        """Receive up to `buf` bytes, and from whom, if that has an address. recvfrom(2)."""
        self._validate()
        return await perform(self.task, recvfrom_call(self.near, buf, flags, abi=self.task.abi))

    async def sendto(self, buf: bytes, flags: MSG, addr: Sockaddr) -> int:
        """Send bytes to an address; returns how many were. sendto(2)."""
        self._validate()
        return await perform(self.task, sendto_call(self.near, buf, flags, addr, abi=self.task.abi))

    @overload
    async def sendmsg(
        self,
        msg: Sequence[bytes],
        flags: MSG | SendmsgFlags = MSG.NONE,
        fds: Sequence[BaseFileDescriptor] = (),
        addr: Sockaddr | None = None,
    ) -> int: ...
    @overload
    async def sendmsg(
        self, msg: WrittenPointer[SendMsghdr], flags: MSG | SendmsgFlags = MSG.NONE
    ) -> tuple[IovecList, IovecList]: ...

    async def sendmsg(
        self,
        msg: Sequence[bytes] | WrittenPointer[SendMsghdr],
        flags: MSG | SendmsgFlags = MSG.NONE,
        fds: Sequence[BaseFileDescriptor] = (),
        addr: Sockaddr | None = None,
    ) -> int | tuple[IovecList, IovecList]:
        """Send the bytes of all buffers, one after the other; returns how many were.

        msg: or where a message is, which says itself what goes with it and to whom; then what was
        sent is returned, and the rest. fds: descriptors to send along, of the same table; they stay
        open here. addr: to whom. FDTableMismatchError. sendmsg(2).
        """
        if isinstance(msg, WrittenPointer):
            self._validate()
            n = await self._with_message(SYS.sendmsg, msg, flags)
            return msg.value.iov.value.split(n)
        buffers = msg

        def declare(fd: SyscallArgument, *_: SyscallArgument) -> TypedCall[int]:
            return sendmsg_call(fd, buffers, MSG(flags), fds, addr)

        return await perform_with(self.task, declare, self, *fds)

    async def _with_message(
        self, nr: SYS, msg: WrittenPointer[SendMsghdr] | WrittenPointer[RecvMsghdr], flags: int
    ) -> int:
        with contextlib.ExitStack() as stack:
            address = stack.enter_context(msg.borrow(self.task))
            msg.value.borrow_with(stack, cast("FileDescriptorTask[FileDescriptor]", self.task))
            return await self.task.sysif.syscall(nr, self.near, address, flags)

    @overload
    async def recvmsg(
        self, msg: int, flags: MSG | RecvmsgFlags = MSG.NONE, fds: int = 0
    ) -> Message: ...
    @overload
    async def recvmsg(
        self, msg: WrittenPointer[RecvMsghdr], flags: MSG | RecvmsgFlags = MSG.NONE
    ) -> tuple[IovecList, IovecList, ReadablePointer[RecvMsghdrOut]]: ...

    async def recvmsg(
        self,
        msg: int | WrittenPointer[RecvMsghdr],
        flags: MSG | RecvmsgFlags = MSG.NONE,
        fds: int = 0,
    ) -> Message | tuple[IovecList, IovecList, ReadablePointer[RecvMsghdrOut]]:
        """Receive up to `msg` bytes, and what came with them.

        msg: or where a message is that says where there is room; it is consumed, and what was
        filled, the rest, and what came beside are returned. fds: for how many descriptors there is
        room, at most 253; what comes is closed on exec. ValueError for other numbers. recvmsg(2).
        """
        self._validate()
        if isinstance(msg, int):
            return await perform_making(self.task, recvmsg_call(self.near, msg, MSG(flags), fds))
        await make_room(self.task)
        n = await self._with_message(SYS.recvmsg, msg, flags | MSG.CMSG_CLOEXEC)
        iov = msg.value.iov.value
        room = sum([one.size() for one in iov])
        filled, rest = iov.split(min(n, room))  # MSG.TRUNC: more than there was room for
        return filled, rest, msg.value.to_out(msg)


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
        await perform_with(self, socketpair_into, domain, type, protocol, sv)
        return sv.filled_once()

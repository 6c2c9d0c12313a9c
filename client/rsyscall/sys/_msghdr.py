"""`#include <sys/socket.h>`: messages with what comes beside their bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rsyscall import near
from rsyscall._raw import lib
from rsyscall.near.sysif import In, Out, Ret
from rsyscall.near.sysif import Struct as Pointing
from rsyscall.struct import Record
from rsyscall.sys._sockaddr import Sockaddr, SockaddrStorage

if TYPE_CHECKING:
    from rsyscall.handle import FileDescriptor

__all__ = ["Message", "recvmsg_args", "sendmsg_args"]

# struct msghdr: name namelen iov iovlen control controllen flags
_MSGHDR = struct.Struct("=QI4xQQQQI4x")
_NAME, _NAMELEN, _IOV, _CONTROL, _CONTROLLEN, _FLAGS = 0, 8, 16, 32, 40, 48
_CMSGHDR = struct.Struct("=Qii")
_IOVEC = struct.Struct("=QQ")
_INT = struct.Struct("=i")
_MOST_BUFFERS = 1000


class Message(Record):
    """What recvmsg(2) has received.

    data: the bytes. fds: descriptors that came with them. flags: MSG.TRUNC: there were more bytes,
    MSG.CTRUNC: there were more descriptors, which are closed; and others. addr: from whom, if that
    has an address.
    """

    __slots__ = ("addr", "data", "fds", "flags")

    def __init__(
        self, data: bytes, fds: list[FileDescriptor], flags: int, addr: Sockaddr | None
    ) -> None:
        """Take them."""
        self.data: bytes = data
        self.fds: list[FileDescriptor] = fds
        self.flags: int = flags
        self.addr: Sockaddr | None = addr


def _align(size: int) -> int:
    return -(-size // 8) * 8


def _rights(fds: Sequence[int]) -> bytes:
    """A control message that hands over descriptors."""
    data = struct.pack(f"={len(fds)}i", *fds)
    head = _CMSGHDR.pack(_CMSGHDR.size + len(data), lib.SOL_SOCKET, lib.SCM_RIGHTS)
    return head + data.ljust(_align(len(data)), b"\0")


def sendmsg_args(buffers: Sequence[bytes], fds: Sequence[int], name: bytes | None) -> Pointing:
    """The msghdr of a message that is sent. ValueError for too many buffers."""
    if len(buffers) > _MOST_BUFFERS:
        raise ValueError(f"msg: {len(buffers)} buffers, {_MOST_BUFFERS} go into one call")
    iov = b"".join([_IOVEC.pack(0, len(data)) for data in buffers])
    targets = [(i * _IOVEC.size, In(bytes(data))) for i, data in enumerate(buffers)]
    pointers: list[tuple[int, Any]] = [(_IOV, Pointing(iov, tuple(targets)))]
    control = _rights(fds) if fds else b""
    if control:
        pointers.append((_CONTROL, In(control)))
    if name is not None:
        pointers.append((_NAME, In(name)))
    head = _MSGHDR.pack(0, len(name or b""), 0, len(buffers), 0, len(control), 0)
    return Pointing(head, tuple(pointers))


def _numbers(control: bytes) -> list[int]:
    """The descriptors that a message's control data hands over."""
    found, at = list[int](), 0
    while at + _CMSGHDR.size <= len(control):
        size, level, kind = _CMSGHDR.unpack_from(control, at)
        if size < _CMSGHDR.size:
            break
        if (level, kind) == (lib.SOL_SOCKET, lib.SCM_RIGHTS):
            data = control[at + _CMSGHDR.size : at + size]
            found += [n for (n,) in _INT.iter_unpack(data[: len(data) - len(data) % 4])]
        at += _align(size)
    return found


def recvmsg_args(
    count: int, fds: int
) -> tuple[Pointing, Callable[[Any, int, tuple[bytes, ...]], Message]]:
    """The msghdr of a message that is received, and what makes one of what has come back."""
    room = _CMSGHDR.size + _align(4 * fds) if fds else 0
    iov = Pointing(_IOVEC.pack(0, count), ((0, Ret(count)),))
    pointers: list[tuple[int, Any]] = [
        (_NAME, Out(SockaddrStorage.sizeof())),
        (_IOV, iov),
    ]
    if room:
        pointers.append((_CONTROL, Out(room)))
    used = _CMSGHDR.size + 4 * fds if fds else 0  # with the padding there would be room for more
    head = _MSGHDR.pack(0, SockaddrStorage.sizeof(), 0, 1, 0, used, 0)
    parts = ((_NAMELEN, 4), (_CONTROLLEN, 8), (_FLAGS, 4))
    msghdr = Pointing(head, tuple(pointers), parts)

    def convert(task: Any, _value: int, outs: tuple[bytes, ...]) -> Message:
        # In the order in which they lie behind the arguments: the msghdr, what it points at, and
        # then what the iovec does.
        changed, name, *more = outs
        namelen, length, flags = struct.unpack("=IQI", changed)
        control = more.pop(0)[:length] if room else b""
        (data,) = more
        handles = [task.adopt_fd(near.FileDescriptor(n)) for n in _numbers(control)]
        address = None
        if namelen >= 2:
            address = SockaddrStorage.from_bytes(name[:namelen]).parsed()
        return Message(data, handles, flags, address)

    return msghdr, convert

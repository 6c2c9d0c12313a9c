"""Requests: what is common to all, and those that have no class of their own."""

from __future__ import annotations

import abc
from typing import Self, TypeVar

from rsyscall.abi import ABI, NATIVE, Layout
from rsyscall.linux.fuse._constants import FUSE_OPCODE
from rsyscall.linux.fuse._in_structs import check_exact
from rsyscall.linux.fuse._out import (
    FuseErrorResponse,
    FuseOtherResponse,
    FuseOutHeader,
    make_error,
)
from rsyscall.struct import Portable, check_size
from rsyscall_protocol._record import record

__all__ = ["FuseIn", "FuseInHeader", "FuseInList", "FuseOtherOp", "fuse_in_parse_split", "known"]

_HEADER = Layout(
    "struct fuse_in_header",
    "u32 len, u32 opcode, u64 unique, u64 nodeid, u32 uid, u32 gid, u32 pid, u16 total_extlen,"
    "u16 _",
)
_UNANSWERED = {
    FUSE_OPCODE.FORGET,
    FUSE_OPCODE.BATCH_FORGET,
    FUSE_OPCODE.INTERRUPT,
    FUSE_OPCODE.NOTIFY_REPLY,
}


@record
class FuseInHeader:
    """struct fuse_in_header: who asks, and about what.

    unique: the number of the request, which its reply has too. nodeid: of which file, or for LOOKUP
    of which directory. uid, gid, pid: of the process that has made the call; 0 for what the kernel
    asks by itself, and for a pid that the server's namespace does not have. total_extlen: how much
    at the end are extensions, in units of 8 bytes; none unless INIT has asked for them.
    """

    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int
    total_extlen: int = 0

    @staticmethod
    def sizeof() -> int:
        """Its size in bytes."""
        return _HEADER.size()


class FuseIn(Portable):
    """A request. hdr: who asks. opcode: what for.

    Each has `from_header` and `from_bytes`, which raise ValueError for what is no such request, and
    `to_bytes`, which raises ValueError, naming it, for what does not fit. FuseIn.from_bytes takes
    any request, and returns one of the class of its opcode, or a FuseOtherOp.
    """

    hdr: FuseInHeader
    opcode: FUSE_OPCODE

    @classmethod
    @abc.abstractmethod
    def from_header(cls, hdr: FuseInHeader, data: bytes, abi: ABI = NATIVE) -> Self:
        """The request with that header and what follows it, in the memory of a task with that ABI.

        ValueError for what is none.
        """

    @abc.abstractmethod
    def msg_to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """What follows the header, in the memory of a task with that ABI. ValueError."""

    @property
    def expects_reply(self) -> bool:
        """Whether it must be answered.

        FORGET, BATCH_FORGET and NOTIFY_REPLY cannot be: the write is a FileNotFoundError. INTERRUPT
        can, to say that it is to be sent again (EAGAIN), or no more (ENOSYS).
        """
        return self.opcode not in _UNANSWERED

    def error(self, error: int) -> FuseErrorResponse:
        """The reply that it has failed.

        error: an errno, such as errno.ENOENT, or its negative, which is what is sent; 0: it has
        succeeded, and nothing is told. For many requests ENOSYS means that they need not be sent
        again. ValueError for what is no errno.
        """
        return FuseErrorResponse(self._reply(error))

    def _reply(self, error: int) -> FuseOutHeader:
        return FuseOutHeader(make_error(error), self.hdr.unique)

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """All of it in such memory."""
        msg, hdr = self.msg_to_bytes(abi), self.hdr
        _check_extensions(hdr, msg)
        who = hdr.unique, hdr.nodeid, hdr.uid, hdr.gid, hdr.pid, hdr.total_extlen
        return _HEADER.pack(abi, _HEADER.size(abi) + len(msg), self.opcode, *who) + msg

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """From such memory, in which there is one, and nothing else. ValueError."""
        request, rest = _split(data, abi)
        check_exact(data, len(data) - len(rest), "the request, by its header,")
        if not isinstance(request, cls):
            what = f"{request.opcode.name} is a {type(request).__name__}, not a {cls.__name__}"
            raise ValueError(f"data: {what}")
        return request


_T = TypeVar("_T", bound=FuseIn)
_KNOWN: dict[FUSE_OPCODE, type[FuseIn]] = {}


def known(cls: type[_T]) -> type[_T]:
    """Have requests with the opcode of a class become that."""
    _KNOWN[cls.opcode] = cls
    return cls


def _check_extensions(hdr: FuseInHeader, data: bytes) -> None:
    if 8 * hdr.total_extlen > len(data):
        what = f"{len(data)} bytes behind the header, the extensions alone have"
        raise ValueError(f"data: {what} {8 * hdr.total_extlen}")


@record
class FuseOtherOp(FuseIn):
    """A request that has no class of its own, or an unknown opcode, or extensions.

    data: what follows the header, as it was read.
    """

    hdr: FuseInHeader
    opcode: FUSE_OPCODE
    data: bytes

    @classmethod
    def from_header(cls, hdr: FuseInHeader, data: bytes, abi: ABI = NATIVE) -> Self:
        """TypeError: a header does not say which opcode it is."""
        raise TypeError("a header does not say which opcode it is: use the constructor")

    def msg_to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """What follows the header, as it is."""
        return self.data

    def respond(self, data: bytes = b"", error: int = 0) -> FuseOtherResponse:
        """Its reply. data: what follows the header. error: see FuseIn.error."""
        return FuseOtherResponse(self._reply(error), data)


def _split(data: bytes, abi: ABI) -> tuple[FuseIn, bytes]:
    length, number, unique, nodeid, uid, gid, pid, extensions = _HEADER.unpack(abi, data)
    size = _HEADER.size(abi)
    if length < size:
        raise ValueError(f"data: len {length} of struct fuse_in_header, which has {size} itself")
    check_size(data, length, "this request, by its header,")
    hdr = FuseInHeader(unique, nodeid, uid, gid, pid, extensions)
    msg, opcode = data[size:length], FUSE_OPCODE(number)
    _check_extensions(hdr, msg)
    cls = None if extensions else _KNOWN.get(opcode)
    if cls is None:
        return FuseOtherOp(hdr, opcode, bytes(msg)), data[length:]
    return cls.from_header(hdr, msg, abi), data[length:]


def fuse_in_parse_split(data: bytes, abi: ABI = NATIVE) -> tuple[FuseIn, bytes]:
    """The first request, and what is behind it.

    abi: of the task in whose memory it was; its own: the interpreter's. ValueError, which says what
    is wrong, if it is not all there, or is not what its opcode is known for.
    """
    return _split(data, abi)


class FuseInList(list[FuseIn], Portable):
    """Requests, one after the other. A read of /dev/fuse fills in one."""

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """All of them in such memory."""
        return b"".join([request.to_bytes_for(abi) for request in self])

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """All of them. ValueError if one is not all there, or not what its opcode is known for."""
        requests = cls()
        while data:
            request, data = _split(data, abi)
            requests.append(request)
        return requests

"""Requests that have a class of their own."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any, ClassVar, Self, TypeVar, cast

from rsyscall.abi import ABI, NATIVE
from rsyscall.linux.fuse._constants import FUSE_OPCODE
from rsyscall.linux.fuse._in import FuseIn, FuseInHeader, known
from rsyscall.linux.fuse._in_structs import (
    FuseFlushIn,
    FuseGetattrIn,
    FuseGetxattrIn,
    FuseInitIn,
    FuseOpenIn,
    FuseReadIn,
    FuseReleaseIn,
    check_exact,
    parse_name,
)
from rsyscall.linux.fuse._out import (
    FuseFlushResponse,
    FuseGetattrResponse,
    FuseGetxattrResponse,
    FuseInitResponse,
    FuseLookupResponse,
    FuseOpendirResponse,
    FuseOpenResponse,
    FuseReaddirplusResponse,
    FuseReaddirResponse,
    FuseReadlinkResponse,
    FuseReadResponse,
    FuseReleasedirResponse,
    FuseReleaseResponse,
)
from rsyscall.linux.fuse._out_structs import (
    FuseAttrOut,
    FuseDirent,
    FuseDirentplus,
    FuseEntryOut,
    FuseGetxattrOut,
    FuseInitOut,
    FuseOpenOut,
)
from rsyscall.struct import LaidOut, Struct, path_to_bytes
from rsyscall_protocol._record import record

__all__ = [
    "FuseFlushOp",
    "FuseGetattrOp",
    "FuseGetxattrOp",
    "FuseInitOp",
    "FuseLookupOp",
    "FuseOpenOp",
    "FuseOpendirOp",
    "FuseReadOp",
    "FuseReaddirOp",
    "FuseReaddirplusOp",
    "FuseReadlinkOp",
    "FuseReleaseOp",
    "FuseReleasedirOp",
]

T_entry = TypeVar("T_entry", FuseDirent, FuseDirentplus)


class _OfStruct(FuseIn, Struct):
    """A request that is a header and a structure."""

    msg: Any
    _MSG: ClassVar[type[LaidOut]]

    @classmethod
    def from_header(cls, hdr: FuseInHeader, data: bytes, abi: ABI = NATIVE) -> Self:
        """The request with that header and structure. ValueError for another size."""
        check_exact(data, cls._MSG.sizeof_for(abi), cls._MSG.LAYOUT.name)
        msg = cls._MSG.from_bytes_for(data, abi)
        return cast("Self", cast("Any", cls)(hdr, msg))

    def msg_to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """The structure."""
        return cast("LaidOut", self.msg).to_bytes_for(abi)

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes."""
        return FuseInHeader.sizeof() + cls._MSG.sizeof()


def _that_fit(entries: Sequence[T_entry], size: int) -> list[T_entry]:
    """As many of them as there is room for. ValueError if there is none for the first."""
    found: list[T_entry] = []
    for entry in entries:
        length = len(entry.to_bytes())
        if length > size:
            if not found:
                raise ValueError(f"msg: the first entry has {length} bytes, the room is {size}")
            break
        size -= length
        found.append(entry)
    return found


@known
@record
class FuseInitOp(_OfStruct):
    """The first request: what the kernel can do."""

    hdr: FuseInHeader
    msg: FuseInitIn
    opcode = FUSE_OPCODE.INIT
    _MSG = FuseInitIn

    @classmethod
    def from_header(cls, hdr: FuseInHeader, data: bytes, abi: ABI = NATIVE) -> Self:
        """The request with that header and structure, as long as kernels of any age have it.

        ValueError if it is shorter than that.
        """
        return cls(hdr, FuseInitIn.from_bytes_for(data, abi))

    def respond(self, msg: FuseInitOut, error: int = 0) -> FuseInitResponse:
        """Its reply: what the server can do. error: see FuseIn.error."""
        return FuseInitResponse(self._reply(error), msg)


@known
@record
class FuseLookupOp(FuseIn):
    """What has that name in the directory of the header? name: undecodable bytes as in os.fsdecode.

    Each success is remembered, until a FORGET takes it back.
    """

    hdr: FuseInHeader
    name: str
    opcode = FUSE_OPCODE.LOOKUP

    @classmethod
    def from_header(cls, hdr: FuseInHeader, data: bytes, abi: ABI = NATIVE) -> Self:
        """The request with that header and name. ValueError unless one NUL ends it."""
        return cls(hdr, parse_name(data, "the name"))

    def msg_to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """The name with its NUL. ValueError if it has another."""
        return path_to_bytes(self.name, "name")

    def respond(self, msg: FuseEntryOut, error: int = 0) -> FuseLookupResponse:
        """Its reply. error: see FuseIn.error; ENOENT is not remembered, a nodeid of 0 is."""
        return FuseLookupResponse(self._reply(error), msg)


@known
@record
class FuseOpenOp(_OfStruct):
    """A file is opened. ENOSYS: this, and what goes with it, need not be sent any more."""

    hdr: FuseInHeader
    msg: FuseOpenIn
    opcode = FUSE_OPCODE.OPEN
    _MSG = FuseOpenIn

    def respond(self, msg: FuseOpenOut, error: int = 0) -> FuseOpenResponse:
        """Its reply. error: see FuseIn.error."""
        return FuseOpenResponse(self._reply(error), msg)


@known
@record
class FuseOpendirOp(_OfStruct):
    """A directory is opened. ENOSYS: as for FuseOpenOp."""

    hdr: FuseInHeader
    msg: FuseOpenIn
    opcode = FUSE_OPCODE.OPENDIR
    _MSG = FuseOpenIn

    def respond(self, msg: FuseOpenOut, error: int = 0) -> FuseOpendirResponse:
        """Its reply. error: see FuseIn.error."""
        return FuseOpendirResponse(self._reply(error), msg)


@known
@record
class FuseReadOp(_OfStruct):
    """A part of an open file is read."""

    hdr: FuseInHeader
    msg: FuseReadIn
    opcode = FUSE_OPCODE.READ
    _MSG = FuseReadIn

    def respond(self, msg: bytes, error: int = 0) -> FuseReadResponse:
        """Its reply. error: see FuseIn.error.

        msg: the bytes; fewer than were asked for: the file ends. ValueError for more.
        """
        if not error and len(msg) > self.msg.size:
            raise ValueError(f"msg: {len(msg)} bytes, {self.msg.size} were asked for")
        return FuseReadResponse(self._reply(error), msg)


@known
@record
class FuseReaddirOp(_OfStruct):
    """The next entries of an open directory are read, from `msg.offset` on."""

    hdr: FuseInHeader
    msg: FuseReadIn
    opcode = FUSE_OPCODE.READDIR
    _MSG = FuseReadIn

    def respond(self, msg: Sequence[FuseDirent], error: int = 0) -> FuseReaddirResponse:
        """Its reply. error: see FuseIn.error.

        msg: the entries that come next, of which as many are sent as find room: the kernel asks for
        the others, from the `off` of the last one on; none: there are no more. ValueError if there
        is no room for the first, or for what FuseDirent.to_bytes refuses.
        """
        fitting = [] if error else _that_fit(msg, self.msg.size)
        return FuseReaddirResponse(self._reply(error), fitting)


@known
@record
class FuseReaddirplusOp(_OfStruct):
    """The same as FuseReaddirOp, with what LOOKUP of each would be answered."""

    hdr: FuseInHeader
    msg: FuseReadIn
    opcode = FUSE_OPCODE.READDIRPLUS
    _MSG = FuseReadIn

    def respond(self, msg: Sequence[FuseDirentplus], error: int = 0) -> FuseReaddirplusResponse:
        """Its reply; see FuseReaddirOp.respond."""
        fitting = [] if error else _that_fit(msg, self.msg.size)
        return FuseReaddirplusResponse(self._reply(error), fitting)


@known
@record
class FuseReadlinkOp(FuseIn, Struct):
    """What does a symbolic link contain?"""

    hdr: FuseInHeader
    opcode = FUSE_OPCODE.READLINK

    @classmethod
    def from_header(cls, hdr: FuseInHeader, data: bytes, abi: ABI = NATIVE) -> Self:
        """The request with that header. ValueError if something follows."""
        check_exact(data, 0, "what follows the header of READLINK")
        return cls(hdr)

    def msg_to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """Nothing."""
        return b""

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes."""
        return FuseInHeader.sizeof()

    def respond(self, msg: str | os.PathLike[str], error: int = 0) -> FuseReadlinkResponse:
        """Its reply: the target. error: see FuseIn.error."""
        return FuseReadlinkResponse(self._reply(error), msg)


@known
@record
class FuseGetattrOp(_OfStruct):
    """What are the attributes of a file?"""

    hdr: FuseInHeader
    msg: FuseGetattrIn
    opcode = FUSE_OPCODE.GETATTR
    _MSG = FuseGetattrIn

    def respond(self, msg: FuseAttrOut, error: int = 0) -> FuseGetattrResponse:
        """Its reply. error: see FuseIn.error."""
        return FuseGetattrResponse(self._reply(error), msg)


@known
@record
class FuseFlushOp(_OfStruct):
    """A descriptor of an open file is closed: close(2) returns what is answered."""

    hdr: FuseInHeader
    msg: FuseFlushIn
    opcode = FUSE_OPCODE.FLUSH
    _MSG = FuseFlushIn

    def respond(self, error: int = 0) -> FuseFlushResponse:
        """Its reply. error: see FuseIn.error."""
        return FuseFlushResponse(self._reply(error))


@known
@record
class FuseReleaseOp(_OfStruct):
    """An open file has no descriptor left. Nobody hears of an error."""

    hdr: FuseInHeader
    msg: FuseReleaseIn
    opcode = FUSE_OPCODE.RELEASE
    _MSG = FuseReleaseIn

    def respond(self, error: int = 0) -> FuseReleaseResponse:
        """Its reply. error: see FuseIn.error."""
        return FuseReleaseResponse(self._reply(error))


@known
@record
class FuseReleasedirOp(_OfStruct):
    """An open directory has no descriptor left. Nobody hears of an error."""

    hdr: FuseInHeader
    msg: FuseReleaseIn
    opcode = FUSE_OPCODE.RELEASEDIR
    _MSG = FuseReleaseIn

    def respond(self, error: int = 0) -> FuseReleasedirResponse:
        """Its reply. error: see FuseIn.error."""
        return FuseReleasedirResponse(self._reply(error))


@known
@record
class FuseGetxattrOp(FuseIn):
    """What is the value of an extended attribute, or its size? ENODATA: there is none."""

    hdr: FuseInHeader
    msg: FuseGetxattrIn
    opcode = FUSE_OPCODE.GETXATTR

    @classmethod
    def from_header(cls, hdr: FuseInHeader, data: bytes, abi: ABI = NATIVE) -> Self:
        """The request with that header, structure and name. ValueError for more, or less."""
        return cls(hdr, FuseGetxattrIn.from_bytes_for(data, abi))

    def msg_to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """The structure and the name."""
        return self.msg.to_bytes_for(abi)

    def respond(self, data: str, error: int = 0) -> FuseGetxattrResponse:
        """Its reply, as getxattr(2) has it. error: see FuseIn.error.

        data: the value, any bytes as os.fsdecode has them. What is sent is its size if only that
        was asked for, and ERANGE if the value finds no room.
        """
        room = self.msg.size
        if not error and 0 < room < len(os.fsencode(data)):
            error = errno.ERANGE
        return FuseGetxattrResponse(self._reply(error), FuseGetxattrOut(data, not room))

"""Replies."""

from __future__ import annotations

import abc
import errno
import os
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar, cast

from rsyscall.abi import ABI, NATIVE, Layout
from rsyscall.linux.fuse._in_structs import check_exact
from rsyscall.linux.fuse._out_structs import (
    FuseAttrOut,
    FuseDirent,
    FuseDirentplus,
    FuseEntryOut,
    FuseGetxattrOut,
    FuseInitOut,
    FuseOpenOut,
)
from rsyscall.struct import LaidOut, Portable, Struct
from rsyscall_protocol._record import record

__all__ = [
    "FuseErrorResponse",
    "FuseFlushResponse",
    "FuseGetattrResponse",
    "FuseGetxattrResponse",
    "FuseInitResponse",
    "FuseLookupResponse",
    "FuseOpenResponse",
    "FuseOpendirResponse",
    "FuseOtherResponse",
    "FuseOut",
    "FuseOutHeader",
    "FuseReadResponse",
    "FuseReaddirResponse",
    "FuseReaddirplusResponse",
    "FuseReadlinkResponse",
    "FuseReleaseResponse",
    "FuseReleasedirResponse",
    "make_error",
]

T = TypeVar("T")

_HEADER = Layout("struct fuse_out_header", "u32 len, i32 error, u64 unique")
#: The first number that the kernel takes for none of an error.
_MAX_ERRNO = 512


def make_error(number: int) -> int:
    """An errno, or its negative, as a header has it. ValueError for what is none."""
    if not -_MAX_ERRNO < number < _MAX_ERRNO:
        raise ValueError(f"error: {number} is no errno: not from 0 to {_MAX_ERRNO - 1}")
    return -abs(number)


@record
class FuseOutHeader:
    """struct fuse_out_header: to which request this is the reply.

    error: 0, or a negative errno; nothing but the header is sent then. unique: that of the request.
    """

    error: int
    unique: int

    @staticmethod
    def sizeof() -> int:
        """Its size in bytes."""
        return _HEADER.size()


class FuseOut(Portable):
    """A reply, which is made by `respond()` or `error()` of its request.

    hdr: to which request, and whether it is an error. What else it has is sent if it is none.

    Each has `from_header` and `from_bytes`, which raise ValueError for what is no such reply, and
    `to_bytes`, which raises ValueError, naming it, for what does not fit.
    """

    hdr: FuseOutHeader

    @classmethod
    @abc.abstractmethod
    def from_header(cls, hdr: FuseOutHeader, data: bytes, abi: ABI = NATIVE) -> Self:
        """The reply with that header and what follows it, in the memory of a task with that ABI.

        ValueError for what is none, and for an error, which is a FuseErrorResponse.
        """

    @abc.abstractmethod
    def msg_to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """What follows the header, in the memory of a task with that ABI. ValueError."""

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """All of it in such memory; an error is nothing but the header."""
        if not -_MAX_ERRNO < self.hdr.error <= 0:
            raise ValueError(f"error: {self.hdr.error} is not from {1 - _MAX_ERRNO} to 0")
        msg = b"" if self.hdr.error else self.msg_to_bytes(abi)
        length = _HEADER.size(abi) + len(msg)
        return _HEADER.pack(abi, length, self.hdr.error, self.hdr.unique) + msg

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """From such memory, in which there is one, and nothing else. ValueError.

        A reply does not say what it answers: for FuseOut itself, it is a FuseErrorResponse or a
        FuseOtherResponse.
        """
        length, error, unique = _HEADER.unpack(abi, data)
        check_exact(data, length, "this reply, by its header,")
        if not -_MAX_ERRNO < error <= 0:
            raise ValueError(f"data: error {error} of struct fuse_out_header is no negative errno")
        made: type[FuseOut] = cls
        if made is FuseOut:
            made = FuseErrorResponse if error else FuseOtherResponse
        hdr = FuseOutHeader(error, unique)
        return cast("Self", made.from_header(hdr, data[_HEADER.size(abi) :], abi))


def _check_success(hdr: FuseOutHeader) -> None:
    """ValueError for an error, which has nothing but a header."""
    if hdr.error:
        name = errno.errorcode.get(-hdr.error, hdr.error)
        raise ValueError(f"hdr: an error, {name}: that is a FuseErrorResponse")


class _Bare(FuseOut, Struct):
    """A reply that is nothing but a header."""

    @classmethod
    def from_header(cls, hdr: FuseOutHeader, data: bytes, abi: ABI = NATIVE) -> Self:
        """The reply with that header. ValueError if something follows."""
        check_exact(data, 0, f"what follows the header of {cls.__name__}")
        return cast("Self", cast("Any", cls)(hdr))

    def msg_to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """Nothing."""
        return b""

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes."""
        return _HEADER.size()


class _OfStruct(FuseOut, Struct):
    """A reply that is a header and a structure."""

    msg: Any
    _MSG: ClassVar[type[LaidOut]]

    @classmethod
    def from_header(cls, hdr: FuseOutHeader, data: bytes, abi: ABI = NATIVE) -> Self:
        """The reply with that header and structure. ValueError for another size, and an error."""
        _check_success(hdr)
        check_exact(data, cls._MSG.sizeof_for(abi), cls._MSG.LAYOUT.name)
        msg = cls._MSG.from_bytes_for(data, abi)
        return cast("Self", cast("Any", cls)(hdr, msg))

    def msg_to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """The structure."""
        return cast("LaidOut", self.msg).to_bytes_for(abi)

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes, without an error."""
        return _HEADER.size() + cls._MSG.sizeof()


@record
class FuseErrorResponse(_Bare):
    """The reply to any request that has failed; or that has succeeded, and tells nothing."""

    hdr: FuseOutHeader


@record
class FuseOtherResponse(FuseOut):
    """A reply to a request that has no class of its own. data: what follows the header."""

    hdr: FuseOutHeader
    data: bytes

    @classmethod
    def from_header(cls, hdr: FuseOutHeader, data: bytes, abi: ABI = NATIVE) -> Self:
        """The reply with that header, and all that follows it. ValueError for an error."""
        _check_success(hdr)
        return cls(hdr, bytes(data))

    def msg_to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """What follows the header, as it is."""
        return self.data


@record
class FuseInitResponse(_OfStruct):
    """The reply to INIT."""

    hdr: FuseOutHeader
    msg: FuseInitOut
    _MSG = FuseInitOut


@record
class FuseLookupResponse(_OfStruct):
    """The reply to LOOKUP."""

    hdr: FuseOutHeader
    msg: FuseEntryOut
    _MSG = FuseEntryOut


@record
class FuseOpenResponse(_OfStruct):
    """The reply to OPEN."""

    hdr: FuseOutHeader
    msg: FuseOpenOut
    _MSG = FuseOpenOut


@record
class FuseOpendirResponse(_OfStruct):
    """The reply to OPENDIR."""

    hdr: FuseOutHeader
    msg: FuseOpenOut
    _MSG = FuseOpenOut


@record
class FuseGetattrResponse(_OfStruct):
    """The reply to GETATTR."""

    hdr: FuseOutHeader
    msg: FuseAttrOut
    _MSG = FuseAttrOut


@record
class FuseFlushResponse(_Bare):
    """The reply to FLUSH."""

    hdr: FuseOutHeader


@record
class FuseReleaseResponse(_Bare):
    """The reply to RELEASE."""

    hdr: FuseOutHeader


@record
class FuseReleasedirResponse(_Bare):
    """The reply to RELEASEDIR."""

    hdr: FuseOutHeader


@record
class FuseReadResponse(FuseOut):
    """The reply to READ. msg: what was read; fewer bytes than were asked for: the file ends."""

    hdr: FuseOutHeader
    msg: bytes

    @classmethod
    def from_header(cls, hdr: FuseOutHeader, data: bytes, abi: ABI = NATIVE) -> Self:
        """The reply with that header and those bytes. ValueError for an error."""
        _check_success(hdr)
        return cls(hdr, bytes(data))

    def msg_to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """The bytes."""
        return self.msg


def _parse_all(data: bytes, abi: ABI, parse: Callable[[bytes, ABI], tuple[T, int]]) -> list[T]:
    found: list[T] = []
    at = 0
    while at < len(data):
        one, length = parse(data[at:], abi)
        found.append(one)
        at += length
    return found


@record
class FuseReaddirResponse(FuseOut):
    """The reply to READDIR. msg: the next entries; none: there are no more."""

    hdr: FuseOutHeader
    msg: list[FuseDirent]

    @classmethod
    def from_header(cls, hdr: FuseOutHeader, data: bytes, abi: ABI = NATIVE) -> Self:
        """The reply with that header and those entries.

        ValueError if one is not all there, or for an error.
        """
        _check_success(hdr)
        return cls(hdr, _parse_all(data, abi, FuseDirent.from_bytes))

    def msg_to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """The entries, one after the other."""
        return b"".join([entry.to_bytes(abi) for entry in self.msg])


@record
class FuseReaddirplusResponse(FuseOut):
    """The reply to READDIRPLUS. msg: the next entries; none: there are no more."""

    hdr: FuseOutHeader
    msg: list[FuseDirentplus]

    @classmethod
    def from_header(cls, hdr: FuseOutHeader, data: bytes, abi: ABI = NATIVE) -> Self:
        """The reply with that header and those entries.

        ValueError if one is not all there, or for an error.
        """
        _check_success(hdr)
        return cls(hdr, _parse_all(data, abi, FuseDirentplus.from_bytes))

    def msg_to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """The entries, one after the other."""
        return b"".join([entry.to_bytes(abi) for entry in self.msg])


@record
class FuseReadlinkResponse(FuseOut):
    """The reply to READLINK. msg: what the link contains; a string, once it was read."""

    hdr: FuseOutHeader
    msg: str | os.PathLike[str]

    @classmethod
    def from_header(cls, hdr: FuseOutHeader, data: bytes, abi: ABI = NATIVE) -> Self:
        """The reply with that header and target. ValueError for one with a NUL, and an error."""
        _check_success(hdr)
        if b"\0" in data:
            raise ValueError("data: the target of the link has a NUL in it")
        return cls(hdr, os.fsdecode(data))

    def msg_to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """The target, which has no NUL at its end. ValueError if it has one in it."""
        data = os.fsencode(self.msg)
        if b"\0" in data:
            raise ValueError(f"msg: {self.msg!r} has a NUL in it")
        return data


@record
class FuseGetxattrResponse(FuseOut):
    """The reply to GETXATTR."""

    hdr: FuseOutHeader
    msg: FuseGetxattrOut

    @classmethod
    def from_header(cls, hdr: FuseOutHeader, data: bytes, abi: ABI = NATIVE) -> Self:
        """The reply with that header and value. ValueError for an error."""
        _check_success(hdr)
        return cls(hdr, FuseGetxattrOut.from_bytes_for(data, abi))

    def msg_to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """The value, or its size."""
        return self.msg.to_bytes_for(abi)

"""Structures of requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from rsyscall.abi import ABI, Layout
from rsyscall.fcntl import O
from rsyscall.linux.fuse._constants import (
    FUSE_GETATTR,
    FUSE_INIT,
    FUSE_OPCODE,
    FUSE_OPEN,
    FUSE_READ,
    FUSE_RELEASE,
)
from rsyscall.linux.fuse._flags import join_flags, split_flags
from rsyscall.struct import LaidOut, Portable, path_to_bytes, string_from_null_terminated_bytes
from rsyscall_protocol._record import record

__all__ = [
    "FuseFlushIn",
    "FuseGetattrIn",
    "FuseGetxattrIn",
    "FuseInitIn",
    "FuseOpenIn",
    "FuseReadIn",
    "FuseReleaseIn",
    "check_exact",
    "parse_name",
]


def check_exact(data: bytes, size: int, what: str) -> None:
    """ValueError if there are more bytes, or fewer, than the structure has."""
    if len(data) != size:
        raise ValueError(f"data: {len(data)} bytes, {what} has {size}")


def parse_name(data: bytes, what: str) -> str:
    """A name that is all there is. ValueError unless it has one NUL, at its end."""
    if not data or data.find(b"\0") != len(data) - 1:
        raise ValueError(f"data: {what} does not end with its first NUL")
    return string_from_null_terminated_bytes(data)


#: Of struct fuse_init_in, what kernels before 7.36 send.
_INIT_SHORT = Layout("struct fuse_init_in", "u32 major, u32 minor, u32 max_readahead, u32 flags")


@record
class FuseInitIn(LaidOut):
    """struct fuse_init_in: what the kernel can do. max_readahead: bytes."""

    major: int
    minor: int
    max_readahead: int
    flags: FUSE_INIT

    opcode = FUSE_OPCODE.INIT
    LAYOUT = Layout(
        "struct fuse_init_in",
        "u32 major, u32 minor, u32 max_readahead, u32 flags, u32 flags2, u32[11] _",
    )

    def _values(self) -> Sequence[int]:
        return self.major, self.minor, self.max_readahead, *split_flags(self.flags)

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        major, minor, readahead, flags, more = values
        return cls(major, minor, readahead, join_flags(flags, more))

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """From the structure in such memory, also in its short form, which has 16 bytes.

        ValueError for any other number of bytes that is too small.
        """
        if len(data) == _INIT_SHORT.size(abi):
            return cls._from_values(*_INIT_SHORT.unpack(abi, data), 0)
        return super(FuseInitIn, cls).from_bytes_for(data, abi)


@record
class FuseOpenIn(LaidOut):
    """struct fuse_open_in: how a file, or a directory, is opened. flags: no O.CREAT, no O.EXCL."""

    flags: O
    open_flags: FUSE_OPEN = FUSE_OPEN.NONE

    LAYOUT = Layout("struct fuse_open_in", "u32 flags, u32 open_flags")

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        return cls(O(values[0]), FUSE_OPEN(values[1]))


@record
class FuseReadIn(LaidOut):
    """struct fuse_read_in: what is to be read.

    fh: what OPEN or OPENDIR was answered. offset: bytes of a file; in a directory, 0 or what the
    last entry had as its `off`. size: bytes that there is room for.
    """

    fh: int
    offset: int
    size: int
    read_flags: FUSE_READ
    flags: O
    lock_owner: int = 0

    LAYOUT = Layout(
        "struct fuse_read_in",
        "u64 fh, u64 offset, u32 size, u32 read_flags, u64 lock_owner, u32 flags, u32 _",
    )

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        fh, offset, size, read_flags, lock_owner, flags = values
        return cls(fh, offset, size, FUSE_READ(read_flags), O(flags), lock_owner)


@record
class FuseGetattrIn(LaidOut):
    """struct fuse_getattr_in. fh: what OPEN was answered, if getattr_flags has FH."""

    getattr_flags: FUSE_GETATTR
    fh: int

    LAYOUT = Layout("struct fuse_getattr_in", "u32 getattr_flags, u32 _, u64 fh")

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        return cls(FUSE_GETATTR(values[0]), values[1])


@record
class FuseFlushIn(LaidOut):
    """struct fuse_flush_in: one descriptor of an open file is closed."""

    fh: int
    lock_owner: int

    LAYOUT = Layout("struct fuse_flush_in", "u64 fh, u32 _, u32 _, u64 lock_owner")


@record
class FuseReleaseIn(LaidOut):
    """struct fuse_release_in: an open file, or directory, has no descriptor left."""

    fh: int
    flags: O
    release_flags: FUSE_RELEASE
    lock_owner: int

    LAYOUT = Layout(
        "struct fuse_release_in", "u64 fh, u32 flags, u32 release_flags, u64 lock_owner"
    )

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        fh, flags, release_flags, lock_owner = values
        return cls(fh, O(flags), FUSE_RELEASE(release_flags), lock_owner)


_GETXATTR = Layout("struct fuse_getxattr_in", "u32 size, u32 _")


@record
class FuseGetxattrIn(Portable):
    """struct fuse_getxattr_in and what follows: which extended attribute is asked for.

    data: its name. size: bytes that there is room for; 0: only the size of the value is wanted.
    """

    data: str
    size: int = 0

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """The structure and the name, in such memory. ValueError for what does not fit."""
        return _GETXATTR.pack(abi, self.size) + path_to_bytes(self.data, "data")

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """From such memory. ValueError if there are too few bytes, or more than a name."""
        (size,) = _GETXATTR.unpack(abi, data)
        return cls(parse_name(data[_GETXATTR.size(abi) :], "the name of the attribute"), size)

"""Structures of replies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Self

from rsyscall.abi import ABI, NATIVE, Layout
from rsyscall.linux.dirent import DT
from rsyscall.linux.fuse._constants import FOPEN, FUSE_ATTR, FUSE_INIT
from rsyscall.linux.fuse._flags import join_flags, split_flags
from rsyscall.struct import LaidOut, Portable, check_size
from rsyscall.sys.stat import S_IF, Mode, TypeMode
from rsyscall.time import Timespec
from rsyscall_protocol._record import record

__all__ = [
    "FuseAttr",
    "FuseAttrOut",
    "FuseDirent",
    "FuseDirentplus",
    "FuseEntryOut",
    "FuseGetxattrOut",
    "FuseInitOut",
    "FuseOpenOut",
]


@record
class FuseInitOut(LaidOut):
    """struct fuse_init_out: what the server can do, of what the kernel can.

    major, minor: FUSE_KERNEL_VERSION and FUSE_KERNEL_MINOR_VERSION, or less if the kernel's is
    less, but a minor of 23 at least. max_readahead, max_write: bytes; at least 4096 are written.
    max_background, congestion_threshold: requests in the background; 0: the kernel's default.
    time_gran: how exact times are, in nanoseconds; 0 is 1. max_pages: of a request, with MAX_PAGES.
    """

    major: int
    minor: int
    max_readahead: int
    flags: FUSE_INIT
    max_background: int
    congestion_threshold: int
    max_write: int
    time_gran: int
    max_pages: int = 0
    map_alignment: int = 0

    LAYOUT = Layout(
        "struct fuse_init_out",
        "u32 major, u32 minor, u32 max_readahead, u32 flags, u16 max_background,"
        "u16 congestion_threshold, u32 max_write, u32 time_gran, u16 max_pages,"
        "u16 map_alignment, u32 flags2, u32[7] _",
    )

    def _values(self) -> Sequence[int]:
        low, high = split_flags(self.flags)
        first = self.major, self.minor, self.max_readahead, low
        limits = self.max_background, self.congestion_threshold, self.max_write, self.time_gran
        return *first, *limits, self.max_pages, self.map_alignment, high

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        major, minor, readahead, low, *rest, high = values
        return cls(major, minor, readahead, join_flags(low, high), *rest)


_ATTR_FIELDS = (
    "u64 ino, u64 size, u64 blocks, i64 atime, i64 mtime, i64 ctime,"
    "u32 atimensec, u32 mtimensec, u32 ctimensec, u32 mode, u32 nlink, u32 uid, u32 gid, u32 rdev,"
    "u32 blksize, u32 flags"
)


@record
class FuseAttr(LaidOut):
    """struct fuse_attr: what stat(2) tells of a file. size: bytes. blocks: of 512 bytes."""

    ino: int
    size: int
    blocks: int
    atime: Timespec
    mtime: Timespec
    ctime: Timespec
    mode: TypeMode
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    flags: FUSE_ATTR = FUSE_ATTR.NONE

    LAYOUT = Layout("struct fuse_attr", _ATTR_FIELDS)

    def _values(self) -> Sequence[int]:
        return _attr_values(self)

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        return cls(*_attr_fields(values))


def _attr_values(attr: FuseAttr) -> Sequence[int]:
    times = attr.atime, attr.mtime, attr.ctime
    return (
        *(attr.ino, attr.size, attr.blocks),
        *[time.sec for time in times],
        *[time.nsec for time in times],
        *(int(attr.mode), attr.nlink, attr.uid, attr.gid, attr.rdev, attr.blksize, attr.flags),
    )


def _attr_fields(
    values: Sequence[int],
) -> tuple[
    *tuple[int, int, int, Timespec, Timespec, Timespec],
    *tuple[TypeMode, int, int, int, int, int, FUSE_ATTR],
]:
    ino, size, blocks, *times, mode, nlink, uid, gid, rdev, blksize, flags = values
    atime, mtime, ctime = [Timespec(*pair) for pair in zip(times[:3], times[3:], strict=True)]
    kind, permissions = mode & S_IF.MT, mode & ~S_IF.MT
    if kind not in set(S_IF) - {S_IF.MT}:
        raise ValueError(f"data: mode {mode:#o} of struct fuse_attr has no type of a file")
    known = TypeMode(S_IF(kind), Mode(permissions))
    where = ino, size, blocks, atime, mtime, ctime
    return *where, known, nlink, uid, gid, rdev, blksize, FUSE_ATTR(flags)


@record
class FuseEntryOut(LaidOut):
    """struct fuse_entry_out: what has a name in a directory.

    nodeid: by which the kernel asks for it from now on; 0: there is nothing of that name, and the
    kernel remembers that for as long as entry_valid says. generation: the two together are never
    used for another file. entry_valid, attr_valid: how long the kernel need not ask again for the
    name, and for the attributes.
    """

    nodeid: int
    generation: int
    entry_valid: Timespec
    attr_valid: Timespec
    attr: FuseAttr

    LAYOUT = Layout(
        "struct fuse_entry_out",
        "u64 nodeid, u64 generation, u64 entry_valid, u64 attr_valid, u32 entry_valid_nsec,"
        f"u32 attr_valid_nsec, {_ATTR_FIELDS}",
    )

    def _values(self) -> Sequence[int]:
        entry, attr = self.entry_valid, self.attr_valid
        times = entry.sec, attr.sec, entry.nsec, attr.nsec
        return self.nodeid, self.generation, *times, *_attr_values(self.attr)

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        nodeid, generation, entry, attr, entry_ns, attr_ns, *rest = values
        times = Timespec(entry, entry_ns), Timespec(attr, attr_ns)
        return cls(nodeid, generation, *times, FuseAttr(*_attr_fields(rest)))


@record
class FuseAttrOut(LaidOut):
    """struct fuse_attr_out. attr_valid: how long the kernel need not ask again."""

    attr_valid: Timespec
    attr: FuseAttr

    LAYOUT = Layout(
        "struct fuse_attr_out", f"u64 attr_valid, u32 attr_valid_nsec, u32 _, {_ATTR_FIELDS}"
    )

    def _values(self) -> Sequence[int]:
        return self.attr_valid.sec, self.attr_valid.nsec, *_attr_values(self.attr)

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        sec, nsec, *rest = values
        return cls(Timespec(sec, nsec), FuseAttr(*_attr_fields(rest)))

    @classmethod
    def from_header(cls, data: bytes) -> Self:
        """The same as from_bytes."""
        return cls.from_bytes(data)


@record
class FuseOpenOut(LaidOut):
    """struct fuse_open_out. fh: what further requests name the open file, or directory, by."""

    fh: int
    open_flags: FOPEN

    LAYOUT = Layout("struct fuse_open_out", "u64 fh, u32 open_flags, u32 _")

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        return cls(values[0], FOPEN(values[1]))


_DIRENT = Layout("struct fuse_dirent", "u64 ino, u64 off, u32 namelen, u32 type")


def _check_name(name: bytes, what: str) -> None:
    """ValueError for what the kernel takes for a broken file system, or tells others cut off."""
    if not name or b"/" in name or b"\0" in name:
        raise ValueError(f"{what}: {os.fsdecode(name)!r} is no name in a directory")


@record
class FuseDirent:
    """struct fuse_dirent: a name in a directory.

    off: what the offset of a request is that asks for the next ones; whatever the server likes, but
    0. name: undecodable bytes as os.fsdecode has them. type: UNKNOWN for what is not known here.
    """

    ino: int
    off: int
    type: DT
    name: str

    def to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """The structure in the memory of a task with that ABI, with its name, in steps of 8 bytes.

        ValueError for what does not fit, and for a name that is empty or has a slash or NUL in it.
        """
        name = os.fsencode(self.name)
        _check_name(name, "name")
        data = _DIRENT.pack(abi, self.ino, self.off, len(name), self.type) + name
        return data + bytes(-len(data) % 8)

    @classmethod
    def from_bytes(cls, data: bytes, abi: ABI = NATIVE) -> tuple[Self, int]:
        """The first entry and its length in bytes.

        ValueError if it is not all there, or is none that to_bytes would make.
        """
        ino, off, length, kind = _DIRENT.unpack(abi, data)
        end = _DIRENT.size(abi) + length
        check_size(data, end + -end % 8, "this struct fuse_dirent")
        name = data[_DIRENT.size(abi) : end]
        _check_name(name, "data")
        known = DT(kind) if kind in set(DT) else DT.UNKNOWN
        return cls(ino, off, known, os.fsdecode(name)), end + -end % 8


@record
class FuseDirentplus:
    """struct fuse_direntplus: a name in a directory, and what LOOKUP of it would be answered.

    The kernel has looked up each that has a nodeid, and FORGETs it later; but for "." and "..".
    """

    entry_out: FuseEntryOut
    dirent: FuseDirent

    def to_bytes(self, abi: ABI = NATIVE) -> bytes:
        """The structure in the memory of a task with that ABI; see FuseDirent."""
        return self.entry_out.to_bytes_for(abi) + self.dirent.to_bytes(abi)

    @classmethod
    def from_bytes(cls, data: bytes, abi: ABI = NATIVE) -> tuple[Self, int]:
        """The first entry and its length in bytes; see FuseDirent."""
        entry = FuseEntryOut.from_bytes_for(data, abi)
        size = FuseEntryOut.sizeof_for(abi)
        dirent, length = FuseDirent.from_bytes(data[size:], abi)
        return cls(entry, dirent), size + length


_GETXATTR = Layout("struct fuse_getxattr_out", "u32 size, u32 _")


@record
class FuseGetxattrOut(Portable):
    """The value of an extended attribute.

    data: any bytes, as os.fsdecode has them. only_size: a struct fuse_getxattr_out with its size is
    sent in its place, since no more was asked for.
    """

    data: str
    only_size: bool = False

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """The value, or its size."""
        value = os.fsencode(self.data)
        return _GETXATTR.pack(abi, len(value)) if self.only_size else value

    @classmethod
    def from_bytes_for(cls, data: bytes, _abi: ABI, /) -> Self:
        """The value, as which all bytes are taken: they do not say that they are a size."""
        return cls(os.fsdecode(data))

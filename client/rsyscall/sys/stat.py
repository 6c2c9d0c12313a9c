"""`#include <sys/stat.h>`"""

from __future__ import annotations

import enum
from typing import overload

from rsyscall._raw import ffi, lib
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.handle.pointer import Pointer
from rsyscall.near.sysif import Out, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, perform
from rsyscall.struct import Struct
from rsyscall.sys.syscall import SYS
from rsyscall.time import Timespec
from rsyscall_protocol._record import record

__all__ = ["S_IF", "Mode", "Stat", "StatFileDescriptor", "TypeMode", "fstat_call"]


class S_IF(enum.IntEnum):
    """Types of files; NONE is what an epoll, an eventfd and the like have."""

    NONE = 0
    SOCK = lib.S_IFSOCK
    LNK = lib.S_IFLNK
    REG = lib.S_IFREG
    BLK = lib.S_IFBLK
    DIR = lib.S_IFDIR
    CHR = lib.S_IFCHR
    IFO = lib.S_IFIFO
    MT = lib.S_IFMT


class Mode(int):
    """Permission bits."""

    def __str__(self) -> str:
        """In octal."""
        return f"0o{int(self):03o}"


@record
class TypeMode:
    """The type of a file and its permission bits."""

    type: S_IF
    mode: Mode

    @staticmethod
    def from_int(val: int) -> TypeMode:
        """From st_mode. ValueError if the type is none that is known."""
        return TypeMode(S_IF(val & lib.S_IFMT), Mode(val & ~lib.S_IFMT))

    def __int__(self) -> int:
        """As st_mode."""
        return self.type | self.mode


_SIZE = ffi.sizeof("struct stat")


@record
class Stat(Struct):
    """struct stat: sizes in bytes, blocks of 512 bytes."""

    dev: int
    ino: int
    mode: TypeMode
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blksize: int
    blocks: int
    atime: Timespec
    mtime: Timespec
    ctime: Timespec

    def to_bytes(self) -> bytes:
        """The structure in memory."""
        fields = {
            f"st_{name}": getattr(self, name)
            for name in ["dev", "ino", "nlink", "uid", "gid", "rdev", "size", "blksize", "blocks"]
        }
        times = {
            f"st_{name}": {"tv_sec": value.sec, "tv_nsec": value.nsec}
            for name, value in (("atim", self.atime), ("mtim", self.mtime), ("ctim", self.ctime))
        }
        struct = ffi.new("struct stat *", {**fields, **times, "st_mode": int(self.mode)})
        return bytes(ffi.buffer(struct))

    @classmethod
    def from_bytes(cls, data: bytes) -> Stat:
        """From the structure in memory. ValueError if there are too few bytes."""
        if len(data) < _SIZE:
            raise ValueError(f"data: {len(data)} bytes, struct stat has {_SIZE}")
        st = ffi.cast("struct stat *", ffi.from_buffer("char[]", data))
        return cls(
            dev=int(st.st_dev),
            ino=int(st.st_ino),
            mode=TypeMode.from_int(st.st_mode),
            nlink=int(st.st_nlink),
            uid=int(st.st_uid),
            gid=int(st.st_gid),
            rdev=int(st.st_rdev),
            size=int(st.st_size),
            blksize=int(st.st_blksize),
            blocks=int(st.st_blocks),
            atime=Timespec(int(st.st_atim.tv_sec), int(st.st_atim.tv_nsec)),
            mtime=Timespec(int(st.st_mtim.tv_sec), int(st.st_mtim.tv_nsec)),
            ctime=Timespec(int(st.st_ctim.tv_sec), int(st.st_ctim.tv_nsec)),
        )

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes."""
        return _SIZE


def _stat(_task: object, _value: int, outs: tuple[bytes, ...]) -> Stat:
    return Stat.from_bytes(outs[0])


@declares("fstat")
def fstat_call(fd: SyscallArgument) -> TypedCall[Stat]:
    """fstat(2)."""
    return TypedCall(SYS.fstat, (fd, Out(_SIZE)), _stat, outs=True)


class StatFileDescriptor(BaseFileDescriptor):
    """A file descriptor whose file can be asked about."""

    @overload
    async def fstat(self) -> Stat: ...
    @overload
    async def fstat(self, statbuf: Pointer[Stat]) -> Pointer[Stat]: ...

    async def fstat(self, statbuf: Pointer[Stat] | None = None) -> Stat | Pointer[Stat]:
        """What is known of the file: returned, or left where statbuf points.

        InvalidHandleError; AddressSpaceMismatchError; ValueError if statbuf is too small; OSError
        as the call reports it. A checkpoint; if cancelled, nothing has happened. fstat(2).
        """
        self._validate()
        if statbuf is None:
            return await perform(self.task, fstat_call(self.near))
        if statbuf.size() < _SIZE:  # a part of a pointer that was split
            raise ValueError(f"statbuf: {statbuf.size()} bytes, struct stat has {_SIZE}")
        with statbuf.borrow(self.task) as address:
            await self.task.sysif.syscall(SYS.fstat, self.near, address)
        return statbuf.unsafe()

"""`#include <sys/stat.h>`"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import overload

from rsyscall._raw import lib
from rsyscall.abi import ABI, NATIVE, Layout
from rsyscall.far import Task
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.handle.pointer import Pointer
from rsyscall.near.sysif import Out, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, perform
from rsyscall.struct import LaidOut
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


_TIMES = "long atime, long atime_ns, long mtime, long mtime_ns, long ctime, long ctime_ns,"


@record
class Stat(LaidOut):
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

    LAYOUT = Layout(
        "struct stat",
        "ulong dev, ulong ino, u32 mode, u32 nlink, u32 uid, u32 gid, ulong rdev, ulong _,"
        f"long size, i32 blksize, i32 _, long blocks, {_TIMES} u32[2] _",
        x86_64="ulong dev, ulong ino, ulong nlink, u32 mode, u32 uid, u32 gid, u32 _, ulong rdev,"
        f"long size, long blksize, long blocks, {_TIMES} long[3] _",
    )

    @property
    def atim(self) -> Timespec:
        """The same as atime."""
        return self.atime

    @property
    def mtim(self) -> Timespec:
        """The same as mtime."""
        return self.mtime

    @property
    def ctim(self) -> Timespec:
        """The same as ctime."""
        return self.ctime

    def _values(self) -> Sequence[int]:
        first = self.dev, self.ino, int(self.mode), self.nlink, self.uid, self.gid, self.rdev
        times = self.atime, self.mtime, self.ctime
        rest = [part for time in times for part in (time.sec, time.nsec)]
        return [*first, self.size, self.blksize, self.blocks, *rest]

    @classmethod
    def _from_values(cls, *values: int) -> Stat:
        dev, ino, mode, nlink, uid, gid, rdev, size, blksize, blocks, *rest = values
        times = Timespec(*rest[:2]), Timespec(*rest[2:4]), Timespec(*rest[4:])
        kind = TypeMode.from_int(mode)
        return cls(dev, ino, kind, nlink, uid, gid, rdev, size, blksize, blocks, *times)


def _stat(task: Task, _value: int, outs: tuple[bytes, ...]) -> Stat:
    return Stat.from_bytes_for(outs[0], task.abi)


@declares("fstat")
def fstat_call(fd: SyscallArgument, *, abi: ABI = NATIVE) -> TypedCall[Stat]:
    """fstat(2)."""
    return TypedCall(SYS.fstat, (fd, Out(Stat.sizeof_for(abi))), _stat, outs=True)


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
            return await perform(self.task, fstat_call(self.near, abi=self.task.abi))
        size = Stat.sizeof_for(self.task.abi)
        if statbuf.size() < size:  # a part of a pointer that was split
            raise ValueError(f"statbuf: {statbuf.size()} bytes, struct stat has {size}")
        with statbuf.borrow(self.task) as address:
            await self.task.sysif.syscall(SYS.fstat, self.near, address)
        return statbuf.unsafe()

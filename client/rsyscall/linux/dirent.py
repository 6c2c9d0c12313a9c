"""`#include <linux/dirent.h>`"""

from __future__ import annotations

import enum
import os
import struct
from typing import TYPE_CHECKING, overload

from rsyscall._raw import lib
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.handle.pointer import Pointer, ReadablePointer
from rsyscall.near.sysif import MAX_IO, Ret, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, perform
from rsyscall.struct import Record, Serializable, check_size
from rsyscall.sys.syscall import SYS

if TYPE_CHECKING:
    from typing import Self

__all__ = ["DT", "Dirent", "DirentList", "GetdentsFileDescriptor", "getdents", "getdents_call"]

#: Room for some hundred entries.
_ROOM = 32768
_HEAD = struct.Struct("=QqHB")


class DT(enum.IntEnum):
    """What a name in a directory stands for; UNKNOWN where the file system does not say."""

    UNKNOWN = lib.DT_UNKNOWN
    FIFO = lib.DT_FIFO
    CHR = lib.DT_CHR
    DIR = lib.DT_DIR
    BLK = lib.DT_BLK
    REG = lib.DT_REG
    LNK = lib.DT_LNK
    SOCK = lib.DT_SOCK


class Dirent(Record):
    """struct linux_dirent64: a name in a directory.

    offset: where lseek(2) finds the next one. name: undecodable bytes as os.fsdecode has them.
    """

    __slots__ = ("inode", "name", "offset", "type")

    def __init__(self, inode: int, offset: int, type: DT, name: str) -> None:
        """Nothing is checked."""
        self.inode: int = inode
        self.offset: int = offset
        self.type: DT = type
        self.name: str = name

    def to_bytes(self) -> bytes:
        """The structure in memory, with its name, in steps of 8 bytes as the kernel has them."""
        name = os.fsencode(self.name) + b"\0"
        length = -(-(_HEAD.size + len(name)) // 8) * 8
        head = _HEAD.pack(self.inode, self.offset, length, self.type)
        return (head + name).ljust(length, b"\0")

    @classmethod
    def from_bytes(cls, data: bytes) -> tuple[Self, int]:
        """The first entry and its length in bytes. ValueError if it is not all there."""
        check_size(data, _HEAD.size, "struct linux_dirent64")
        inode, offset, length, kind = _HEAD.unpack_from(data)
        check_size(data, max(length, _HEAD.size + 1), "this struct linux_dirent64")
        name = data[_HEAD.size : length].split(b"\0", 1)[0]
        return cls(inode, offset, _kind(kind), os.fsdecode(name)), length


def _kind(number: int) -> DT:
    try:
        return DT(number)
    except ValueError:  # such as a whiteout of overlayfs
        return DT.UNKNOWN


class DirentList(list[Dirent], Serializable):
    """Entries, one after the other, as they are read."""

    def to_bytes(self) -> bytes:
        """All of them in memory."""
        return b"".join([entry.to_bytes() for entry in self])

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """All of them. ValueError if the last one is not all there."""
        entries, at = cls(), 0
        while at < len(data):
            entry, length = Dirent.from_bytes(data[at:])
            entries.append(entry)
            at += length
        return entries


def _entries(_task: object, _value: int, outs: tuple[bytes, ...]) -> DirentList:
    return DirentList.from_bytes(outs[0])


@declares("getdents")
def getdents_call(fd: SyscallArgument, count: int = _ROOM) -> TypedCall[DirentList]:
    """getdents64(2) into up to `count` bytes, and MAX_IO at most."""
    if count < 0:
        raise ValueError(f"count: {count} is negative")
    n = min(count, MAX_IO)
    return TypedCall(SYS.getdents64, (fd, Ret(n), n), _entries, outs=True)


class GetdentsFileDescriptor(BaseFileDescriptor):
    """A file descriptor of a directory."""

    @overload
    async def getdents(self, dirp: int = _ROOM) -> DirentList: ...
    @overload
    async def getdents(
        self, dirp: Pointer[DirentList]
    ) -> tuple[ReadablePointer[DirentList], Pointer[DirentList]]: ...

    async def getdents(
        self, dirp: int | Pointer[DirentList] = _ROOM
    ) -> DirentList | tuple[ReadablePointer[DirentList], Pointer[DirentList]]:
        """The next names of a directory, as many as find room; none: there are no more.

        dirp: how many bytes of room; or memory, and then what was filled and the rest are returned.
        InvalidHandleError; UseAfterFreeError or AddressSpaceMismatchError; ValueError for a
        negative count; OSError as the call reports it (EINVAL if there is no room for a single
        one). A checkpoint; if cancelled, nothing was read. getdents64(2).
        """
        self._validate()
        if isinstance(dirp, int):
            return await perform(self.task, getdents_call(self.near, dirp))
        return await getdents(self, dirp)


async def getdents(
    self: BaseFileDescriptor, dirp: Pointer[DirentList]
) -> tuple[ReadablePointer[DirentList], Pointer[DirentList]]:
    """The next names of a directory, into memory; see GetdentsFileDescriptor.getdents."""
    with self.borrow(self.task) as fd, dirp.borrow(self.task) as address:
        n = await self.task.sysif.syscall(SYS.getdents64, fd, address, dirp.size())
    return dirp.readable_split(n)

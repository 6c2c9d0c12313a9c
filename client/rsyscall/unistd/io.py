"""`#include <unistd.h>`: reading, writing, seeking."""

from __future__ import annotations

import enum
from typing import TypeVar, overload

from rsyscall._raw import lib
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.handle.pointer import Pointer, ReadablePointer
from rsyscall.near.sysif import In, Ret, SyscallArgument
from rsyscall.sys.syscall import SYS

__all__ = ["MAX_IO", "SEEK", "IOFileDescriptor", "SeekableFileDescriptor"]

T = TypeVar("T")

#: Bytes that one call moves at most when its data travels inside the request.
MAX_IO = 1024 * 1024 - 4096


class SEEK(enum.IntEnum):
    """From where lseek(2) counts."""

    SET = lib.SEEK_SET
    CUR = lib.SEEK_CUR
    END = lib.SEEK_END
    DATA = lib.SEEK_DATA
    HOLE = lib.SEEK_HOLE


def _check_count(count: int) -> None:
    if count < 0:
        raise ValueError(f"count: {count} is negative")


class IOFileDescriptor(BaseFileDescriptor):
    """A file descriptor that can be read and written."""

    async def _into(
        self, nr: SYS, buf: Pointer[T], *more: SyscallArgument
    ) -> tuple[ReadablePointer[T], Pointer[T]]:
        with buf.borrow(self.task) as address:
            n = await self.task.sysif.syscall(nr, self.near, address, buf.size(), *more)
        return buf.readable_split(n)

    async def _from(
        self, nr: SYS, buf: Pointer[T], *more: SyscallArgument
    ) -> tuple[Pointer[T], Pointer[T]]:
        with buf.borrow(self.task) as address:
            n = await self.task.sysif.syscall(nr, self.near, address, buf.size(), *more)
        return buf.split(n)

    @overload
    async def read(self, buf: int) -> bytes: ...
    @overload
    async def read(self, buf: Pointer[T]) -> tuple[ReadablePointer[T], Pointer[T]]: ...

    async def read(self, buf: int | Pointer[T]) -> bytes | tuple[ReadablePointer[T], Pointer[T]]:
        """Read up to `buf` bytes and return them; or into memory, and return what was filled and
        the rest.

        No bytes mean the end of the file. Like the call itself it may read less than was asked for,
        and never more than MAX_IO at once into bytes. InvalidHandleError;
        AddressSpaceMismatchError; ValueError for a negative count; OSError as the call reports it.
        A checkpoint; if cancelled, nothing was read. read(2).
        """
        self._validate()
        if not isinstance(buf, int):
            return await self._into(SYS.read, buf)
        _check_count(buf)
        n = min(buf, MAX_IO)
        return (await self.task.sysif.call(SYS.read, (self.near, Ret(n), n))).outs[0]

    @overload
    async def write(self, buf: bytes) -> int: ...
    @overload
    async def write(self, buf: Pointer[T]) -> tuple[Pointer[T], Pointer[T]]: ...

    async def write(self, buf: bytes | Pointer[T]) -> int | tuple[Pointer[T], Pointer[T]]:
        """Write bytes and return how many were; or from memory, and return that part and the rest.

        Like the call itself it may write less than was given, and never more than MAX_IO of bytes
        at once. InvalidHandleError; AddressSpaceMismatchError; OSError as the call reports it. A
        checkpoint; if cancelled, nothing was written. write(2).
        """
        self._validate()
        if isinstance(buf, Pointer):
            return await self._from(SYS.write, buf)
        data = bytes(buf[:MAX_IO])
        return await self.task.sysif.syscall(SYS.write, self.near, In(data), len(data))


class SeekableFileDescriptor(IOFileDescriptor):
    """A file descriptor with an offset."""

    @overload
    async def pread(self, buf: int, offset: int) -> bytes: ...
    @overload
    async def pread(
        self, buf: Pointer[T], offset: int
    ) -> tuple[ReadablePointer[T], Pointer[T]]: ...

    async def pread(
        self, buf: int | Pointer[T], offset: int
    ) -> bytes | tuple[ReadablePointer[T], Pointer[T]]:
        """Read from `offset` bytes into the file, leaving its own offset alone; see read.

        pread(2).
        """
        self._validate()
        if not isinstance(buf, int):
            return await self._into(SYS.pread64, buf, offset)
        _check_count(buf)
        n = min(buf, MAX_IO)
        return (await self.task.sysif.call(SYS.pread64, (self.near, Ret(n), n, offset))).outs[0]

    @overload
    async def pwrite(self, buf: bytes, offset: int) -> int: ...
    @overload
    async def pwrite(self, buf: Pointer[T], offset: int) -> tuple[Pointer[T], Pointer[T]]: ...

    async def pwrite(
        self, buf: bytes | Pointer[T], offset: int
    ) -> int | tuple[Pointer[T], Pointer[T]]:
        """Write to `offset` bytes into the file, leaving its own offset alone; see write.

        pwrite(2).
        """
        self._validate()
        if isinstance(buf, Pointer):
            return await self._from(SYS.pwrite64, buf, offset)
        data = bytes(buf[:MAX_IO])
        return await self.task.sysif.syscall(SYS.pwrite64, self.near, In(data), len(data), offset)

    async def lseek(self, offset: int, whence: SEEK) -> int:
        """Move the file's offset, in bytes, and return the new one.

        InvalidHandleError; OSError as the call reports it. A checkpoint; if cancelled, nothing has
        happened. lseek(2).
        """
        self._validate()
        return await self.task.sysif.syscall(SYS.lseek, self.near, offset, whence)

"""`#include <unistd.h>`: reading, writing, seeking."""

from __future__ import annotations

import enum
from typing import TypeVar, overload

from rsyscall._raw import lib
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.handle.pointer import Pointer, ReadablePointer
from rsyscall.near.sysif import MAX_IO, In, Ret, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, first_out, number, perform
from rsyscall.sys.syscall import SYS

__all__ = [
    "MAX_IO",
    "SEEK",
    "IOFileDescriptor",
    "SeekableFileDescriptor",
    "lseek_call",
    "pread_call",
    "pwrite_call",
    "read_call",
    "write_call",
]

T = TypeVar("T")

# Looked up once: a member of an enum takes as long as a call.
_READ = SYS.read


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


@declares("read")
def read_call(fd: SyscallArgument, count: int) -> TypedCall[bytes]:
    """read(2) of up to `count` bytes, and of MAX_IO at most."""
    _check_count(count)
    n = count if count < MAX_IO else MAX_IO
    return TypedCall(_READ, (fd, Ret(n), n), first_out, outs=True)


@declares("pread")
def pread_call(fd: SyscallArgument, count: int, offset: SyscallArgument) -> TypedCall[bytes]:
    """pread(2) of up to `count` bytes, and of MAX_IO at most."""
    _check_count(count)
    n = min(count, MAX_IO)
    return TypedCall(SYS.pread64, (fd, Ret(n), n, offset), first_out, outs=True)


@declares("write")
def write_call(fd: SyscallArgument, data: bytes) -> TypedCall[int]:
    """write(2) of MAX_IO bytes at most."""
    data = bytes(data[:MAX_IO])
    return TypedCall(SYS.write, (fd, In(data), len(data)), number)


@declares("pwrite")
def pwrite_call(fd: SyscallArgument, data: bytes, offset: SyscallArgument) -> TypedCall[int]:
    """pwrite(2) of MAX_IO bytes at most."""
    data = bytes(data[:MAX_IO])
    return TypedCall(SYS.pwrite64, (fd, In(data), len(data), offset), number)


@declares("lseek")
def lseek_call(fd: SyscallArgument, offset: SyscallArgument, whence: SEEK) -> TypedCall[int]:
    """lseek(2)."""
    return TypedCall(SYS.lseek, (fd, offset, whence), number)


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
        return await perform(self.task, read_call(self.near, buf))

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
        return await perform(self.task, write_call(self.near, buf))


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
        return await perform(self.task, pread_call(self.near, buf, offset))

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
        return await perform(self.task, pwrite_call(self.near, buf, offset))

    async def lseek(self, offset: int, whence: SEEK) -> int:
        """Move the file's offset, in bytes, and return the new one.

        InvalidHandleError; OSError as the call reports it. A checkpoint; if cancelled, nothing has
        happened. lseek(2).
        """
        self._validate()
        return await perform(self.task, lseek_call(self.near, offset, whence))

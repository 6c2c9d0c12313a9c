"""Reading what has a length, or an end that is to be looked for."""

from __future__ import annotations

import os
import struct
from typing import TypeVar

from rsyscall._checkpoint import checkpoint
from rsyscall.epoller._afd import AsyncFileDescriptor
from rsyscall.struct import Struct

__all__ = ["AsyncReadBuffer", "EOFException"]

T_struct = TypeVar("T_struct", bound=Struct)
_LENGTH = struct.Struct("=Q")
#: The longest length of a netstring, in digits.
_DIGITS = 10


class EOFException(EOFError):
    """The other end has closed, and not all was there."""


class AsyncReadBuffer:
    """What has been read from a descriptor and not been taken yet.

    fd: the descriptor. Every method reads as much as it needs; EOFException if that does not come,
    and what has come stays. All are checkpoints; if cancelled, nothing was taken.
    """

    def __init__(self, fd: AsyncFileDescriptor) -> None:
        """Nothing is read."""
        self.fd = fd
        self.buf: bytearray = bytearray()

    async def _read(self) -> bool:
        data = await self.fd.read_some_bytes(65536)
        self.buf += data
        return bool(data)

    def _take(self, length: int) -> bytes:
        data = bytes(self.buf[:length])
        del self.buf[:length]
        return data

    async def _need(self, length: int) -> None:
        while len(self.buf) < length:
            if not await self._read():
                raise EOFException(f"{len(self.buf)} bytes came, {length} were expected")

    async def read_length(self, length: int, remove: bool = True) -> bytes:
        """Exactly so many bytes. remove: whether they are taken. ValueError for a negative one."""
        if length < 0:
            raise ValueError(f"length: {length} is negative")
        await checkpoint()
        await self._need(length)
        return self._take(length) if remove else bytes(self.buf[:length])

    async def read_struct(self, cls: type[T_struct]) -> T_struct:
        """A structure of this class."""
        abi = self.fd.handle.task.abi
        return cls.from_bytes_for(await self.read_length(cls.sizeof_for(abi)), abi)

    async def read_length_prefixed_string(self) -> bytes:
        """Bytes, after their number as one of eight bytes."""
        return (await self._read_prefixed(0, 1))[0]

    async def read_length_prefixed_array(self, length: int) -> list[bytes]:
        """So many length-prefixed strings."""
        return await self._read_prefixed(0, length)

    async def _read_prefixed(self, at: int, count: int) -> list[bytes]:
        """Take nothing before all is there."""
        await checkpoint()
        found: list[bytes] = []
        for _ in range(count):
            await self._need(at + _LENGTH.size)
            (size,) = _LENGTH.unpack_from(self.buf, at)
            at += _LENGTH.size
            await self._need(at + size)
            found.append(bytes(self.buf[at : at + size]))
            at += size
        self._take(at)
        return found

    async def read_envp(self, length: int) -> dict[str, str]:
        """So many length-prefixed strings of the form NAME=VALUE. ValueError for another."""
        found: dict[str, str] = {}
        for entry in await self.read_length_prefixed_array(length):
            name, equals, value = entry.partition(b"=")
            if not equals:
                raise ValueError(f"{entry!r} is not of the form NAME=VALUE")
            found[os.fsdecode(name)] = os.fsdecode(value)
        return found

    async def read_until_delimiter(self, delim: bytes) -> bytes | None:
        """All up to a delimiter, which is taken too; None if the other end closes before it.

        ValueError for one without bytes.
        """
        if not delim:
            raise ValueError("delim: no bytes")
        await checkpoint()
        looked = 0
        while (at := self.buf.find(delim, max(0, looked - len(delim) + 1))) < 0:
            looked = len(self.buf)
            if not await self._read():
                return None
        data = self._take(at)
        self._take(len(delim))
        return data

    async def read_line(self) -> bytes:
        """A line, without its newline."""
        line = await self.read_until_delimiter(b"\n")
        if line is None:
            raise EOFException(f"{len(self.buf)} bytes came without a newline")
        return line

    async def read_netstring(self) -> bytes:
        """Bytes of the form LENGTH:BYTES, with a comma behind. ValueError for another form."""
        await checkpoint()
        while (at := self.buf.find(b":", 0, _DIGITS + 1)) < 0 and len(self.buf) <= _DIGITS:
            if self.buf and not self.buf.isdigit():
                break
            await self._need(len(self.buf) + 1)
        digits = bytes(self.buf[: max(at, 0)])
        if not digits.isdigit():
            raise ValueError(f"no netstring begins with {bytes(self.buf[: _DIGITS + 1])!r}")
        end = at + 1 + int(digits)
        await self._need(end + 1)
        if self.buf[end] != ord(","):
            raise ValueError("a netstring does not end with a comma")
        return self._take(end + 1)[at + 1 : -1]

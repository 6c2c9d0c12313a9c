"""`#include <sys/un.h>`"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn, Self

from rsyscall._checkpoint import checkpoint, shield
from rsyscall.abi import ABI
from rsyscall.fcntl import O
from rsyscall.struct import check_size
from rsyscall.sys.socket import AF, Sockaddr

if TYPE_CHECKING:
    from rsyscall._process import Conveniences
    from rsyscall.handle import FileDescriptor

__all__ = ["PathTooLongError", "SockaddrUn", "SockaddrUnProcFd"]

#: Where the descriptors of whoever looks are.
_PROC = b"/proc/self/fd/%d"
_PATH = 108


class PathTooLongError(ValueError):
    """The path does not fit into an address."""


class SockaddrUn(Sockaddr):
    """The address of a UNIX socket.

    path: at most 108 bytes; a name in the abstract namespace begins with a NUL; no bytes: of a
    socket without a name.
    """

    __slots__ = ("path",)
    family: int = AF.UNIX

    def __init__(self, path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> None:
        """PathTooLongError, a ValueError; ValueError for a NUL in a path."""
        data = os.fsencode(path)
        if len(data) > _PATH:
            raise PathTooLongError(f"path: {len(data)} bytes, an address has {_PATH}: {path!r}")
        if b"\0" in data[1:] and not data.startswith(b"\0"):
            raise ValueError(f"path: embedded null byte in {path!r}")
        self.path: bytes = data

    @staticmethod
    async def from_path(
        thr: Conveniences, path: str | bytes | os.PathLike[str] | os.PathLike[bytes]
    ) -> SockaddrUn:
        """The address of a path in a process, also of one that is too long for an address.

        thr: the process. Such a path is gone by way of its directory, which is open there until
        `close`. PathTooLongError for a last part that is too long even so; OSError of opening the
        directory. A checkpoint; if cancelled, nothing was opened. open(2).
        """
        data = os.fsencode(path)
        if len(data) <= _PATH:
            await checkpoint()
            return SockaddrUn(data)
        directory, name = os.path.split(data)
        longest = _PATH - len(_PROC % 2**31) - 1
        if not name or len(name) > longest:
            what = f"{len(name)} bytes behind the directory, and {longest} can be"
            raise PathTooLongError(f"path: {what}: {data!r}")
        fd = await thr.task.open(directory, O.PATH | O.DIRECTORY | O.CLOEXEC)
        return SockaddrUnProcFd(fd, name)

    async def close(self) -> None:
        """Close what from_path has opened, if it has. A checkpoint."""
        await checkpoint()

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """The address in the memory of a task with that ABI, no longer than it must be."""
        end = b"" if not self.path or self.path[:1] == b"\0" or len(self.path) == _PATH else b"\0"
        return self._head(abi) + self.path + end

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """From an address in such memory. ValueError if it has another family."""
        check_size(data, 2, "struct sockaddr_un")
        cls._check_head(data, abi)
        path = data[2 : 2 + _PATH]
        return cls(path if path[:1] == b"\0" else path.split(b"\0", 1)[0])

    @classmethod
    def sizeof(cls) -> int:
        """The size of the longest one in bytes."""
        return 2 + _PATH


class SockaddrUnProcFd(SockaddrUn):
    """An address by way of a directory that is open; see SockaddrUn.from_path.

    fd: the directory. It means the same only in processes that have it open under its number.
    """

    __slots__ = ("fd",)

    def __init__(self, fd: FileDescriptor, name: bytes) -> None:
        """name: in the directory. PathTooLongError."""
        super().__init__(_PROC % int(fd.near) + b"/" + name)
        self.fd: FileDescriptor = fd

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> NoReturn:
        """ValueError: whose directory it is does not stand in the address."""
        raise ValueError("data: an address does not say whose descriptor it names")

    async def close(self) -> None:
        """Close the directory, cancelled or not; nothing if that was done before. A checkpoint."""
        with shield():
            if self.fd.valid:
                await self.fd.invalidate()
        await checkpoint()

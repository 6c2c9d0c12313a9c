"""`#include <sys/un.h>`"""

from __future__ import annotations

import os
from typing import Self

from rsyscall.abi import ABI
from rsyscall.struct import check_size
from rsyscall.sys.socket import AF, Sockaddr

__all__ = ["PathTooLongError", "SockaddrUn"]

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

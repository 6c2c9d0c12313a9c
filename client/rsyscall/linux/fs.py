"""`#include <linux/fs.h>`"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING

from rsyscall.struct import Record, Serializable

if TYPE_CHECKING:
    from typing import NoReturn

    from rsyscall.handle.fd import BaseFileDescriptor

__all__ = ["FI", "FileCloneRange"]

_FORMAT = struct.Struct("=qQQQ")


class FI(enum.IntEnum):
    """Requests of ioctl(2) by which files share their data; see ioctl_ficlonerange(2)."""

    CLONE = 0x40049409
    CLONERANGE = 0x4020940D


class FileCloneRange(Record, Serializable):
    """struct file_clone_range: what FI.CLONERANGE has a file share.

    src_fd: of the file that has it, in the table of whoever makes the call. src_offset, src_length,
    dest_offset: in bytes; length 0: up to the end.
    """

    __slots__ = ("dest_offset", "src_fd", "src_length", "src_offset")

    def __init__(
        self, src_fd: BaseFileDescriptor, src_offset: int, src_length: int, dest_offset: int
    ) -> None:
        """ValueError for a negative number."""
        for name, value in (
            ("src_offset", src_offset),
            ("src_length", src_length),
            ("dest_offset", dest_offset),
        ):
            if not 0 <= value < 2**63:
                raise ValueError(f"{name}: {value} is not from 0 to {2**63 - 1}")
        self.src_fd: BaseFileDescriptor = src_fd
        self.src_offset: int = src_offset
        self.src_length: int = src_length
        self.dest_offset: int = dest_offset

    def to_bytes(self) -> bytes:
        """The structure in memory. InvalidHandleError if the descriptor was closed."""
        with self.src_fd.borrow(self.src_fd.task) as number:
            return _FORMAT.pack(int(number), self.src_offset, self.src_length, self.dest_offset)

    @classmethod
    def from_bytes(cls, data: bytes) -> NoReturn:
        """TypeError: the number of a descriptor is no handle of it."""
        raise TypeError("a struct file_clone_range cannot be read: it has a descriptor in it")

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes."""
        return _FORMAT.size

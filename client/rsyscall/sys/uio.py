"""`#include <sys/uio.h>`"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Generator
from typing import Any, NoReturn, TypeAlias

from rsyscall import far
from rsyscall._raw import lib
from rsyscall.abi import ABI, Layout
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.handle.pointer import Pointer, WrittenPointer
from rsyscall.struct import Portable
from rsyscall.sys.syscall import SYS

__all__ = ["RWF", "IovecList", "UioFileDescriptor", "split_iovec"]

_IOVEC = Layout("struct iovec", "pointer base, ulong len")
#: Of one call.
_MOST = 1024
_NO_OFFSET = 2**64 - 1


class RWF(enum.IntFlag):
    """Flags of preadv2(2) and pwritev2(2)."""

    NONE = 0
    DSYNC = lib.RWF_DSYNC
    HIPRI = lib.RWF_HIPRI
    SYNC = lib.RWF_SYNC


class IovecList(list[Pointer[Any]], Portable):
    """struct iovec, one after the other: where a call is to read or write."""

    def split(self, n: int) -> tuple[IovecList, IovecList]:
        """What lies in the first n bytes, and the rest. A pointer across the border is consumed.

        ValueError if there are fewer bytes, or n is negative.
        """
        before, middle, behind = self.split_with_middle(n)
        if middle is not None:
            before.append(middle[0])
            behind.insert(0, middle[1])
        return before, behind

    def split_with_middle(
        self, n: int
    ) -> tuple[IovecList, tuple[Pointer[Any], Pointer[Any]] | None, IovecList]:
        """The same, with the two parts of the pointer across the border, if there is one, apart."""
        if n < 0:
            raise ValueError(f"n: {n} is negative")
        left = n
        for at, pointer in enumerate(self):
            size = pointer.size()
            if not left:
                return IovecList(self[:at]), None, IovecList(self[at:])
            if left < size:
                return IovecList(self[:at]), pointer.split(left), IovecList(self[at + 1 :])
            left -= size
        if left:
            raise ValueError(f"n: {n}, and there are {n - left} bytes")
        return IovecList(self), None, IovecList()

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """Their addresses and lengths in memory. UseAfterFreeError."""
        return b"".join([_IOVEC.pack(abi, int(one.near), one.size()) for one in self])

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> NoReturn:
        """ValueError: whose memory an address is, and of what type, is not in the bytes."""
        raise ValueError("pointers cannot be made from their addresses")

    @contextlib.contextmanager
    def borrow(self, task: far.Task) -> Generator[None]:
        """Have all of it stay, for a call of the task: nobody else gets the memory.

        UseAfterFreeError, AddressSpaceMismatchError.
        """
        with contextlib.ExitStack() as stack:
            for pointer in self:
                stack.enter_context(pointer.borrow(task))
            yield


Iovec: TypeAlias = WrittenPointer[IovecList]
_Middle: TypeAlias = "tuple[Pointer[Any], Pointer[Any]] | None"


def split_iovec(iov: Iovec, ret: int) -> tuple[Iovec, _Middle, Iovec]:
    """What lies in the first `ret` bytes, the parts of the pointer across the border, and the rest.

    Consumes the pointer. ValueError if there are fewer bytes.
    """
    size = _IOVEC.size(iov.mapping.task.abi)
    before, middle, behind = iov.value.split_with_middle(ret)
    first, rest = iov.split(len(before) * size)
    if middle is not None:
        _, rest = rest.split(size)

    def known(pointer: Pointer[IovecList], value: IovecList) -> Iovec:
        allocation = pointer.allocation
        pointer.valid = False  # what it has, the other one has
        return WrittenPointer(pointer.mapping, pointer.serializer, allocation, pointer.typ, value)

    return known(first, before), middle, known(rest, behind)


class UioFileDescriptor(BaseFileDescriptor):
    """A file descriptor that reads into several pieces of memory at once, and writes from them.

    Both raise InvalidHandleError; UseAfterFreeError and AddressSpaceMismatchError for the pointer
    and those that it holds; ValueError for more than 1,024 of them; OSError as the call reports it.
    They are checkpoints; if cancelled, nothing has happened.
    """

    async def _vectored(
        self, plain: SYS, flagged: SYS, iov: Iovec, flags: RWF
    ) -> tuple[Iovec, _Middle, Iovec]:
        self._validate()
        count = len(iov.value)
        if count > _MOST:
            raise ValueError(f"iov: {count} pieces, {_MOST} go into one call")
        sysif = self.task.sysif
        with iov.borrow(self.task) as address, iov.value.borrow(self.task):
            if flags:
                args = (self.near, address, count, _NO_OFFSET, _NO_OFFSET, flags)
                n = await sysif.syscall(flagged, *args)
            else:
                n = await sysif.syscall(plain, self.near, address, count)
        return split_iovec(iov, n)

    async def readv(self, iov: Iovec, flags: RWF = RWF.NONE) -> tuple[Iovec, _Middle, Iovec]:
        """Read into several pieces of memory, one after the other.

        iov: which; it is consumed. Returns those that were filled; of one that was filled in part
        both parts, or None; and the rest. readv(2), with flags preadv2(2).
        """
        return await self._vectored(SYS.readv, SYS.preadv2, iov, flags)

    async def writev(self, iov: Iovec, flags: RWF = RWF.NONE) -> tuple[Iovec, _Middle, Iovec]:
        """Write several pieces of memory, one after the other; see readv.

        writev(2), with flags pwritev2(2).
        """
        return await self._vectored(SYS.writev, SYS.pwritev2, iov, flags)

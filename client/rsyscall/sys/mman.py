"""`#include <sys/mman.h>`"""

from __future__ import annotations

import enum
import typing as t

import trio

import rsyscall.far
import rsyscall.near
from rsyscall import near
from rsyscall._raw import lib
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.linux.memfd import MFD
from rsyscall.memory.allocation_interface import UseAfterFreeError
from rsyscall.near.sysif import (
    Placeholder,
    SyscallArgument,
    SyscallInterface,
    SyscallSendError,
)
from rsyscall.near.typed import TypedCall, declares, nothing, perform
from rsyscall.sys.syscall import SYS
from rsyscall_protocol._record import record

__all__ = [
    "MAP",
    "MFD",
    "MS",
    "PROT",
    "MappableFileDescriptor",
    "MemoryMapping",
    "MemoryMappingTask",
    "UseAfterUnmapError",
    "mmap_call",
    "mprotect_call",
    "msync_call",
    "munmap_call",
]


class PROT(enum.IntFlag):
    """What may be done with the pages of a mapping."""

    EXEC = lib.PROT_EXEC
    READ = lib.PROT_READ
    WRITE = lib.PROT_WRITE
    NONE = lib.PROT_NONE


class MAP(enum.IntFlag):
    """Flags of mmap(2)."""

    NONE = 0
    PRIVATE = lib.MAP_PRIVATE
    SHARED = lib.MAP_SHARED
    ANONYMOUS = lib.MAP_ANONYMOUS
    POPULATE = lib.MAP_POPULATE
    FIXED = lib.MAP_FIXED
    FIXED_NOREPLACE = lib.MAP_FIXED_NOREPLACE
    NORESERVE = lib.MAP_NORESERVE
    LOCKED = lib.MAP_LOCKED
    STACK = lib.MAP_STACK
    GROWSDOWN = lib.MAP_GROWSDOWN
    HUGETLB = lib.MAP_HUGETLB


class MS(enum.IntFlag):
    """Flags of msync(2)."""

    NONE = 0
    ASYNC = lib.MS_ASYNC
    SYNC = lib.MS_SYNC
    INVALIDATE = lib.MS_INVALIDATE


class UseAfterUnmapError(UseAfterFreeError):
    """A mapping was used after it was unmapped."""


@declares("munmap")
def munmap_call(addr: SyscallArgument, length: int) -> TypedCall[None]:
    """munmap(2)."""
    return TypedCall(SYS.munmap, (addr, length), nothing)


@declares("mprotect")
def mprotect_call(addr: SyscallArgument, length: int, prot: PROT) -> TypedCall[None]:
    """mprotect(2)."""
    return TypedCall(SYS.mprotect, (addr, length, prot), nothing)


@declares("msync")
def msync_call(addr: SyscallArgument, length: int, flags: MS) -> TypedCall[None]:
    """msync(2)."""
    return TypedCall(SYS.msync, (addr, length, flags), nothing)


@record
class MemoryMapping:
    """Memory mapped into the address space of a task.

    task: through which it is used. near: its address, length and size of a page. file: what is
    mapped; the same far.File means the same file. Two handles are equal if all three are.
    """

    task: MemoryMappingTask[BaseFileDescriptor]
    near: rsyscall.near.MemoryMapping
    file: rsyscall.far.File

    def _key(self) -> tuple[int, int]:
        return self.near.address, self.near.length

    def _validate(self) -> None:
        """Raise UseAfterUnmapError if this mapping was unmapped through any of its handles."""
        unmapped = self.task.address_space._unmapped  # pyright: ignore[reportPrivateUsage] - ours
        if self._key() in unmapped.get(self.file, ()):
            raise UseAfterUnmapError(f"{self} was unmapped")

    def check_valid(self) -> None:
        """Raise UseAfterUnmapError if it was unmapped."""
        self._validate()

    def mark_unmapped(self, unmapped: bool = True) -> None:
        """Take note that it is unmapped, or about to be, by other means; or that it is not."""
        table = self.task.address_space._unmapped  # pyright: ignore[reportPrivateUsage] - ours
        dead = table.setdefault(self.file, set())
        if unmapped:
            dead.add(self._key())
        else:
            dead.discard(self._key())

    async def munmap(self) -> None:
        """Unmap it: no handle to it can be used afterwards.

        UseAfterUnmapError if that was done before; OSError as the call reports it, and then it is
        still mapped. A checkpoint; if cancelled, nothing has happened. munmap(2).
        """
        self._validate()
        # Before it is sent: once it is done, the address may be another mapping's at any moment.
        self.mark_unmapped()
        try:
            await _munmap(self.task.sysif, self.near)
        except (OSError, SyscallSendError, trio.Cancelled):
            self.mark_unmapped(False)
            raise

    async def mprotect(self, prot: PROT) -> None:
        """Change what may be done with all its pages.

        UseAfterUnmapError; OSError as the call reports it. A checkpoint; if cancelled, nothing has
        happened. mprotect(2).
        """
        self._validate()
        await perform(self.task, mprotect_call(self.near.address, self.near.length, prot))

    async def msync(self, flags: MS = MS.SYNC) -> None:
        """Write changed pages back to the file, and with MS.SYNC wait until that is done.

        UseAfterUnmapError; OSError as the call reports it. A checkpoint; if cancelled, nothing has
        happened. msync(2).
        """
        self._validate()
        await perform(self.task, msync_call(self.near.address, self.near.length, flags))

    def _range(self, offset: int, n: int) -> int:
        self._validate()
        if offset < 0 or offset > self.near.length:
            raise ValueError(f"offset: {offset} is not from 0 to {self.near.length}")
        if n < 0 or n > self.near.length - offset:
            raise ValueError(
                f"{n} bytes at offset {offset} do not lie in a mapping of {self.near.length}"
            )
        return self.near.address + offset

    async def read(self, offset: int, n: int) -> bytes:
        """Read exactly n bytes, beginning `offset` bytes into the mapping.

        ValueError if they do not all lie in it; UseAfterUnmapError; OSError (EFAULT) if they cannot
        all be read, for instance behind the end of the mapped file. A checkpoint; if cancelled,
        nothing has happened. process_vm_readv(2).
        """
        return await self.task.sysif.read_memory(self._range(offset, n), n)

    async def write(self, offset: int, data: bytes) -> None:
        """Write data, beginning `offset` bytes into the mapping.

        ValueError if it does not all fit; UseAfterUnmapError; OSError (EFAULT) if it cannot all be
        written; what lies before the first such page may have been. A checkpoint; if cancelled,
        nothing, or a leading part of more than one frame's worth, has been written.
        process_vm_writev(2).
        """
        await self.task.sysif.write_memory(self._range(offset, len(data)), data)

    def for_task(self, task: MemoryMappingTask[BaseFileDescriptor]) -> MemoryMapping:
        """The same mapping, for another task that shares the address space.

        AddressSpaceMismatchError, naming both, if it does not.
        """
        if task.address_space != self.task.address_space:
            raise rsyscall.far.AddressSpaceMismatchError(
                f"{self} is in {self.task.address_space}, and {task} has {task.address_space}"
            )
        return MemoryMapping(task, self.near, self.file)

    def __str__(self) -> str:
        """The task and the range."""
        return f"MemoryMapping({self.task!s}, {self.near!s})"

    def __repr__(self) -> str:
        """The same as str()."""
        return str(self)


class MemoryMappingTask(FileDescriptorTask[T_fd]):
    """A task that can map memory."""

    async def mmap(
        self,
        length: int,
        prot: PROT,
        flags: MAP,
        page_size: int = 4096,
        *,
        addr: near.Address | None = None,
    ) -> MemoryMapping:
        """Map anonymous memory: `length` bytes, a multiple of page_size.

        addr: where, a hint unless flags has MAP.FIXED or MAP.FIXED_NOREPLACE; a multiple of
        page_size. ValueError, before anything is sent, if one is not; OSError as the call reports
        it. A checkpoint; if cancelled, nothing is mapped. mmap(2).
        """
        # a mapping without a file descriptor is an anonymous mapping
        flags |= MAP.ANONYMOUS
        ret = await _mmap(self.sysif, length, prot, flags, addr, page_size=page_size)
        return _mapped(self, ret, rsyscall.far.File())


class MappableFileDescriptor(BaseFileDescriptor):
    """A file descriptor that can be mapped."""

    async def mmap(
        self,
        length: int,
        prot: PROT,
        flags: MAP,
        offset: int = 0,
        page_size: int = 4096,
        file: rsyscall.far.File | None = None,
        *,
        addr: near.Address | None = None,
    ) -> MemoryMapping:
        """Map the file: `length` bytes, beginning `offset` bytes into it.

        length, offset and addr are multiples of page_size. file: what the mapping's `file` shall
        be, if the caller knows it to be one that it has mapped before; a new one otherwise.
        InvalidHandleError; ValueError, before anything is sent, if a number is off the page
        boundary; OSError as the call reports it. A checkpoint; if cancelled, nothing is mapped.
        mmap(2).
        """
        self._validate()
        if file is None:
            file = rsyscall.far.File()
        task = t.cast("MemoryMappingTask[BaseFileDescriptor]", self.task)
        ret = await _mmap(
            task.sysif, length, prot, flags, addr, fd=self.near, offset=offset, page_size=page_size
        )
        return _mapped(task, ret, file)


def _mapped(
    task: MemoryMappingTask[BaseFileDescriptor],
    ret: near.MemoryMapping,
    file: rsyscall.far.File,
) -> MemoryMapping:
    mapping = MemoryMapping(task, ret, file)
    unmapped = task.address_space._unmapped  # pyright: ignore[reportPrivateUsage] - ours
    # The same file in the same place again: not the mapping that was unmapped there.
    unmapped.get(file, set[tuple[int, int]]()).discard((ret.address, ret.length))
    return mapping


def _check_boundary(name: str, value: int, page_size: int) -> None:
    if value < 0:
        raise ValueError(f"{name}: {value} is negative")
    if value % page_size:
        raise ValueError(f"{name}: {value} is not a multiple of the page size, {page_size}")


@declares("mmap")
def mmap_call(
    length: int,
    prot: PROT,
    flags: MAP,
    addr: SyscallArgument | None,
    fd: SyscallArgument | None,
    offset: SyscallArgument,
    page_size: int,
    file: rsyscall.far.File,
) -> TypedCall[MemoryMapping]:
    """mmap(2). What is off the page boundary is a ValueError."""
    if page_size < 4096 or page_size & (page_size - 1):
        raise ValueError(f"page_size: {page_size} is no power of two from 4096 on")
    # Linux would round the length up, and leave us unable to unmap what it has mapped.
    _check_boundary("length", int(length), page_size)
    if not isinstance(offset, Placeholder):
        _check_boundary("offset", int(t.cast("t.SupportsInt", offset)), page_size)
    if addr is not None and not isinstance(addr, Placeholder):
        _check_boundary("addr", int(t.cast("t.SupportsInt", addr)), page_size)

    def convert(task: t.Any, value: int, _outs: tuple[bytes, ...]) -> MemoryMapping:
        return _mapped(task, near.MemoryMapping(value, int(length), page_size), file)

    args = (0 if addr is None else addr, length, prot, flags, -1 if fd is None else fd, offset)
    return TypedCall(SYS.mmap, args, convert, handle=True)


async def _mmap(
    sysif: SyscallInterface,
    length: int,
    prot: PROT,
    flags: MAP,
    addr: near.Address | None = None,
    fd: near.FileDescriptor | None = None,
    offset: int = 0,
    page_size: int = 4096,
) -> near.MemoryMapping:
    file = rsyscall.far.File()
    call = mmap_call(length, prot, flags, addr, fd, offset, page_size, file)
    ret = await sysif.syscall(call.number, *call.args)
    return near.MemoryMapping(address=ret, length=length, page_size=page_size)


async def _munmap(sysif: SyscallInterface, mapping: near.MemoryMapping) -> None:
    call = munmap_call(mapping.address, mapping.length)
    await sysif.syscall(call.number, *call.args)

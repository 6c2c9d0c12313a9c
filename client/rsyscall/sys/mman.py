"""`#include <sys/mman.h>`"""

from __future__ import annotations

import typing as t

import rsyscall.far
from rsyscall import near
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.linux.memfd import MFD
from rsyscall.near.sysif import (
    Placeholder,
    SyscallArgument,
    SyscallInterface,
)
from rsyscall.near.typed import TypedCall, declares, perform
from rsyscall.sys._mapping import (
    MemoryInUseError,
    MemoryMapping,
    UseAfterUnmapError,
    adopt,
    check_boundary,
    mremap_call,
    replaced,
)
from rsyscall.sys._mman import (
    MADV,
    MAP,
    MLOCK,
    MREMAP,
    MS,
    PROT,
    madvise_call,
    mincore_call,
    mlock_call,
    mprotect_call,
    msync_call,
    munlock_call,
    munmap_call,
)
from rsyscall.sys.syscall import SYS

__all__ = [
    "MADV",
    "MAP",
    "MFD",
    "MLOCK",
    "MREMAP",
    "MS",
    "PROT",
    "MappableFileDescriptor",
    "MemoryInUseError",
    "MemoryMapping",
    "MemoryMappingTask",
    "UseAfterUnmapError",
    "adopt",
    "madvise_call",
    "mincore_call",
    "mlock_call",
    "mmap_call",
    "mprotect_call",
    "mremap_call",
    "msync_call",
    "munlock_call",
    "munmap_call",
]

_HUGE_SHIFT = 26


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
        page_size. MAP.FIXED replaces mappings of ours only. The pages that a MAP.GROWSDOWN grows by
        are below the mapping, and not part of it; see MemoryMapping.munmap. ValueError, before
        anything is sent, if a number is off the page boundary, or with MAP.HUGETLB the page size is
        not that of huge pages; MemoryInUseError; OSError as the call reports it. A checkpoint; if
        cancelled, nothing is mapped. mmap(2).
        """
        # a mapping without a file descriptor is an anonymous mapping
        call = mmap_call(
            length, prot, flags | MAP.ANONYMOUS, addr, None, 0, page_size, rsyscall.far.File()
        )
        return await _map(self, call, length, flags, addr)


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
        be, if the caller knows it to be one that it has mapped before; by default a new one, which
        is the same_as this descriptor's. InvalidHandleError; ValueError, before anything is sent,
        if a number is off the page boundary; otherwise as MemoryMappingTask.mmap. A checkpoint; if
        cancelled, nothing is mapped. mmap(2).
        """
        self._validate()
        if file is None:
            file = rsyscall.far.File(self.file)
        task = t.cast("MemoryMappingTask[BaseFileDescriptor]", self.task)
        call = mmap_call(length, prot, flags, addr, self.near, offset, page_size, file)
        return await _map(task, call, length, flags, addr)


async def _map(
    task: MemoryMappingTask[BaseFileDescriptor],
    call: TypedCall[MemoryMapping],
    length: int,
    flags: MAP,
    addr: near.Address | None,
) -> MemoryMapping:
    if MAP.FIXED not in flags or MAP.FIXED_NOREPLACE in flags or addr is None:
        return await perform(task, call)
    async with replaced(task, int(addr), length):
        return await perform(task, call)


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
    check_boundary("length", int(length), page_size)
    if not isinstance(offset, Placeholder):
        check_boundary("offset", int(t.cast("t.SupportsInt", offset)), page_size)
    if addr is not None and not isinstance(addr, Placeholder):
        check_boundary("addr", int(t.cast("t.SupportsInt", addr)), page_size)
    if addr is None and flags & (MAP.FIXED | MAP.FIXED_NOREPLACE):
        raise ValueError(f"addr: missing, with {flags!r}")
    how = int(flags)
    if MAP.HUGETLB in flags:
        if page_size == 4096:
            raise ValueError("page_size: with MAP.HUGETLB it is that of huge pages, not 4096")
        how |= (page_size.bit_length() - 1) << _HUGE_SHIFT

    def convert(task: t.Any, value: int, _outs: tuple[bytes, ...]) -> MemoryMapping:
        return adopt(task, near.MemoryMapping(value, int(length), page_size), prot, flags, file)

    args = (0 if addr is None else addr, length, prot, how, -1 if fd is None else fd, offset)
    return TypedCall(SYS.mmap, args, convert, handle=True)


async def _mmap(  # pyright: ignore[reportUnusedFunction] - its users know it
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


async def _munmap(  # pyright: ignore[reportUnusedFunction] - its users know it
    sysif: SyscallInterface, mapping: near.MemoryMapping
) -> None:
    call = munmap_call(mapping.address, mapping.length)
    await sysif.syscall(call.number, *call.args)

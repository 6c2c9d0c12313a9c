"""Flags of sys/mman.h, and its calls that concern a range of addresses."""

from __future__ import annotations

import enum
from typing import Any, SupportsInt, cast

from rsyscall._raw import lib
from rsyscall.near.sysif import Out, Placeholder, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, nothing
from rsyscall.sys.syscall import SYS

__all__ = [
    "MADV",
    "MAP",
    "MLOCK",
    "MREMAP",
    "MS",
    "PROT",
    "madvise_call",
    "mincore_call",
    "mlock_call",
    "mprotect_call",
    "msync_call",
    "munlock_call",
    "munmap_call",
]

#: What mincore(2) counts in, whatever pages the mapping has.
_PAGE = 4096


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


class MREMAP(enum.IntFlag):
    """Flags of mremap(2)."""

    NONE = 0
    MAYMOVE = lib.MREMAP_MAYMOVE
    FIXED = lib.MREMAP_FIXED
    DONTUNMAP = lib.MREMAP_DONTUNMAP


class MLOCK(enum.IntFlag):
    """Flags of mlock2(2)."""

    NONE = 0
    ONFAULT = lib.MLOCK_ONFAULT


class MADV(enum.IntFlag):
    """What madvise(2) is told; one of them, they are not combined."""

    NORMAL = lib.MADV_NORMAL
    RANDOM = lib.MADV_RANDOM
    SEQUENTIAL = lib.MADV_SEQUENTIAL
    WILLNEED = lib.MADV_WILLNEED
    DONTNEED = lib.MADV_DONTNEED
    FREE = lib.MADV_FREE
    REMOVE = lib.MADV_REMOVE
    DONTFORK = lib.MADV_DONTFORK
    DOFORK = lib.MADV_DOFORK
    MERGEABLE = lib.MADV_MERGEABLE
    UNMERGEABLE = lib.MADV_UNMERGEABLE
    HUGEPAGE = lib.MADV_HUGEPAGE
    NOHUGEPAGE = lib.MADV_NOHUGEPAGE
    DONTDUMP = lib.MADV_DONTDUMP
    DODUMP = lib.MADV_DODUMP
    WIPEONFORK = lib.MADV_WIPEONFORK
    KEEPONFORK = lib.MADV_KEEPONFORK
    COLD = lib.MADV_COLD
    PAGEOUT = lib.MADV_PAGEOUT
    HWPOISON = lib.MADV_HWPOISON


@declares("munmap")
def munmap_call(addr: SyscallArgument, length: int) -> TypedCall[None]:
    """munmap(2)."""
    return TypedCall(SYS.munmap, (addr, length), nothing)


@declares("mprotect")
def mprotect_call(addr: SyscallArgument, length: int, prot: PROT) -> TypedCall[None]:
    """mprotect(2)."""

    def note(task: Any, _value: int, _outs: tuple[bytes, ...]) -> None:
        where: object = addr
        if isinstance(addr, Placeholder):  # in a batch: what an earlier step has mapped
            where = getattr(addr, "result", None)
        if where is None:  # a parameter: nobody knows by now which
            return
        start = int(cast("SupportsInt", where))
        task.address_space.regions.protect(start, start + length, int(prot))

    return TypedCall(SYS.mprotect, (addr, length, prot), note, handle=True)


@declares("msync")
def msync_call(addr: SyscallArgument, length: int, flags: MS) -> TypedCall[None]:
    """msync(2)."""
    return TypedCall(SYS.msync, (addr, length, flags), nothing)


@declares("madvise")
def madvise_call(addr: SyscallArgument, length: int, advice: MADV) -> TypedCall[None]:
    """madvise(2)."""
    return TypedCall(SYS.madvise, (addr, length, advice), nothing)


@declares("mlock")
def mlock_call(addr: SyscallArgument, length: int, flags: MLOCK) -> TypedCall[None]:
    """mlock(2), or with flags mlock2(2)."""
    if flags:
        return TypedCall(SYS.mlock2, (addr, length, flags), nothing)
    return TypedCall(SYS.mlock, (addr, length), nothing)


@declares("munlock")
def munlock_call(addr: SyscallArgument, length: int) -> TypedCall[None]:
    """munlock(2)."""
    return TypedCall(SYS.munlock, (addr, length), nothing)


@declares("mincore")
def mincore_call(addr: SyscallArgument, length: int) -> TypedCall[list[bool]]:
    """mincore(2)."""

    def convert(_task: Any, _value: int, outs: tuple[bytes, ...]) -> list[bool]:
        return [bool(byte & 1) for byte in outs[0]]

    return TypedCall(SYS.mincore, (addr, length, Out(length // _PAGE)), convert, outs=True)

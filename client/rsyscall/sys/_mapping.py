"""`#include <sys/mman.h>`: what is mapped."""

from __future__ import annotations

import contextlib
import typing as t
from collections.abc import AsyncGenerator, AsyncIterator, Generator

import trio

import rsyscall.far
import rsyscall.near
from rsyscall import near
from rsyscall._checkpoint import shield
from rsyscall._raw import ffi
from rsyscall._regions import Region
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.memory.allocation_interface import UseAfterFreeError
from rsyscall.near.sysif import Buffer, SyscallHangup, SyscallSendError
from rsyscall.near.typed import TypedCall, declares, perform
from rsyscall.sys._grown import lowest
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
from rsyscall_protocol._record import record

if t.TYPE_CHECKING:
    from rsyscall.sys.mman import MemoryMappingTask

__all__ = [
    "MemoryInUseError",
    "MemoryMapping",
    "UseAfterUnmapError",
    "adopt",
    "check_boundary",
    "mremap_call",
    "replaced",
]

_MIB = 1024 * 1024
_EVERYTHING_BUT_SUCCESS = (OSError, SyscallSendError, trio.Cancelled, ValueError)


class UseAfterUnmapError(UseAfterFreeError):
    """A mapping was used after it, or a part of it, was unmapped."""


class MemoryInUseError(ValueError):
    """Memory is not to be unmapped or changed: it is not known to be ours, or somebody needs it."""


@record
class MemoryMapping:
    """Memory mapped into the address space of a task.

    task: through which it is used. near: its address, length and size of a page. file: what is
    mapped, see far.File. Two handles are equal if all three are. Slices of it, by pages, are
    handles of the same mapping; what is unmapped through one is gone for all.
    """

    task: MemoryMappingTask[BaseFileDescriptor]
    near: rsyscall.near.MemoryMapping
    file: rsyscall.far.File

    @property
    def _end(self) -> int:
        return self.near.address + self.near.length

    def _validate(self) -> None:
        """Raise UseAfterUnmapError if some of it was unmapped through any of its handles."""
        regions = self.task.address_space.regions
        if regions.knows(self.file) and not regions.covers(self.near.address, self._end, self.file):
            what = "in part" if self.remaining() else ""
            raise UseAfterUnmapError(f"{self} was unmapped {what}".rstrip())

    def check_valid(self) -> None:
        """Raise UseAfterUnmapError if some of it was unmapped."""
        self._validate()

    def check_changeable(self) -> None:
        """Raise MemoryInUseError if it is not to be unmapped or changed; see check_valid."""
        self._validate()
        start, end, regions = self.near.address, self._end, self.task.address_space.regions
        if start == end:
            return
        if not regions.knows(self.file):
            raise MemoryInUseError(f"{self} was not mapped by us")
        if regions.is_reserved(start, end):
            raise MemoryInUseError(f"{self} is the allocator's; free what is in it")
        if regions.is_viewed(start, end):
            raise MemoryInUseError(f"{self}: there are views of it")

    @property
    def grows(self) -> bool:
        """Whether it begins with the first page of a MAP.GROWSDOWN: there may be more below it."""
        start, regions = self.near.address, self.task.address_space.regions
        return any(r.grows for r in regions.overlapping(start, start + 1)) and not any(
            r.grows for r in regions.overlapping(start - 1, start)
        )

    def changing(self) -> contextlib.AbstractContextManager[None]:
        """Inside the block a call is under way that changes it: nobody gets a view of it."""
        return self.task.address_space.regions.changing(self.near.address, self._end)

    def remaining(self) -> list[MemoryMapping]:
        """The parts of it that are still mapped."""
        found: list[tuple[int, int]] = []
        for region in self.task.address_space.regions.overlapping(self.near.address, self._end):
            if region.file is not self.file:
                continue
            if found and found[-1][1] == region.start:
                found[-1] = (found[-1][0], region.end)
            else:
                found.append((region.start, region.end))
        size = self.near.page_size
        return [
            MemoryMapping(self.task, near.MemoryMapping(start, end - start, size), self.file)
            for start, end in found
        ]

    def mark_unmapped(self, unmapped: bool = True) -> None:
        """Take note that it is unmapped, or about to be, by other means; or that it is not."""
        regions = self.task.address_space.regions
        key = self.near.address, self.near.length, self.file
        if unmapped:
            regions.marked[key] = regions.take(self.near.address, self._end)
        else:
            for region in regions.marked.pop(key, ()):
                regions.put(region)

    def forget_unmapped(self) -> None:
        """It was unmapped for good: mark_unmapped will not be taken back."""
        key = self.near.address, self.near.length, self.file
        self.task.address_space.regions.marked.pop(key, None)

    @property
    def pages(self) -> int:
        """How many pages it has."""
        return self.near.pages

    def __getitem__(self, key: slice | int) -> MemoryMapping:
        """Some of its pages: a slice with step 1, or one page by its index.

        IndexError if there is no such page; ValueError for another step.
        """
        return MemoryMapping(self.task, self.near[key], self.file)

    @contextlib.contextmanager
    def _taken(self) -> Generator[list[Region]]:
        """What is unmapped inside the block, if the block does not fail."""
        # Before it is sent: once it is done, the address may be another mapping's at any moment.
        regions = self.task.address_space.regions
        taken = regions.take(self.near.address, self._end)
        try:
            yield taken
        except _EVERYTHING_BUT_SUCCESS:
            for region in taken:
                regions.put(region)
            raise

    async def munmap(self) -> None:
        """Unmap it: no handle to it can be used afterwards. Of a slice, only those pages.

        With the first page of a MAP.GROWSDOWN goes what it has grown by, as far as the process has
        a /proc where that can be seen.

        UseAfterUnmapError if that was done before, to some of it; MemoryInUseError if it is not a
        mapping of ours, or the allocator's; OSError as the call reports it, and then it is still
        mapped. A checkpoint; if cancelled, nothing has happened. munmap(2).
        """
        self.check_changeable()
        start = self.near.address
        if self.grows:
            with self.changing():
                start = await lowest(self.task, start)
            self.check_changeable()
        with self._taken():
            await perform(self.task, munmap_call(start, self._end - start))

    async def mprotect(self, prot: PROT) -> None:
        """Change what may be done with all its pages.

        UseAfterUnmapError, MemoryInUseError; OSError as the call reports it. A checkpoint; if
        cancelled, nothing has happened. mprotect(2).
        """
        self.check_changeable()
        with self.changing():
            await perform(self.task, mprotect_call(self.near.address, self.near.length, prot))

    async def mremap(
        self,
        new_length: int,
        flags: MREMAP = MREMAP.NONE,
        *,
        addr: rsyscall.near.Address | None = None,
    ) -> MemoryMapping:
        """Make it new_length bytes long, a multiple of the page size; returns the mapping.

        Where it is afterwards, and how long, is in what is returned; handles of what is not there
        any more cannot be used, those of pages that stay can. flags: MREMAP.MAYMOVE, if it may be
        moved; with MREMAP.FIXED to addr, where there are mappings of ours that are replaced; with
        MREMAP.DONTUNMAP what it leaves stays mapped, and is empty. UseAfterUnmapError,
        MemoryInUseError, ValueError for numbers off the page boundary; OSError as the call reports
        it. A checkpoint; if cancelled, nothing has happened. mremap(2).
        """
        self.check_changeable()
        if self.grows:
            raise ValueError(f"{self} is MAP.GROWSDOWN, and would leave what it has grown by")
        call = mremap_call(self, new_length, flags, addr)
        async with contextlib.AsyncExitStack() as stack:
            if addr is not None and MREMAP.FIXED in flags:
                start = int(addr)
                if start < self._end and self.near.address < start + new_length:
                    raise ValueError(f"addr: {addr} is too close to {self.near}")
                await stack.enter_async_context(replaced(self.task, start, new_length))
            if MREMAP.DONTUNMAP not in flags:
                stack.enter_context(self._taken())
            return await perform(self.task, call)

    async def madvise(self, advice: MADV) -> None:
        """Tell the kernel how it will be used, or what is not needed any more.

        UseAfterUnmapError, MemoryInUseError; OSError as the call reports it. A checkpoint; if
        cancelled, nothing has happened. madvise(2).
        """
        self.check_changeable()
        await perform(self.task, madvise_call(self.near.address, self.near.length, advice))

    async def mlock(self, flags: MLOCK = MLOCK.NONE) -> None:
        """Keep its pages in memory, with MLOCK.ONFAULT once they have been used.

        UseAfterUnmapError; OSError as the call reports it. A checkpoint; if cancelled, nothing has
        happened. mlock(2).
        """
        self._validate()
        await perform(self.task, mlock_call(self.near.address, self.near.length, flags))

    async def munlock(self) -> None:
        """Take mlock back. Errors and cancellation as mlock. A checkpoint. munlock(2)."""
        self._validate()
        await perform(self.task, munlock_call(self.near.address, self.near.length))

    async def mincore(self) -> list[bool]:
        """Which of its pages (of 4096 bytes, whatever it is made of) are in memory.

        UseAfterUnmapError; ValueError for more pages than a frame has room for; OSError as the call
        reports it. A checkpoint; if cancelled, nothing has happened. mincore(2).
        """
        self._validate()
        return await perform(self.task, mincore_call(self.near.address, self.near.length))

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

    async def read_into(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill a buffer of ours with what begins `offset` bytes into the mapping.

        Otherwise as read, but that a leading part may have been read if it fails or is cancelled.
        """
        n = memoryview(buffer).nbytes
        await self.task.sysif.read_memory_into(self._range(offset, n), buffer)

    def chunks(self, offset: int, n: int, size: int = _MIB) -> AsyncIterator[bytes]:
        """Read n bytes, beginning `offset` bytes into the mapping, in pieces of `size` bytes.

        To be used by `async for`; no more than one piece is in memory here. ValueError if the bytes
        do not all lie in the mapping; each piece is read as by read.
        """
        self._range(offset, n)
        if size <= 0:
            raise ValueError(f"size: {size} is not positive")
        return self._chunks(offset, n, size)

    async def _chunks(self, offset: int, n: int, size: int) -> AsyncGenerator[bytes]:
        for at in range(offset, offset + n, size):
            yield await self.read(at, min(size, offset + n - at))

    async def write(self, offset: int, data: Buffer) -> None:
        """Write data, beginning `offset` bytes into the mapping.

        ValueError if it does not all fit; UseAfterUnmapError; OSError (EFAULT) if it cannot all be
        written; what lies before the first such page may have been. A checkpoint; if cancelled,
        nothing, or of a long one a leading part, has been written. process_vm_writev(2).
        """
        n = memoryview(data).nbytes
        await self.task.sysif.write_memory(self._range(offset, n), data)

    def view(self, offset: int = 0, n: int | None = None) -> memoryview:
        """The memory itself: n bytes, by default all behind `offset`, where it is our own.

        As long as there is any view of it, it can neither be unmapped nor changed: release it.
        Read-only unless it may be written. ValueError if the memory is not the interpreter's own,
        is that of a file (which could be cut short under our hands), or may not be read;
        MemoryInUseError if it is not a mapping of ours, or the allocator's; UseAfterUnmapError.
        """
        count = self.near.length - offset if n is None else n
        start = self._range(offset, count)
        space = self.task.address_space
        if not space.ours:
            raise ValueError(f"{self} is not in our own memory")
        regions = space.regions
        if not regions.knows(self.file) or regions.is_reserved(start, start + count):
            raise MemoryInUseError(f"{self} was not mapped by us, or is the allocator's")
        if regions.is_changing(start, start + count):
            raise MemoryInUseError(f"{self}: it is being changed")
        writable = True
        for region in regions.overlapping(start, start + count):
            if not region.anonymous:
                raise ValueError(f"{self} is that of a file")
            if not region.prot & PROT.READ:
                raise ValueError(f"{self} may not be read")
            writable = writable and bool(region.prot & PROT.WRITE)
        token = object()
        key = id(token)
        regions.view(key, start, start + max(count, 1))

        def release(_: object, keep: object = token) -> None:
            regions.unview(id(keep))

        memory = ffi.gc(ffi.cast("char *", start), release)
        view = memoryview(ffi.buffer(memory, count))
        return view if writable else view.toreadonly()

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


def check_boundary(name: str, value: int, page_size: int) -> None:
    """Raise ValueError, naming the argument, for what is no multiple of the page size."""
    if value < 0:
        raise ValueError(f"{name}: {value} is negative")
    if value % page_size:
        raise ValueError(f"{name}: {value} is not a multiple of the page size, {page_size}")


@declares("mremap")
def mremap_call(
    mapping: MemoryMapping, new_length: int, flags: MREMAP, addr: near.Address | None
) -> TypedCall[MemoryMapping]:
    """mremap(2). What is off the page boundary is a ValueError."""
    size = mapping.near.page_size
    check_boundary("new_length", new_length, size)
    if mapping.near.length == 0:
        raise ValueError("mapping: has no pages")
    if new_length == 0:
        raise ValueError("new_length: 0, which is what munmap is for")
    if (addr is not None) != (MREMAP.FIXED in flags):
        raise ValueError("addr: given without MREMAP.FIXED, or missing with it")
    if addr is not None:
        check_boundary("addr", int(addr), size)
    start, end = mapping.near.address, mapping.near.address + mapping.near.length
    parts = mapping.task.address_space.regions.overlapping(start, end)

    def convert(task: t.Any, value: int, _outs: tuple[bytes, ...]) -> MemoryMapping:
        for part in parts:
            at, last = value + part.start - start, value + part.end - start
            last = value + new_length if part.end == end else min(last, value + new_length)
            task.address_space.regions.put(part._replace(start=at, end=last))
        return MemoryMapping(task, near.MemoryMapping(value, new_length, size), mapping.file)

    args = (start, end - start, new_length, flags, 0 if addr is None else addr)
    return TypedCall(SYS.mremap, args, convert, handle=True)


@contextlib.asynccontextmanager
async def replaced(
    task: MemoryMappingTask[BaseFileDescriptor], start: int, length: int
) -> AsyncGenerator[None]:
    """Mappings of ours are replaced inside the block, if the block does not fail."""
    regions = task.address_space.regions
    end = start + length
    if not regions.covers(start, end):
        raise MemoryInUseError(
            f"addr: not all of {start:x}-{end:x} was mapped by us; see MAP.FIXED_NOREPLACE"
        )
    if regions.is_reserved(start, end) or regions.is_viewed(start, end):
        raise MemoryInUseError(f"addr: memory at {start:x}-{end:x} is in use")
    taken = regions.take(start, end)
    try:
        yield
    except _EVERYTHING_BUT_SUCCESS:
        # The kernel may have unmapped what was there before it failed.
        with shield():
            for region in taken:
                with contextlib.suppress(OSError, SyscallHangup):
                    await perform(
                        task, msync_call(region.start, region.end - region.start, MS.ASYNC)
                    )
                    regions.put(region)
        raise


def adopt(
    task: MemoryMappingTask[BaseFileDescriptor],
    ret: near.MemoryMapping,
    prot: PROT,
    flags: MAP,
    file: rsyscall.far.File,
) -> MemoryMapping:
    """The handle of what was just mapped."""
    task.address_space.regions.put(
        Region(
            ret.address,
            ret.address + ret.length,
            file,
            int(prot),
            MAP.SHARED in flags,
            MAP.ANONYMOUS in flags,
            MAP.GROWSDOWN in flags,
        )
    )
    return MemoryMapping(task, ret, file)

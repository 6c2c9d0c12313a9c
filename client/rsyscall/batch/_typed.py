"""The typed methods of a batch: one for every typed call, from the same declarations."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import rsyscall.far
from rsyscall import near
from rsyscall.batch._events import EventSteps
from rsyscall.batch._names import NameSteps
from rsyscall.batch._process import ProcessSteps
from rsyscall.batch._sockets import SocketSteps
from rsyscall.batch._steps import (
    DataArgument,
    FdArgument,
    MappingArgument,
    NumberArgument,
    PathArgument,
)
from rsyscall.batch.step import Parameter, Step, StepOptions
from rsyscall.fcntl import O
from rsyscall.handle.fd import close_call, disable_cloexec_call, enable_cloexec_call
from rsyscall.linux.memfd import MFD, memfd_create_call
from rsyscall.sys.mman import (
    MADV,
    MAP,
    MLOCK,
    MREMAP,
    MS,
    PROT,
    MemoryMapping,
    madvise_call,
    mincore_call,
    mlock_call,
    mmap_call,
    mprotect_call,
    mremap_call,
    msync_call,
    munlock_call,
    munmap_call,
)
from rsyscall.sys.stat import Stat, fstat_call
from rsyscall.unistd.fs import ftruncate_call, open_call, openat_call
from rsyscall.unistd.io import (
    SEEK,
    lseek_call,
    pread_call,
    pwrite_call,
    read_call,
    write_call,
)

if TYPE_CHECKING:
    from typing import Unpack

    from rsyscall.handle import FileDescriptor

__all__ = ["TypedSteps"]


class TypedSteps(ProcessSteps, NameSteps, SocketSteps, EventSteps):
    """The calls by name. What they return is said by their namesakes of tasks and handles."""

    __slots__ = ()

    # ---- files ----

    def open(
        self, path: PathArgument, flags: O, mode: int = 0o644, **options: Unpack[StepOptions]
    ) -> Step[FileDescriptor]:
        """Open a file. ValueError if the path contains a NUL. open(2)."""
        return cast("Step[FileDescriptor]", self.add(open_call(path, flags, mode), **options))

    def openat(
        self,
        fd: FdArgument,
        path: PathArgument,
        flags: O,
        mode: int = 0o644,
        **options: Unpack[StepOptions],
    ) -> Step[FileDescriptor]:
        """Open a file in a directory. ValueError if the path contains a NUL. openat(2)."""
        call = openat_call(self._fd(fd), path, flags, mode)
        return cast("Step[FileDescriptor]", self.add(call, **options))

    def memfd_create(
        self, name: PathArgument, flags: MFD = MFD.NONE, **options: Unpack[StepOptions]
    ) -> Step[FileDescriptor]:
        """Make an anonymous file. ValueError if the name contains a NUL. memfd_create(2)."""
        return cast("Step[FileDescriptor]", self.add(memfd_create_call(name, flags), **options))

    def close(self, fd: FdArgument, **options: Unpack[StepOptions]) -> Step[None]:
        """Close a descriptor: a handle is not valid afterwards, nor is that of a step. close(2)."""
        step = self.add(close_call(self._fd(fd)), **options)
        self._ends(step, fd)
        return step

    def disable_cloexec(self, fd: FdArgument, **options: Unpack[StepOptions]) -> Step[None]:
        """Have it stay open in a program that is executed. fcntl(2)."""
        return self.add(disable_cloexec_call(self._fd(fd)), **options)

    def enable_cloexec(self, fd: FdArgument, **options: Unpack[StepOptions]) -> Step[None]:
        """Have it closed when a program is executed. fcntl(2)."""
        return self.add(enable_cloexec_call(self._fd(fd)), **options)

    def read(self, fd: FdArgument, buf: int, **options: Unpack[StepOptions]) -> Step[bytes]:
        """Read up to `buf` bytes, and MAX_IO at most. read(2)."""
        return self.add(read_call(self._fd(fd), buf), **options)

    def pread(
        self, fd: FdArgument, buf: int, offset: NumberArgument, **options: Unpack[StepOptions]
    ) -> Step[bytes]:
        """Read up to `buf` bytes from an offset, and MAX_IO at most. pread(2)."""
        return self.add(pread_call(self._fd(fd), buf, offset), **options)

    def write(self, fd: FdArgument, buf: DataArgument, **options: Unpack[StepOptions]) -> Step[int]:
        """Write data. write(2)."""
        call = write_call(self._fd(fd), buf if isinstance(buf, bytes) else b"")
        return self.add(self._sized(call, buf), **options)

    def pwrite(
        self,
        fd: FdArgument,
        buf: DataArgument,
        offset: NumberArgument,
        **options: Unpack[StepOptions],
    ) -> Step[int]:
        """Write data at an offset. pwrite(2)."""
        call = pwrite_call(self._fd(fd), buf if isinstance(buf, bytes) else b"", offset)
        return self.add(self._sized(call, buf), **options)

    def lseek(
        self, fd: FdArgument, offset: NumberArgument, whence: SEEK, **options: Unpack[StepOptions]
    ) -> Step[int]:
        """Move the file's offset. lseek(2)."""
        return self.add(lseek_call(self._fd(fd), offset, whence), **options)

    def ftruncate(
        self, fd: FdArgument, length: NumberArgument, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Make the file `length` bytes long. ValueError if that is negative. ftruncate(2)."""
        return self.add(ftruncate_call(self._fd(fd), length), **options)

    def fstat(self, fd: FdArgument, **options: Unpack[StepOptions]) -> Step[Stat]:
        """What is known of the file. fstat(2)."""
        return self.add(fstat_call(self._fd(fd), abi=self.abi), **options)

    # ---- memory ----

    def mmap(
        self,
        length: int,
        prot: PROT,
        flags: MAP,
        page_size: int = 4096,
        *,
        fd: FdArgument | None = None,
        offset: int | Parameter = 0,
        file: rsyscall.far.File | None = None,
        addr: near.Address | None = None,
        **options: Unpack[StepOptions],
    ) -> Step[MemoryMapping]:
        """Map a file, or without one anonymous memory.

        ValueError off a page boundary, and for MAP.FIXED, which may replace what is not ours.
        mmap(2).
        """
        if fd is None:
            flags |= MAP.ANONYMOUS
        if MAP.FIXED in flags and MAP.FIXED_NOREPLACE not in flags:
            raise ValueError("flags: MAP.FIXED is no step of a batch; see MAP.FIXED_NOREPLACE")
        number = None if fd is None else self._fd(fd)
        file = rsyscall.far.File() if file is None else file
        call = mmap_call(length, prot, flags, addr, number, offset, page_size, file)
        return self.add(call, **options)

    def munmap(self, mapping: MappingArgument, **options: Unpack[StepOptions]) -> Step[None]:
        """Unmap a mapping: it cannot be used afterwards.

        ValueError for a MAP.GROWSDOWN, which may have grown. munmap(2).
        """
        if isinstance(mapping, MemoryMapping) and mapping.grows:
            raise ValueError(f"mapping: {mapping} may have grown; see MemoryMapping.munmap")
        step = self.add(munmap_call(*self._range(mapping, changes=True)), **options)
        self._ends(step, mapping)
        return step

    def mprotect(
        self, mapping: MappingArgument, prot: PROT, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Change what may be done with all pages of a mapping. mprotect(2)."""
        return self.add(mprotect_call(*self._range(mapping, changes=True), prot), **options)

    def mremap(
        self,
        mapping: MemoryMapping,
        new_length: int,
        flags: MREMAP = MREMAP.NONE,
        *,
        addr: near.Address | None = None,
        **options: Unpack[StepOptions],
    ) -> Step[MemoryMapping]:
        """Make a mapping longer or shorter; its handle cannot be used afterwards.

        ValueError off a page boundary, and for MREMAP.FIXED and DONTUNMAP, which are no steps.
        mremap(2).
        """
        if addr is not None or flags & ~MREMAP.MAYMOVE:
            raise ValueError(f"flags: {flags!r} cannot be given to a step of a batch")
        self._range(mapping, changes=True)
        step = self.add(mremap_call(mapping, new_length, flags, addr), **options)
        self._ends(step, mapping)
        return step

    def madvise(
        self, mapping: MappingArgument, advice: MADV, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Tell the kernel how it will be used. madvise(2)."""
        return self.add(madvise_call(*self._range(mapping, changes=True), advice), **options)

    def mlock(
        self, mapping: MappingArgument, flags: MLOCK = MLOCK.NONE, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Keep its pages in memory. mlock(2)."""
        return self.add(mlock_call(*self._range(mapping), flags), **options)

    def munlock(self, mapping: MappingArgument, **options: Unpack[StepOptions]) -> Step[None]:
        """Take mlock back. munlock(2)."""
        return self.add(munlock_call(*self._range(mapping)), **options)

    def mincore(self, mapping: MappingArgument, **options: Unpack[StepOptions]) -> Step[list[bool]]:
        """Which of its pages, of 4096 bytes, are in memory. mincore(2)."""
        return self.add(mincore_call(*self._range(mapping)), **options)

    def msync(
        self, mapping: MappingArgument, flags: MS = MS.SYNC, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Write changed pages back. msync(2)."""
        return self.add(msync_call(*self._range(mapping), flags), **options)

"""Memory of another process that is mapped here as well."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from rsyscall import far, near
from rsyscall._raw import lib
from rsyscall.near.sysif import FdArg, SyscallHangup, SyscallSendError, raise_if_error
from rsyscall.sys.mman import MAP, PROT, MemoryMapping, adopt
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.memory import View, views_of

if TYPE_CHECKING:
    from rsyscall.handle.fd import BaseFileDescriptor
    from rsyscall.sys.mman import MemoryMappingTask

__all__ = ["map_arena"]

_RW: PROT = PROT.READ | PROT.WRITE
#: Of a larger one, which has its pages from the beginning, only what is used is to be there.
_LARGEST = 64 * 1024 * 1024
_SEALS = lib.F_SEAL_SHRINK | lib.F_SEAL_GROW | lib.F_SEAL_SEAL


def _make(length: int) -> int:
    """A sealed file that has all its pages: nothing can take them from under our hands."""
    fd = os.memfd_create("rsyscall-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(fd, 0, length)
        fcntl.fcntl(fd, lib.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


async def map_arena(task: MemoryMappingTask[BaseFileDescriptor], length: int) -> MemoryMapping:
    """Map memory that is reached by memmove, if that is possible, and else in another way.

    Errors and cancellation as MemoryMappingTask.mmap. A checkpoint.
    """
    space = task.address_space
    if space.ours:
        mapping = await task.mmap(length, _RW, MAP.PRIVATE)
        view = View(mapping.near.address, length, mapping.near.address, owned=False)
        views_of(space).add(view)
        return mapping
    if length <= _LARGEST and space.can_share:
        shared = await _share(task, length)
        if shared is not None:
            return shared
        space.can_share = False
    return await task.mmap(length, _RW, MAP.PRIVATE)


async def _share(task: MemoryMappingTask[BaseFileDescriptor], length: int) -> MemoryMapping | None:
    try:
        fd = _make(length)
    except OSError:
        return None
    here = 0
    try:
        here = lib.rs_direct(SYS.mmap, 0, length, _RW, MAP.SHARED, fd, 0)
        raise_if_error(here)
        args = (0, length, _RW, MAP.SHARED, FdArg(0), 0)
        address = (await task.sysif.call(SYS.mmap, args, fds=(fd,))).value
    except BaseException as exc:
        if here > 0:
            lib.rs_direct(SYS.munmap, here, length, 0, 0, 0, 0)
        if isinstance(exc, SyscallSendError) and not isinstance(exc, SyscallHangup):
            return None  # no descriptor can go there
        if isinstance(exc, OSError | ValueError):
            return None
        raise
    finally:
        os.close(fd)
    view = View(address, length, here, owned=True)
    if task.address_space.lost:  # the end came with the answer, or before it by another way
        view.close()
    else:
        views_of(task.address_space).add(view)
    return adopt(task, near.MemoryMapping(address, length, 4096), _RW, MAP.SHARED, far.File())

"""`#include <sys/eventfd.h>`"""

from __future__ import annotations

import enum
from typing import Any, cast

from rsyscall import near
from rsyscall._raw import lib
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask, T_fd
from rsyscall.near.typed import (
    TypedCall,
    declares,
    perform_making,
)
from rsyscall.sys.syscall import SYS

__all__ = ["EFD", "EventFileDescriptor", "EventfdTask", "eventfd_call"]


class EFD(enum.IntFlag):
    """Flags of eventfd(2)."""

    NONE = 0
    CLOEXEC = lib.EFD_CLOEXEC
    NONBLOCK = lib.EFD_NONBLOCK
    SEMAPHORE = lib.EFD_SEMAPHORE


def _handle(task: Any, value: int, _outs: tuple[bytes, ...]) -> Any:
    return task.adopt_fd(near.FileDescriptor(value))


@declares("eventfd")
def eventfd_call(initval: int, flags: EFD = EFD.NONE) -> TypedCall[BaseFileDescriptor]:
    """eventfd2(2)."""
    if not 0 <= initval < 2**32:
        raise ValueError(f"initval: {initval} is no unsigned number of 32 bits")
    return TypedCall(SYS.eventfd2, (initval, flags | EFD.CLOEXEC), _handle, handle=True)


class EventFileDescriptor(BaseFileDescriptor):
    """A file descriptor of a counter: read and written as numbers of eight bytes."""


class EventfdTask(FileDescriptorTask[T_fd]):
    """A task that can make counters."""

    async def eventfd(self, initval: int, flags: EFD = EFD.NONE) -> T_fd:
        """Make a counter that begins at initval; it is closed on exec, as with EFD.CLOEXEC.

        ValueError for what has no 32 bits; OSError as the call reports it. A checkpoint; if
        cancelled, nothing was made. eventfd(2).
        """
        return cast("T_fd", await perform_making(self, eventfd_call(initval, flags)))

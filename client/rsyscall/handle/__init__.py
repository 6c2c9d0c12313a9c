"""Handles: an identifier, the namespace it belongs to, and the task through which it is used.

`FileDescriptor` and `Task` have every call of the header modules; this module composes them.
"""

from __future__ import annotations

from rsyscall import far, near
from rsyscall.handle.fd import (
    BaseFileDescriptor,
    FDTable,
    FileDescriptorTask,
    HandleError,
    InvalidHandleError,
    SharedHandleError,
)
from rsyscall.handle.pointer import (
    LinearPointer,
    Pointer,
    ReadablePointer,
    UseAfterFreeError,
    WrittenPointer,
)
from rsyscall.linux.memfd import MemfdTask
from rsyscall.memory.allocation_interface import AllocatorInterface
from rsyscall.memory.allocator import AllocatorClient
from rsyscall.memory.ram import RAMTask
from rsyscall.near.sysif import SyscallInterface
from rsyscall.signal import SignalTask, Sigset
from rsyscall.sys.mman import MappableFileDescriptor, MemoryMapping, MemoryMappingTask
from rsyscall.sys.stat import StatFileDescriptor
from rsyscall.unistd import (
    CredentialsTask,
    FSFileDescriptor,
    FSTask,
    SeekableFileDescriptor,
)

__all__ = [
    "BaseFileDescriptor",
    "FDTable",
    "FileDescriptor",
    "FileDescriptorTask",
    "HandleError",
    "InvalidHandleError",
    "LinearPointer",
    "MemoryMapping",
    "Pointer",
    "ReadablePointer",
    "SharedHandleError",
    "Task",
    "UseAfterFreeError",
    "WrittenPointer",
]


class FileDescriptor(
    SeekableFileDescriptor, FSFileDescriptor, MappableFileDescriptor, StatFileDescriptor
):
    """A file descriptor, with every call that takes one."""


class Task(
    MemfdTask[FileDescriptor],
    FSTask[FileDescriptor],
    MemoryMappingTask[FileDescriptor],
    CredentialsTask,
    SignalTask,
    RAMTask,
):
    """A kernel task, with every call that concerns it."""

    _fd_class = FileDescriptor

    def __init__(
        self,
        sysif: SyscallInterface,
        near_process: near.Pid,
        fd_table: far.FDTable,
        address_space: far.AddressSpace,
        pidns: far.PidNamespace,
        *,
        mountns: far.MountNamespace | None = None,
        allocator: AllocatorInterface | None = None,
    ) -> None:
        """Take the facts as they are; nothing is asked of the kernel."""
        super().__init__(
            sysif,
            near_process,
            fd_table,
            address_space,
            pidns,
            mountns=mountns,
            allocator=allocator,
        )
        self.sigmask = Sigset()
        if allocator is None:
            self._allocator = AllocatorClient(self)

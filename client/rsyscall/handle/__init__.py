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
from rsyscall.handle.process import (
    ChildBusyError,
    ChildDeadError,
    ChildPid,
    ChildPidError,
    DeadTaskError,
    Pid,
)
from rsyscall.linux.memfd import MemfdTask
from rsyscall.memory.allocation_interface import AllocatorInterface
from rsyscall.memory.allocator import AllocatorClient
from rsyscall.memory.ram import RAMTask
from rsyscall.near.sysif import SyscallInterface
from rsyscall.path import Path
from rsyscall.poll import PollTask
from rsyscall.sched import SchedTask
from rsyscall.signal import SignalTask, Sigset
from rsyscall.sys.capability import CapabilityTask
from rsyscall.sys.epoll import EpollFileDescriptor, EpollTask
from rsyscall.sys.eventfd import EventfdTask, EventFileDescriptor
from rsyscall.sys.inotify import InotifyFileDescriptor, InotifyTask
from rsyscall.sys.ioctl import IoctlFileDescriptor
from rsyscall.sys.mman import MappableFileDescriptor, MemoryMapping, MemoryMappingTask
from rsyscall.sys.mount import MountTask
from rsyscall.sys.prctl import PrctlTask
from rsyscall.sys.resource import ResourceTask
from rsyscall.sys.signalfd import SignalfdTask, SignalFileDescriptor
from rsyscall.sys.socket import SocketFileDescriptor, SocketTask
from rsyscall.sys.stat import StatFileDescriptor
from rsyscall.sys.timerfd import TimerfdTask, TimerFileDescriptor
from rsyscall.sys.uio import UioFileDescriptor
from rsyscall.unistd import (
    CredentialsTask,
    CWDTask,
    FSFileDescriptor,
    FSTask,
    PipeTask,
    SeekableFileDescriptor,
)

__all__ = [
    "BaseFileDescriptor",
    "ChildBusyError",
    "ChildDeadError",
    "ChildPid",
    "ChildPidError",
    "DeadTaskError",
    "FDTable",
    "FileDescriptor",
    "FileDescriptorTask",
    "HandleError",
    "InvalidHandleError",
    "LinearPointer",
    "MemoryMapping",
    "Pid",
    "Pointer",
    "ReadablePointer",
    "SharedHandleError",
    "Task",
    "UseAfterFreeError",
    "WrittenPointer",
]


class FileDescriptor(
    SeekableFileDescriptor,
    UioFileDescriptor,
    FSFileDescriptor,
    MappableFileDescriptor,
    StatFileDescriptor,
    IoctlFileDescriptor,
    SocketFileDescriptor,
    EpollFileDescriptor,
    EventFileDescriptor,
    TimerFileDescriptor,
    SignalFileDescriptor,
    InotifyFileDescriptor,
):
    """A file descriptor, with every call that takes one."""

    def as_proc_path(self) -> Path:
        """The name in /proc of what it has open, for who sees the process by the same number.

        InvalidHandleError.
        """
        self._validate()
        return Path(f"/proc/{int(self.task.near_process)}/fd/{int(self.near)}")


class Task(
    EventfdTask[FileDescriptor],
    TimerfdTask[FileDescriptor],
    EpollTask[FileDescriptor],
    InotifyTask[FileDescriptor],
    SignalfdTask[FileDescriptor],
    PollTask,
    MemfdTask[FileDescriptor],
    FSTask[FileDescriptor],
    SocketTask[FileDescriptor],
    PipeTask[FileDescriptor],
    MemoryMappingTask[FileDescriptor],
    CWDTask[FileDescriptor],
    CapabilityTask,
    PrctlTask,
    MountTask,
    CredentialsTask,
    SchedTask,
    ResourceTask,
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
        self.sigmask: Sigset = Sigset()
        if allocator is None:
            self._allocator = AllocatorClient(self)

    def inherit_memory(self, allocator: AllocatorClient) -> None:
        """Have memory of the address space, which is shared, handed out by another task's."""
        self._allocator = allocator.inherit(self)

"""Handles: an identifier, the namespace it belongs to, and the task through which it is used.

`FileDescriptor` and `Task` have every call of the header modules; this module composes them.
"""

from __future__ import annotations

from rsyscall import far, near
from rsyscall.handle.changes import ChangingTask
from rsyscall.handle.fd import (
    BaseFileDescriptor,
    FDTable,
    FileDescriptorTask,
    HandleError,
    InvalidHandleError,
    OwnDescriptorError,
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
    PidTask,
    ProcessPid,
)
from rsyscall.linux.dirent import GetdentsFileDescriptor
from rsyscall.linux.futex import FutexNode, FutexTask
from rsyscall.linux.memfd import MemfdTask
from rsyscall.memory.allocation_interface import AllocatorInterface
from rsyscall.memory.allocator import AllocatorClient, Arena
from rsyscall.memory.heap import Heap
from rsyscall.memory.ram import RAMTask
from rsyscall.near.sysif import SyscallInterface
from rsyscall.path import Path
from rsyscall.poll import PollTask
from rsyscall.sched import SchedTask, Stack
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
    "FutexNode",
    "HandleError",
    "InvalidHandleError",
    "LinearPointer",
    "MemoryMapping",
    "OwnDescriptorError",
    "Pid",
    "Pointer",
    "ProcessPid",
    "ReadablePointer",
    "SharedHandleError",
    "Stack",
    "Task",
    "UseAfterFreeError",
    "WrittenPointer",
]


class FileDescriptor(
    SeekableFileDescriptor,
    UioFileDescriptor,
    FSFileDescriptor,
    GetdentsFileDescriptor,
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
    PidTask,
    SchedTask,
    ResourceTask,
    FutexTask,
    SignalTask,
    RAMTask,
    ChangingTask,
):
    """A kernel task, with every call that concerns it."""

    _fd_class = FileDescriptor
    _allocator: AllocatorInterface | None

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
        parent: Task | None = None,
    ) -> None:
        """Take the facts as they are; nothing is asked of the kernel.

        parent: whose child it is, see far.Task; it shares its memory if that is the same.
        """
        super().__init__(
            sysif,
            near_process,
            fd_table,
            address_space,
            pidns,
            mountns=mountns,
            allocator=allocator,
            parent=parent,
        )
        self.sigmask: Sigset = Sigset()
        #: What memory is handed out of, if that is another than its address space's.
        self._heap: Heap[Arena] | None = None
        if parent is not None and parent.address_space is address_space:
            theirs = parent._allocator
            self._heap = theirs.heap if isinstance(theirs, AllocatorClient) else parent._heap

    @property
    def stall_reason(self) -> str | None:
        """Why one call that blocks holds up all others of this task; None if none does.

        As far as it is known: where the system refuses to make threads, that is found out by the
        first call that may block.
        """
        if self.pidns_for_children is not self.pidns:
            return "no thread can be made in it: its children begin in another PID namespace"
        return self.sysif.stall_reason

    @property
    def can_stall(self) -> bool:
        """Whether one call that blocks holds up all others of this task; see stall_reason."""
        return self.stall_reason is not None

    @property
    def allocator(self) -> AllocatorInterface:
        """Who hands out the memory: made when it is first asked for."""
        if self._allocator is None:
            self._allocator = AllocatorClient(self, self._heap)
        return self._allocator

    def inherit_memory(self, allocator: AllocatorClient) -> None:
        """Have memory of the address space, which is shared, handed out by another task's."""
        self._allocator = allocator.inherit(self)

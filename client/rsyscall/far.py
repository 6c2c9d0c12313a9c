"""Far: the namespaces themselves. Two handles belong together if they have the same far object.

A far object stands for what the kernel keeps: a table of file descriptors, an address space, a
namespace. It has no behaviour; its identity is what counts, and `creator_pid` (the pid of the
process it was made for, as that process saw it) is for people.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rsyscall._collect import collect
from rsyscall._descriptors import Numbers
from rsyscall._regions import Regions
from rsyscall.abi import ABI, NATIVE

if TYPE_CHECKING:
    from rsyscall.memory.allocation_interface import AllocatorInterface
    from rsyscall.memory.allocator import Arena
    from rsyscall.memory.heap import Heap
    from rsyscall.near.sysif import SyscallInterface
    from rsyscall.near.types import Pid
    from rsyscall.sysif.memory import Views

__all__ = [
    "THIS_MACHINE",
    "AddressSpace",
    "AddressSpaceMismatchError",
    "CgroupNamespace",
    "FDTable",
    "FDTableMismatchError",
    "FSInformation",
    "File",
    "IPCNamespace",
    "Machine",
    "MachineMismatchError",
    "MountNamespace",
    "NamespaceMismatchError",
    "NetworkNamespace",
    "PidNamespace",
    "Task",
    "TimeNamespace",
    "UTSNamespace",
    "UserNamespace",
]


class NamespaceMismatchError(Exception):
    """A handle was used through a task that is not in the handle's namespace."""


class FDTableMismatchError(NamespaceMismatchError):
    """A file descriptor was used through a task with another table."""


class AddressSpaceMismatchError(NamespaceMismatchError):
    """An address was used through a task with another address space."""


class MachineMismatchError(NamespaceMismatchError):
    """What cannot leave its machine was to be used on another one."""


class File:
    """What is mapped: the pages of one mapping, by default; equal only to itself.

    of: the file that they are of, if others may have mapped it too; see same_as.
    """

    __slots__ = ("__weakref__", "_of")

    def __init__(self, of: File | None = None) -> None:
        """Without `of` it is a file of its own."""
        self._of: File | None = None if of is None else of.root

    @property
    def root(self) -> File:
        """The file itself: the same object for all that is known to be of one file."""
        file = self
        while file._of is not None:
            file = file._of
        return file

    def join(self, other: File) -> None:
        """Take note that both are of one file."""
        mine, its = self.root, other.root
        if mine is not its:
            mine._of = its

    def same_as(self, other: File) -> bool:
        """Whether both are known to be of one file."""
        return self.root is other.root


def _no_numbers() -> set[int]:
    return set()


def _no_tasks() -> weakref.WeakSet[Task]:
    return weakref.WeakSet()


@dataclass(eq=False)
class FDTable(Numbers):
    """A table of file descriptors."""

    creator_pid: int = 0
    #: Numbers in it that are ours and no user's: what a copy of the table must not keep.
    own: set[int] = field(default_factory=_no_numbers, init=False, repr=False)
    #: The tasks that are known to have it.
    tasks: weakref.WeakSet[Task] = field(default_factory=_no_tasks, init=False, repr=False)

    def __post_init__(self) -> None:
        """No number is known."""
        super().__init__()

    async def gc_using_task(self, task: Task) -> None:
        """Close what nobody can name any more, by way of this task, or else of others that have it.

        What a task has made is closed by it, while it can. A checkpoint if there is anything to be
        closed; if cancelled, the rest is closed another time. close(2).
        """
        await collect(self, dict.fromkeys([task, *self.tasks]))

    async def run_gc(self) -> None:
        """gc_using_task, by way of any task that has it."""
        await collect(self, list(self.tasks))

    def remove_inherited(self) -> None:
        """Give up what was inherited and has no handle: it is closed at the next collection.

        Handles of the table that this one began as a copy of cannot be inherited any more. Standard
        input, output and error stay open, and what was told to stay open for another program.
        """
        self.give_up_inherited()

    def __str__(self) -> str:
        """For people."""
        return f"FDTable({self.creator_pid})"


@dataclass(eq=False)
class AddressSpace:
    """An address space."""

    creator_pid: int = 0
    #: Whether it is that of this interpreter.
    ours: bool = False
    #: What is handed out of it, to all its tasks.
    heap: Heap[Arena] | None = field(default=None, init=False, repr=False)
    #: What of it is mapped here as well.
    views: Views | None = field(default=None, init=False, repr=False)
    #: Whether memory of ours can be mapped into it, as far as that was tried.
    can_share: bool = field(default=True, init=False, repr=False)
    #: Whether nobody can reach it any more.
    lost: bool = field(default=False, init=False, repr=False)
    #: What we have mapped into it.
    regions: Regions = field(default_factory=Regions, init=False, repr=False)
    #: How often all that was in it has gone, as with exec.
    generation: int = field(default=0, init=False, repr=False)
    #: Children that share it; whether it could be dumped before there were any, whether one of them
    #: has changed its ids, whether a program with other ids begins just now, how many have, how
    #: many children have ever shared it, and who was in it before all of them.
    sharers: int = field(default=0, init=False, repr=False)
    dumpable: bool = field(default=False, init=False, repr=False)
    ids_changed: bool = field(default=False, init=False, repr=False)
    starting: bool = field(default=False, init=False, repr=False)
    started: int = field(default=0, init=False, repr=False)
    joined: int = field(default=0, init=False, repr=False)
    root: weakref.ref[Task] | None = field(default=None, init=False, repr=False)

    def end(self) -> None:
        """Take note that all that was in it is gone: no handle to any of it can be used."""
        self.generation += 1
        self.regions.take(0, 2**64)
        if self.views is not None:
            self.views.close()

    def dumpable_set(self, task: Task, dumpable: bool) -> None:
        """Take note that a task of it has said whether it can be dumped.

        What a child says of memory that it shares is forgotten with the last such child.
        """
        if self.root is None or self.root() is task:
            self.dumpable = dumpable
        elif self.sharers:
            self.ids_changed = True

    def assert_is(self, other: AddressSpace) -> None:
        """Raise AddressSpaceMismatchError, naming both, unless `other` is this very one."""
        if other is not self:
            raise AddressSpaceMismatchError(f"{other} is not {self}")

    def __str__(self) -> str:
        """For people."""
        return f"AddressSpace({self.creator_pid})"


@dataclass(eq=False)
class PidNamespace:
    """A pid namespace."""

    creator_pid: int = 0
    #: Whether it is that of this interpreter.
    ours: bool = False


@dataclass(eq=False)
class _Kept:
    """What the kernel keeps for some processes."""

    creator_pid: int = 0


class MountNamespace(_Kept):
    """A mount namespace."""


class NetworkNamespace(_Kept):
    """A network namespace."""


class UTSNamespace(_Kept):
    """A namespace of host and domain names."""


class IPCNamespace(_Kept):
    """A namespace of System V IPC objects and POSIX message queues."""


class CgroupNamespace(_Kept):
    """A cgroup namespace."""


class UserNamespace(_Kept):
    """A user namespace."""


class TimeNamespace(_Kept):
    """A time namespace."""


class FSInformation(_Kept):
    """A root directory, a working directory and a umask."""


@dataclass(eq=False)
class Machine:
    """A kernel, as far as we know: what was reached in different ways may be one all the same.

    Descriptors, memory and pids do not pass from one to another.
    """

    name: str

    def __str__(self) -> str:
        """For people."""
        return f"Machine({self.name!r})"


#: That of this interpreter.
THIS_MACHINE = Machine("this one")


class Task:
    """One kernel task in which we can make calls, and the namespaces we know it to be in.

    sysif: the door for its calls. near_process: its pid as it sees itself. abi: how values lie in
    its memory. The rest: far objects.
    """

    #: How values lie in its memory: that of this interpreter, unless it was reached elsewhere.
    abi: ABI = NATIVE

    def __init__(
        self,
        sysif: SyscallInterface,
        near_process: Pid,
        fd_table: FDTable,
        address_space: AddressSpace,
        pidns: PidNamespace,
        *,
        mountns: MountNamespace | None = None,
        allocator: AllocatorInterface | None = None,
        parent: Task | None = None,
    ) -> None:
        """Take the facts as they are; nothing is asked of the kernel.

        parent: the task whose namespaces it is in, as a child that clone(2) makes without flags.
        """
        self.sysif = sysif
        self.near_process = near_process
        self.fd_table = fd_table
        fd_table.tasks.add(self)
        self.address_space = address_space
        self.pidns = pidns
        self._allocator = allocator
        #: Of the numbers in fd_table.own those that this task needs.
        self.own_fds: set[int] = set()
        pid = fd_table.creator_pid
        #: Where its children will be; not the task itself, after unshare(2) or setns(2).
        self.pidns_for_children: PidNamespace = pidns
        self.mountns: MountNamespace
        self.timens: TimeNamespace
        self.timens_for_children: TimeNamespace
        self.netns: NetworkNamespace
        self.utsns: UTSNamespace
        self.ipcns: IPCNamespace
        self.cgroupns: CgroupNamespace
        self.userns: UserNamespace
        self.fs: FSInformation = FSInformation(pid)
        self.machine: Machine = THIS_MACHINE if parent is None else parent.machine
        if parent is None:
            self.mountns = MountNamespace(pid) if mountns is None else mountns
            self.timens = self.timens_for_children = TimeNamespace(pid)
            self.netns = NetworkNamespace(pid)
            self.utsns = UTSNamespace(pid)
            self.ipcns = IPCNamespace(pid)
            self.cgroupns = CgroupNamespace(pid)
            self.userns = UserNamespace(pid)
        else:
            self.mountns = parent.mountns
            self.timens = self.timens_for_children = parent.timens_for_children
            self.netns = parent.netns
            self.utsns = parent.utsns
            self.ipcns = parent.ipcns
            self.cgroupns = parent.cgroupns
            self.userns = parent.userns

    @property
    def near_pid(self) -> Pid:
        """The same as near_process."""
        return self.near_process

    def check_machine(self, other: Task) -> None:
        """MachineMismatchError, naming both, unless another task is on the same machine."""
        if other.machine is not self.machine:
            raise MachineMismatchError(
                f"{self} is on {self.machine}, and {other} on {other.machine}: neither descriptors"
                f" nor pids pass between machines"
            )

    def __str__(self) -> str:
        """For people."""
        return f"{type(self).__name__}({self.near_process})"

    def __repr__(self) -> str:
        """The same as str()."""
        return str(self)

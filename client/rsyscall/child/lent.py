"""What a child needs of its parent before it is made: an entry, memory, a socket."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import struct
import sys

from rsyscall import far
from rsyscall._raw import lib
from rsyscall.child.memory import ChildMemory, OwnMemory, TaskMemory
from rsyscall.child.namespaces import NAMESPACES
from rsyscall.child.steps import call, run
from rsyscall.handle import Task
from rsyscall.near.sysif import FdArg, InOut, Out
from rsyscall.sched import CLONE
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.child import ChildInterface, DeadInterface
from rsyscall.sysif.direct import DirectSyscallInterface
from rsyscall_protocol import Hello

__all__ = ["Lent", "check_flags", "entry", "page_size_of", "start_memory"]

_ALLOWED = CLONE.VM | CLONE.FS | CLONE.FILES | CLONE.IO | CLONE.SYSVSEM | NAMESPACES | CLONE.NEWTIME
_TOGETHER = (
    (CLONE.FS, CLONE.NEWNS),
    (CLONE.FS, CLONE.NEWUSER),
    (CLONE.SYSVSEM, CLONE.NEWIPC),
)
_SO_PEERPIDFD, _SO_PEERCRED, _SOL_SOCKET = 77, 17, 1
_F_DUPFD_CLOEXEC = 1030
_INT = struct.Struct("@i")


def check_flags(flags: CLONE) -> None:
    """Raise ValueError for what a child that serves us cannot have."""
    if not flags:
        return
    if unknown := flags & ~_ALLOWED:
        raise ValueError(f"flags: {unknown!r} cannot be given to a child")
    for one, other in _TOGETHER:
        if one in flags and other in flags:
            raise ValueError(f"flags: {one!r} and {other!r} exclude each other")


async def start_memory(task: Task, extra: int, *, shared: bool = False) -> ChildMemory:
    """Memory for a child of the task. A checkpoint unless it is ours.

    shared: with a child that has a copy of the rest.
    """
    if task.address_space.ours:
        mask = 0 if task.sysif.immediate else await _blocked(task)
        memory = OwnMemory(extra, shared=shared)
        memory.mask = mask
        return memory
    return await TaskMemory.make(task, extra, shared=shared)


async def _blocked(task: Task) -> int:
    """The signals that a task has blocked, as a set of bits."""
    reply = await task.sysif.call(SYS.rt_sigprocmask, (0, 0, Out(8), 8))
    return int.from_bytes(reply.outs[0], sys.byteorder)


def entry(task: Task) -> int:
    """Where a child of the task begins.

    ValueError if its server is too old to know, PermissionError if it serves in our own process.
    """
    if isinstance(task.sysif, DeadInterface):
        raise task.sysif.error()
    if task.address_space.ours:
        if not isinstance(task.sysif, DirectSyscallInterface | ChildInterface):
            message = "a server inside of this process makes no children; local_process does"
            raise PermissionError(errno.EPERM, message)
        return lib.rs_child_address()
    peer = getattr(task.sysif, "peer", None)
    address = peer.info.get("child") if isinstance(peer, Hello) else None
    if not isinstance(address, int):
        raise ValueError(f"{task}: its server cannot start children")
    return address


def page_size_of(task: Task) -> int:
    """The size of its pages, as its server has said, or ours."""
    peer = getattr(task.sysif, "peer", None)
    if isinstance(peer, Hello):
        return int(peer.info.get("page_size", 4096))
    return mmap.PAGESIZE


async def _client_pidfd(task: Task, number: int) -> int:
    """Open a pidfd of this interpreter in the task's table; -1 if it cannot have one.

    number: of a socket whose other end is ours. A checkpoint unless the task is ours.
    """
    if isinstance(task.sysif, DirectSyscallInterface):
        return os.pidfd_open(os.getpid())
    call = task.sysif.call
    try:
        args = (number, _SOL_SOCKET, _SO_PEERPIDFD, Out(4), InOut(_INT.pack(4)))
        return int(_INT.unpack((await call(SYS.getsockopt, args)).outs[0])[0])
    except OSError:
        pass  # before 6.5, or it has no name for us
    try:
        args = (number, _SOL_SOCKET, _SO_PEERCRED, Out(12), InOut(_INT.pack(12)))
        pid = _INT.unpack_from((await call(SYS.getsockopt, args)).outs[0])[0]
        return (await call(SYS.pidfd_open, (pid, 0))).value if pid > 0 else -1
    except OSError:
        return -1


class Lent:
    """What a child needs in its parent's table: its end of the socket, and a pidfd of ours."""

    def __init__(self, parent: Task) -> None:
        """Nothing is open yet."""
        self.parent = parent
        self.table: far.FDTable = parent.fd_table
        self.direct: bool = isinstance(parent.sysif, DirectSyscallInterface)
        self.socket: int = -1
        self.pidfd: int = -1
        self.closed: bool = False
        self._shares: ChildInterface | None = None

    def share(self) -> None:
        """The child has the parent's table, until they are closed: the parent's socket as well."""
        if isinstance(self.parent.sysif, ChildInterface):
            self._shares = self.parent.sysif
            self._shares.share()

    async def open(self, theirs: socket.socket) -> None:
        """Put them into the table; closes our own copy of the socket."""
        with theirs:
            if self.direct:
                self.socket = theirs.detach()
            else:
                dup = (FdArg(0), _F_DUPFD_CLOEXEC, 0)
                fds = (theirs.fileno(),)
                self.socket = (await self.parent.sysif.call(SYS.fcntl, dup, fds=fds)).value
        self.table.own.add(self.socket)
        self.pidfd = await _client_pidfd(self.parent, self.socket)
        self.table.own.update(self.numbers)
        self.parent.own_fds.update(self.numbers)

    @property
    def numbers(self) -> set[int]:
        """What they are in the child's table, and in the parent's as long as they are open."""
        return {self.socket, self.pidfd} - {-1}

    async def close(self) -> None:
        """Close them in the parent's table; nothing if that was done before."""
        if self.closed:
            return
        self.closed = True
        if self._shares is not None:
            self._shares.unshare()
        self.table.own -= self.numbers
        self.parent.own_fds -= self.numbers
        if self.direct:
            for number in self.numbers:
                os.close(number)
        elif self.numbers:
            steps = [call(SYS.close, n, ok=(errno.EINTR,)) for n in sorted(self.numbers)]
            await run(self.parent.sysif, steps)

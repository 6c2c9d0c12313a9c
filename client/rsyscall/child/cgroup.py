"""A child begins in a cgroup of its own.

clone3(2) can put it there before it exists for anybody else (CLONE_INTO_CGROUP, Linux 5.7). An old
server makes no such call, and a filter may refuse it; then the parent moves the child right after.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
from collections.abc import AsyncGenerator

from rsyscall._checkpoint import shield
from rsyscall.child.steps import run, write_file
from rsyscall.child.strings import PathLike
from rsyscall.handle import FileDescriptor, Task
from rsyscall.near.sysif import SyscallError
from rsyscall.struct import path_to_bytes
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.direct import DirectSyscallInterface
from rsyscall_protocol import In, Out, Step, Struct

__all__ = ["ENTERING", "directory", "entering", "move", "start_child"]

#: What is being done, for the notes of errors.
ENTERING = "entering the cgroup"

_AT_FDCWD, _O_PATH = -100, 0o10000000
_DIRECTORY = _O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_CLONE_PIDFD, _CLONE_INTO_CGROUP = 0x1000, 0x200000000
#: Of the kernel's struct, where the address for a pidfd stands; and how much a stack must be.
_PIDFD_AT, _ABOVE = 8, 16
#: What there is where clone3 is not, or not like that, or must not be called.
_CANNOT = (errno.ENOSYS, errno.E2BIG, errno.EINVAL, errno.EPERM)


@contextlib.asynccontextmanager
async def directory(task: Task, cgroup: FileDescriptor | PathLike) -> AsyncGenerator[int]:
    """The number of a cgroup's directory in the task's table, as long as it is needed.

    OSError, with what for as a note. A checkpoint for a path.
    """
    if isinstance(cgroup, FileDescriptor):
        with cgroup.borrow(task) as number:
            yield int(number)
    else:
        args = (_AT_FDCWD, In(path_to_bytes(cgroup, "cgroup")), _DIRECTORY, 0)
        try:
            opened = (await task.sysif.call(SYS.openat, args)).value
        except OSError as exc:
            exc.add_note(f"while {ENTERING}")
            raise
        # Not as a handle: a child that is cloned just now must not get it.
        task.fd_table.own.add(opened)
        task.own_fds.add(opened)
        try:
            yield opened
        finally:
            task.fd_table.own.discard(opened)
            task.own_fds.discard(opened)
            with shield(), contextlib.suppress(OSError, SyscallError):  # gone, with the task
                await task.sysif.syscall(SYS.close, opened)


async def start_child(
    task: Task, flags: int, stack: int, cgroup: int = -1, *, first: bool = False
) -> tuple[int, int, int, bool]:
    """SyscallInterface.start_child, into a cgroup unless that is -1; and whether it is there.

    It is not where the call cannot do so, and not if a server's first thread must make it.
    """
    sysif = task.sysif
    sysif.starting += 1
    try:
        direct = sysif if isinstance(sysif, DirectSyscallInterface) else None
        if cgroup >= 0 and (direct is not None or not first):
            try:
                if direct is not None:
                    return *direct.start_child_into(flags, stack, cgroup), True
                return *await _start_there(task, flags, stack, cgroup), True
            except OSError as exc:
                if exc.errno not in _CANNOT:
                    exc.add_note(f"while {ENTERING}")
                    raise
        parent = task.near_process.id
        made = await sysif.start_child(flags, stack, parent=parent, first=first)
        return *made, cgroup < 0
    finally:
        sysif.starting -= 1


async def _start_there(task: Task, flags: int, stack: int, cgroup: int) -> tuple[int, int, int]:
    """The same by a server. OSError as clone3 reports it. A checkpoint, to be shielded."""
    how = flags | _CLONE_PIDFD | _CLONE_INTO_CGROUP
    # The child finds where to begin where its stack pointer leads: where this stack ends.
    data = struct.pack("=11Q", how, 0, 0, 0, 0, stack - _ABOVE, _ABOVE, 0, 0, 0, cgroup)
    args = Struct(data, ((_PIDFD_AT, Out(4)),)), len(data)
    made = await task.sysif.call(SYS.clone3, args)
    there = int.from_bytes(made.outs[0], sys.byteorder)
    return (
        made.value,
        await task.sysif.bring_pidfd(there, made.value, task.near_process.id),
        there,
    )


def entering(dirfd: int, path: bytes, who: int, index: int = 0) -> list[Step]:
    """Steps, from the index-th on, that put a process, 0 being who makes them, into a cgroup."""
    return write_file(path, str(who).encode(), index=index, dirfd=dirfd)


async def move(task: Task, cgroup: int, pid: int) -> None:
    """Have the task put a child of its own there. OSError, with what for as a note."""
    await run(task.sysif, entering(cgroup, b"cgroup.procs", pid), [ENTERING] * 3)

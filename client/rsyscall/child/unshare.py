"""A process leaves what it shares, or enters what others have."""

from __future__ import annotations

import errno
import os
from typing import Any

from rsyscall._checkpoint import checkpoint, shield
from rsyscall.child.clocks import TimeOffsets, check_offsets, set_offsets
from rsyscall.child.dumpable import is_dumpable, restore
from rsyscall.child.fds import gaps, kept
from rsyscall.child.mappings import effective_ids, write_user_mappings
from rsyscall.child.namespaces import NAMESPACES, move, unshare_table
from rsyscall.child.refusals import explain
from rsyscall.child.served import Child
from rsyscall.child.steps import call, run
from rsyscall.handle import FileDescriptor, Task
from rsyscall.handle.changes import provide
from rsyscall.handle.process import ProcessPid
from rsyscall.near.sysif import SyscallSendError
from rsyscall.sched import CLONE
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.child import ChildInterface

__all__ = ["setns", "unshare", "unshare_child_files", "unshare_files", "unshare_user"]

_ENTERED = NAMESPACES | CLONE.NEWTIME
_UNSHARED = _ENTERED | CLONE.FILES | CLONE.FS | CLONE.SYSVSEM
_NS_GET_NSTYPE = 0xB703


def _check_alone(task: Task) -> None:
    """Such a call concerns one thread, and the interpreter would fall apart."""
    if task.sysif.immediate and len(os.listdir("/proc/self/task")) > 1:
        raise SyscallSendError(
            f"{task}: the interpreter has several threads, and this would concern one only;"
            " nothing was done"
        )


async def unshare(task: Task, flags: CLONE, time_offsets: TimeOffsets | None = None) -> None:
    """See Process.unshare."""
    if unknown := flags & ~_UNSHARED:
        raise ValueError(f"flags: {unknown!r} cannot be unshared")
    lines = check_offsets(time_offsets, flags)
    _check_alone(task)
    await checkpoint()
    with shield(not task.sysif.immediate):
        if CLONE.FILES in flags:
            await unshare_files(task)
        rest = flags & ~CLONE.FILES
        if not rest:
            return
        dumpable = CLONE.NEWUSER in flags and await is_dumpable(task)
        try:
            await task.sysif.syscall(SYS.unshare, int(rest))
        except OSError as exc:
            await explain(task, rest, exc)
            raise
        move(task, rest)
        if dumpable:
            # The memory may be shared with others, and the ids have not changed.
            await restore(task)
        await set_offsets(task, lines)


async def unshare_files(task: Task) -> None:
    """See Process.unshare_files."""
    if len(task.fd_table.tasks) == 1:
        await checkpoint()
        return
    _check_alone(task)
    own, others, keep = set(task.own_fds), task.fd_table.own - task.own_fds, kept(task)
    steps = [call(SYS.unshare, int(CLONE.FILES))]
    steps += [call(SYS.close, number, ok=(errno.EBADF,)) for number in sorted(others)]
    await checkpoint()
    with shield(not task.sysif.immediate):
        await run(task.sysif, steps)
        unshare_table(task, keep, own)


async def unshare_child_files(child: Child) -> None:
    """See ChildProcess.unshare_files."""
    task = child.task
    if not child.shares_files:
        await unshare_files(task)
        return
    # What others who have the table need of it is of no use here.
    own, keep = set(task.own_fds), kept(task)
    steps = [call(SYS.unshare, int(CLONE.FILES))]
    steps += [call(SYS.close_range, *gap, 0) for gap in gaps(own | keep.keys())]
    await run(task.sysif, steps)
    with shield():
        unshare_table(task, keep, own)
        await child.has_own_table()


async def unshare_user(task: Task, uid: int | None, gid: int | None) -> None:
    """See Process.unshare_user."""
    outside = await effective_ids(task)
    await unshare(task, CLONE.NEWUSER)
    inside = (outside[0] if uid is None else uid, outside[1] if gid is None else gid)
    await write_user_mappings(task, inside, outside)


async def setns(task: Task, fd: FileDescriptor, nstype: CLONE) -> None:
    """See Process.setns."""
    if unknown := nstype & ~_ENTERED:
        raise ValueError(f"nstype: {unknown!r} is no namespace")
    _check_alone(task)
    await checkpoint()
    with fd.borrow(task) as number:
        kind = nstype
        if not kind:
            try:
                kind = CLONE(await task.sysif.syscall(SYS.ioctl, number, _NS_GET_NSTYPE))
            except OSError as exc:
                raise ValueError(f"nstype: missing, and {fd} does not tell") from exc
        dumpable = CLONE.NEWUSER in kind and await is_dumpable(task)
        with shield(not task.sysif.immediate):
            try:
                await task.sysif.syscall(SYS.setns, number, int(nstype))
            except OSError as exc:
                if exc.errno == errno.EUSERS:
                    exc.add_note("only who has its address space for itself can change the time")
                raise
            move(task, kind)
            if CLONE.NEWTIME in kind:
                task.timens = task.timens_for_children
            if dumpable:  # as in unshare
                await restore(task)


async def _unshare_files(task: Task) -> None:
    """See Task.unshare_files."""
    child = task.sysif.child if isinstance(task.sysif, ChildInterface) else None
    await (unshare_child_files(child) if isinstance(child, Child) else unshare_files(task))


async def _unshare_namespaces(task: Task, flags: CLONE) -> None:
    """See Task.unshare."""
    if CLONE.FILES in flags:
        raise ValueError("flags: for CLONE.FILES there is unshare_files of the process")
    await unshare(task, flags)


async def _clone(*args: Any) -> ProcessPid:
    from rsyscall.child.raw import clone  # hardly anybody needs it

    return await clone(*args)


provide(unshare=_unshare_namespaces, setns=setns, unshare_files=_unshare_files, clone=_clone)

"""Whether a task can be looked into (/proc, ptrace, process_vm_readv), which is its memory's.

A child that shares the memory and changes its ids ends that for all who have it; PR_SET_DUMPABLE in
prctl(2) tells more.
"""

from __future__ import annotations

from rsyscall._checkpoint import shield
from rsyscall._raw import lib
from rsyscall.far import AddressSpace
from rsyscall.handle import Task
from rsyscall.sys.syscall import SYS

__all__ = ["is_dumpable", "join", "leave", "restore"]


async def is_dumpable(task: Task) -> bool:
    """Whether it is, for everybody who has its ids. A checkpoint."""
    return await task.sysif.syscall(SYS.prctl, lib.PR_GET_DUMPABLE) == 1


async def restore(task: Task) -> None:
    """Let it be again, cancelled or not, now that nothing runs with other ids in its memory.

    A checkpoint unless the memory is ours: then at once, so that nobody changes ids meanwhile.
    SyscallHangup if the task is gone.
    """
    space = task.address_space
    if not space.ours:
        with shield():
            await task.sysif.syscall(SYS.prctl, lib.PR_SET_DUMPABLE, 1)
    elif not (space.sharers and space.ids_changed):
        _set(True)


def _set(dumpable: bool) -> None:
    lib.rs_direct(SYS.prctl, lib.PR_SET_DUMPABLE, dumpable, 0, 0, 0, 0)


def join(space: AddressSpace) -> None:
    """A child begins to share our own memory."""
    if not space.sharers:
        space.dumpable = lib.rs_direct(SYS.prctl, lib.PR_GET_DUMPABLE, 0, 0, 0, 0, 0) == 1
        space.ids_changed = False
    space.sharers += 1


def leave(space: AddressSpace) -> None:
    """It shares it no more: it is dead, or has memory of its own.

    Not earlier than with the last of them: whoever had its ids could get at our memory through it.
    """
    space.sharers -= 1
    if space.sharers == 0 and space.ids_changed and space.dumpable:
        _set(True)

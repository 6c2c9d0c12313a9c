"""Whether a task can be looked into (/proc, ptrace, process_vm_readv), which is its memory's.

A child that shares the memory and changes its ids ends that for all who have it; PR_SET_DUMPABLE in
prctl(2) tells more.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import AsyncGenerator

import trio

from rsyscall._checkpoint import Held, shield
from rsyscall._raw import lib
from rsyscall.far import AddressSpace
from rsyscall.far import Task as AnyTask
from rsyscall.handle import Task
from rsyscall.near.sysif import SyscallError
from rsyscall.sys.syscall import SYS

__all__ = ["is_dumpable", "join", "kept_dumpable", "leave", "leave_ours", "restore", "settled"]

#: One program with other ids is started at a time: two at once would find what the other has left.
_turns: weakref.WeakKeyDictionary[AddressSpace, trio.Lock] = weakref.WeakKeyDictionary()


async def is_dumpable(task: Task) -> bool:
    """Whether it is, for everybody who has its ids. A checkpoint."""
    return await task.sysif.syscall(SYS.prctl, lib.PR_GET_DUMPABLE) == 1


async def restore(task: Task) -> None:
    """Let it be again, cancelled or not, unless somebody who has other ids is in its memory.

    A checkpoint unless the memory is ours: then at once, so that nobody changes ids meanwhile.
    SyscallHangup if the task is gone.
    """
    space = task.address_space
    if space.sharers and space.ids_changed:
        return
    if space.ours:
        _set(True)
        return
    with shield():
        await _tell(task, dumpable=True)
        if space.sharers and space.ids_changed:  # by now
            await _tell(task, dumpable=False)


@contextlib.asynccontextmanager
async def kept_dumpable(task: Task) -> AsyncGenerator[None]:
    """It is afterwards what it was before, whatever a child in its memory does. A checkpoint."""
    turn = _turns.setdefault(task.address_space, trio.Lock())
    async with contextlib.nullcontext() if task.sysif.immediate else Held(turn):
        space = task.address_space
        # What it was before somebody in it changed ids is known, if anybody has.
        if not space.sharers and not space.ids_changed:
            joined = space.joined
            dumpable = await is_dumpable(task)
            if joined == space.joined:  # else one may have, and what it was is known from that one
                space.dumpable = dumpable
        space.starting = True
        space.started += 1
        try:
            yield
        finally:
            space.starting = False
            if space.dumpable:
                with contextlib.suppress(SyscallError):
                    await restore(task)


async def settled(space: AddressSpace) -> None:
    """Return once no program with other ids is being started in that memory.

    Not a checkpoint unless there is one.
    """
    turn = _turns.get(space)
    if turn is not None and turn.locked():
        async with turn:
            pass


def _set(dumpable: bool) -> None:
    lib.rs_direct(SYS.prctl, lib.PR_SET_DUMPABLE, dumpable, 0, 0, 0, 0)


async def _tell(task: AnyTask, *, dumpable: bool) -> None:
    await task.sysif.syscall(SYS.prctl, lib.PR_SET_DUMPABLE, int(dumpable))


def join(space: AddressSpace, parent: AnyTask, *, dumpable: bool | None) -> None:
    """A child of the parent begins to share its memory.

    dumpable: whether that is dumpable by now; None: to be looked up, as it is ours.
    """
    if not space.sharers:
        if dumpable is None:
            dumpable = lib.rs_direct(SYS.prctl, lib.PR_GET_DUMPABLE, 0, 0, 0, 0, 0) == 1
        if not space.starting and not space.ids_changed:
            space.dumpable = dumpable
        space.root = weakref.ref(parent)  # alone in it so far
    space.sharers += 1
    space.joined += 1


def leave_ours(space: AddressSpace, *, unsure: bool) -> None:
    """See leave: of memory that is ours."""
    space.sharers -= 1
    space.ids_changed = space.ids_changed or unsure
    if space.ids_changed and not space.sharers:
        space.ids_changed = False
        if space.dumpable and not space.starting:  # else it is once that has begun
            _set(True)


async def leave(space: AddressSpace, *, unsure: bool) -> None:
    """It shares it no more: it is dead, or has memory of its own. A checkpoint unless it is ours.

    unsure: whether it died in the middle of a call, which may have changed its ids. Not earlier
    than with the last of them is it dumpable again: whoever had its ids could get at the memory
    through it.
    """
    if space.ours:
        leave_ours(space, unsure=unsure)
        return
    space.sharers -= 1
    space.ids_changed = space.ids_changed or unsure
    if space.sharers or not space.ids_changed:
        return
    root = None if space.root is None else space.root()
    async with Held(_turns.setdefault(space, trio.Lock())):
        if space.sharers:  # by now, and it is for them to do
            return
        if space.dumpable and root is not None:
            with contextlib.suppress(SyscallError):  # it is dead
                await _tell(root, dumpable=True)
        space.ids_changed = bool(space.sharers)

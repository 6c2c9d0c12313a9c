"""Making a child that serves us."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable
from typing import TypeVar

import trio

from rsyscall import near
from rsyscall._checkpoint import checkpoint, give_way, overdue, shield
from rsyscall._descriptors import Held
from rsyscall.child.cgroup import move, start_child
from rsyscall.child.dumpable import join, settled
from rsyscall.child.early import EarlyChild
from rsyscall.child.fds import gaps, kept
from rsyscall.child.lent import Lent, check_flags, entry, page_size_of, start_memory
from rsyscall.child.memory import RING_ROOM, SHARED, ChildMemory, OwnMemory, start_block
from rsyscall.child.refusals import explain
from rsyscall.child.ring import LaidRing
from rsyscall.child.served import Child, child_task, copied_table, freeing, greeting
from rsyscall.child.there import Begun, begin_there, can_begin
from rsyscall.far import THIS_MACHINE
from rsyscall.handle import Task
from rsyscall.handle.process import ChildPid
from rsyscall.monitor import AsyncChildPid
from rsyscall.near.sysif import SyscallError
from rsyscall.sched import CLONE
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.direct import DirectSyscallInterface
from rsyscall.sysif.ring import RING_SIZE, recent_spin

__all__ = ["start", "start_early"]

T = TypeVar("T")

_VM, _NEWTIME = int(CLONE.VM), int(CLONE.NEWTIME)
_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


async def start(
    parent: Task, flags: CLONE, *, vm: bool, ring: bool | None, cgroup: int = -1
) -> Child:
    """Clone a child that serves us.

    flags: see CLONE; CLONE.VM and NEWTIME count for nothing here. vm: whether it shares the
    parent's address space. ring: whether calls go through shared memory; None: if it can. cgroup:
    the number of a directory in the parent's table, or -1. A checkpoint; if cancelled, there is no
    child.
    """
    check_flags(flags)
    if vm and (parent.timens_for_children is not parent.timens or (flags and flags & _NEWTIME)):
        raise ValueError("vm: a child in another time namespace needs a private address space")
    address = entry(parent)
    if parent.machine is not THIS_MACHINE:
        raise OSError(
            errno.EOPNOTSUPP,
            f"{parent} is on {parent.machine}: no socket to a child that serves us can be brought"
            " there; spawn and run start programs, and every connection of ssh is a process",
        )
    await checkpoint()
    copied = not flags or CLONE.FILES not in flags
    if vm and copied and ring is not False and cgroup < 0:
        if isinstance(parent.sysif, DirectSyscallInterface):
            return await _start_here(parent, flags)
        if can_begin(parent):
            return await _start_there(parent, flags, address)
    ours, theirs = socket.socketpair()
    try:
        with shield(not parent.sysif.immediate):
            private = flags & ~(CLONE.VM | CLONE.NEWTIME) if flags else flags
            child = await _start(parent, private, vm, ring, address, ours, theirs, cgroup)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    await _greet(child, ring)
    return child


async def start_early(parent: Task, own: Callable[[EarlyChild], T]) -> T | None:
    """Clone a child without flags that serves us through a ring; None if it is not that simple.

    own: makes of it what is returned, before others run, who may end our children. See start.
    """
    here = isinstance(parent.sysif, DirectSyscallInterface)
    if not here or parent.pidns_for_children is not parent.pidns:
        return None
    if parent.timens_for_children is not parent.timens:
        return None
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        early = EarlyChild(parent)
    except OSError as exc:
        await explain(parent, CLONE.NONE, exc)
        await give_way()  # it may be tried until others have closed or ended something
        raise
    owned = own(early)
    if overdue():  # what is asked of it next may take longer
        await give_way()
    return owned


async def _start(
    parent: Task,
    flags: CLONE,
    vm: bool,
    ring: bool | None,
    address: int,
    ours: socket.socket,
    theirs: socket.socket,
    cgroup: int,
) -> Child:
    """Clone it, and nothing else; all that is left over is cleared away when it is over."""
    shared = CLONE.FILES in flags
    together = vm and parent.address_space.ours
    spin = recent_spin()
    lent = Lent(parent)
    laid: LaidRing | None = None
    memory: ChildMemory | None = None
    try:
        await lent.open(theirs)
        if shared:
            lent.share()
        space = parent.address_space
        await settled(space)
        started = space.started
        memory = await start_memory(parent, 0 if ring is False else RING_ROOM)
        if started != space.started:  # it was looked at beside a program with other ids
            memory.dumpable = space.dumpable
        if ring is not False and not together:
            with shield():
                laid = await LaidRing.lay(parent, memory)
        begun = laid is not None or (together and ring is not False)
        keep = kept(parent)
        stack, block = start_block(
            address,
            memory.address,
            mask=memory.mask,
            ranges=() if shared else gaps(lent.numbers | keep.keys()),
            flags=SHARED if vm else 0,
            socket=lent.socket,
            pidfd=lent.pidfd,
            page_size=page_size_of(parent),
            size=RING_SIZE if begun else 0,
            spin=spin if begun else (0, 0),
        )
        await memory.write(stack, block)
        memory.block = stack if vm else 0
        how = int(flags) | (_VM if vm else 0)
        try:
            pid, here, there, inside = await start_child(parent, how, stack, cgroup)
        except OSError as exc:
            await explain(parent, flags, exc)
            raise
    except BaseException:
        with contextlib.suppress(OSError, SyscallError):
            await lent.close()
            if memory is not None:
                await memory.free()
        if laid is not None:
            laid.close()
        raise
    child_pid = ChildPid(parent, near.Pid(pid), here, there)
    own = lent.numbers
    table = parent.fd_table if shared else copied_table(pid, keep, own)
    free = freeing(child_pid, memory)
    try:
        for needed, undo in ((vm, free), (shared, lent.close)):
            if needed:
                child_pid.on_release(undo)
            else:
                await undo()
        if not inside:
            await move(parent, cgroup, pid)
    except BaseException:  # its parent is dead: nobody would end it, nor close its pidfd
        if laid is not None:
            laid.close()
        await AsyncChildPid(child_pid).finish()
        raise
    task = child_task(parent, flags, child_pid, table, vm)
    task.own_fds.update(own)
    if vm:
        join(space, parent, dumpable=None if space.ours else memory.dumpable)
    waited = AsyncChildPid(child_pid)
    child = Child(waited, task, ours, lent, shares_files=shared, spin=spin[0])
    if begun:
        hello = greeting(parent, pid, address)
        try:
            if laid is not None:
                child.sysif.begin(hello, laid.take())
            elif isinstance(memory, OwnMemory):
                child.sysif.begin(hello, memory.halves())
        except BaseException:
            child.over("was never used")
            await child.pid.finish()
            raise
    return child


async def _start_here(parent: Task, flags: CLONE) -> Child:
    """The same as start, of a child of ours in our memory that has its own table and a ring."""
    try:
        child = EarlyChild(parent, flags).grow()
    except OSError as exc:
        await explain(parent, flags, exc)
        raise
    await _greet(child, True)
    return child


async def _greet(child: Child, ring: bool | None) -> None:
    try:
        await child.greet(ring)
    except BaseException:
        child.over("was never used")
        await child.pid.finish()
        raise


async def _start_there(parent: Task, flags: CLONE, address: int) -> Child:
    """The same of a process elsewhere, in its memory."""
    keep = kept(parent)
    spin = recent_spin()
    page_size = page_size_of(parent)
    space = parent.address_space
    with shield():
        await settled(space)
        started = space.started
        parent.sysif.starting += 1
        try:
            begun = await begin_there(parent, int(flags), address, keep, page_size, spin)
        except OSError as exc:
            await explain(parent, flags, exc)
            raise
        finally:
            parent.sysif.starting -= 1
        if started != space.started:  # as in _start
            begun.memory.dumpable = space.dumpable
        return await _serve(parent, flags, begun, keep, address, spin[0])


async def _serve(
    parent: Task,
    flags: CLONE,
    begun: Begun,
    keep: dict[int, Held],
    address: int,
    spin: int,
) -> Child:
    """What there is of a child that has begun to serve in the parent's memory."""
    child_pid = ChildPid(parent, near.Pid(begun.pid), begun.pidfd, begun.there)
    child_pid.on_release_call(SYS.munmap, begun.memory.address, begun.memory.length)
    child_pid.on_release(begun.memory.sweep)
    table = copied_table(begun.pid, keep, begun.own)
    task = child_task(parent, flags, child_pid, table, True)
    task.own_fds.update(begun.own)
    ours = socket.socket(socket.AF_UNIX, _STREAM, 0, begun.socket)
    join(parent.address_space, parent, dumpable=begun.memory.dumpable)
    child = Child(AsyncChildPid(child_pid), task, ours, spin=spin)
    try:
        child.sysif.begin(greeting(parent, begun.pid, address), begun.halves)
        await child.greet(True)
    except BaseException:
        child.over("was never used")
        await child.pid.finish()
        raise
    return child

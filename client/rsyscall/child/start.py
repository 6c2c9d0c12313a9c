"""Making a child that serves us."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
from collections.abc import Awaitable, Callable

from rsyscall import far, near
from rsyscall._checkpoint import checkpoint, shield
from rsyscall._descriptors import Held
from rsyscall.child.cgroup import move, start_child
from rsyscall.child.dumpable import join, leave, settled
from rsyscall.child.fds import gaps, kept
from rsyscall.child.here import Begun, begin
from rsyscall.child.lent import Lent, check_flags, entry, page_size_of, start_memory
from rsyscall.child.memory import RING_ROOM, SHARED, ChildMemory, OwnMemory, TaskMemory, start_block
from rsyscall.child.namespaces import inherit
from rsyscall.child.refusals import explain
from rsyscall.child.ring import LaidRing
from rsyscall.child.there import begin_there, can_begin
from rsyscall.handle import Task
from rsyscall.handle.process import ChildPid, DeadTaskError
from rsyscall.monitor import AsyncChildPid
from rsyscall.near.sysif import SyscallError
from rsyscall.sched import CLONE
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import CLD, ChildState
from rsyscall.sysif.child import LIMITS, ChildInterface, DeadInterface
from rsyscall.sysif.direct import DirectSyscallInterface
from rsyscall.sysif.memory import pid_behind
from rsyscall.sysif.ring import RING_SIZE, recent_spin
from rsyscall_protocol import Feature, Hello

__all__ = ["Child", "start"]

_VM, _NEWTIME = int(CLONE.VM), int(CLONE.NEWTIME)
_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
_MACHINE = os.uname().machine
_FEATURES = Feature.RING | Feature.BATCH | Feature.CANCEL


class Child:
    """A child that serves us, and what belongs to it.

    pid: to wait for it. task: to use it.
    """

    def __init__(
        self,
        pid: ChildPid,
        task: Task,
        ours: socket.socket,
        lent: Lent | None,
        *,
        shares_files: bool,
        spin: int,
        dumpable: bool,
    ) -> None:
        """See start. lent: if that is not closed already."""
        self.pid: AsyncChildPid = AsyncChildPid(pid)
        self.task = task
        self.lent = lent
        self.shares_files: bool = shares_files
        #: It may have exec'd: its end is not the end of its process.
        self.executing: bool = False
        #: Its parent's memory, while it shares it.
        self._memory: far.AddressSpace | None = None
        if task.address_space is pid.task.address_space:
            self._memory = task.address_space
            join(self._memory, pid.task, dumpable=dumpable)
        self.sysif: ChildInterface = ChildInterface(
            ours,
            post_mortem=self._post_mortem,
            death=pid.wait_readable,
            pidfd=lambda: pid.pidfd,
            spin=spin,
        )
        self.sysif.child = self
        if shares_files:
            self.sysif.share()
        task.sysif = self.sysif
        self.sysif.reach(
            task.address_space,
            lambda: (pid_behind(pid.pidfd),),
            owner=task.address_space is not pid.task.address_space,
        )
        pid.on_release(self.died)

    async def _post_mortem(self) -> str:
        if self.executing:
            return f"{self.task} was to exec"
        return await self.pid.post_mortem()

    async def has_own_table(self) -> None:
        """Take note that what was lent to it is in its own table as well. Not a checkpoint."""
        self.shares_files = False
        self.sysif.unshare()
        if self.lent is not None:
            await self.lent.close()

    async def greet(self, ring: bool | None) -> None:
        """Hear what it has to say of itself, if that is not known. A checkpoint if it is not."""
        task = self.task
        if not self.sysif.uses_ring:
            if self.shares_files:  # the end of its socket does not tell of its death
                self.sysif.probe = self.pid.pid.is_dead
            try:
                hello = await self.sysif.start(ring=ring)
            finally:
                self.sysif.probe = None
            task.near_process = near.Pid(int(hello.info["pid"]))
        elif task.pidns is not self.pid.pid.task.pidns:
            task.near_process = await task.getpid()

    async def finish(self) -> ChildState:
        """See AsyncChildPid.finish; whom nobody may kill is told to end by closing its socket."""
        if not self.pid.may_kill():
            self.over("was to end")
        return await self.pid.finish()

    async def died(self) -> None:
        """It is over, or is something else by now."""
        memory, self._memory = self._memory, None
        if self.task.sysif is self.sysif:
            state = self.pid.pid.death_state
            self.over("has exec'd" if state is None else f"has {state}")
        if memory is not None:
            dead = self.pid.pid.death_state is not None  # else it has exec'd, as it was told to
            await leave(memory, unsure=dead and self.sysif.cut_short)

    def over(self, what: str) -> None:
        """Whatever is tried through the task from now on is an error that says why."""
        task = self.task
        if task.sysif is not self.sysif:
            return
        message = f"{task} {what}"
        self.sysif.give_up(message)
        task.sysif = DeadInterface(lambda: DeadTaskError(message))
        task.fd_table.tasks.discard(task)


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
    await checkpoint()
    copied = not flags or CLONE.FILES not in flags
    if vm and copied and ring is not False and cgroup < 0:
        if isinstance(parent.sysif, DirectSyscallInterface):
            return await _start_here(parent, flags, address)
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
    try:
        await child.greet(ring)
    except BaseException:
        child.over("was never used")
        await child.pid.finish()
        raise
    return child


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
    table = parent.fd_table if shared else _copied_table(pid, keep, own)
    free = _freeing(child_pid, memory)
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
    task = _task(parent, flags, child_pid, table, vm)
    task.own_fds.update(own)
    child = Child(
        child_pid,
        task,
        ours,
        lent,
        shares_files=shared,
        spin=spin[0],
        dumpable=memory.dumpable,
    )
    if begun:
        greeting = _greeting(parent, pid, address)
        try:
            if laid is not None:
                child.sysif.begin(greeting, laid.take())
            elif isinstance(memory, OwnMemory):
                child.sysif.begin(greeting, memory.halves())
        except BaseException:
            child.over("was never used")
            await child.pid.finish()
            raise
    return child


def _copied_table(pid: int, keep: dict[int, Held], own: set[int]) -> far.FDTable:
    table = far.FDTable(pid)
    table.inherited, table.own = keep, own
    return table


def _freeing(child_pid: ChildPid, memory: ChildMemory) -> Callable[[], Awaitable[None]]:
    async def free() -> None:
        # What was killed may have been killed because it could no longer run there.
        state = child_pid.death_state
        await memory.free(sound=state is None or state.code is CLD.EXITED)

    return free


def _greeting(parent: Task, pid: int, address: int) -> Callable[[], Hello]:
    """What a child would say that has begun without a word."""
    page_size = page_size_of(parent)

    def greeting() -> Hello:
        info: dict[str, int | str] = {
            "arch": _MACHINE,
            "page_size": page_size,
            "pid": pid,
            "child": address,
        }
        return Hello(features=_FEATURES, limits=LIMITS, info=info)

    return greeting


async def _start_here(parent: Task, flags: CLONE, address: int) -> Child:
    """The same as start, of a child of ours in our memory that has its own table and a ring."""
    keep = kept(parent)
    spin = recent_spin()
    try:
        begun = begin(int(flags), keep, mmap.PAGESIZE, spin)
    except OSError as exc:
        await explain(parent, flags, exc)
        raise
    return await _serve(parent, flags, begun, keep, address, spin[0])


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
    if isinstance(begun.memory, TaskMemory):
        child_pid.on_release_call(SYS.munmap, begun.memory.address, begun.memory.length)
        child_pid.on_release(begun.memory.sweep)
    else:
        child_pid.on_release(_freeing(child_pid, begun.memory))
    table = _copied_table(begun.pid, keep, begun.own)
    task = _task(parent, flags, child_pid, table, True)
    task.own_fds.update(begun.own)
    ours = socket.socket(socket.AF_UNIX, _STREAM, 0, begun.socket)
    dumpable = begun.memory.dumpable
    child = Child(child_pid, task, ours, None, shares_files=False, spin=spin, dumpable=dumpable)
    try:
        child.sysif.begin(_greeting(parent, begun.pid, address), begun.halves)
        await child.greet(True)
    except BaseException:
        child.over("was never used")
        await child.pid.finish()
        raise
    return child


def _task(parent: Task, flags: CLONE, child_pid: ChildPid, table: far.FDTable, vm: bool) -> Task:
    """Without a door, so far."""
    space = parent.address_space if vm else far.AddressSpace(child_pid.near.id)
    pidns = parent.pidns_for_children
    task = Task(parent.sysif, child_pid.near, table, space, pidns, parent=parent)
    task.abi = parent.abi
    if flags:
        inherit(task, parent, flags)
    return task

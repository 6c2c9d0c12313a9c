"""A child that serves us: what there is of it here."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable

from rsyscall import far, near
from rsyscall._checkpoint import Turn
from rsyscall._descriptors import Held
from rsyscall.child.dumpable import leave
from rsyscall.child.lent import Lent, page_size_of
from rsyscall.child.memory import ChildMemory
from rsyscall.child.namespaces import inherit
from rsyscall.handle import Task
from rsyscall.handle.process import ChildPid, DeadTaskError
from rsyscall.monitor import AsyncChildPid
from rsyscall.sched import CLONE
from rsyscall.sys.wait import CLD, ChildState
from rsyscall.sysif.child import LIMITS, ChildInterface, DeadInterface
from rsyscall.sysif.memory import pid_behind
from rsyscall_protocol import Feature, Hello

__all__ = ["Child", "child_task", "copied_table", "freeing", "greeting"]

_MACHINE = os.uname().machine
_FEATURES = Feature.RING | Feature.BATCH | Feature.CANCEL


class Child:
    """A child that serves us, and what belongs to it.

    pid: to wait for it. task: to use it.
    """

    def __init__(
        self,
        waited: AsyncChildPid,
        task: Task,
        ours: socket.socket,
        lent: Lent | None = None,
        *,
        shares_files: bool = False,
        spin: int,
        joined: bool = True,
    ) -> None:
        """See start. lent: if that is not closed already. joined: unless it has left already."""
        pid = waited.pid
        self.pid: AsyncChildPid = waited
        self.task = task
        self.lent = lent
        self.shares_files: bool = shares_files
        #: It may have exec'd: its end is not the end of its process.
        self.executing: bool = False
        #: Whoever has it exec does so alone: of two, one would take the other's program for his.
        self.turn: Turn = Turn()
        #: Its parent's memory, while it shares it.
        self._memory: far.AddressSpace | None = None
        if joined and task.address_space is pid.task.address_space:
            self._memory = task.address_space
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
        if joined:
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
        self.let_go()
        if memory is not None:
            dead = self.pid.pid.death_state is not None  # else it has exec'd, as it was told to
            await leave(memory, unsure=dead and self.sysif.cut_short)

    def let_go(self) -> None:
        """What there was of it, as it is over, keeps nothing alive."""
        pid, state = self.pid.pid, self.pid.pid.death_state
        if self.task.sysif is self.sysif:
            self.over("has exec'd" if state is None else f"has {state}")
        who = f"the child (pid {pid.near.id}) has {state}"
        self.sysif.let_go(f"{self.task} was to exec" if self.executing else who)

    def over(self, what: str) -> None:
        """Whatever is tried through the task from now on is an error that says why."""
        task = self.task
        if task.sysif is not self.sysif:
            return
        message = f"{task} {what}"
        self.sysif.give_up(message)
        task.sysif = DeadInterface(lambda: DeadTaskError(message))
        task.fd_table.tasks.discard(task)


def copied_table(pid: int, keep: dict[int, Held], own: set[int]) -> far.FDTable:
    """A table that begins as a copy. keep: what is open in it. own: the numbers that are ours."""
    table = far.FDTable(pid)
    table.inherited, table.own = keep, own
    return table


def freeing(child_pid: ChildPid, memory: ChildMemory) -> Callable[[], Awaitable[None]]:
    """What frees the memory of a child that is over."""

    async def free() -> None:
        # What was killed may have been killed because it could no longer run there.
        state = child_pid.death_state
        await memory.free(sound=state is None or state.code is CLD.EXITED)

    return free


def greeting(parent: Task, pid: int, address: int) -> Callable[[], Hello]:
    """What a child would say that has begun without a word. address: see entry."""
    page_size = page_size_of(parent)

    def hello() -> Hello:
        info: dict[str, int | str] = {
            "arch": _MACHINE,
            "page_size": page_size,
            "pid": pid,
            "child": address,
        }
        return Hello(features=_FEATURES, limits=LIMITS, info=info)

    return hello


def child_task(
    parent: Task, flags: CLONE, child_pid: ChildPid, table: far.FDTable, vm: bool
) -> Task:
    """A task for it, without a door so far."""
    space = parent.address_space if vm else far.AddressSpace(child_pid.near.id)
    pidns = parent.pidns_for_children
    task = Task(parent.sysif, child_pid.near, table, space, pidns, parent=parent)
    task.abi = parent.abi
    if flags:
        inherit(task, parent, flags)
    return task

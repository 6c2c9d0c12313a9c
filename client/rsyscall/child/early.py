"""A child of ours that has just begun: most become a program next, which takes little of it."""

from __future__ import annotations

import os
import socket

from rsyscall._core import Ring
from rsyscall._descriptors import Held
from rsyscall._raw import lib
from rsyscall.child.dumpable import join, leave_ours
from rsyscall.child.fds import kept
from rsyscall.child.here import Begun, begin
from rsyscall.child.memory import OwnMemory
from rsyscall.child.served import Child, child_task, copied_table, greeting
from rsyscall.handle import Task
from rsyscall.handle.process import ChildPid, Early
from rsyscall.monitor import AsyncChildPid
from rsyscall.near.types import Pid
from rsyscall.sched import CLONE
from rsyscall.sys.wait import CLD, ChildState
from rsyscall.sysif.ring import recent_spin

__all__ = ["EarlyChild", "begin_early"]

_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


#: Where it begins.
_ADDRESS = lib.rs_child_address()


class EarlyChild(Early):
    """A child that serves us from our memory, of which nothing has been asked yet.

    pid: to wait for it. ring: where it looks for calls; None once it is over, or is a Child.
    """

    __slots__ = (
        "_begun",
        "_child",
        "_flags",
        "_forked",
        "_keep",
        "_memory",
        "_over",
        "_parent",
        "_spin",
        "pid",
        "ring",
    )

    def __init__(
        self, parent: Task, flags: CLONE, keep: dict[int, Held], spin: tuple[int, int]
    ) -> None:
        """See begin_early."""
        self._parent = parent
        self._flags = flags
        self._keep = keep
        self._spin: int = spin[0]
        self._child: Child | None = None
        self._forked = False
        self._over: str | None = None  # why there is nobody to call
        self._memory = OwnMemory(clear=False)
        self._begun: Begun = begin(self._memory, int(flags), keep, spin)
        ring, number, pidfd, *_, dumpable = self._begun
        self.ring: Ring | None = ring
        pid = ChildPid(parent, Pid(number), pidfd, pidfd)
        pid.early = self
        join(parent.address_space, parent, dumpable=dumpable == 1)
        self.pid: AsyncChildPid = AsyncChildPid(pid)

    def grow(self) -> Child:
        """All that it takes to make calls in it, made if that was not done before."""
        if self._child is not None:
            return self._child
        parent, begun, pid = self._parent, self._begun, self.pid.pid
        ring, self.ring = self.ring, None
        own = {begun.its_socket, begun.its_pidfd}
        table = copied_table(begun.pid, self._keep, own)
        task = child_task(parent, self._flags, pid, table, True)
        task.own_fds.update(own)
        if ring is not None:
            ours = socket.socket(socket.AF_UNIX, _STREAM, 0, begun.socket)
        else:
            ours = socket.socket(socket.AF_UNIX, _STREAM)
            os.close(ours.detach())
        alive = self._over is None
        self._child = child = Child(self.pid, task, ours, spin=self._spin, joined=alive)
        if ring is not None:
            child.sysif.begin(greeting(parent, begun.pid, _ADDRESS), self._memory.halves(), ring)
        elif self._forked:
            child.sysif.after_fork()
        elif self._over is not None:
            child.over(self._over)
        return child

    def over(self, what: str) -> None:
        """Whatever is tried through it from now on is an error that says why."""
        if self._child is not None:
            self._child.over(what)
        elif self._over is None:
            self._over = what
            self._close()

    def _close(self) -> None:
        ring, self.ring = self.ring, None
        if ring is not None:
            ring.close()
            os.close(self._begun.socket)

    def after_fork(self) -> None:
        """See Early."""
        self._forked = True
        self._close()

    async def finish(self) -> ChildState:
        """See AsyncChildPid.finish; whom nobody may kill is told to end by closing its socket."""
        if self._child is not None:
            return await self._child.finish()
        if not self.pid.may_kill():
            self.over("was to end")
        return await self.pid.finish()

    def release(self, state: ChildState | None) -> None:
        """See Early."""
        if self._child is None and self._over is None:
            self.over("has exec'd" if state is None else f"has {state}")
            leave_ours(self._parent.address_space, unsure=False)
        # What was killed may have been killed because it could no longer run there.
        sound = state is None or state.code is CLD.EXITED
        # Who was asked for an exec alone has had no threads.
        self._memory.unmap(keep=sound, alone=self._child is None)


def begin_early(parent: Task, flags: CLONE = CLONE.NONE) -> EarlyChild:
    """Clone a child of ours with a copy of our table, which serves through a ring in our memory.

    OSError, and then there is none. Not a checkpoint.
    """
    return EarlyChild(parent, flags, kept(parent), recent_spin())

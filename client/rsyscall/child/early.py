"""A child of ours that has just begun: most become a program next, which takes little of it."""

from __future__ import annotations

import socket

from rsyscall._core import Ring
from rsyscall._raw import lib
from rsyscall.child.dumpable import join, leave_ours
from rsyscall.child.here import begin
from rsyscall.child.memory import give_back, ring_halves
from rsyscall.child.served import Child, child_task, copied_table, greeting
from rsyscall.handle import Task
from rsyscall.handle.process import ChildPid, Early
from rsyscall.monitor import AsyncChildPid
from rsyscall.near.types import Pid
from rsyscall.sched import CLONE
from rsyscall.sys.wait import CLD, ChildState
from rsyscall.sysif.ring import recent_spin

__all__ = ["EarlyChild"]

_STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
#: What is left of a socket: there may be no descriptor free to make one of.
_CLOSED = socket.socket(socket.AF_UNIX, _STREAM)
_CLOSED.close()
#: Where it begins.
_ADDRESS = lib.rs_child_address()


class EarlyChild(Early):
    """A child that serves us from our memory, of which nothing has been asked yet.

    pid: to wait for it. ring: where it looks for calls; None once it is over, or is a Child.
    """

    _flags = CLONE.NONE
    _child: Child | None = None
    _forked = False
    #: Why there is nobody to call.
    _over: str | None = None
    #: The memory, for which nobody else says so.
    _shares = True

    def __init__(self, parent: Task, flags: CLONE | None = None) -> None:
        """Clone it, with a copy of our table. OSError, and then there is none.

        flags: None for a child without any, in our pid namespace.
        """
        self._parent = parent
        self._keep = keep = parent.fd_table.named()  # before the copy is made
        self._spin = spin = recent_spin()
        if flags is None:
            self._address, made = begin(0, True, keep, spin)
        else:
            self._flags = flags
            self._address, made = begin(int(flags), False, keep, spin)
        self.ring: Ring | None
        self.ring, number, pidfd, self._own, dumpable = made
        pid = ChildPid(parent, Pid(number), pidfd, pidfd)
        pid.early = self
        join(parent.address_space, parent, dumpable=dumpable)
        self.pid: AsyncChildPid = AsyncChildPid(pid)

    def grow(self) -> Child:
        """All that it takes to make calls in it, made if that was not done before."""
        if self._child is not None:
            return self._child
        parent, pid = self._parent, self.pid.pid
        number = pid.near.id
        ring, self.ring = self.ring, None
        own, shares = set(self._own), self._shares
        table = copied_table(number, self._keep, own)
        task = child_task(parent, self._flags, pid, table, True)
        task.own_fds.update(own)
        if ring is not None:
            ours = socket.socket(socket.AF_UNIX, _STREAM, 0, ring.take_socket())
        else:
            ours = _CLOSED
        self._child = child = Child(self.pid, task, ours, spin=self._spin[0], joined=shares)
        self._shares = False
        if ring is not None:
            child.sysif.begin(greeting(parent, number, _ADDRESS), ring_halves(self._address), ring)
        elif self._forked:
            child.sysif.after_fork()
        elif self._over is not None:
            child.over(self._over)
        if not shares:
            child.let_go()
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
        child = self._child
        if child is None and self._over is None:
            self._over = "has exec'd" if state is None else f"has {state}"
            self._close()
        if self._shares:
            self._shares = False
            leave_ours(self._parent.address_space, unsure=False)
        # What was killed may have been killed because it could no longer run there. Who was asked
        # for an exec alone has had no threads.
        sound = state is None or state.code is CLD.EXITED
        give_back(self._address, keep=sound, alone=child is None)
        self._address = 0

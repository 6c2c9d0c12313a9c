"""Children that do not serve: clone(2) as it is."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import rsyscall.far
import rsyscall.near
from rsyscall.handle._child_pid import ChildPid
from rsyscall.handle.changes import way

if TYPE_CHECKING:
    from rsyscall.command import Command
    from rsyscall.handle.pointer import Pointer, WrittenPointer
    from rsyscall.sched import CLONE, Stack
    from rsyscall.sys.wait import ChildState

__all__ = ["PidTask", "ProcessPid"]


class ProcessPid(ChildPid):
    """A child that runs code of its user's in the memory of its parent.

    Its stack is freed once it has ended, or has exec'd and so no longer runs there.
    """

    def __init__(
        self, task: rsyscall.far.Task, near: rsyscall.near.Pid, pidfd: int, pidfd_there: int
    ) -> None:
        """See ChildPid; it has no stack yet."""
        super().__init__(task, near, pidfd, pidfd_there)
        self._stack: list[Pointer[Any]] = []
        self._pins = contextlib.ExitStack()

    def keep(self, *pointers: Pointer[Any]) -> None:
        """Have nobody else get this memory as long as it is of use to the child."""
        for pointer in pointers:
            self._pins.enter_context(pointer.borrow(self.task))
        self._stack += pointers
        _running.add(self)

    def free_everything(self) -> None:
        """Free its stack, now: nothing runs there. Nothing if that was done before."""
        _running.discard(self)
        self._pins.close()
        while self._stack:
            pointer = self._stack.pop()
            if pointer.valid:
                pointer.free()

    def mark_dead(self, state: ChildState) -> None:
        """See ChildPid.mark_dead."""
        super().mark_dead(state)
        self.free_everything()

    def did_exec(self, command: Command | None) -> ChildPid:
        """See ChildPid.did_exec."""
        self.free_everything()
        return super().did_exec(command)


#: Those whose stack is in use, whether or not anybody has a handle.
_running: set[ProcessPid] = set()


class PidTask(rsyscall.far.Task):
    """A task that can have children."""

    async def clone(
        self,
        flags: CLONE,
        child_stack: tuple[Pointer[Stack[Any]], WrittenPointer[Stack[Any]]],
        ptid: None = None,
        ctid: None = None,
        newtls: None = None,
    ) -> ProcessPid:
        """Make a child that runs code of yours, and does not serve; see Process.clone for others.

        flags: CLONE.VM, without which it has a copy of the memory, what else it shares, and the
        namespaces that it begins in. CLONE.PIDFD is added; its end sends no signal. child_stack:
        room to grow into, and directly below its end what the stack begins with, as write_to_end
        returns them: the child jumps to the function and finds the data at its stack pointer. Both
        are kept until it has ended, and freed then. ptid, ctid, newtls: None; it has none of them.

        All signals are blocked there, and all descriptors open that are open here, those of ours
        included. Neither libc nor Python works in it, and with CLONE.VM a crash of it that dumps
        core ends its parent, too, before Linux 5.16. Nobody ends it but you.

        ValueError for other flags and what it cannot have; UseAfterFreeError,
        AddressSpaceMismatchError; OSError as the call reports it; PermissionError in a server
        inside of the interpreter. A checkpoint; if cancelled, there is no child. clone(2).
        """
        for name, value in (("ptid", ptid), ("ctid", ctid), ("newtls", newtls)):
            if value is not None:
                raise ValueError(f"{name}: a child that is made like this has none")
        child: ProcessPid = await way("clone")(self, flags, *child_stack)
        return child

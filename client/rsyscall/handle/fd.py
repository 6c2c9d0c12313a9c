"""Handles of file descriptors: a number, the table it belongs to, and the task that uses it."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator
from typing import Generic, Protocol, Self, TypeVar, cast

import trio

import rsyscall.far
from rsyscall import near
from rsyscall._checkpoint import checkpoint, shield
from rsyscall._collect import collect
from rsyscall._descriptors import Held
from rsyscall.handle.transfer import is_same_open_file, transfer
from rsyscall.near.sysif import SyscallArgument, SyscallHangup, SyscallSendError
from rsyscall.near.typed import TypedCall, declares, make_room, nothing, perform
from rsyscall.sys.syscall import SYS

__all__ = [
    "BaseFileDescriptor",
    "FDTable",
    "FileDescriptorTask",
    "HandleError",
    "InvalidHandleError",
    "OwnDescriptorError",
    "SharedHandleError",
    "T_fd",
    "close_call",
    "disable_cloexec_call",
    "enable_cloexec_call",
]


class HandleError(Exception):
    """A handle cannot be used the way it was."""


class InvalidHandleError(HandleError):
    """The handle was closed, moved or invalidated."""


class SharedHandleError(HandleError):
    """The file descriptor cannot be closed: other handles to it are still valid."""


class OwnDescriptorError(HandleError):
    """The file descriptor cannot be closed or replaced: the process needs it to serve us."""


FDTable = rsyscall.far.FDTable

_F_SETFD, _FD_CLOEXEC = 2, 1
_CLOSE = SYS.close


@declares("close")
def close_call(fd: SyscallArgument) -> TypedCall[None]:
    """close(2)."""
    return TypedCall(_CLOSE, (fd,), nothing)


@declares("disable_cloexec")
def disable_cloexec_call(fd: SyscallArgument) -> TypedCall[None]:
    """fcntl(2), F_SETFD without FD_CLOEXEC."""
    return TypedCall(SYS.fcntl, (fd, _F_SETFD, 0), nothing)


@declares("enable_cloexec")
def enable_cloexec_call(fd: SyscallArgument) -> TypedCall[None]:
    """fcntl(2), F_SETFD with FD_CLOEXEC."""
    return TypedCall(SYS.fcntl, (fd, _F_SETFD, _FD_CLOEXEC), nothing)


class BaseFileDescriptor:
    """A file descriptor, accessed through some task.

    task: the task whose calls use it. near: its number. valid: False once it was closed, moved or
    invalidated; every use then raises InvalidHandleError. What a call has made is closed once none
    of its handles is left; see FileDescriptorTask.run_fd_table_gc.
    """

    def __init__(
        self,
        task: FileDescriptorTask[BaseFileDescriptor],
        near: near.FileDescriptor,
        valid: bool = True,
    ) -> None:
        """Make a handle for a number that the caller knows to be open in the task's table."""
        self.task = task
        self.near = near
        self.valid: bool = valid
        self._held: Held | None = None
        if valid:
            self.rebind(task.fd_table.hold(near.number))

    def rebind(self, held: Held) -> None:
        """Have it be a handle of what is held, whose number is its own."""
        self._held = held
        held.add(self)

    def _validate(self) -> Held:
        """Raise InvalidHandleError unless the handle is valid."""
        if not self.valid or self._held is None:
            raise InvalidHandleError(f"{self} is no longer valid")
        return self._held

    @property
    def file(self) -> rsyscall.far.File:
        """What it has open: one object for all that is known to be the same open file.

        The handles of the descriptor, its duplicates, and what was inherited or sent. See
        far.File.same_as. InvalidHandleError.
        """
        source = self._validate().source
        if source.file is None:
            source.file = rsyscall.far.File()
        return source.file

    def forget(self) -> None:
        """Give up this handle: the descriptor is closed, or about to be, by other means."""
        held, self.valid = self._held, False
        if held is None:
            return
        alone = not held.others(self)
        held.remove(self)
        if alone and self.task.fd_table.held.get(held.number) is held:
            self.task.fd_table.end(held.number)

    def revive(self) -> None:
        """Take forget() back: the descriptor was not closed after all."""
        held, table = self._held, self.task.fd_table
        if held is None or table.held.setdefault(held.number, held) is not held:
            return
        self.valid = True
        held.add(self)
        if held.origin is not None and not held.cut:
            table.inherited[held.number] = held.origin

    def check_only(self) -> None:
        """Raise an error if the descriptor is not to be closed or replaced.

        SharedHandleError if other valid handles name it; OwnDescriptorError.
        """
        if not self.is_only_handle():
            raise SharedHandleError(f"{self} has other valid handles; invalidate this one instead")
        if self.near.number in self.task.fd_table.own:
            raise OwnDescriptorError(f"{self} is needed to reach the process")

    def is_only_handle(self) -> bool:
        """Whether no other valid handle names the same number in the same table.

        Handles of tasks that are over do not count.
        """
        return not self._validate().others(self)

    def keep(self, kept: bool = True) -> None:
        """Say whether it stays open, for another program, though its last handle is gone."""
        self._validate().kept = kept

    def opens(self, file: rsyscall.far.File) -> None:
        """Take note of what it has open."""
        self._validate().file = file

    def replaced(self, file: rsyscall.far.File | None = None, *, kept: bool = False) -> None:
        """Take note that the number means another descriptor now, with that file open.

        kept: see keep.
        """
        before, table = self._validate(), self.task.fd_table
        held = Held(before.number, table.lost, before.maker)
        held.collected, held.file, held.kept = before.collected, file, kept
        table.inherited.pop(held.number, None)
        table.held[held.number] = held
        for handle in before.handles():
            handle.rebind(held)
        before.refs = []

    async def invalidate(self) -> bool:
        """Give up this handle; the file descriptor is closed if it was the last one.

        Returns whether it was. Otherwise like close(). A checkpoint if it closes.
        """
        self._validate()
        if self.is_only_handle():
            await self.close()
            return True
        self.forget()
        return False

    async def close(self) -> None:
        """Close the file descriptor.

        Before anything is sent: InvalidHandleError if the handle is not valid, SharedHandleError if
        there are others to the same descriptor, OwnDescriptorError if the process itself needs it.
        OSError as the call reports it; the descriptor is closed all the same, and the handle no
        longer valid. SyscallSendError: it is not closed, and the handle still valid. A checkpoint;
        if cancelled, nothing has happened. close(2).
        """
        self.check_only()
        await trio.lowlevel.checkpoint_if_cancelled()
        # From here on the number may be somebody else's at any moment.
        self.forget()
        try:
            await perform(self._closer(), close_call(self.near))
        except InterruptedError:
            pass  # Linux has closed it
        except (trio.Cancelled, SyscallSendError):  # others may have the table, and close it
            self.revive()
            raise

    def _closer(self) -> rsyscall.far.Task:
        """Whose call closes it: a server in our own process closes nothing that it has not made."""
        task, maker = self.task, None if self._held is None else self._held.maker
        if maker is None or maker.near_process != task.near_process or task.sysif.immediate:
            return task
        return maker if maker.sysif.immediate and maker in task.fd_table.tasks else task

    async def disable_cloexec(self) -> None:
        """Have it stay open in a program that is executed.

        InvalidHandleError. A checkpoint; if cancelled, nothing has happened. fcntl(2), F_SETFD.
        """
        held = self._validate()
        await perform(self.task, disable_cloexec_call(self.near))
        held.kept = True

    async def enable_cloexec(self) -> None:
        """Have it closed when a program is executed; see disable_cloexec."""
        held = self._validate()
        await perform(self.task, enable_cloexec_call(self.near))
        held.kept = False

    def for_task(self, task: FileDescriptorTask[T_fd]) -> T_fd:
        """The same file descriptor, for another task that has the same table.

        InvalidHandleError; FDTableMismatchError, naming both, if the table is another.
        """
        self._validate()
        self._check_table(task)
        return task.make_fd_handle(self.near)

    def move(self, task: FileDescriptorTask[T_fd]) -> T_fd:
        """for_task, giving up this handle."""
        handle = self.for_task(task)
        if handle is not self:
            self.forget()
        return handle

    def inherit(self, task: FileDescriptorTask[T_fd]) -> T_fd:
        """The same number in the table of a task that inherited ours.

        InvalidHandleError; FDTableMismatchError, naming both, if it has not, or has closed it.
        """
        held = self._validate()
        if task.fd_table is not self.task.fd_table and not task.fd_table.inherit(held):
            raise rsyscall.far.FDTableMismatchError(
                f"{self} of {self.task.fd_table} is not in {task.fd_table} of {task}"
            )
        return task.make_fd_handle(self.near)

    async def send_to(self, process: _Process[T_fd] | FileDescriptorTask[T_fd]) -> T_fd:
        """The same open file, for another process: a descriptor of its own, or of a shared table.

        process: or its task. If the table is the same, or has inherited the descriptor, that is
        for_task() or inherit(); otherwise it gets another descriptor, which is closed on exec, by
        way of the connections or else by pidfd_getfd(2). This handle stays valid.

        InvalidHandleError, also if it is closed or replaced meanwhile; MachineMismatchError, naming
        both, if the process is on another machine; OSError, of the first road with the second as a
        note, if there is none: EMFILE for no room in either table, for one.
        SyscallHangup if one of the two has died. A checkpoint; if cancelled, nothing has happened.
        unix(7), pidfd_getfd(2).
        """
        task = process if isinstance(process, FileDescriptorTask) else process.task
        held = self._validate()
        await checkpoint()
        table = task.fd_table
        if table is self.task.fd_table or table.inherit(held):
            self._validate()
            return task.make_fd_handle(self.near)
        self.task.check_machine(task)
        await make_room(task)
        file = self.file
        with shield():
            try:
                number = await transfer(self.task, self.near.number, task)
            except OSError:
                self._check_sent(held)
                raise
            made = task.adopt_fd(near.FileDescriptor(number))
            try:
                self._check_sent(held)  # it may be another file that was sent
            except InvalidHandleError:
                await made.close()
                raise
        made.opens(file)
        return made

    def _check_sent(self, held: Held) -> None:
        if not self.valid or self._held is not held:
            raise InvalidHandleError(f"{self} was closed or replaced while it was sent") from None

    async def is_same_file(self, other: BaseFileDescriptor) -> bool:
        """Whether both mean the same open file, with one position and one set of flags.

        Such are duplicates, and what was inherited or sent. That is known of those that were made
        so through handles; the kernel is asked about others, of another process by sending them.
        From then on their `file` is the same. InvalidHandleError; OSError as the call reports it
        (ENOSYS, where the kernel was built without it), or of send_to. A checkpoint. kcmp(2).
        """
        mine, its = self.file, other.file
        if mine.same_as(its):
            await checkpoint()
            return True
        if other.task.fd_table is self.task.fd_table:
            same = await is_same_open_file(self.task, self.near.number, other.near.number)
        else:
            async with await other.send_to(self.task) as copy:
                same = await is_same_open_file(self.task, self.near.number, copy.near.number)
        if same:
            its.join(mine)
        return same

    @contextlib.contextmanager
    def borrow(
        self, task: FileDescriptorTask[BaseFileDescriptor]
    ) -> Generator[near.FileDescriptor]:
        """The number, for use in a call of `task`, which must have the same table."""
        self._validate()
        self._check_table(task)
        yield self.near

    def _check_table(self, task: FileDescriptorTask[BaseFileDescriptor]) -> None:
        if task.fd_table is not self.task.fd_table:
            raise rsyscall.far.FDTableMismatchError(
                f"{self} belongs to {self.task.fd_table}, and {task} has {task.fd_table}"
            )

    async def __aenter__(self) -> Self:
        """The handle; leaving the block closes it, if it is still valid. Not a checkpoint."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close, even when cancelled; if the far side has died it is closed already."""
        if self.valid:
            with trio.CancelScope(shield=True), contextlib.suppress(SyscallHangup):
                await self.invalidate()

    def __str__(self) -> str:
        """For people."""
        closed = "" if self.valid else ", not valid"
        return f"{type(self).__name__}({self.task}, {self.near}{closed})"

    def __repr__(self) -> str:
        """The same as str()."""
        return str(self)


T_fd = TypeVar("T_fd", bound=BaseFileDescriptor, covariant=True)


class _Process(Protocol[T_fd]):
    @property
    def task(self) -> FileDescriptorTask[T_fd]: ...


class FileDescriptorTask(rsyscall.far.Task, Generic[T_fd]):
    """A task that has file descriptors."""

    #: The class of the handles that this task's calls return.
    _fd_class: type[BaseFileDescriptor] = BaseFileDescriptor

    def make_fd_handle(self, fd: near.FileDescriptor) -> T_fd:
        """A handle for a number that the caller knows to be open in this task's table.

        It is not closed when the handle is gone, unless a call through another handle has made it.
        """
        return cast("T_fd", self._fd_class(self, fd, True))

    def adopt_fd(self, fd: near.FileDescriptor) -> T_fd:
        """A handle for a number that a call of this task has just made.

        It is closed once its last handle is gone; see run_fd_table_gc. Handles of what the number
        has meant before are not valid any more.
        """
        table = self.fd_table
        if not table.bygone:
            table.renew(fd.number, self)
        return cast("T_fd", self._fd_class(self, fd, not table.bygone))

    async def run_fd_table_gc(self, use_self: bool = True) -> None:
        """Close what calls have made in this task's table and nobody can name any more.

        That is, what has no handle left, not even in a table from which it could be inherited; but
        for what was told to stay open for another program, by disable_cloexec, as_argument or dup2.
        Python's own garbage is collected first. The same is done, without that, before a call that
        makes a file descriptor, when there is much to close or no room. use_self: whether this task
        may be used, and not only others that have the same table. Errors of close(2) are lost.

        A checkpoint; if cancelled, the rest is closed another time. close(2).
        """
        await trio.lowlevel.checkpoint()
        gc.collect()
        table = self.fd_table
        tasks = [task for task in table.tasks if task is not self]
        await collect(table, [self, *tasks] if use_self else tasks)

    def inherit_fd(self, fd: BaseFileDescriptor) -> T_fd:
        """A handle for a descriptor that this task's table has inherited from that of `fd`."""
        return fd.inherit(self)

    @property
    def fd_numbers(self) -> list[int]:
        """The numbers of all descriptors of this task's table that have a valid handle."""
        return list(self.fd_table)

    @property
    def fd_handles(self) -> list[BaseFileDescriptor]:
        """All valid handles of this task's table."""
        return [handle for held in list(self.fd_table.held.values()) for handle in held.handles()]

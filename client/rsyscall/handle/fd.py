"""Handles of file descriptors: a number, the table it belongs to, and the task that uses it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Generator
from typing import Generic, Self, TypeVar, cast

import trio

import rsyscall.far
from rsyscall import near
from rsyscall.near.sysif import SyscallArgument, SyscallHangup
from rsyscall.near.typed import TypedCall, declares, nothing, perform
from rsyscall.sys.syscall import SYS

__all__ = [
    "BaseFileDescriptor",
    "FDTable",
    "FileDescriptorTask",
    "HandleError",
    "InvalidHandleError",
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


FDTable = rsyscall.far.FDTable

_F_SETFD, _FD_CLOEXEC = 2, 1
_CLOSE = SYS.close

_Handles = dict[near.FileDescriptor, "weakref.WeakSet[BaseFileDescriptor]"]
_tables: weakref.WeakKeyDictionary[rsyscall.far.FDTable, _Handles] = weakref.WeakKeyDictionary()


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
    invalidated; every use then raises InvalidHandleError.
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
        if valid:
            self._siblings().add(self)

    def _siblings(self) -> weakref.WeakSet[BaseFileDescriptor]:
        table = _tables.setdefault(self.task.fd_table, {})
        return table.setdefault(self.near, weakref.WeakSet())

    def _validate(self) -> None:
        """Raise InvalidHandleError unless the handle is valid."""
        if not self.valid:
            raise InvalidHandleError(f"{self} is no longer valid")

    def _drop(self) -> None:
        self.valid = False
        self.orphan()

    def forget(self) -> None:
        """Give up this handle: the descriptor is closed, or about to be, by other means."""
        self._drop()

    def orphan(self) -> None:
        """The task is over: others decide when the descriptor is closed."""
        siblings = self._siblings()
        siblings.discard(self)
        if not siblings:
            _tables.get(self.task.fd_table, {}).pop(self.near, None)

    def revive(self) -> None:
        """Take forget() back: the descriptor was not closed after all."""
        self.valid = True
        self._siblings().add(self)

    def check_only(self) -> None:
        """Raise SharedHandleError if other valid handles name the same descriptor."""
        if not self.is_only_handle():
            raise SharedHandleError(f"{self} has other valid handles; invalidate this one instead")

    def is_only_handle(self) -> bool:
        """Whether no other valid handle names the same number in the same table."""
        self._validate()
        siblings = self._siblings()
        return len(siblings) == 1 and self in siblings

    async def invalidate(self) -> bool:
        """Give up this handle; the file descriptor is closed if it was the last one.

        Returns whether it was. Otherwise like close(). A checkpoint if it closes.
        """
        self._validate()
        if self.is_only_handle():
            await self.close()
            return True
        self._drop()
        return False

    async def close(self) -> None:
        """Close the file descriptor.

        InvalidHandleError if the handle is not valid, SharedHandleError if there are others to the
        same descriptor. OSError as the call reports it; the descriptor is closed all the same, and
        the handle no longer valid. A checkpoint; if cancelled, nothing has happened. close(2).
        """
        self.check_only()
        await trio.lowlevel.checkpoint_if_cancelled()
        # From here on the number may be somebody else's at any moment.
        self._drop()
        try:
            await perform(self.task, close_call(self.near))
        except InterruptedError:
            pass  # Linux has closed it
        except trio.Cancelled:
            self.revive()
            raise

    async def disable_cloexec(self) -> None:
        """Have it stay open in a program that is executed.

        InvalidHandleError. A checkpoint; if cancelled, nothing has happened. fcntl(2), F_SETFD.
        """
        self._validate()
        await perform(self.task, disable_cloexec_call(self.near))

    async def enable_cloexec(self) -> None:
        """Have it closed when a program is executed; see disable_cloexec."""
        self._validate()
        await perform(self.task, enable_cloexec_call(self.near))

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
        self._drop()
        return handle

    def inherit(self, task: FileDescriptorTask[T_fd]) -> T_fd:
        """The same number in the table of a task that inherited ours.

        FDTableMismatchError, naming both, if it has not.
        """
        self._validate()
        table: rsyscall.far.FDTable | None = task.fd_table
        while table is not None and table is not self.task.fd_table:
            table = table.parent if self.near.number in table.inherited else None
        if table is None:
            raise rsyscall.far.FDTableMismatchError(
                f"{self} of {self.task.fd_table} is not in {task.fd_table} of {task}"
            )
        return task.make_fd_handle(self.near)

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


class FileDescriptorTask(rsyscall.far.Task, Generic[T_fd]):
    """A task that has file descriptors."""

    #: The class of the handles that this task's calls return.
    _fd_class: type[BaseFileDescriptor] = BaseFileDescriptor

    def make_fd_handle(self, fd: near.FileDescriptor) -> T_fd:
        """A handle for a number that the caller knows to be open in this task's table."""
        return cast("T_fd", self._fd_class(self, fd, True))

    def inherit_fd(self, fd: BaseFileDescriptor) -> T_fd:
        """A handle for a descriptor that this task's table has inherited from that of `fd`."""
        return fd.inherit(self)

    @property
    def fd_numbers(self) -> list[int]:
        """The numbers of all descriptors of this task's table that have a valid handle."""
        table = _tables.get(self.fd_table, {})
        return [fd.number for fd, handles in table.items() if handles]

    @property
    def fd_handles(self) -> list[BaseFileDescriptor]:
        """All valid handles of this task's table."""
        table = _tables.get(self.fd_table, {})
        return [handle for handles in table.values() for handle in handles]

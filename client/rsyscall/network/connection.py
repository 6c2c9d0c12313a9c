"""Making channels: pairs of connected sockets, with an end in each of two processes.

A `Connection` knows how. Its first process, the access side, is the one that asks; its second one,
`task`, gets the other ends. Either may be any process, and both the same one.

`process.connection` is one from the interpreter to the process, or for a child from where its
parent's is. It sends the ends the way `fd.send_to` does, and needs no descriptors of its own. Where
that cannot be, `FDPassConnection` sends them through a socket pair that the second process has
inherited or was given, and `ListeningConnection` connects to a socket that it listens on.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import trio

from rsyscall._checkpoint import checkpoint, shield
from rsyscall.epoller import AsyncFileDescriptor, Epoller
from rsyscall.handle import FileDescriptor, Task
from rsyscall.near.sysif import SyscallError
from rsyscall.sys.socket import AF, MSG, SOCK, Sockaddr
from rsyscall.sys.un import SockaddrUn

if TYPE_CHECKING:
    from rsyscall.sys.socket import Socketpair

__all__ = [
    "Connection",
    "DirectConnection",
    "FDPassConnection",
    "HasConnection",
    "ListeningConnection",
]

#: An end here, or there.
Channel: TypeAlias = "tuple[FileDescriptor, FileDescriptor]"
AsyncChannel: TypeAlias = "tuple[AsyncFileDescriptor, FileDescriptor]"

#: So many descriptors go with one message.
_MOST = 253


def _check_count(count: int) -> None:
    if count < 0:
        raise ValueError(f"count: {count} is negative")


class Connection(abc.ABC):
    """A way of making channels between two processes.

    access_task: the process that has the first ends. access_epoller: what waits for them there.
    task: the process that has the second ends.
    """

    def __init__(self, access_task: Task, access_epoller: Epoller, task: Task) -> None:
        """Nothing is opened."""
        self.access_task = access_task
        self.access_epoller = access_epoller
        self.task = task

    @abc.abstractmethod
    async def open_channels(self, count: int) -> list[Channel]:
        """Make `count` pairs of connected stream sockets: of each, a handle here and one there.

        All are closed on exec. ValueError if count is negative; OSError as the calls report it;
        SyscallHangup if one of the processes has died. If it fails, all that was made is closed. A
        checkpoint; if cancelled, there are none. socketpair(2), unix(7).
        """

    async def open_channel(self) -> Channel:
        """open_channels, of one."""
        (channel,) = await self.open_channels(1)
        return channel

    async def open_async_channels(self, count: int) -> list[AsyncChannel]:
        """open_channels, with the ends here ready to be waited for; those there may block."""
        channels = await self.open_channels(count)
        made: list[AsyncChannel] = []
        try:
            with shield():
                for here, there in channels:
                    afd = await AsyncFileDescriptor.make(self.access_epoller, here, True)
                    made.append((afd, there))
        except BaseException:
            await _close([fd for channel in channels for fd in channel])
            raise
        return made

    async def open_async_channel(self) -> AsyncChannel:
        """open_async_channels, of one."""
        (channel,) = await self.open_async_channels(1)
        return channel

    @abc.abstractmethod
    async def prep_fd_transfer(
        self,
    ) -> tuple[FileDescriptor, Callable[[Task, FileDescriptor], Connection]]:
        """What a further process needs for a connection like this one.

        Returns a descriptor of `task`, and what makes the connection of a task and its own handle
        of that descriptor, once it has one: inherited, sent, or otherwise. OSError as the calls
        report it. A checkpoint; if cancelled, nothing has happened.
        """

    @abc.abstractmethod
    def inherit(self, task: Task) -> Connection:
        """The same for another second process, such as a child of `task` that has its descriptors.

        FDTableMismatchError if it has not what is needed.
        """

    def __repr__(self) -> str:
        """For people."""
        return f"{type(self).__name__}({self.access_task}, {self.task})"


async def _close(fds: Sequence[FileDescriptor]) -> None:
    """Close what is still there of it, cancelled or not."""
    with shield():
        for fd in fds:
            if fd.valid:
                with contextlib.suppress(OSError, SyscallError):
                    await fd.invalidate()


async def _pairs(task: Task, count: int) -> list[Socketpair]:
    """So many pairs of connected sockets, all or none."""
    made: list[Socketpair] = []
    try:
        for _ in range(count):
            made.append(await task.socketpair(AF.UNIX, SOCK.STREAM))
    except BaseException:
        await _close([fd for pair in made for fd in (pair.first, pair.second)])
        raise
    return made


class _Paired(Connection):
    """Channels are socket pairs of the access side, of which the second sockets go there."""

    @abc.abstractmethod
    async def move_fds(self, fds: Sequence[FileDescriptor]) -> list[FileDescriptor]:
        """Have descriptors of the access side be those of the second process instead.

        Returns their handles; those that are given are not valid afterwards. If it fails, they are
        as they were. Errors as of open_channels. A checkpoint; if cancelled, nothing has happened.
        """

    async def open_channels(self, count: int) -> list[Channel]:
        """See Connection."""
        _check_count(count)
        await checkpoint()
        pairs = await _pairs(self.access_task, count)
        try:
            seconds = await self.move_fds([pair.second for pair in pairs])
        except BaseException:
            await _close([fd for pair in pairs for fd in (pair.first, pair.second)])
            raise
        return [(pair.first, second) for pair, second in zip(pairs, seconds, strict=True)]


class DirectConnection(_Paired):
    """One that sends descriptors as fd.send_to does; see process.connection."""

    async def move_fds(self, fds: Sequence[FileDescriptor]) -> list[FileDescriptor]:
        """See _Paired."""
        moved: list[FileDescriptor] = []
        try:
            for fd in fds:
                moved.append(await fd.send_to(self.task))
        except BaseException:
            await _close(moved)
            raise
        for fd, there in zip(fds, moved, strict=True):
            if fd.task.fd_table is there.task.fd_table:
                fd.forget()
        await _close(fds)
        return moved

    async def prep_fd_transfer(
        self,
    ) -> tuple[FileDescriptor, Callable[[Task, FileDescriptor], Connection]]:
        """See Connection: a socket pair is made, of which the access side keeps its end."""
        first, second = await self.open_channel()
        connection = FDPassConnection(
            self.access_task, self.access_epoller, first, self.task, second
        )
        return second, connection.for_task_with_fd

    def inherit(self, task: Task) -> DirectConnection:
        """See Connection: any task will do."""
        return DirectConnection(self.access_task, self.access_epoller, task)


class FDPassConnection(_Paired):
    """One that sends descriptors through a socket pair, which must not be used otherwise.

    access_fd: the end of the access side. fd: that of the second process.
    """

    def __init__(
        self,
        access_task: Task,
        access_epoller: Epoller,
        access_fd: FileDescriptor,
        task: Task,
        fd: FileDescriptor,
        lock: trio.Lock | None = None,
    ) -> None:
        """lock: of all that use the pair, if it was used before."""
        super().__init__(access_task, access_epoller, task)
        self.access_fd = access_fd
        self.fd = fd
        self._lock: trio.Lock = trio.Lock() if lock is None else lock

    @staticmethod
    async def make(task: Task, epoller: Epoller) -> FDPassConnection:
        """One from a process to itself, for processes that will inherit its `fd`.

        epoller: of the task. OSError as the call reports it. A checkpoint; if cancelled, nothing
        was made. socketpair(2).
        """
        pair = await task.socketpair(AF.UNIX, SOCK.STREAM)
        return FDPassConnection(task, epoller, pair.first, task, pair.second)

    async def move_fds(self, fds: Sequence[FileDescriptor]) -> list[FileDescriptor]:
        """See Connection.open_channels for errors.

        Have descriptors of the access side be those of the second process instead: returns their
        handles; those that are given are not valid afterwards. If it fails, they are as they were.
        A checkpoint; if cancelled, nothing has happened. unix(7).
        """
        for fd in fds:
            fd.check_only()
            with fd.borrow(self.access_task):
                pass
        await checkpoint()
        if self.access_task.fd_table is self.task.fd_table:
            return [fd.move(self.task) for fd in fds]
        moved: list[FileDescriptor] = []
        async with self._lock:
            with shield():
                try:
                    for at in range(0, len(fds), _MOST):
                        moved += await self._send(fds[at : at + _MOST])
                except BaseException:
                    await _close(moved)
                    raise
        await _close(fds)
        return moved

    async def _send(self, fds: Sequence[FileDescriptor]) -> list[FileDescriptor]:
        await self.access_fd.sendmsg([b"\0"], fds=fds)
        # It is there, or somebody else has taken it: there is nothing to wait for.
        got = await self.fd.recvmsg(1, MSG.DONTWAIT, fds=len(fds))
        if len(got.fds) != len(fds):
            await _close(got.fds)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        for fd, there in zip(fds, got.fds, strict=True):
            there.opens(fd.file)
        return got.fds

    async def prep_fd_transfer(
        self,
    ) -> tuple[FileDescriptor, Callable[[Task, FileDescriptor], FDPassConnection]]:
        """See Connection: the same pair is used."""
        await checkpoint()
        return self.fd, self.for_task_with_fd

    def for_task_with_fd(self, task: Task, fd: FileDescriptor) -> FDPassConnection:
        """One to a task that has a handle of `fd`."""
        args = self.access_task, self.access_epoller, self.access_fd
        return FDPassConnection(*args, task, fd, self._lock)

    def inherit(self, task: Task) -> FDPassConnection:
        """See Connection: the task has inherited fd."""
        return self.for_task_with_fd(task, task.inherit_fd(self.fd))


class ListeningConnection(Connection):
    """One whose channels are connections to a socket on which the second process listens.

    access_address: to which the access side connects. listening_fd: the socket, which must not be
    used otherwise; of a UNIX socket, the clients get names in the abstract namespace.
    """

    def __init__(
        self,
        access_task: Task,
        access_epoller: Epoller,
        access_address: Sockaddr,
        task: Task,
        listening_fd: FileDescriptor,
        lock: trio.Lock | None = None,
    ) -> None:
        """lock: of all that use the socket, if it was used before."""
        super().__init__(access_task, access_epoller, task)
        self.access_address = access_address
        self.listening_fd = listening_fd
        self._lock: trio.Lock = trio.Lock() if lock is None else lock

    async def open_channels(self, count: int) -> list[Channel]:
        """See Connection. connect(2), accept(2)."""
        _check_count(count)
        await checkpoint()
        made: list[Channel] = []
        try:
            async with self._lock:
                for _ in range(count):
                    made.append(await self._open())
        except BaseException:
            await _close([fd for channel in made for fd in channel])
            raise
        return made

    async def _open(self) -> Channel:
        family = AF(self.access_address.family)
        here = await self.access_task.socket(family, SOCK.STREAM)
        try:
            if family == AF.UNIX:  # a name that no other client has
                await here.bind(SockaddrUn(""))
            await here.connect(self.access_address)
            name = (await here.getsockname()).to_bytes()
            while True:
                there, peer = await self.listening_fd.accept_addr()
                if peer.to_bytes() == name:
                    return here, there
                await _close([there])  # a stranger
        except BaseException:
            await _close([here])
            raise

    async def prep_fd_transfer(
        self,
    ) -> tuple[FileDescriptor, Callable[[Task, FileDescriptor], ListeningConnection]]:
        """See Connection: the same socket is listened on."""
        await checkpoint()
        return self.listening_fd, self.for_task_with_fd

    def for_task_with_fd(self, task: Task, fd: FileDescriptor) -> ListeningConnection:
        """One to a task that has a handle of `listening_fd`."""
        args = self.access_task, self.access_epoller, self.access_address
        return ListeningConnection(*args, task, fd, self._lock)

    def inherit(self, task: Task) -> ListeningConnection:
        """See Connection: the task has inherited listening_fd."""
        return self.for_task_with_fd(task, task.inherit_fd(self.listening_fd))


class HasConnection:
    """What processes have to do with others: waiting for descriptors, and channels."""

    task: Task
    #: Whose connection this one's is like.
    _maker: HasConnection | None = None

    @functools.cached_property
    def epoller(self) -> Epoller:
        """What waits for its descriptors; see rsyscall.epoller."""
        return Epoller(self.task)

    async def make_afd(self, fd: FileDescriptor, set_nonblock: bool = False) -> AsyncFileDescriptor:
        """A descriptor of this process that is waited for; see AsyncFileDescriptor.make."""
        return await AsyncFileDescriptor.make(self.epoller, fd, set_nonblock)

    @functools.cached_property
    def connection(self) -> Connection:
        """What makes channels to it: from the interpreter, or where its parent's come from.

        Of a process that was made of a task by hand, from itself.
        """
        if self._maker is not None:
            return self._maker.connection.inherit(self.task)
        return DirectConnection(self.task, self.epoller, self.task)

    def made_by(self, maker: HasConnection) -> None:
        """Have its connection be like that of another process, unless it has one already."""
        self._maker = maker

    async def open_channels(self, count: int) -> list[Channel]:
        """So many channels to it; see Connection.open_channels."""
        return await self.connection.open_channels(count)

    async def open_async_channels(self, count: int) -> list[AsyncChannel]:
        """So many channels to it; see Connection.open_async_channels."""
        return await self.connection.open_async_channels(count)

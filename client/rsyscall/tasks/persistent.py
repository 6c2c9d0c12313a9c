"""A process that survives its connection.

It listens on a UNIX socket. When its connection has ended it takes the next one there, with the
memory and the descriptors that it has by then.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Self

import trio

from rsyscall import far, near
from rsyscall._checkpoint import checkpoint, shield
from rsyscall.command import Command
from rsyscall.epoller import AsyncFileDescriptor
from rsyscall.handle import FileDescriptor, Task
from rsyscall.handle.pointer import WrittenPointer
from rsyscall.monitor import AsyncChildPid
from rsyscall.near.sysif import SyscallError, SyscallHangup
from rsyscall.path import Path
from rsyscall.sys.socket import AF, SOCK
from rsyscall.sys.syscall import SYS
from rsyscall.sys.un import SockaddrUn
from rsyscall.sysif.child import ChildInterface
from rsyscall.sysif.memory import pid_behind
from rsyscall.tasks._foreign import bring_here
from rsyscall.tasks.stdin_bootstrap import start_on_stdin, stdin_bootstrap_path
from rsyscall.thread import Process

__all__ = ["PersistentProcess", "clone_persistent"]

#: The numbers that its connection has in the stub, and the socket on which it will listen.
_SOCKET, _LISTENING = 3, 4
_BACKLOG = 128
_SECRET = 32


class PersistentProcess(Process):
    """A process that can survive its connection; see clone_persistent.

    path: where it listens, once that is prepared. As a context manager it is ended at the end of
    the block, as a child is; once it is persistent only its connection is closed, and its children
    are ended.
    """

    def __init__(self, task: Task, child: AsyncChildPid, path: Path, ring: bool | None) -> None:
        """Only clone_persistent makes them."""
        super().__init__(task)
        self.path: Path = path
        self._child = child
        self._ring = ring
        self._secret: WrittenPointer[bytes] | None = None
        self._persistent = False
        self._reconnecting = trio.Lock()
        child.pid.on_death(self._died)

    @property
    def pid(self) -> AsyncChildPid:  # type: ignore[override] # as of ChildProcess
        """To wait for it, and to kill it; its `pid` is the handle."""
        return self._child

    async def prep_for_reconnect(self) -> None:
        """Have it listen: from now on it survives the end of its connection.

        It still ends with its parent and its block. Who connects while it has a connection waits
        until that ends; only its own user and root are served. Nothing if that was done before.
        OSError as the calls report it. A checkpoint; if cancelled, it does not listen. listen(2).
        """
        if self._secret is not None:
            await checkpoint()
            return
        # What comes later by another connection must have the same memory.
        secret = await self.task.ptr(os.urandom(_SECRET))
        await self.task.sysif.syscall(SYS.listen, _LISTENING, _BACKLOG)
        self._secret = secret

    async def make_persistent(self) -> None:
        """Have it outlive its parent, its block and this interpreter, too.

        See prep_for_reconnect, which is done first. It leads a session of its own from then on, if
        it can, so that no terminal ends it. To end it takes `exit`, or a signal: `pid.kill()`. The
        name of its socket stays when it has ended. OSError as the calls report it. A checkpoint; if
        cancelled, it is as it was, or does no longer end with its connection. setsid(2).
        """
        await self.prep_for_reconnect()
        with shield():
            with contextlib.suppress(PermissionError):  # it leads a process group already
                await self.task.setsid()
            self._persistent = True
            self._child.detach()

    async def reconnect(self, process: Process) -> None:
        """Make a new connection, through a process that finds its path.

        The connection that there was, if it has not ended yet, is closed; calls that are under way
        in it end with SyscallHangup, and the process interrupts them. All handles of the process,
        of its descriptors and its memory, are valid as before; prepared batches are not. The
        connection ends neither with the process that was used for it nor with its parent.

        ValueError if that is not prepared (see prep_for_reconnect); OSError, such as
        ConnectionRefusedError, if the path cannot be connected to, and SyscallHangup if whoever
        listens there ends or is another process. It waits for as long as somebody else is
        connected. A checkpoint; if cancelled, there is no connection, and reconnect may be called
        again. connect(2).
        """
        async with self._reconnecting:
            if self._secret is None:
                raise ValueError(f"{self}: prep_for_reconnect() has not been called")
            old = self.task.sysif
            await old.close_interface()
            sysif = _interface(await _connect(process, self.path), self._child)
            try:
                await sysif.start(ring=self._ring)
                where = int(self._secret.near)
                if await sysif.read_by_frames(where, _SECRET) != self._secret.value:
                    raise SyscallHangup(f"{self.path}: another process listens there")
            except BaseException:
                await sysif.close_interface()
                raise
            if isinstance(old, ChildInterface) and old.shared:
                sysif.share()
            _reach(sysif, self.task, self._child)
            self.task.sysif = sysif

    def _died(self) -> None:
        sysif, space = self.task.sysif, self.task.address_space
        if isinstance(sysif, ChildInterface):
            sysif.give_up(f"{self.task} has ended: {self._child.pid.death_state}")
        space.lost = True
        if space.views is not None:
            space.views.close()

    async def finish(self) -> None:
        """End its children, close its connection and end it unless it is persistent.

        For who has to clear away: not a checkpoint.
        """
        try:
            await self.finish_children()
        finally:
            await self.task.sysif.close_interface()
            if not self._persistent:
                await self._child.finish()

    async def __aenter__(self) -> Self:
        """Itself. Not a checkpoint."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """See finish."""
        await self.finish()


def _interface(sock: socket.socket, child: AsyncChildPid) -> ChildInterface:
    return ChildInterface(
        sock,
        post_mortem=child.post_mortem,
        death=child.pid.wait_readable,
        pidfd=lambda: child.pid.pidfd,
    )


def _reach(sysif: ChildInterface, task: Task, child: AsyncChildPid) -> None:
    # Without a connection it still has its memory: nothing of that is lost.
    sysif.reach(task.address_space, lambda: (pid_behind(child.pid.pidfd),))


async def _connect(process: Process, path: Path) -> socket.socket:
    """A socket of ours that a process has connected."""
    address = await SockaddrUn.from_path(process, path)
    try:
        sock = await process.task.socket(AF.UNIX, SOCK.STREAM | SOCK.NONBLOCK)
        try:
            await AsyncFileDescriptor(process.epoller, sock).connect(address)
            with shield():
                return await bring_here(sock)
        finally:
            with shield(), contextlib.suppress(SyscallError):
                await sock.close()
    finally:
        with shield(), contextlib.suppress(SyscallError):
            await address.close()


async def _bind(parent: Process, path: Path) -> FileDescriptor:
    """A socket that has the path, and does not listen yet."""
    address = await SockaddrUn.from_path(parent, path)
    try:
        sock = await parent.task.socket(AF.UNIX, SOCK.STREAM)
        try:
            await sock.bind(address)
        except BaseException:
            with shield(), contextlib.suppress(SyscallError):
                await sock.close()
            raise
        return sock
    finally:
        with shield(), contextlib.suppress(SyscallError):
            await address.close()


async def clone_persistent(
    parent: Process, path: str | os.PathLike[str], *, ring: bool | None = None
) -> PersistentProcess:
    """Make a process that can survive its connection, with memory and descriptors of its own.

    parent: whose child it is, a stub (see stdin_bootstrap_path). path: of a UNIX socket, which is
    made there, seen from the parent. ring: whether calls go through shared memory, now and after
    reconnecting; None: if they can.

    At first it ends as any child does: with its parent, its block and its connection. It survives
    its connection after `prep_for_reconnect`, and all of that after `make_persistent`. Then
    `reconnect` goes on with it, and another program gets hold of it by
    `rsyscall.connect("unix:PATH")`, at the end of whose block it goes on, too. There is one
    connection at a time; who comes meanwhile waits. Its standard input is /dev/null.

    ValueError if no file descriptor can be sent to the parent; OSError as the calls report it, such
    as EADDRINUSE for a path that is there; ExecutableNotFound if the parent finds no stub;
    SyscallHangup if it ends before it has said HELLO. A checkpoint; if cancelled, there is none.
    unix(7).
    """
    where = Path(path)
    if not where.is_absolute():  # it is looked for from other directories later
        where = Path(await parent.task.getcwd()) / where
    stub = await stdin_bootstrap_path(parent)
    sock = await _bind(parent, where)
    try:
        command = Command(stub, [stub.name, f"--persist={_LISTENING}"])
        try:
            ours, child = await start_on_stdin(parent, command, fds={_LISTENING: sock})
        finally:
            with shield(), contextlib.suppress(SyscallError):
                await sock.close()
        sysif = _interface(ours, child)
        try:
            hello = await sysif.start(ring=ring)
        except BaseException:
            await sysif.close_interface()
            await child.finish()
            raise
    except BaseException:
        with shield(), contextlib.suppress(OSError, SyscallError):
            await parent.task.unlink(where)
        raise
    number = child.pid.near.id
    task = Task(
        sysif,
        near.Pid(int(hello.info["pid"])),
        far.FDTable(number),
        far.AddressSpace(number),
        parent.task.pidns_for_children,
        parent=parent.task,
    )
    task.abi = parent.task.abi
    task.fd_table.own.update({_SOCKET, _LISTENING})
    task.own_fds.update({_SOCKET, _LISTENING})
    _reach(sysif, task, child)
    process = PersistentProcess(task, child, where, ring)
    process.made_by(parent)
    child.on_end(parent.end_with(process))
    if parent.has_own_environ():  # otherwise both begin with ours
        process.environ = parent.environ.inherit(task)
    return process

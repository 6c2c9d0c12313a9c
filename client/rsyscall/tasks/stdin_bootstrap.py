"""A process that some command leads to: sudo, unshare, nsenter, env, systemd-run, ...

The command finally executes a stub, which finds its socket as its standard input: that is the one
thing that all such commands hand on.
"""

from __future__ import annotations

import contextlib
import os
import socket

from rsyscall import near
from rsyscall._checkpoint import checkpoint, shield
from rsyscall.child.setup import Descriptors
from rsyscall.command import Command
from rsyscall.handle import FileDescriptor
from rsyscall.handle.transfer import push
from rsyscall.monitor import AsyncChildPid
from rsyscall.near.sysif import SyscallError
from rsyscall.path import Path
from rsyscall.sysif.memory import pid_behind
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall.tasks._foreign import Reached, foreign_process, read_environ
from rsyscall.tasks.spawn import stub_path
from rsyscall.thread import Process
from rsyscall.unistd.names import OK

__all__ = ["start_on_stdin", "stdin_bootstrap", "stdin_bootstrap_path"]

_NAME = "rsyscall-stub"
#: The number that its socket has in the stub, which has moved it there.
_SOCKET = 3


async def stdin_bootstrap_path(process: Process) -> Path:
    """Where a process finds the stub, for a command that is given to stdin_bootstrap.

    That which it runs itself; or else ours, if it sees that; or else rsyscall-stub in its PATH.
    ExecutableNotFound if there is none. A checkpoint; if cancelled, nothing has happened.
    """
    candidates = [str(stub_path())]
    try:
        running = await process.task.readlink("/proc/self/exe")
    except OSError:  # there is no /proc
        await checkpoint()
    else:
        if os.path.basename(running) == _NAME:
            candidates.insert(0, running)
    for path in candidates:
        try:
            await process.task.access(path, OK.X)
        except OSError:
            continue
        return Path(path)
    return Path((await process.environ.which(_NAME)).executable_path)


async def _channel(parent: Process) -> tuple[socket.socket, FileDescriptor]:
    """Two sockets that are connected: ours, and the parent's, which is closed on exec."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            task = parent.task
            if task.sysif.immediate:
                return ours, task.adopt_fd(near.FileDescriptor(theirs.detach()))
            with shield():
                return ours, task.adopt_fd(near.FileDescriptor(await push(theirs.fileno(), task)))
    except BaseException as exc:
        ours.close()
        if isinstance(exc, OSError | ValueError):
            exc.add_note(f"while sending a socket to {parent}")
        raise


async def start_on_stdin(
    parent: Process, command: Command, *, fds: Descriptors = ()
) -> tuple[socket.socket, AsyncChildPid]:
    """Our end of a socketpair, and the command, which has the other one as its standard input."""
    ours, there = await _channel(parent)
    try:
        try:
            child = await parent.spawn(command, stdin=there, fds=fds)
        finally:
            with shield(), contextlib.suppress(SyscallError):
                await there.close()
    except BaseException:
        ours.close()
        raise
    return ours, child


async def stdin_bootstrap(
    parent: Process, bootstrap_command: Command, *, ring: bool | None = None
) -> tuple[AsyncChildPid, Process]:
    """Run a command that executes the stub in the end, and get the process that this becomes.

    parent: whose child the command is. bootstrap_command: has the stub, without arguments, as the
    program that it executes, by itself or in a child, with its own standard input:
    `Command("sudo", ["sudo", "-n", await stdin_bootstrap_path(parent)])`. ring: whether calls go
    through shared memory; None: if they can.

    Returns the child that runs the command, which need not be the stub, and the process, which has
    far objects and an environment of its own, and /dev/null as its standard input. Both end with
    the parent, or when the child is ended (AsyncChildPid.end, or the end of its block): then the
    process's children are ended, its connection is closed, which is the stub's end, and the child
    is killed, if it still runs. Once the child is known to have died otherwise than with status 0
    the connection is closed as well; what leaves the stub running and exits with 0 is done with.

    ValueError if no file descriptor can be sent to the parent; OSError, with the step and its call
    as notes, if the command cannot be executed; SyscallHangup, saying what became of the child, if
    the last one that has its standard input closes that before a stub has said HELLO;
    ProtocolHangup if it is no stub that answers. A checkpoint; if cancelled, the child was killed,
    if there was one.
    """
    await checkpoint()
    ours, child = await start_on_stdin(parent, bootstrap_command)
    sysif = RemoteSyscallInterface(ours, post_mortem=child.post_mortem)
    try:
        hello = await sysif.start(ring=ring)
        process = foreign_process(sysif, hello)
        process.task.fd_table.own.add(_SOCKET)
        process.task.own_fds.add(_SOCKET)
        pid = int(process.pid)
        # Or it is a program that has started the stub.
        sysif.reach(
            process.task.address_space, lambda: (pid_behind(child.pid.pidfd), pid), owner=True
        )
        await read_environ(process)
    except BaseException:
        await sysif.close_interface()
        await child.finish()
        raise
    _tie(parent, child, process, sysif)
    return child, process


def _tie(
    parent: Process, child: AsyncChildPid, process: Process, sysif: RemoteSyscallInterface
) -> None:
    """Have the process end with the child, and with the parent."""
    reached = Reached(process)
    untie = parent.end_with(reached)
    sysif.on_end(untie)

    def ended() -> None:
        state = child.pid.death_state
        if state is None:  # it is detached
            untie()
        elif not state.clean():
            sysif.close()

    if child.pid.death_state is None:
        child.on_end(ended)
    else:
        ended()
    child.finish_first(reached.finish)

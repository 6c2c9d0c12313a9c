"""Programs that become processes of ours when somebody runs them.

What is run is a script whose interpreter is the stub. That connects to the socket whose path stands
in the script, and is served by whoever has put both there.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import struct

from rsyscall._checkpoint import shield
from rsyscall.child.fds import open_numbers
from rsyscall.child.steps import call, run
from rsyscall.epoller import AsyncFileDescriptor
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor, Task
from rsyscall.near.sysif import InOut, Out, SyscallError
from rsyscall.path import Path
from rsyscall.sys.socket import AF, SO, SOCK, SOL
from rsyscall.sys.syscall import SYS
from rsyscall.sys.un import SockaddrUn
from rsyscall.sysif.memory import peer_pid
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall.tasks._foreign import (
    Reached,
    bring_here,
    foreign_process,
    own_strings,
    read_environ,
)
from rsyscall.tasks.stdin_bootstrap import stdin_bootstrap_path
from rsyscall.thread import Process

__all__ = ["StubServer"]

_BACKLOG = 128
_F_GETFD, _FD_CLOEXEC = 1, 1
#: What the kernel reads of the first line of a script, since Linux 5.1.
_LONGEST_LINE = 255
#: Descriptors that are asked about at once.
_MOST = 256
_UCRED = struct.Struct("@iII")


def script(stub: str, path: str) -> bytes:
    """What makes an executable that connects to a path.

    The first line holds neither a long line nor a name with a space; then it takes a shell.
    """
    line = os.fsencode(f"#!{stub} --connect={path}\n")
    if len(line) <= _LONGEST_LINE and len(stub.split()) == 1 and "\n" not in path:
        return line
    words = shlex.join([stub, f"--connect={path}"])
    return os.fsencode(f'#!/bin/sh\nexec {words} "$0" "$@"\n')


async def _peer_uid(fd: FileDescriptor) -> int:
    args = (int(fd.near), int(SOL.SOCKET), int(SO.PEERCRED))
    size = InOut(struct.pack("@i", _UCRED.size))
    reply = await fd.task.sysif.call(SYS.getsockopt, (*args, Out(_UCRED.size), size))
    return int(_UCRED.unpack(reply.outs[0])[1])


async def _find_own(task: Task) -> None:
    """Take note of which descriptors are the stub's: no others are closed on exec.

    But where standard input, output or error were not open it has put something in their place.
    """
    numbers = sorted(await open_numbers(task) - {0, 1, 2})
    for at in range(0, len(numbers), _MOST):
        some = numbers[at : at + _MOST]
        done = await run(task.sysif, [call(SYS.fcntl, number, _F_GETFD) for number in some])
        found = {n for n, flags in zip(some, done.values, strict=True) if flags & _FD_CLOEXEC}
        task.fd_table.own.update(found)
        task.own_fds.update(found)


class StubServer:
    """A socket to which stubs connect, each of which is a process then.

    listening_sock: the socket. process: that it belongs to. path: where it is. As a context manager
    it is closed at the end of the block.
    """

    def __init__(self, listening_sock: AsyncFileDescriptor, process: Process, path: Path) -> None:
        """See listen_on."""
        self.listening_sock: AsyncFileDescriptor = listening_sock
        self.process: Process = process
        self.path: Path = path
        self._made: list[Path] = [path]

    @classmethod
    async def listen_on(cls, process: Process, path: str | os.PathLike[str]) -> StubServer:
        """Listen in a process on a UNIX socket that is made there.

        `rsyscall-stub --connect=PATH ARGUMENTS...` connects to it. PathTooLongError, a ValueError,
        for more than 108 bytes; OSError as the calls report it, such as EADDRINUSE for a path that
        is there. A checkpoint; if cancelled, nothing is left. unix(7).
        """
        address = SockaddrUn(path)
        sock = await process.task.socket(AF.UNIX, SOCK.STREAM | SOCK.NONBLOCK)
        try:
            await sock.bind(address)
            try:
                with shield():
                    await sock.listen(_BACKLOG)
                    afd = await process.make_afd(sock, set_nonblock=True)
            except BaseException:
                await process.task.unlink(path)
                raise
        except BaseException:
            with shield(), contextlib.suppress(SyscallError):
                await sock.close()
            raise
        return cls(afd, process, Path(path))

    @classmethod
    async def make(cls, process: Process, dir: str | os.PathLike[str], name: str) -> StubServer:
        """Make an executable that is a process of ours whenever somebody runs it, and listen.

        dir: a directory of the process's, where the executable gets the name, and the socket that
        with ".sock" behind it. name: without a slash. What is made is a script, whose interpreter
        is the stub (see stdin_bootstrap_path); if the path of that or of the directory is too long
        for a script's first line, or has a space where none can be, it is a script of /bin/sh that
        executes the stub.

        ValueError for what is no name, and PathTooLongError for a path of the socket of more than
        108 bytes; ExecutableNotFound if the process finds no stub; OSError as the calls report it:
        what is there is not replaced. A checkpoint; if cancelled, nothing is left. execve(2).
        """
        if not name or "/" in name or "\0" in name or name in (".", ".."):
            raise ValueError(f"name: {name!r} is no name of a file in a directory")
        directory = Path(dir)
        if not directory.is_absolute():  # whoever runs it is in another one
            directory = Path(await process.task.getcwd()) / directory
        address = directory / f"{name}.sock"
        SockaddrUn(address)
        text = script(str(await stdin_bootstrap_path(process)), str(address))
        server = await cls.listen_on(process, address)
        try:
            with shield():
                executable = directory / name
                flags = O.WRONLY | O.CREAT | O.EXCL
                async with await process.task.open(executable, flags, 0o755) as file:
                    server._made.append(executable)
                    await process.spit(file, text)
        except BaseException:
            await server.close()
            raise
        return server

    async def accept(
        self, process: Process | None = None, *, ring: bool | None = None
    ) -> tuple[list[str], Process]:
        """Wait until a stub has connected; returns what it was called with, and its process.

        process: with which the new one ends, by default that which listens: its children are ended
        then, and its connection is closed. It also ends when the one that listens dies. ring:
        whether calls go through shared memory; None: if they can. The first argument is the path of
        the executable, as it was run. All this is what the stub says, and so as true as those are
        honest who are let in.

        The process is in the place of the program that was run: its environment (`environ`),
        working directory, standard input, output and error and all other descriptors are those that
        it was given; `task.make_fd_handle` makes a handle of one that is known to be open. Its
        caller waits for it; `exit` says with which status it ends. When its connection ends
        otherwise, that is 2.

        Only who has the user id of the process that listens, or is root, is let in, as the kernel
        has it of when it connected; others are turned away without a word. SyscallHangup if a stub
        ends before it has said HELLO, ProtocolHangup if it is none; OSError as the calls report it,
        also where there is no /proc. A checkpoint; if cancelled, none was taken, or its connection
        is closed. Others that have connected wait for the next accept.
        """
        while (sock := await self._accept()) is None:
            pass
        number = peer_pid(sock)
        sysif = RemoteSyscallInterface(sock)
        try:
            hello = await sysif.start(ring=ring)
            made = foreign_process(sysif, hello)
            pid = int(made.pid)
            sysif.reach(made.task.address_space, lambda: (number, pid), owner=True)
            # In front are the stub's own path and the option.
            argv = (await own_strings(made, "cmdline"))[2:]
            await read_environ(made)
            await _find_own(made.task)
        except BaseException:
            await sysif.close_interface()
            raise
        owner = self.process if process is None else process
        sysif.on_end(owner.end_with(Reached(made)))
        return argv, made

    async def _accept(self) -> socket.socket | None:
        """A connection, here; None if it is not to be served."""
        conn = await self.listening_sock.accept()
        with shield():
            try:
                uid = await _peer_uid(conn)
                if uid == 0 or uid == await self.process.task.geteuid():
                    return await bring_here(conn)
                return None
            finally:
                await conn.close()

    async def close(self) -> None:
        """Close the socket, and remove its path and the executable, cancelled or not.

        Whoever has connected and was not accepted ends with status 2. The processes that were
        accepted go on. Nothing if that was done before. A checkpoint.
        """
        made, self._made = self._made, []
        with shield(), contextlib.suppress(SyscallError):
            for path in reversed(made):
                with contextlib.suppress(FileNotFoundError):
                    await self.process.task.unlink(path)
        await self.listening_sock.close()

    async def __aenter__(self) -> StubServer:
        """Itself. Not a checkpoint."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """See close."""
        await self.close()

    def __repr__(self) -> str:
        """For people."""
        return f"StubServer({self.path}, {self.process})"

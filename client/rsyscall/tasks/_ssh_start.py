"""Starting ssh, and talking with the script at the other end until that has become a stub."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from typing import Literal, NoReturn

import trio

from rsyscall import far
from rsyscall._checkpoint import shield
from rsyscall._errors import noted
from rsyscall.child.stdio import PIPE
from rsyscall.command import Command
from rsyscall.environ import Environment
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor
from rsyscall.monitor import AsyncChildPid
from rsyscall.near.sysif import SyscallError, SyscallHangup
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import ChildState, W
from rsyscall.sysif.elsewhere import ElsewhereInterface
from rsyscall.tasks._foreign import foreign_process
from rsyscall.tasks._ssh_script import Image
from rsyscall.thread import Process

__all__ = ["SSHError", "Said", "check_here", "converse", "start_stub"]

#: How much of what ssh has printed is kept, in bytes, and shown, in lines.
_KEPT, _SHOWN = 4096, 10
#: How many bytes the shell's start-up files may print.
_NOISE = 65536
#: How long ssh may take to end after it has closed its output, in seconds; and what it prints then.
_END_SECONDS, _LAST_WORDS = 1.0, 0.2
#: The number of its socket in the stub, or of its first pipe.
_SOCKET = 3
#: Bytes of an environment that are read at once.
_ENVIRON = 262144


class SSHError(SyscallHangup):
    """A process on another machine could not be reached.

    step: what was being done. reason: what was wrong. state: how ssh has ended; None if it was
    ended by us. stderr: the last lines that it has printed, as text.
    """

    def __init__(self, step: str, reason: str, state: ChildState | None, stderr: str) -> None:
        """See the class."""
        said = f"; ssh printed:\n{stderr}" if stderr else "; ssh printed nothing"
        super().__init__(f"while {step}: {reason}{said}")
        self.step: str = step
        self.reason: str = reason
        self.state: ChildState | None = state
        self.stderr: str = stderr


def printable(data: bytes | bytearray) -> str:
    """As text that can stand in a terminal or a log, which may obey what is not printable."""
    return "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for c in data.decode(errors="replace").strip()
    )


class Said:
    """What a program prints on its standard error, read as it comes; only the end is kept."""

    def __init__(self, child: AsyncChildPid) -> None:
        """Take over its standard error. Reading goes on until the child is over."""
        if child.stderr is None:
            raise AssertionError("it was spawned with a pipe")
        self._child = child
        self._stream = child.stderr
        self._data = bytearray()
        self._ended = trio.Event()
        # Of no task of the user's: it is to be read for as long as the program runs.
        trio.lowlevel.spawn_system_task(self._read, name="what ssh prints")
        child.pid.on_release(self._finish)

    async def _read(self) -> None:
        closed = (trio.ClosedResourceError, trio.BrokenResourceError, OSError, SyscallError)
        with contextlib.suppress(*closed):
            while data := await self._stream.receive_some(_KEPT):
                self._data = (self._data + data)[-_KEPT:]
        self._ended.set()

    async def _finish(self) -> None:
        """It is over; but others may have the other end of the pipe, too."""
        with shield():
            with trio.move_on_after(0 if self._child.pid.ending else _LAST_WORDS):
                await self._ended.wait()
            await self._stream.aclose()
            await self._ended.wait()

    @property
    def text(self) -> str:
        """The last lines."""
        lines = deque((printable(line) for line in self._data.splitlines()), _SHOWN)
        return "\n".join(line for line in lines if line)


def check_here(process: Process) -> None:
    """MachineMismatchError unless the process is on this machine."""
    if process.task.machine is not far.THIS_MACHINE:
        raise far.MachineMismatchError(
            f"{process.task} is on {process.task.machine}: ssh is started on this machine only;"
            " the option ProxyJump leads through another one"
        )


async def converse(process: Process, command: Command) -> tuple[AsyncChildPid, Said, socket.socket]:
    """Start ssh with one socket as its standard input and output; returns our end of it.

    A checkpoint; if cancelled, nothing was started.
    """
    check_here(process)
    here, there = await process.connection.open_channel()
    ours: socket.socket | None = None
    try:
        with shield():
            try:
                sock = ours = await _take(here)
                child = await process.spawn(
                    command, stdin=there, stdout=there, stderr=PIPE, pgid=_group(command)
                )
            finally:
                with contextlib.suppress(SyscallError):
                    await there.close()
    except BaseException:
        if ours is not None:
            ours.close()
        raise
    return child, Said(child), sock


def _group(command: Command) -> Literal[0] | None:
    """A process group of its own: ^C at a terminal is for us, who may have more to do there.

    Not if it may ask for a password, for which it must be in the foreground.
    """
    words = [os.fspath(word).lower().removeprefix("-o").strip() for word in command.arguments]
    batch = [word for word in words if word.startswith("batchmode")]
    return None if batch and batch[0].endswith("no") else 0


async def _take(handle: FileDescriptor) -> socket.socket:
    """Our end of a channel, as a socket of Python's."""
    number = os.dup(int(handle.near))
    sock = socket.socket(fileno=number)
    sock.setblocking(False)
    await handle.close()
    return sock


class _Reader:
    """Lines that begin with a mark, among whatever else."""

    def __init__(self, sock: socket.socket, mark: str) -> None:
        self._sock = sock
        self._mark = mark.encode() + b" "
        self._data = b""
        self._noise = 0

    @property
    def rest(self) -> bytes:
        """What came behind the last line."""
        return self._data

    async def next(self) -> list[str] | None:
        """The words of the next one; None at the end of the stream. A checkpoint.

        ValueError if there is too much else.
        """
        while True:
            line, newline, rest = self._data.partition(b"\n")
            if newline:
                self._data = rest
                _, mark, words = line.rpartition(self._mark)
                if mark:
                    return printable(words).split(" ")
                self._count(len(line) + 1)
                continue
            if len(self._data) > _NOISE:
                self._count(len(self._data))
            await trio.lowlevel.wait_readable(self._sock)
            try:
                data = self._sock.recv(4096)
            except BlockingIOError:
                continue
            except ConnectionError:
                return None
            if not data:
                return None
            self._data += data

    def _count(self, n: int) -> None:
        self._noise += n
        if self._noise > _NOISE:
            raise ValueError(f"more than {_NOISE} bytes came that are not ours")


async def _send(sock: socket.socket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        await trio.lowlevel.wait_writable(sock)
        with contextlib.suppress(BlockingIOError):
            view = view[sock.send(view, socket.MSG_NOSIGNAL) :]


class Conversation:
    """What is known while a stub is being started, and what to say if that fails."""

    def __init__(self, child: AsyncChildPid, said: Said, sock: socket.socket, mark: str) -> None:
        """See converse."""
        self.child = child
        self.said = said
        self.sock = sock
        self.step = "connecting"
        self._reader = _Reader(sock, mark)

    async def state(self) -> ChildState | None:
        """How ssh has ended, if it does so soon."""
        with trio.move_on_after(_END_SECONDS):
            await self.child.waitpid(W.EXITED)
        return self.child.pid.death_state

    async def fail(self, reason: str = "") -> NoReturn:
        """Raise the error that says all. A checkpoint."""
        state = await self.state() if not reason else None
        if not reason:
            reason = "ssh has closed its output" if state is None else f"ssh has ended: {state}"
        raise SSHError(self.step, reason, state, self.said.text)

    async def next(self) -> list[str]:
        """The next line of the script. SSHError if there is none."""
        try:
            words = await self._reader.next()
        except ValueError as exc:
            problem = str(exc)
        else:
            if words is not None:
                return words
            problem = ""
        await self.fail(problem)

    async def start(self, image: Image) -> tuple[str, set[int]]:
        """Have the script become the stub.

        Returns the name of the machine, and which descriptors the stub needs.
        """
        words = await self.next()
        self.step = "looking at the machine"
        if words[0] != "arch" or len(words) != 4:
            await self.fail(f"the script said {words}")
        _, system, name, arch = words
        self.step = f"starting the stub on {name}"
        if (system, arch) != ("Linux", image.arch):
            await self.fail(
                f"it is {system} on {arch}, and our stub is for Linux on {image.arch}: the path of"
                f" another one is to be given as bootstrap_path of SSHExecutables"
            )
        words = await self.next()
        if words == ["send"]:
            self.step = f"sending the stub to {name}"
            try:
                await _send(self.sock, image.data)
            except OSError:
                await self.fail()
            words = await self.next()
        if words[0] == "ready" and self._reader.rest:
            await self.fail("something that is not our stub says more than it was asked")
        match words:
            case ["ready", "socket"]:
                return name, {_SOCKET}
            case ["ready", "pipes"]:
                return name, {_SOCKET, _SOCKET + 1}
            case ["damaged"]:
                await self.fail("the stub came there damaged")
            case ["noexec", *directories]:
                await self.fail(
                    f"nothing can be executed in any of {' '.join(directories)}: XDG_CACHE_HOME"
                    " there may name a directory where it can"
                )
            case _:
                await self.fail(f"the script said {words}")


async def start_stub(
    process: Process, command: Command, image: Image, mark: str
) -> tuple[AsyncChildPid, Process]:
    """Start ssh, and have what it runs there become our stub.

    A checkpoint; if cancelled, ssh was ended again.
    """
    child, said, sock = await converse(process, command)
    try:
        talk = Conversation(child, said, sock, mark)
        name, own = await talk.start(image)
        sysif = ElsewhereInterface(sock, post_mortem=lambda: _post_mortem(talk))
        talk.step = f"greeting the stub on {name}"
        try:
            remote = await _greet(sysif, name, own)
        except BaseException as exc:
            await sysif.close_interface()
            if isinstance(exc, SyscallHangup):
                raise noted(exc, f"while {talk.step}") from None
            raise
    except BaseException:
        sock.close()
        await child.__aexit__()
        raise
    child.pid.on_death(lambda: sysif.give_up(f"ssh has ended: {child.pid.death_state}"))
    child.finish_first(lambda: _finish(remote, sysif))
    return child, remote


async def _finish(remote: Process, sysif: ElsewhereInterface) -> None:
    """End the programs that it has started, and the connection. Not a checkpoint.

    PermissionError of a program that may not be killed.
    """

    async def give_up() -> None:  # the network may be dead
        await trio.sleep(_END_SECONDS)
        sysif.give_up("its programs did not end in time")

    refused: PermissionError | None = None
    with shield():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            try:
                await remote.finish_children()
            except PermissionError as exc:  # outside of the nursery, not in a group
                refused = exc
            nursery.cancel_scope.cancel()
    await sysif.close_interface()
    if refused is not None:
        try:
            raise refused
        finally:
            refused = None  # see rsyscall._errors


async def _post_mortem(talk: Conversation) -> str:
    state = await talk.state()
    what = "closed the connection" if state is None else f"ended: {state}"
    said = talk.said.text
    return f"ssh has {what}" + (f"; it printed:\n{said}" if said else "")


async def _greet(sysif: ElsewhereInterface, name: str, own: set[int]) -> Process:
    hello = await sysif.start(ring=False)
    process = foreign_process(sysif, hello, far.Machine(name))
    task = process.task
    sysif.own(task.address_space)
    task.fd_table.own |= own
    task.own_fds |= own
    process.environ = Environment(task, await _variables(process))
    return process


async def _variables(process: Process) -> dict[str, str]:
    """Its environment, as the login there has made it; none if there is no /proc.

    In the same go its output, which has been ssh's so far, becomes /dev/null: programs that it
    starts, and that outlive it, would keep the server from closing the connection.
    """
    async with process.batch() as batch:
        null = batch.open("/dev/null", O.RDWR)
        batch.syscall(SYS.dup3, null, 1, 0)
        batch.syscall(SYS.dup3, null, 2, 0)
        batch.close(null)
        fd = batch.open("/proc/self/environ", O.RDONLY, on_error="continue")
        read = batch.read(fd, _ENVIRON, on_error="continue")
        batch.close(fd, on_error="continue")
    data = read.value if read.result >= 0 else b""
    pairs = (line.partition(b"=") for line in data.split(b"\0"))
    return {os.fsdecode(name): os.fsdecode(value) for name, equals, value in pairs if equals}

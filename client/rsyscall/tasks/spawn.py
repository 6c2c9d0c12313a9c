"""A stub of our own, in a separate process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import weakref
from collections.abc import AsyncGenerator
from pathlib import Path

import trio

import rsyscall._raw
from rsyscall.sysif.child import ChildInterface
from rsyscall.tasks._foreign import foreign_process
from rsyscall.thread import Process

__all__ = ["open_process", "stub_path"]

#: How long a stub that was told to end may take, in seconds.
_END_SECONDS = 1.0
#: The number that its socket has in the stub.
_SOCKET = 3


def stub_path() -> Path:
    """Where the stub's executable is: it is installed beside the compiled core."""
    return Path(rsyscall._raw.__file__).with_name("rsyscall-stub")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"signal {number}"


class _Stub:
    """A child that runs the stub: reaped exactly once, whoever notices its death first."""

    def __init__(self, pid: int, path: Path) -> None:
        self.pid = pid
        self.path = path
        self.owner = os.getpid()
        self.status: str | None = None
        self.pidfd = os.pidfd_open(pid)
        self._waiting = trio.Lock()  # trio lets one task only wait for a file descriptor
        _stubs.add(self)

    def reap(self) -> None:
        """Take the status of a dead child."""
        if self.status is not None:
            return
        try:
            info = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:  # somebody's os.wait() was faster
            self.status = "its status is unknown"
            return
        if info is None:
            return
        if info.si_code == os.CLD_EXITED:
            self.status = f"it exited with status {info.si_status}"
        else:
            self.status = f"it was killed by {_signal_name(info.si_status)}"

    async def wait(self) -> None:
        async with self._waiting:
            while self.status is None:
                await trio.lowlevel.wait_readable(self.pidfd)
                self.reap()

    async def post_mortem(self) -> str:
        """What became of it, after it has closed its socket."""
        with trio.move_on_after(_END_SECONDS):
            await self.wait()
        return f"the stub (pid {self.pid}) has ended: {self.status or 'it still runs'}"

    async def end(self, *, kill: bool) -> None:
        """Have it ended and reaped, and close the pidfd."""
        if self.owner != os.getpid():
            return  # a forked copy: the stub is the parent's
        with trio.CancelScope(shield=True):
            if not kill:
                with trio.move_on_after(_END_SECONDS):
                    await self.wait()
            if self.status is None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
                await self.wait()
        self.close()

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


_stubs: weakref.WeakSet[_Stub] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for stub in list(_stubs):
        stub.close()
    _stubs.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _spawn(path: Path, theirs: socket.socket) -> _Stub:
    try:
        pid = os.posix_spawn(
            path,
            [path.name, "--fd", str(_SOCKET)],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), _SOCKET)],
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    except OSError as exc:
        exc.add_note(f"while starting the stub {path}")
        raise
    try:
        return _Stub(pid, path)
    except OSError as exc:
        os.kill(pid, signal.SIGKILL)  # nobody has waited for it: the pid is still its own
        os.waitpid(pid, 0)
        exc.add_note(f"while opening a pidfd of the stub {path}")
        raise


@contextlib.asynccontextmanager
async def open_process(
    stub: str | os.PathLike[str] | None = None, *, ring: bool | None = None
) -> AsyncGenerator[Process]:
    """Start a stub of our own and get its process, with an address space of its own.

    stub: the path of its executable, by default that of stub_path(). ring: whether calls go through
    shared memory; None: if the stub can. OSError, with the failed step
    as a note, if it cannot be started; SyscallHangup, saying what became of it, if it ends before
    it has said HELLO. A checkpoint. Leaving the block ends the stub, kills it if calls are still
    under way, reaps it and closes all that was opened for it; if it has died before, that is all
    there is to do. posix_spawn(3).
    """
    path = stub_path() if stub is None else Path(stub)
    await trio.lowlevel.checkpoint()
    ours, theirs = socket.socketpair()
    try:
        child = _spawn(path, theirs)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    sysif = ChildInterface(ours, post_mortem=child.post_mortem, death=child.wait)
    try:
        hello = await sysif.start(ring=ring)
        process = foreign_process(sysif, hello)
        process.task.fd_table.own.add(_SOCKET)
        process.task.own_fds.add(_SOCKET)
        # Or it is a program that has started the stub.
        sysif.reach(process.task.address_space, lambda: (child.pid, int(process.pid)), owner=True)
        try:
            yield process
        finally:
            await process.finish_children()
    finally:
        busy = sysif.busy
        await sysif.close_interface()
        await child.end(kill=busy)

"""Every way of reaching a process. A new way is one new entry in WAYS, and no new test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TypeAlias

import pytest
import trio

import rsyscall
from conformance.ssh import over_ssh
from rsyscall.sched import CLONE
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall.tasks.pair import open_pair
from rsyscall.tasks.persistent import clone_persistent
from rsyscall.tasks.stdin_bootstrap import stdin_bootstrap, stdin_bootstrap_path

#: What opens a process, given a directory of the test's own.
Way: TypeAlias = "Callable[[Path], contextlib.AbstractAsyncContextManager[rsyscall.Process]]"


@contextlib.asynccontextmanager
async def direct(directory: Path) -> AsyncGenerator[rsyscall.Process]:
    """The interpreter itself."""
    yield rsyscall.local_process


@contextlib.asynccontextmanager
async def pair(directory: Path, *, ring: bool) -> AsyncGenerator[rsyscall.Process]:
    """A thread of the interpreter, over a socketpair or shared memory."""
    async with open_pair(ring=ring) as process:
        yield process


@contextlib.asynccontextmanager
async def stub(directory: Path, *, ring: bool) -> AsyncGenerator[rsyscall.Process]:
    """A child of our own."""
    async with rsyscall.open_process(ring=ring) as process:
        yield process


async def ended(pidfd: int) -> None:
    """Wait until the process has ended, and close the pidfd."""
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)


async def _line(stream: trio.abc.ReceiveStream) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = await stream.receive_some(1)
        assert byte, f"systemd-socket-activate ended after {line!r}"
        line += byte
    return line


def _block_nothing() -> None:
    # Trio starts programs in a thread, which blocks what the thread that made it blocked then; and
    # threads are kept for a while. Such a program would not hear of SIGTERM.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


@contextlib.asynccontextmanager
async def socket_activate(directory: Path, *options: str) -> AsyncGenerator[Path]:
    """A stub behind a UNIX socket, started by systemd's own program; yields the socket's path."""
    program = shutil.which("systemd-socket-activate")
    if program is None:
        pytest.skip("systemd-socket-activate is missing (Debian: systemd)")
    path = directory / "socket"
    server = await trio.lowlevel.open_process(
        [program, *options, "--listen", str(path), str(rsyscall.stub_path())],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=_block_nothing,
    )
    assert server.stderr is not None
    async with server.stderr:
        try:
            assert (await _line(server.stderr)).startswith(b"Listening on ")
            yield path
        finally:
            with trio.CancelScope(shield=True):
                server.terminate()
                await server.wait()
    # The program dies of the signal; the stub, which takes its place unless each connection has
    # a process of its own, ends by itself.
    assert server.returncode == (-signal.SIGTERM if "--accept" in options else 0)


@contextlib.asynccontextmanager
async def activated(directory: Path, *options: str, ring: bool) -> AsyncGenerator[rsyscall.Process]:
    """A stub that a connection to a UNIX socket has started."""
    async with socket_activate(directory, *options) as path:
        async with rsyscall.connect(f"unix:{path}", ring=ring) as process:
            pidfd = os.pidfd_open(int(process.pid))
            try:
                yield process
            except BaseException:
                os.close(pidfd)
                raise
        await ended(pidfd)


@contextlib.asynccontextmanager
async def checked(
    way: contextlib.AbstractAsyncContextManager[rsyscall.Process], *, ring: bool
) -> AsyncGenerator[rsyscall.Process]:
    """The process, once it is sure that its calls go the way they are meant to."""
    async with way as process:
        sysif = process.task.sysif
        assert isinstance(sysif, RemoteSyscallInterface)
        assert sysif.uses_ring == ring
        yield process


@contextlib.asynccontextmanager
async def child(
    way: contextlib.AbstractAsyncContextManager[rsyscall.Process],
    flags: CLONE = CLONE.NONE,
    *,
    ring: bool,
    vm: bool = True,
) -> AsyncGenerator[rsyscall.Process]:
    """A child of the process that the other way reaches."""
    async with way as parent, await parent.clone(flags, ring=ring, vm=vm) as process:
        yield process


@contextlib.asynccontextmanager
async def bootstrapped(directory: Path) -> AsyncGenerator[rsyscall.Process]:
    """A stub that a command has started, which finds its socket as its standard input."""
    stub = await stdin_bootstrap_path(rsyscall.local_process)
    env = rsyscall.Command("env", ["env", stub])
    child, process = await stdin_bootstrap(rsyscall.local_process, env, ring=True)
    async with child:
        yield process


@contextlib.asynccontextmanager
async def reconnected(directory: Path) -> AsyncGenerator[rsyscall.Process]:
    """A stub that has had another connection before."""
    parent = rsyscall.local_process
    async with await clone_persistent(parent, directory / "socket", ring=True) as process:
        await process.prep_for_reconnect()
        await process.reconnect(parent)
        (directory / "socket").unlink()
        yield process


WAYS: dict[str, Way] = {
    "direct": direct,
    "pair": lambda directory: checked(pair(directory, ring=True), ring=True),
    "pair-no-ring": lambda directory: checked(pair(directory, ring=False), ring=False),
    "stub": lambda directory: checked(stub(directory, ring=True), ring=True),
    "stub-no-ring": lambda directory: checked(stub(directory, ring=False), ring=False),
    "socket-activate": lambda directory: checked(activated(directory, ring=True), ring=True),
    "socket-activate-no-ring": lambda directory: checked(
        activated(directory, ring=False), ring=False
    ),
    "socket-activate-accept": lambda directory: checked(
        activated(directory, "--accept", ring=True), ring=True
    ),
    "child": lambda directory: checked(child(direct(directory), ring=True), ring=True),
    "child-no-ring": lambda directory: checked(child(direct(directory), ring=False), ring=False),
    "child-shared-files": lambda directory: checked(
        child(direct(directory), CLONE.FILES, ring=True), ring=True
    ),
    "child-shared-files-no-ring": lambda directory: checked(
        child(direct(directory), CLONE.FILES, ring=False), ring=False
    ),
    "child-private-memory": lambda directory: checked(
        child(direct(directory), vm=False, ring=True), ring=True
    ),
    "grandchild": lambda directory: checked(
        child(child(direct(directory), ring=True), ring=True), ring=True
    ),
    "child-of-stub": lambda directory: checked(
        child(stub(directory, ring=True), ring=True), ring=True
    ),
    "child-of-stub-no-ring": lambda directory: checked(
        child(stub(directory, ring=False), ring=False), ring=False
    ),
    "child-of-stub-shared-files": lambda directory: checked(
        child(stub(directory, ring=True), CLONE.FILES, ring=True), ring=True
    ),
    "grandchild-of-stub": lambda directory: checked(
        child(child(stub(directory, ring=True), ring=True), vm=False, ring=True), ring=True
    ),
    "bootstrap": lambda directory: checked(bootstrapped(directory), ring=True),
    "reconnected": lambda directory: checked(reconnected(directory), ring=True),
    "ssh": lambda directory: checked(over_ssh(directory), ring=False),
}

#: Those whose process is the interpreter itself, which refuses what would end or change it.
INSIDE = {"direct", "pair", "pair-no-ring"}

#: Those that differ from another one only in how the process has begun, or in the table that it
#: shares. Calls that have nothing to do with either are not made in these as well.
ALIKE = {
    "socket-activate-accept",
    "child-shared-files-no-ring",
    "child-of-stub-shared-files",
    "bootstrap",
    "reconnected",
}

#: Those whose process is on another machine, as far as is known: no descriptor passes.
ELSEWHERE = {"ssh"}

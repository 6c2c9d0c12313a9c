"""Processes that survive their connections."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio
import trio.testing

import rsyscall
from e2e.servers import DEADLINE, STUB, RawClient, use, wait_for
from process.seen import fds, maps
from process.test_stdin_bootstrap import command, is_gone
from rsyscall import local_process
from rsyscall.fcntl import O
from rsyscall.near.sysif import In, ProtocolHangup, SyscallHangup
from rsyscall.signal import SIG
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import CLD, W
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall.tasks.persistent import PersistentProcess, clone_persistent
from rsyscall.tasks.stdin_bootstrap import stdin_bootstrap
from rsyscall.thread import Process


@contextlib.asynccontextmanager
async def persistent(
    parent: Process, directory: Path, *, ring: bool | None = None
) -> AsyncGenerator[PersistentProcess]:
    """One that is persistent; it is killed at the end."""
    async with await clone_persistent(parent, directory / "s", ring=ring) as process:
        await process.make_persistent()
        try:
            yield process
        finally:
            with trio.CancelScope(shield=True):
                await process.pid.end()


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


async def block(process: Process, seconds: int = 1000, ns: int = 0) -> None:
    """Make a call that is long, and ends with the connection at the latest."""
    time = In(struct.pack("@qq", seconds, ns))
    with contextlib.suppress(SyscallHangup):
        await process.task.sysif.call(SYS.ppoll, (0, 0, time))
        assert seconds == 0


@pytest.mark.parametrize("ring", [True, False])
async def test_all_handles_stay_valid(origin: Process, tmp_path: Path, ring: bool) -> None:
    async with persistent(origin, tmp_path, ring=ring) as process:
        pid, task = process.pid.pid.near, process.task
        assert await task.getpid() == pid
        file = await task.open(tmp_path / "f", O.RDWR | O.CREAT)
        pointer = await process.ptr(b"a" * 5000)
        small = await process.ptr(b"small")
        pipe = await process.pipe()
        read = await process.make_afd(pipe.read, set_nonblock=True)
        with trio.move_on_after(0):
            await read.read_some_bytes()
        prepared = await process.prepare(rsyscall.Batch())
        child = await process.clone()
        program = await process.spawn(command("sleep", "1000"))
        for _ in range(3):
            await file.write(b"x")
            before = process.task.sysif
            await process.reconnect(origin)
            assert process.task is task
            sysif = task.sysif
            assert isinstance(sysif, RemoteSyscallInterface)
            assert sysif is not before
            assert sysif.uses_ring == ring
            assert await task.getpid() == pid
        assert (tmp_path / "f").read_bytes() == b"xxx"
        assert await file.pread(10, 0) == b"xxx"
        assert (await pointer.read(), await small.read()) == (b"a" * 5000, b"small")
        pointer = await pointer.write(b"b" * 5000)
        assert await pointer.read() == b"b" * 5000
        with pytest.raises(SyscallHangup):
            await prepared.run()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def reads() -> None:  # pyright: ignore[reportUnusedFunction]
                assert await read.read_some_bytes() == b"hello"

            await trio.testing.wait_all_tasks_blocked()
            await pipe.write.write(b"hello")
        assert await child.task.getppid() == pid
        async with await process.clone() as other:
            assert await other.task.getppid() == pid
        await program.kill()
        assert (await program.waitpid(W.EXITED)).code is CLD.KILLED
        await child.end()
        await read.close()


@pytest.mark.parametrize("ring", [True, False])
async def test_nothing_of_a_connection_is_left(tmp_path: Path, ring: bool) -> None:
    """No thread, mapping or descriptor, whatever it was doing when it ended."""
    chance = random.Random(1)
    async with persistent(local_process, tmp_path, ring=ring) as process:
        pid = int(process.pid)
        await process.ptr(bytes(16))
        await process.reconnect(local_process)
        before = maps(pid), fds(pid)
        for _ in range(40):
            async with trio.open_nursery() as nursery:
                for _ in range(chance.randrange(6)):
                    time = chance.choice([(1000, 0), (0, chance.randrange(2_000_000))])
                    nursery.start_soon(block, process, *time)
                if chance.random() < 0.5:
                    await trio.testing.wait_all_tasks_blocked()
                for _ in range(chance.randrange(30)):
                    await process.task.getpid()
                if chance.random() < 0.3:
                    await trio.sleep(0.003 * chance.random())
                await process.task.sysif.close_interface()
            await process.reconnect(local_process)
            assert await process.task.getpid() == process.pid.pid.near
            assert threads(pid) == 1
            assert (maps(pid), fds(pid)) == before


async def test_calls_that_are_under_way(tmp_path: Path) -> None:
    """They are interrupted, also where the first thread makes one; what waits is told."""
    async with persistent(local_process, tmp_path) as process:
        pid = int(process.pid)
        pipe = await process.pipe()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(block, process)
            await trio.testing.wait_all_tasks_blocked()

            @nursery.start_soon
            async def watches() -> None:  # pyright: ignore[reportUnusedFunction]
                with pytest.raises(SyscallHangup):
                    await process.task.sysif.wait_readable(int(pipe.read.near))

            wait_for(lambda: threads(pid) > 3, "threads for the calls")
            await trio.testing.wait_all_tasks_blocked()
            await process.reconnect(local_process)
        assert threads(pid) == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(block, process)
            await trio.testing.wait_all_tasks_blocked()
            assert await process.task.getpid() == process.pid.pid.near
            await process.task.sysif.close_interface()
        await process.reconnect(local_process)


async def test_before_it_is_prepared_it_is_as_any_child(origin: Process, tmp_path: Path) -> None:
    process = await clone_persistent(origin, tmp_path / "s")
    with pytest.raises(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tmp_path / "s"))
    with pytest.raises(ValueError, match="prep_for_reconnect"):
        await process.reconnect(origin)
    await process.task.sysif.close_interface()
    assert (await process.pid.wait()).exit_status == 0
    with pytest.raises(SyscallHangup):
        await process.task.getpid()
    async with await clone_persistent(origin, tmp_path / "t") as process:
        child = await process.clone()
    assert process.pid.pid.death_state is not None
    assert child.pid.pid.death_state is not None


async def test_before_it_is_persistent_it_ends_with_its_parent(tmp_path: Path) -> None:
    async with rsyscall.open_process() as parent:
        process = await clone_persistent(parent, tmp_path / "s")
        await process.prep_for_reconnect()
        await process.prep_for_reconnect()
        await process.task.sysif.close_interface()
        await process.reconnect(parent)
        assert await process.task.getppid() == parent.pid
        session = await process.task.getsid(0)
    assert process.pid.pid.death_state is not None
    async with rsyscall.open_process() as parent:
        process = await clone_persistent(parent, tmp_path / "t")
        await process.make_persistent()
        assert await process.task.getsid(0) != session
        os.kill(int(parent.pid), signal.SIGKILL)
    # Its parent cannot be asked how it is, and it goes on.
    assert await process.task.getpid() == process.task.near_process
    await process.reconnect(local_process)
    await process.exit(0)
    await process.finish()
    wait_for(lambda: is_gone(int(process.task.near_process)), "the process to be gone")


PROGRAM = """
import sys, trio
from rsyscall import local_process
from rsyscall.sys.syscall import SYS
from rsyscall.tasks.persistent import clone_persistent

async def main():
    process = await clone_persistent(local_process, sys.argv[1])
    if sys.argv[2] != "child":
        await process.make_persistent()
    await process.task.chdir("/usr")
    print(int(process.pid), flush=True)
    if sys.argv[2] == "block":
        await process.task.sysif.syscall(SYS.ppoll)
    if sys.argv[2] != "end":
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.parametrize("how", ["child", "sleep", "block", "end"])
async def test_its_client_dies(tmp_path: Path, how: str) -> None:
    """By SIGKILL, or by its own end: a child ends with it; what is persistent goes on."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path / "s", how], stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        if how == "end":
            assert program.wait(DEADLINE) == 0
        else:
            program.kill()
    if how == "child":
        wait_for(lambda: is_gone(pid), "the child to be gone")
        return
    for _ in range(2):
        async with rsyscall.connect(f"unix:{tmp_path}/s") as process:
            assert (int(process.pid), await process.task.getcwd()) == (pid, "/usr")
            assert threads(pid) == 1
    async with rsyscall.connect(f"unix:{tmp_path}/s") as process:
        await process.exit(0)
    wait_for(lambda: is_gone(pid), "the process to be gone")


async def test_one_connection_at_a_time(tmp_path: Path) -> None:
    async with persistent(local_process, tmp_path) as process:
        path = f"unix:{tmp_path}/s"
        with trio.move_on_after(0.05) as scope:
            async with rsyscall.connect(path):
                raise AssertionError("the first connection has not ended")
        assert scope.cancelled_caught
        assert await process.task.getpid() == process.pid.pid.near
        await process.task.sysif.close_interface()
        async with rsyscall.connect(path) as other:
            with trio.move_on_after(0.05) as scope:
                await process.reconnect(local_process)
            assert scope.cancelled_caught
            assert await other.task.getpid() == process.pid.pid.near
        await process.reconnect(local_process)
        assert await process.task.getpid() == process.pid.pid.near
        with RawClient(socket.socket(socket.AF_UNIX)) as client:
            client.sock.connect(str(tmp_path / "s"))
            client.send(b"hello")
            await process.task.sysif.close_interface()
            assert client.last_words()
        with RawClient(socket.socket(socket.AF_UNIX)) as client:
            client.sock.connect(str(tmp_path / "s"))
            use(client, pid=os.getpid())


async def test_by_way_of_others(tmp_path: Path) -> None:
    """A connection belongs to us, whoever has made it."""
    async with persistent(local_process, tmp_path) as process:
        async with rsyscall.open_process() as stub, await stub.clone() as child:
            for way in (stub, child):
                await process.reconnect(way)
                assert await process.task.getpid() == process.pid.pid.near
        assert await process.task.getpid() == process.pid.pid.near


async def test_another_process_is_told_from_it(tmp_path: Path) -> None:
    async with persistent(local_process, tmp_path) as process:
        (tmp_path / "s").rename(tmp_path / "t")
        with pytest.raises(FileNotFoundError):
            await process.reconnect(local_process)
        async with persistent(local_process, tmp_path) as other:
            await other.task.sysif.close_interface()
            with pytest.raises(SyscallHangup, match="another process listens there"):
                await process.reconnect(local_process)
        (tmp_path / "s").unlink()
        (tmp_path / "t").rename(tmp_path / "s")
        await process.reconnect(local_process)
        assert await process.task.getpid() == process.pid.pid.near


async def test_it_is_killed(tmp_path: Path) -> None:
    for connected in (True, False):
        path = tmp_path / str(connected)
        process = await clone_persistent(local_process, path)
        await process.make_persistent()
        pointer = await process.ptr(b"x")
        if not connected:
            await process.task.sysif.close_interface()
        await process.pid.kill()
        assert (await process.pid.waitpid(W.EXITED)).sig is SIG.KILL
        with pytest.raises(SyscallHangup):
            await process.task.getpid()
        with pytest.raises(SyscallHangup):
            await pointer.read()
        with pytest.raises(ConnectionRefusedError):
            await process.reconnect(local_process)
        await process.finish()


@pytest.mark.parametrize("ring", [True, False])
async def test_it_is_killed_in_a_call(tmp_path: Path, ring: bool) -> None:
    async with (
        persistent(local_process, tmp_path, ring=ring) as process,
        trio.open_nursery() as nursery,
    ):

        @nursery.start_soon
        async def call() -> None:  # pyright: ignore[reportUnusedFunction]
            with pytest.raises(SyscallHangup, match="killed by SIGKILL"):
                await process.task.sysif.syscall(SYS.ppoll)

        await trio.testing.wait_all_tasks_blocked()
        os.kill(int(process.pid), signal.SIGKILL)


async def test_cancelled(origin: Process, tmp_path: Path) -> None:
    for i in range(20):
        path = tmp_path / str(i)
        with trio.move_on_after(0.0006 * i):
            async with await clone_persistent(origin, path) as process:
                await process.prep_for_reconnect()
                await process.reconnect(origin)
    async with persistent(origin, tmp_path) as process:
        for i in range(20):
            with trio.move_on_after(0.0002 * i):
                await process.reconnect(origin)
        await process.reconnect(origin)
        assert await process.task.getpid() == process.task.near_process


async def test_bad_input(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(OSError, match="in use"):
        await clone_persistent(local_process, tmp_path / "s")
    with pytest.raises(FileNotFoundError):
        await clone_persistent(local_process, tmp_path / "no" / "s")
    assert (tmp_path / "s").read_text() == "mine"
    long = tmp_path / ("x" * 100)
    long.mkdir()
    async with persistent(local_process, long) as process:
        await process.reconnect(local_process)


@pytest.mark.privileged
async def test_another_user_is_refused(tmp_path: Path) -> None:
    setpriv = command("setpriv", "--reuid=33", "--regid=33", "--clear-groups")
    directory = Path("/tmp") / f"rsyscall-test-{os.getpid()}"
    directory.mkdir()
    directory.chmod(0o755)
    (directory / "stub").write_bytes(STUB.read_bytes())
    (directory / "stub").chmod(0o755)
    try:
        async with persistent(local_process, directory) as process:
            (directory / "s").chmod(0o777)
            child, user = await stdin_bootstrap(local_process, setpriv.args(directory / "stub"))
            async with child:
                with pytest.raises(ProtocolHangup, match="not served"):
                    await process.reconnect(user)
            await process.reconnect(local_process)
            assert await process.task.getpid() == process.pid.pid.near
    finally:
        for name in ("s", "stub"):
            (directory / name).unlink()
        directory.rmdir()

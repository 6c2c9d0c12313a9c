"""What a process has for files, sockets and its environment, in a few ways."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import rsyscall
from conformance.ways import WAYS
from rsyscall.command import Command
from rsyscall.fcntl import O
from rsyscall.near import FileDescriptor
from rsyscall.netinet.in_ import SockaddrIn
from rsyscall.path import Path as ThePath
from rsyscall.sys.socket import AF, SOCK
from rsyscall.thread import do_cloexec_except
from rsyscall.unistd import SEEK


@pytest.fixture(params=["direct", "child", "stub-no-ring"])
async def process(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process:
        yield process


async def test_files(process: rsyscall.Process, tmp_path: Path) -> None:
    where = await process.mkdir(ThePath(tmp_path / "new"), 0o700)
    assert os.stat(where).st_mode & 0o777 == 0o700
    text = "0123456789" * 20000
    path = await process.spit(where / "file", text, 0o600)
    assert path == where / "file"
    assert Path(path).read_text() == text
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert await process.spit(path, b"short") == path
    async with await process.task.open(path, O.RDWR | O.APPEND) as fd:
        await process.spit(fd, " and more")
        await fd.lseek(0, SEEK.SET)
        assert await process.read_to_eof(fd) == b"short and more"
    await process.spit(path, text)
    async with await process.task.open(path, O.RDONLY) as fd:
        assert await process.read_to_eof(fd) == text.encode()


async def test_pipes_and_sockets(process: rsyscall.Process) -> None:
    pipe = await process.pipe()
    async with pipe.read, pipe.write:
        await pipe.write.write(b"x")
        assert await pipe.read.read(5) == b"x"
    pair = await process.socketpair(AF.UNIX, SOCK.STREAM)
    async with pair.first, pair.second:
        await pair.first.write(b"y")
        assert await pair.second.read(5) == b"y"
    async with await process.socket(AF.INET, SOCK.STREAM) as sock:
        found = await process.bind_getsockname(sock, SockaddrIn(0, "127.0.0.1"))
        assert found.port != 0
        assert found == await sock.getsockname()


async def test_the_environment_of_what_it_starts(process: rsyscall.Process) -> None:
    async with await process.clone() as child:
        show = Command("/bin/sh", ["sh", "-c", 'echo "$RSYSCALL_TEST" "$HOME"'], {})
        child.environ["RSYSCALL_TEST"] = "one"
        home = child.environ["HOME"] = "/nowhere"
        done = await child.run(show, capture_stdout=True)
        assert done.stdout == f"one {home}\n".encode()
        done = await child.run(show.env(RSYSCALL_TEST="two"), capture_stdout=True)
        assert done.stdout == f"two {home}\n".encode()
        async with await child.clone() as grandchild:
            grandchild.environ["RSYSCALL_TEST"] = "three"
            assert child.environ["RSYSCALL_TEST"] == "one"
            async with await grandchild.task.memfd_create("out") as out:
                await out.dup2(grandchild.stdout)
                there = await grandchild.exec(show)
                await there.check()
    assert "RSYSCALL_TEST" not in process.environ


async def test_an_environment_that_was_only_looked_at_is_ours(
    process: rsyscall.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "RSYSCALL_TEST" not in process.environ
    monkeypatch.setenv("RSYSCALL_TEST", "later")
    done = await process.run(
        Command("/bin/sh", ["sh", "-c", "echo $RSYSCALL_TEST"], {}), capture_stdout=True
    )
    assert done.stdout == b"later\n"


async def test_what_is_closed_on_exec(process: rsyscall.Process, tmp_path: Path) -> None:
    task = process.task
    async with (
        await task.open(tmp_path / "out", O.WRONLY | O.CREAT) as out,
        await task.memfd_create("kept") as kept,
        await process.clone() as child,
    ):
        await child.inherit_fd(out).dup2(child.stdout)
        one = child.inherit_fd(kept)
        await one.disable_cloexec()
        other = await child.task.memfd_create("closed")
        await other.disable_cloexec()
        await do_cloexec_except(child, {FileDescriptor(int(one.near))})
        listing = Command("/bin/sh", ["sh", "-c", "readlink /proc/$$/fd/*; true"], {})
        await (await child.exec(listing)).check()
    found = (tmp_path / "out").read_text()
    assert "/memfd:kept" in found
    assert "/memfd:closed" not in found

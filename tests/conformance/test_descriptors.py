"""Descriptors: duplicates, flags, pipes, sockets, terminals; against /proc and fcntl."""

from __future__ import annotations

import os
import pty
import struct
from pathlib import Path

import pytest

import rsyscall
from conformance.kernel import is_open
from conformance.seen import nothing_sent, open_flags, opened
from rsyscall.far import AddressSpaceMismatchError, FDTableMismatchError
from rsyscall.fcntl import F_SEAL, FD, F, O
from rsyscall.handle import (
    FileDescriptor,
    InvalidHandleError,
    SharedHandleError,
    Task,
    UseAfterFreeError,
)
from rsyscall.linux.memfd import MFD
from rsyscall.sys.ioctl import TIOC
from rsyscall.sys.socket import AF, SOCK, Socketpair
from rsyscall.unistd import Pipe


async def test_cloexec_can_be_disabled_and_enabled(task: Task) -> None:
    async with await task.open("/dev/null", O.RDONLY) as fd:
        assert await fd.fcntl(F.GETFD) == FD.CLOEXEC
        await fd.disable_cloexec()
        assert await fd.fcntl(F.GETFD) == FD.NONE
        assert not open_flags(opened(fd)) & os.O_CLOEXEC
        await fd.enable_cloexec()
        assert open_flags(opened(fd)) & os.O_CLOEXEC
        assert await fd.as_argument() == int(fd.near)
        assert not open_flags(opened(fd)) & os.O_CLOEXEC
        async with rsyscall.Process(task).batch() as b:
            b.enable_cloexec(fd)
            first = b.fcntl(fd, F.GETFD)
            b.disable_cloexec(fd)
            second = b.fcntl(fd, F.GETFD)
            b.fcntl(fd, F.SETFD, FD.CLOEXEC)
        assert (first.value, second.value) == (FD.CLOEXEC, FD.NONE)
        assert open_flags(opened(fd)) & os.O_CLOEXEC


async def test_flags_seals_and_sizes(task: Task) -> None:
    async with await task.memfd_create("x", MFD.ALLOW_SEALING) as fd:
        await fd.fcntl(F.SETFL, O.NONBLOCK | O.APPEND)
        flags = await fd.fcntl(F.GETFL)
        assert flags & O.NONBLOCK
        assert flags & O.APPEND
        await fd.fcntl(F.ADD_SEALS, F_SEAL.GROW | F_SEAL.SHRINK)
        assert await fd.fcntl(F.GET_SEALS) == F_SEAL.GROW | F_SEAL.SHRINK
        with pytest.raises(PermissionError):
            await fd.ftruncate(1)
        with nothing_sent(task), pytest.raises(ValueError, match="0 is not a valid F"):
            await fd.fcntl(0)  # type: ignore[arg-type] # pyright: ignore - what is refused
    pipe = await task.pipe()
    async with pipe.read, pipe.write:
        assert await pipe.write.fcntl(F.SETPIPE_SZ, 8192) == 8192
        assert await pipe.read.fcntl(F.GETPIPE_SZ) == 8192


async def test_a_duplicate_is_the_same_open_file(task: Task, tmp_path: Path) -> None:
    async with await task.open(tmp_path / "f", O.CREAT | O.RDWR) as fd, await fd.dup() as other:
        assert type(other) is FileDescriptor
        assert other.near != fd.near
        await fd.write(b"abc")
        await other.write(b"def")
        assert (tmp_path / "f").read_bytes() == b"abcdef"
        assert open_flags(opened(other)) & os.O_CLOEXEC


async def test_dup2_and_dup3_replace_what_a_handle_means(task: Task, tmp_path: Path) -> None:
    async with (
        await task.open(tmp_path / "a", O.CREAT | O.RDWR) as a,
        await task.open(tmp_path / "b", O.CREAT | O.RDWR) as b,
    ):
        number = b.near
        assert await a.dup3(b, O.CLOEXEC) is b
        assert b.near == number
        assert os.readlink(opened(b)) == str(tmp_path / "a")
        assert open_flags(opened(b)) & os.O_CLOEXEC
        assert await a.dup2(b) is b
        assert not open_flags(opened(b)) & os.O_CLOEXEC
        assert await a.dup2(a) is a
        async with rsyscall.Process(task).batch() as batch:
            c = batch.open(tmp_path / "c", O.CREAT | O.RDWR)
            two = batch.dup2(c, b)
            three = batch.dup3(c, c_dup := batch.dup(a), O.CLOEXEC)
            batch.close(c)
        assert two.value == int(number)
        assert three.value == int(c_dup.value.near)
        assert os.readlink(opened(b)) == str(tmp_path / "c")
        async with c_dup.value:
            assert os.readlink(opened(c_dup.value)) == str(tmp_path / "c")


async def test_dup_refuses_what_would_mislead_other_handles(
    task: Task, stranger: rsyscall.Process
) -> None:
    far = await stranger.task.open("/", O.PATH)
    async with await task.open("/", O.PATH) as a, await task.open("/", O.PATH) as b:
        with nothing_sent(task):
            second = b.for_task(task)
            with pytest.raises(SharedHandleError):
                await a.dup2(b)
            with pytest.raises(SharedHandleError):
                rsyscall.Process(task).batch().dup3(a, b, 0)
            await second.invalidate()
            with pytest.raises(FDTableMismatchError):
                await a.dup2(far)
            with pytest.raises(ValueError, match=r"newfd: .* is the descriptor itself"):
                await a.dup3(a, 0)
        closed = await a.dup()
        await closed.close()
        with nothing_sent(task):
            for call in (closed.dup(), closed.dup2(a), a.dup2(closed), closed.disable_cloexec()):
                with pytest.raises(InvalidHandleError):
                    await call
    await far.close()


@pytest.mark.parametrize("flags", [O.NONE, O.NONBLOCK, O.CLOEXEC])
async def test_a_pipe_has_two_ends(task: Task, flags: O) -> None:
    pipe = await task.pipe(flags=flags)
    assert pipe[0] is pipe.read
    assert pipe[1] is pipe.write
    async with pipe.read, pipe.write:
        await pipe.write.write(b"through")
        assert await pipe.read.read(100) == b"through"
        for fd in (pipe.read, pipe.write):
            assert os.readlink(opened(fd)).startswith("pipe:")
            assert open_flags(opened(fd)) & os.O_CLOEXEC
            assert bool(open_flags(opened(fd)) & os.O_NONBLOCK) == (flags == O.NONBLOCK)


async def test_a_pipe_by_way_of_memory(task: Task) -> None:
    buf = await task.malloc(Pipe)
    made = await task.pipe(buf)
    with pytest.raises(UseAfterFreeError):
        buf.size()
    pipe, rest = await made.linear_read()
    assert isinstance(pipe, Pipe)
    async with pipe.read, pipe.write:
        await pipe.write.write(b"through")
        assert await pipe.read.read(100) == b"through"
        written = await rest.write(pipe)
        data = await task.sysif.read_memory(written.near, 8)
        assert struct.unpack("=2i", data) == (int(pipe.read.near), int(pipe.write.near))
    small, _ = (await task.malloc(Pipe)).split(4)
    with nothing_sent(task), pytest.raises(ValueError, match="buf: 4 bytes"):
        await task.pipe(small)


async def test_a_pipe_in_a_batch(process: rsyscall.Process) -> None:
    async with process.batch() as b:
        step = b.pipe()
        b.write(step.int_at(4), b"through")
        said = b.read(step.int_at(0), 100)
        b.close(step.int_at(0))
    pipe = step.value
    assert said.value == b"through"
    assert not pipe.read.valid
    assert not is_open(process, int(pipe.read.near))
    async with pipe.write:
        assert is_open(process, pipe.write)


async def test_a_pipe_of_a_batch_that_nobody_asks_for_has_handles(
    process: rsyscall.Process,
) -> None:
    batch = process.batch()
    step = batch.pipe()
    await batch.run()
    handles = set(process.task.fd_handles)
    assert set(step.value._both) <= handles  # pyright: ignore[reportPrivateUsage] - made before
    async with step.value.read, step.value.write:
        pass


async def test_sockets(task: Task) -> None:
    pair = await task.socketpair(AF.UNIX, SOCK.SEQPACKET)
    assert isinstance(pair, Socketpair)
    async with pair.first, pair.second:
        await pair.first.write(b"hello")
        assert await pair[1].read(100) == b"hello"
        assert open_flags(opened(pair.first)) & os.O_CLOEXEC
    made = await task.socketpair(
        AF.UNIX, SOCK.STREAM | SOCK.NONBLOCK, 0, await task.malloc(Socketpair)
    )
    pair = await made.read()
    async with pair.first, pair.second:
        assert open_flags(opened(pair.second)) & os.O_NONBLOCK
    async with await task.socket(AF.INET, SOCK.DGRAM) as sock:
        assert os.readlink(opened(sock)).startswith("socket:")
    async with rsyscall.Process(task).batch() as b:
        made_too = b.socketpair(AF.UNIX, SOCK.STREAM)
        b.write(made_too.int_at(0), b"x")
        said = b.read(made_too.int_at(4), 10)
        b.close(b.socket(AF.UNIX, SOCK.STREAM))
    async with made_too.value.first, made_too.value.second:
        assert said.value == b"x"
    with pytest.raises(OSError, match="not supported"):
        await task.socketpair(AF.INET, SOCK.STREAM)


async def test_ioctl_of_a_terminal(task: Task, stranger: rsyscall.Process) -> None:
    ours, theirs = pty.openpty()
    try:
        name = os.ttyname(theirs)
        async with await task.open(name, O.RDWR | O.NOCTTY) as fd:
            size = await task.ptr(struct.pack("=4H", 33, 99, 0, 0))
            assert await fd.ioctl(TIOC.SWINSZ, size) == 0
            assert os.get_terminal_size(theirs) == (99, 33)
            got = await task.malloc(bytes, 8)
            await fd.ioctl(TIOC.GWINSZ, got)
            assert await got.read() == size.value
            async with rsyscall.Process(task).batch() as b:
                step = b.ioctl(fd, TIOC.SWINSZ, size.near)
            assert step.value == 0
            far = await stranger.malloc(bytes, 8)
            with nothing_sent(task), pytest.raises(AddressSpaceMismatchError):
                await fd.ioctl(TIOC.GWINSZ, far)
        async with await task.open("/dev/null", O.RDONLY) as fd:
            with pytest.raises(OSError, match="Inappropriate ioctl"):
                await fd.ioctl(TIOC.GWINSZ, await task.malloc(bytes, 8))
    finally:
        os.close(ours)
        os.close(theirs)


async def test_a_controlling_terminal(apart: rsyscall.Process) -> None:
    """A session leader takes it; field 7 of /proc/PID/stat says which it is."""
    task, pid = apart.task, int(apart.pid)
    if os.getpgid(pid) == pid:  # the leader of a group cannot begin a session
        assert os.getsid(pid) != 0
        return
    await task.setsid()
    ours, theirs = pty.openpty()
    try:
        async with await task.open(os.ttyname(theirs), O.RDWR | O.NOCTTY) as fd:
            await fd.ioctl(TIOC.SCTTY, 0)
            line = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            assert int(line[4]) == os.fstat(theirs).st_rdev
    finally:
        os.close(theirs)
        os.close(ours)


async def test_the_name_in_proc(task: Task) -> None:
    async with await task.open("/dev/null", O.RDONLY) as fd:
        path = fd.as_proc_path()
        assert os.readlink(path) == "/dev/null"
        async with await task.open(path, O.RDONLY) as again:
            assert os.readlink(opened(again)) == "/dev/null"
    with pytest.raises(InvalidHandleError):
        fd.as_proc_path()

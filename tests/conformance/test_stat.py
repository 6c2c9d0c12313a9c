"""What is known of a file, against os.stat."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import rsyscall
from conformance.seen import nothing_sent
from rsyscall import near
from rsyscall.far import AddressSpaceMismatchError
from rsyscall.fcntl import O
from rsyscall.handle import Task, UseAfterFreeError
from rsyscall.sys.stat import S_IF, Mode, Stat, TypeMode
from rsyscall.sys.syscall import SYS

NUMBERS = ["dev", "ino", "nlink", "uid", "gid", "rdev", "size", "blksize", "blocks"]


def assert_same(ours: Stat, expected: os.stat_result) -> None:
    for name in NUMBERS:
        assert getattr(ours, name) == getattr(expected, f"st_{name}"), name
    assert int(ours.mode) == expected.st_mode
    assert ours.mode.type == stat.S_IFMT(expected.st_mode)
    assert ours.mode.mode == stat.S_IMODE(expected.st_mode)
    for name in ("mtime", "ctime", "atime"):
        assert getattr(ours, name).to_nanos() == getattr(expected, f"st_{name}_ns"), name


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"0123456789")
    (tmp_path / "file").chmod(0o4751)
    (tmp_path / "other name").hardlink_to(tmp_path / "file")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(2**40 + 1)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("file", S_IF.REG),
        ("sparse", S_IF.REG),
        ("link", S_IF.LNK),
        ("fifo", S_IF.IFO),
        ("", S_IF.DIR),
        ("/dev/null", S_IF.CHR),
    ],
)
async def test_fstat_knows_what_os_stat_knows(
    task: Task, files: Path, name: str, kind: S_IF
) -> None:
    path = files / name
    async with await task.open(path, O.PATH | O.NOFOLLOW) as fd:
        ours = await fd.fstat()
        assert_same(ours, path.lstat())
        assert ours.mode.type is kind


async def test_fstat_has_times_to_the_nanosecond_before_1970_and_after_2038(
    task: Task, files: Path
) -> None:
    path = files / "file"
    async with await task.open(path, O.PATH) as fd:
        for nanoseconds in (0, 1, -1, 1_500_000_000, -1_500_000_000, 2**33 * 10**9):
            os.utime(path, ns=(nanoseconds, nanoseconds))
            ours = await fd.fstat()
            assert_same(ours, path.stat())
            assert 0 <= ours.mtime.nsec < 10**9


async def test_fstat_sees_what_was_written(task: Task, files: Path) -> None:
    async with await task.open(files / "file", O.RDWR) as fd:
        await fd.ftruncate(5)
        assert (await fd.fstat()).size == 5
        await fd.pwrite(b"x", 8191)
        assert_same(await fd.fstat(), (files / "file").stat())


async def test_fstat_into_memory_leaves_the_same(task: Task, files: Path) -> None:
    async with await task.open(files / "file", O.RDONLY) as fd:
        filled = await fd.fstat(await task.malloc(Stat))
        assert await filled.read() == await fd.fstat()
        assert_same(await filled.read(), (files / "file").stat())


async def test_fstat_consumes_the_pointer_that_it_returns(task: Task, files: Path) -> None:
    async with await task.open(files / "file", O.RDONLY) as fd:
        statbuf = await task.malloc(Stat)
        filled = await fd.fstat(statbuf)
        with nothing_sent(task), pytest.raises(UseAfterFreeError):
            await fd.fstat(statbuf)
        assert (await filled.read()).size == 10


async def test_fstat_refuses_memory_that_is_too_small(task: Task, files: Path) -> None:
    async with await task.open(files / "file", O.RDONLY) as fd:
        small, rest = (await task.malloc(Stat)).split(100)
        with nothing_sent(task), pytest.raises(ValueError, match=r"statbuf: 100 bytes.* 144"):
            await fd.fstat(small)
        whole = await fd.fstat(small + rest)
        assert (await whole.read()).size == 10


async def test_fstat_refuses_memory_of_another_process(
    task: Task, files: Path, stranger: rsyscall.Process
) -> None:
    statbuf = await stranger.malloc(Stat)
    async with await task.open(files / "file", O.RDONLY) as fd:
        with nothing_sent(task), pytest.raises(AddressSpaceMismatchError) as caught:
            await fd.fstat(statbuf)
    assert str(task.address_space) in str(caught.value)
    assert str(stranger.task.address_space) in str(caught.value)


async def test_fstat_of_what_has_no_type(task: Task) -> None:
    number = await task.sysif.syscall(SYS.epoll_create1, os.O_CLOEXEC)
    async with task.make_fd_handle(near.FileDescriptor(number)) as fd:
        ours = await fd.fstat()
        assert ours.mode.type is S_IF.NONE
        assert_same(ours, os.stat(f"/proc/{int(task.near_process)}/fd/{number}"))


async def test_a_stat_in_memory_is_read_back_as_it_was(task: Task, files: Path) -> None:
    async with await task.open(files / "file", O.RDONLY) as fd:
        value = await fd.fstat()
    assert Stat.from_bytes(value.to_bytes()) == value
    assert len(value.to_bytes()) == Stat.sizeof()
    written = await task.ptr(value)
    assert await written.read() == written.value == value


def test_a_stat_of_too_few_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="data: 143 bytes, struct stat has 144"):
        Stat.from_bytes(bytes(143))


@pytest.mark.parametrize("mode", [0o100644, 0o040755, 0o120777, 0o104751, 0o600])
def test_a_mode_is_taken_apart_and_put_together(mode: int) -> None:
    both = TypeMode.from_int(mode)
    assert int(both) == mode
    assert both == TypeMode(S_IF(stat.S_IFMT(mode)), Mode(stat.S_IMODE(mode)))
    assert str(both.mode) == f"0o{stat.S_IMODE(mode):03o}"


def test_a_mode_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match=str(0o030000)):
        TypeMode.from_int(0o030644)

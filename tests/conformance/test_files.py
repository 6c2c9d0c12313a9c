"""Opening, truncating and closing files, against the standard library."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path

import pytest

from conformance.seen import NO_FD, error_here, nothing_sent, open_flags, opened
from rsyscall.fcntl import O
from rsyscall.handle import Task

IN_PROC = Path("/proc/self/fd")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    return path


@pytest.mark.parametrize(
    "flags",
    [
        O.RDONLY,
        O.WRONLY,
        O.RDWR,
        O.WRONLY | O.APPEND,
        O.RDONLY | O.NONBLOCK,
        O.RDWR | O.SYNC,
        O.WRONLY | O.DSYNC,
        O.RDONLY | O.NOATIME,
        O.PATH,
        O.RDONLY | O.NOFOLLOW,
        O.RDONLY | O.NOCTTY | O.CLOEXEC,
        O.WRONLY | O.TRUNC,
    ],
)
async def test_open_opens_that_file_with_these_flags_and_close_on_exec(
    task: Task, file: Path, flags: O
) -> None:
    here = os.open(file, flags)  # the standard library closes on exec, too
    try:
        async with await task.open(file, flags) as fd:
            assert opened(fd).samefile(file)
            assert open_flags(opened(fd)) == open_flags(IN_PROC / str(here))
            assert open_flags(opened(fd)) & O.CLOEXEC
    finally:
        os.close(here)


async def test_open_creates_with_the_mode_that_os_open_gives(task: Task, tmp_path: Path) -> None:
    for mode in (0o644, 0o600, 0o777, 0o4755, 0):
        here, there = tmp_path / f"here{mode}", tmp_path / f"there{mode}"
        os.close(os.open(here, O.CREAT | O.EXCL | O.WRONLY, mode))
        async with await task.open(there, O.CREAT | O.EXCL | O.WRONLY, mode):
            assert there.stat().st_mode == here.stat().st_mode


async def test_open_creates_for_the_owner_to_write_and_all_to_read(
    task: Task, tmp_path: Path
) -> None:
    async with await task.open(tmp_path / "new", O.CREAT | O.WRONLY):
        umask = os.umask(0)
        os.umask(umask)
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o644 & ~umask


async def test_open_truncates_only_if_asked_to(task: Task, file: Path) -> None:
    async with await task.open(file, O.RDWR):
        assert file.stat().st_size == 10
    async with await task.open(file, O.RDWR | O.TRUNC):
        assert file.stat().st_size == 0


async def test_open_makes_a_file_without_a_name(task: Task, tmp_path: Path) -> None:
    async with await task.open(tmp_path, O.TMPFILE | O.RDWR) as fd:
        await fd.write(b"unnamed")
        assert opened(fd).read_bytes() == b"unnamed"
        assert list(tmp_path.glob("un*")) == []


async def test_open_takes_any_name_that_a_file_can_have(task: Task, tmp_path: Path) -> None:
    for name in ("plain", "with space", "ünïcode", "\udcff\udc80bytes", "\n"):
        path = tmp_path / name
        path.write_text("x")
        async with await task.open(str(path), O.RDONLY) as fd:
            assert opened(fd).samefile(path)
        async with await task.open(path, O.RDONLY) as fd:
            assert opened(fd).samefile(path)
        async with await task.open(await task.ptr(str(path)), O.RDONLY) as fd:
            assert opened(fd).samefile(path)


FAILURES: list[tuple[str, O, int]] = [
    ("missing", O.RDONLY, errno.ENOENT),
    ("", O.RDONLY | O.CREAT, errno.EISDIR),
    ("file", O.RDONLY | O.CREAT | O.EXCL, errno.EEXIST),
    ("file/below", O.RDONLY, errno.ENOTDIR),
    ("file", O.RDONLY | O.DIRECTORY, errno.ENOTDIR),
    ("", O.WRONLY, errno.EISDIR),
    ("link", O.RDONLY | O.NOFOLLOW, errno.ELOOP),
    ("loop", O.RDONLY, errno.ELOOP),
    ("x" * 256, O.RDONLY, errno.ENAMETOOLONG),
    ("x/" * 2500, O.RDONLY, errno.ENAMETOOLONG),
    ("fifo", O.WRONLY | O.NONBLOCK, errno.ENXIO),
]


async def test_open_fails_as_os_open_does_and_says_what_was_tried(task: Task, file: Path) -> None:
    directory = file.parent
    (directory / "link").symlink_to(file)
    (directory / "loop").symlink_to("loop")
    os.mkfifo(directory / "fifo")
    for name, flags, number in FAILURES:
        path = directory / name
        here = error_here(partial(os.open, path, flags))
        with pytest.raises(type(here)) as caught:
            await task.open(path, flags)
        assert caught.value.errno == here.errno == number
        assert caught.value.strerror == here.strerror
        given = f"flags={hex(flags | O.CLOEXEC)}, mode=0o644"
        assert caught.value.__notes__ == [
            f"in openat(dirfd=AT_FDCWD, pathname={str(path)!r}, {given})"
        ]


async def test_open_of_no_name_is_enoent(task: Task) -> None:
    with pytest.raises(FileNotFoundError):
        await task.open("", O.RDONLY)


async def test_a_path_with_a_nul_is_refused_before_it_is_sent(task: Task, file: Path) -> None:
    async with await task.open(file.parent, O.RDONLY) as directory:
        with nothing_sent(task):
            with pytest.raises(ValueError, match=r"path: .*'a\\x00b'"):
                await task.open("a\0b", O.RDONLY)
            with pytest.raises(ValueError, match=r"path: .*'a\\x00b'"):
                await directory.openat("a\0b", O.RDONLY)


async def test_openat_begins_at_the_directory(task: Task, file: Path) -> None:
    async with await task.open(file.parent, O.RDONLY | O.DIRECTORY) as directory:
        async with await directory.openat("file", O.RDONLY) as fd:
            assert opened(fd).samefile(file)
            assert type(fd) is type(directory)
        async with await directory.openat(await task.ptr("file"), O.RDONLY) as fd:
            assert opened(fd).samefile(file)
        async with await directory.openat(Path("new"), O.CREAT | O.WRONLY, 0o600):
            assert (file.parent / "new").stat().st_mode & 0o777 == 0o600
        async with await directory.openat("/dev/null", O.RDONLY) as fd:
            assert opened(fd).samefile("/dev/null")
        async with await directory.openat(".", O.PATH) as fd:
            assert opened(fd).samefile(file.parent)


async def test_openat_of_what_is_no_directory_fails_and_names_the_descriptor(
    task: Task, file: Path
) -> None:
    async with await task.open(file, O.RDONLY) as fd:
        with pytest.raises(NotADirectoryError) as caught:
            await fd.openat("below", O.RDONLY)
        assert f"dirfd={int(fd.near)}, pathname='below'" in caught.value.__notes__[0]


async def test_ftruncate_makes_the_file_as_long_as_os_does(task: Task, file: Path) -> None:
    here = file.with_name("here")
    here.write_bytes(file.read_bytes())
    async with await task.open(file, O.RDWR) as fd:
        for length in (11, 10, 9, 4096, 2**33, 1, 0):
            os.truncate(here, length)
            await fd.ftruncate(length)
            assert file.stat().st_size == here.stat().st_size == length
            with file.open("rb") as there, here.open("rb") as local:
                assert there.read(4096) == local.read(4096)


async def test_ftruncate_refuses_a_negative_length_before_it_is_sent(
    task: Task, file: Path
) -> None:
    async with await task.open(file, O.RDWR) as fd:
        with nothing_sent(task), pytest.raises(ValueError, match=r"length: -1 is negative"):
            await fd.ftruncate(-1)


async def test_ftruncate_of_what_was_opened_for_reading_fails_as_in_os(
    task: Task, file: Path
) -> None:
    with file.open("rb") as here:
        expected = error_here(lambda: os.ftruncate(here.fileno(), 1))
    async with await task.open(file, O.RDONLY) as fd:
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:
            await fd.ftruncate(1)
        assert caught.value.errno == expected.errno == errno.EINVAL
        assert caught.value.__notes__ == [f"in ftruncate(fd={int(fd.near)}, length=1)"]
    assert file.stat().st_size == 10


async def test_openat_of_a_number_that_is_not_open_fails(task: Task) -> None:
    handle = task.make_fd_handle(NO_FD)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
        await handle.openat("relative", O.RDONLY)
    assert caught.value.errno == errno.EBADF
    assert f"dirfd={int(NO_FD)}, pathname='relative'" in caught.value.__notes__[0]

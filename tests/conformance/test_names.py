"""Names of files, against what os sees of the same directory."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import rsyscall
from conformance.seen import error_here, nothing_sent
from rsyscall.far import AddressSpaceMismatchError, FDTableMismatchError
from rsyscall.fcntl import AT, O
from rsyscall.handle import FileDescriptor, InvalidHandleError, Task
from rsyscall.handle.borrow import PathArgument
from rsyscall.path import Path as FarPath
from rsyscall.unistd import OK, RENAME


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """One in which there is nothing, not even what belongs to the way."""
    path = tmp_path / "there"
    path.mkdir()
    return path


@pytest.fixture
async def there(task: Task, directory: Path) -> AsyncGenerator[FileDescriptor]:
    """The same, open."""
    async with await task.open(directory, O.PATH | O.DIRECTORY) as fd:
        yield fd


async def test_every_kind_of_path_leads_to_the_same(task: Task, tmp_path: Path) -> None:
    name = tmp_path / "ünïcode \udcff"
    kinds: list[PathArgument] = [
        str(name),
        os.fsencode(name),
        name,
        FarPath(name),
        await task.ptr(str(name)),
        await task.ptr(os.fsencode(name) + b"\0"),
        await task.ptr(FarPath(name)),
    ]
    for path in kinds:
        await task.mkdir(path)
        assert name.is_dir()
        await task.rmdir(path)
        assert not name.exists()
        async with await task.open(path, O.CREAT | O.WRONLY):
            assert name.is_file()
        await task.unlink(path)
    in_memory = await task.ptr(FarPath(name))
    assert await in_memory.read() == in_memory.value == FarPath(name)


async def test_directories(task: Task, there: FileDescriptor, directory: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    await task.mkdir(directory / "a")
    await there.mkdirat("b", 0o700)
    await there.mkdirat(directory / "c")
    assert sorted(os.listdir(directory)) == ["a", "b", "c"]
    assert stat.S_IMODE((directory / "b").stat().st_mode) == 0o700
    await there.rmdirat("a")
    await there.unlinkat("b", AT.REMOVEDIR)
    await task.rmdir(directory / "c")
    assert os.listdir(directory) == []
    expected = error_here(lambda: os.rmdir(directory / "none"))
    with pytest.raises(type(expected)) as caught:
        await task.rmdir(directory / "none")
    assert caught.value.errno == expected.errno
    assert str(directory / "none") in caught.value.__notes__[0]


async def test_links(task: Task, there: FileDescriptor, directory: Path) -> None:
    (directory / "file").write_text("x")
    await task.link(directory / "file", directory / "one")
    await there.linkat("file", None, directory / "two")
    await task.linkat(there, "file", there, "three")
    assert (directory / "file").stat().st_nlink == 4
    await task.symlink("file", directory / "soft")
    await there.symlinkat(FarPath("../x"), "softer")
    assert os.readlink(directory / "soft") == await task.readlink(directory / "soft") == "file"
    assert os.readlink(directory / "softer") == await there.readlinkat("softer") == "../x"
    await there.linkat("soft", there, "hard", AT.SYMLINK_FOLLOW)
    assert (directory / "hard").samefile(directory / "file")
    filled, rest = await there.readlinkat("soft", await task.malloc(str, 100))
    assert (await filled.read(), rest.size()) == ("file", 96)
    filled, rest = await task.readlink(directory / "soft", await task.malloc(str, 2))
    assert (await filled.read(), rest.size()) == ("fi", 0)
    long = "x/" * 2000
    os.symlink(long, directory / "long")
    assert await there.readlinkat("long") == long
    with pytest.raises(OSError, match="Invalid argument"):
        await there.readlinkat("file")


async def test_renaming(task: Task, there: FileDescriptor, directory: Path) -> None:
    (directory / "a").write_text("a")
    (directory / "b").write_text("b")
    with pytest.raises(FileExistsError):
        await there.renameat("a", there, "b", RENAME.NOREPLACE)
    await there.renameat("a", there, "b", RENAME.EXCHANGE)
    assert ((directory / "a").read_text(), (directory / "b").read_text()) == ("b", "a")
    await there.renameat("a", None, directory / "c")
    await task.rename(directory / "b", directory / "c")
    assert os.listdir(directory) == ["c"]
    assert (directory / "c").read_text() == "a"


async def test_access(task: Task, there: FileDescriptor, directory: Path) -> None:
    (directory / "file").write_text("x")
    for mode in (0o000, 0o400, 0o200, 0o100, 0o755):
        (directory / "file").chmod(mode)
        for asked in (OK.F, OK.R, OK.W, OK.X, OK.R | OK.X):
            real = os.access(directory / "file", asked)
            effective = os.access(directory / "file", asked, effective_ids=True)
            for call, allowed in (
                (task.access(directory / "file", asked), real),
                (there.faccessat("file", asked), real),
                (there.faccessat("file", asked, AT.EACCESS), effective),
            ):
                if allowed:
                    await call
                else:
                    with pytest.raises(PermissionError):
                        await call
    with pytest.raises(FileNotFoundError):
        await task.access(directory / "none", OK.F)
    os.symlink("none", directory / "link")
    await there.faccessat("link", OK.F, AT.SYMLINK_NOFOLLOW)


async def test_modes_and_owners(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "file"
    async with await task.open(path, O.CREAT | O.RDWR) as fd:
        await fd.fchmod(0o640)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        await task.chmod(path, 0o4711)
        assert stat.S_IMODE(path.stat().st_mode) == 0o4711
        await fd.fchown(-1, os.getgid())
        await task.chown(path, os.getuid(), -1)
        assert (path.stat().st_uid, path.stat().st_gid) == (os.getuid(), os.getgid())
        if os.geteuid() == 0:
            await fd.fchown(1234, 5678)
            assert (path.stat().st_uid, path.stat().st_gid) == (1234, 5678)
            await task.chown(path, 1, 2)
            assert (path.stat().st_uid, path.stat().st_gid) == (1, 2)
        with nothing_sent(task), pytest.raises(ValueError, match="owner: -2 is not from -1"):
            await fd.fchown(-2, 0)


async def test_all_in_one_batch(process: rsyscall.Process, tmp_path: Path) -> None:
    async with process.batch() as b:
        b.mkdir(tmp_path / "d")
        there = b.open(tmp_path / "d", O.PATH | O.DIRECTORY)
        file = b.openat(there, "f", O.CREAT | O.RDWR)
        b.fchmod(file, 0o600)
        b.fchown(file, -1, -1)
        b.chmod(tmp_path / "d" / "f", 0o700)
        b.chown(tmp_path / "d" / "f", -1, -1)
        b.mkdirat(there, "e")
        b.faccessat(there, "e", OK.X)
        b.access(tmp_path / "d" / "f", OK.R)
        b.symlinkat(there, "f", "s")
        b.symlink("f", tmp_path / "d" / "t")
        says, says_too = b.readlinkat(there, "s"), b.readlink(tmp_path / "d" / "t")
        b.linkat(there, "f", None, tmp_path / "d" / "g")
        b.link(tmp_path / "d" / "g", tmp_path / "d" / "h")
        b.renameat(there, "g", there, "i", RENAME.NOREPLACE)
        b.rename(tmp_path / "d" / "h", tmp_path / "d" / "j")
        b.unlinkat(there, "s")
        b.unlink(tmp_path / "d" / "t")
        b.rmdirat(there, "e")
        b.mkdirat(there, "k")
        b.rmdir(tmp_path / "d" / "k")
        b.close(file)
        b.close(there)
    assert (says.value, says_too.value) == ("f", "f")
    assert sorted(os.listdir(tmp_path / "d")) == ["f", "i", "j"]
    assert (tmp_path / "d" / "f").stat().st_nlink == 3
    assert stat.S_IMODE((tmp_path / "d" / "f").stat().st_mode) == 0o700


async def test_what_is_wrong_is_refused_before_it_is_sent(
    task: Task, there: FileDescriptor, stranger: rsyscall.Process
) -> None:
    far_name = await stranger.ptr("name")
    closed = await task.open("/", O.PATH)
    await closed.close()
    far_fd = await stranger.task.open("/", O.PATH)
    with nothing_sent(task):
        for name, call in (
            ("path", task.mkdir("a\0b")),
            ("path", there.unlinkat(b"a\0b")),
            ("oldpath", task.rename("a\0b", "c")),
            ("newpath", there.linkat("a", None, "c\0d")),
            ("linkpath", there.symlinkat("a", "c\0d")),
            ("target", task.symlink("a\0b", "c")),
            ("ptr", there.faccessat("a\0b", OK.F)),
        ):
            with pytest.raises(ValueError, match=f"{name}: embedded null byte"):
                await call
        with pytest.raises(AddressSpaceMismatchError):
            await there.mkdirat(far_name)
        with pytest.raises(InvalidHandleError):
            await there.renameat("a", closed, "b")
        with pytest.raises(InvalidHandleError):
            await closed.mkdirat("a")
        with pytest.raises(FDTableMismatchError):
            await there.linkat("a", far_fd, "b")
    await far_fd.close()


async def test_the_working_directory(apart: rsyscall.Process, tmp_path: Path) -> None:
    task, cwd = apart.task, Path(f"/proc/{int(apart.pid)}/cwd")
    (tmp_path / "d").mkdir()
    await task.chdir(tmp_path)
    assert os.readlink(cwd) == await task.getcwd() == str(tmp_path)
    await task.mkdir("relative")
    assert (tmp_path / "relative").is_dir()
    async with await task.open("d", O.PATH) as fd:
        await task.fchdir(fd)
    assert os.readlink(cwd) == await task.getcwd() == str(tmp_path / "d")
    async with apart.batch() as b:
        b.chdir("..")
        up = b.getcwd()
        relative = b.open("relative", O.PATH)
        b.fchdir(relative)
        down = b.getcwd()
        b.close(relative)
    assert (up.value, down.value) == (str(tmp_path), str(tmp_path / "relative"))
    with pytest.raises(FileNotFoundError):
        await task.chdir("none")


async def test_chroot(apart: rsyscall.Process, tmp_path: Path) -> None:
    task, root = apart.task, Path(f"/proc/{int(apart.pid)}/root")
    if os.geteuid() == 0:
        await task.chroot(tmp_path)
        assert os.readlink(root) == str(tmp_path)
        await task.mkdir("/inside")
        assert (tmp_path / "inside").is_dir()
        async with apart.batch() as b:
            b.chroot("/inside")
        assert os.readlink(root) == str(tmp_path / "inside")
    else:
        with pytest.raises(PermissionError):
            await task.chroot(tmp_path)

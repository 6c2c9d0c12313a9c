"""Temporary directories and symbolic links of a process."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio

import rsyscall
from conformance.ways import WAYS
from rsyscall.fcntl import O
from rsyscall.path import Path as ThePath
from rsyscall.sched import CLONE
from rsyscall.stdlib import mkdtemp, random_string, update_symlink
from rsyscall.sys.mount import MS


@pytest.fixture(params=["direct", "child", "stub-no-ring"])
async def process(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process, await process.clone() as child:
        child.environ["TMPDIR"] = str(tmp_path)
        yield child


def test_random_strings() -> None:
    assert len({random_string() for _ in range(1000)}) == 1000
    assert len(random_string(3)) == 3


async def test_a_directory_is_removed_with_all_that_is_in_it(
    process: rsyscall.Process, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    async with await mkdtemp(process, "some") as path:
        assert type(path) is ThePath
        where = Path(path)
        assert where.parent == tmp_path
        assert where.name.startswith("some.")
        assert where.stat().st_mode & 0o777 == 0o700
        deep = where
        for i in range(20):
            deep = deep / f"directory {i}"
            deep.mkdir()
            (deep / "file").write_text("x")
        (where / "link").symlink_to(outside)
        (where / "dangling").symlink_to("nowhere")
        os.mkfifo(where / "fifo")
        for i in range(500):
            (where / f"file {i}").touch()
    assert not where.exists()
    assert (outside / "kept").exists()


async def test_also_when_cancelled(process: rsyscall.Process, tmp_path: Path) -> None:
    made: list[ThePath] = []
    with trio.CancelScope() as scope:
        async with await mkdtemp(process) as path:
            made.append(path)
            await process.spit(path / "file", "x")
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert not os.path.exists(made[0])


async def test_what_is_made_of_it_is_not_removed(process: rsyscall.Process) -> None:
    async with await mkdtemp(process) as path:
        inner = await mkdtemp(process)
        for other in (inner / "x", inner.parent):
            assert getattr(other, "_process", None) is None
        await inner.cleanup()
        with pytest.raises(FileNotFoundError):
            await inner.cleanup()
        assert os.path.isdir(path)
    with pytest.raises(ValueError, match=r"^prefix: "):
        await mkdtemp(process, "a/b")


@pytest.mark.privileged
async def test_another_file_system_is_left_alone(process: rsyscall.Process) -> None:
    async with await process.clone(CLONE.NEWNS) as child:
        await child.task.mount("", "/", "", MS.REC | MS.PRIVATE, "")
        directory = await mkdtemp(child)
        inside = await child.mkdir(directory / "mounted")
        await child.task.mount("none", inside, "tmpfs", MS.NONE, "")
        await child.spit(inside / "file", "x")
        with pytest.raises(OSError, match="busy") as caught:
            await directory.cleanup()
        assert caught.value.errno == errno.EBUSY
        async with await child.task.open(inside / "file", O.RDONLY) as fd:
            assert await child.read_to_eof(fd) == b"x"
        await child.task.umount(inside)
        await directory.cleanup()


async def test_a_link_changes_at_once(process: rsyscall.Process, tmp_path: Path) -> None:
    path = await process.ptr(ThePath(tmp_path / "link"))
    for target in ("one", "two"):
        assert await update_symlink(process, path, target) is path
        assert os.readlink(tmp_path / "link") == target
    (tmp_path / "directory").mkdir()
    there = await process.ptr(ThePath(tmp_path / "directory"))
    with pytest.raises(IsADirectoryError):
        await update_symlink(process, there, "three")
    assert {name for name in os.listdir(tmp_path) if "link" in name} == {"link"}
    assert {name for name in os.listdir(tmp_path) if name.startswith("directory")} == {"directory"}

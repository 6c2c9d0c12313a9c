"""Children and programs that begin in a cgroup; those that are moved there right after."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import rsyscall
from process.filtered import check_filtered
from process.seen import SLEEP
from rsyscall import local_process
from rsyscall.fcntl import O
from rsyscall.sched import CLONE
from rsyscall.sys.mount import MS
from rsyscall.sys.syscall import SYS


@pytest.fixture
async def group() -> AsyncGenerator[Path]:
    """A cgroup of its own: a path that every process in our root can use."""
    async with await local_process.clone(CLONE.NEWNS) as apart:
        await apart.task.mount("none", "/", "", MS.REC | MS.PRIVATE, "")
        await apart.task.mount("none", "/mnt", "cgroup2", MS.NONE, "")
        path = Path(f"/proc/{int(apart.pid)}/root/mnt/rsyscall-test-{os.getpid()}")
        path.mkdir()
        try:
            yield path
        finally:
            path.rmdir()


def cgroup(pid: int) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line.removeprefix("0::") for line in lines if line.startswith("0::"))


@pytest.mark.privileged
async def test_a_child_begins_there(origin: rsyscall.Process, group: Path) -> None:
    before = cgroup(int(origin.pid))
    async with await origin.clone(cgroup=group) as child:
        assert cgroup(int(child.pid)) == f"/{group.name}"
    async with await origin.task.open(group, O.DIRECTORY) as fd:
        async with await origin.clone(CLONE.FILES, cgroup=fd) as child:
            assert cgroup(int(child.pid)) == f"/{group.name}"
        async with await origin.spawn(SLEEP, cgroup=group) as program:
            assert cgroup(int(program)) == f"/{group.name}"
    assert cgroup(int(origin.pid)) == before


@pytest.mark.privileged
async def test_it_is_not_moved(
    origin: rsyscall.Process, group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins there at once, wherever it is made."""
    monkeypatch.delattr("rsyscall.child.start.move")
    for vm in (True, False):
        async with await origin.clone(cgroup=group, vm=vm) as child:
            assert cgroup(int(child.pid)) == f"/{group.name}"
            assert await child.task.getpid() == child.task.near_process


@pytest.mark.privileged
async def test_without_clone3_it_is_moved(group: Path) -> None:
    """A real filter, in an interpreter of its own."""
    check_filtered(
        """
import pathlib, sys, trio, rsyscall
group = sys.argv[1]
async def main():
    async with await rsyscall.local_process.clone(cgroup=group) as child:
        said = pathlib.Path(f"/proc/{int(child.pid)}/cgroup").read_text()
        assert f"0::/{pathlib.Path(group).name}\\n" in said, said
trio.run(main)
""",
        SYS.clone3,
        str(group),
    )


async def test_what_is_no_cgroup(origin: rsyscall.Process, tmp_path: Path) -> None:
    for where in ("/no/such/cgroup", tmp_path):
        with pytest.raises(OSError, match=r"No such file|Bad file") as caught:
            await origin.clone(cgroup=where)
        assert caught.value.__notes__[-1] == "while entering the cgroup"
    with pytest.raises(ValueError, match="cgroup: "):
        await origin.clone(cgroup="a\0b")

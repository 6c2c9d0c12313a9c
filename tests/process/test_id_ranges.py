"""Ranges of ids in a user namespace: by who is privileged, and by newuidmap and newgidmap."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import rsyscall
from ordinary import GID, UID, ordinary_user
from process.seen import TRUE
from rsyscall.child.ranges import check_ranges, parse_subordinate
from rsyscall.sched import CLONE
from rsyscall.sys.mount import MS
from rsyscall.thread import IdRange, write_user_mappings


def id_map(pid: int, kind: str) -> list[IdRange]:
    lines = Path(f"/proc/{pid}/{kind}_map").read_text().splitlines()
    return [IdRange(*map(int, line.split())) for line in lines]


@pytest.mark.privileged
async def test_ranges_by_who_may_write_them(origin: rsyscall.Process) -> None:
    uids = [IdRange(0, os.getuid()), IdRange(1, 100000, 65536)]
    gids = [IdRange(0, os.getgid()), IdRange(5, 200000, 10)]
    async with await origin.clone(CLONE.NEWUSER, False) as child:
        await child.map_ids(uids, gids)
        assert id_map(int(child.pid), "uid") == uids
        assert id_map(int(child.pid), "gid") == gids
        await child.task.setgroups([5])
        await child.task.setresgid(7, 7, 7)
        await child.task.setresuid(33, 33, 33)
        assert os.stat(f"/proc/{int(child.pid)}").st_uid in (100032, 0)  # 0: not dumpable
        assert await child.task.getuid() == 33
        with pytest.raises(PermissionError):
            await child.map_ids(uids, gids)  # once only


async def test_one_id_each(origin: rsyscall.Process) -> None:
    async with await origin.clone(CLONE.NEWUSER, False) as child:
        await write_user_mappings(child, os.geteuid(), os.getegid(), 5, 6)
        assert await child.task.getuid() == 5
        assert await child.task.getgid() == 6


NAME = "rsyscall-test"
_ORDINARY = """
import os, sys, trio
from pathlib import Path
from rsyscall import local_process
from rsyscall.sched import CLONE
from rsyscall.thread import IdRange

async def main():
    async with await local_process.clone(CLONE.NEWUSER, False) as child:
        await child.map_ids()
        where = Path(f"/proc/{int(child.pid)}")
        maps = [(where / f"{kind}_map").read_text().split() for kind in ("uid", "gid")]
        await child.task.setresgid(1000, 1000, 1000)
        await child.task.setresuid(1000, 1000, 1000)
        print(maps, await child.task.getuid())
    async with await local_process.clone(CLONE.NEWUSER, False) as child:
        try:
            await child.map_ids([IdRange(0, 5, 10)], [IdRange(0, 5, 10)])
        except PermissionError as exc:
            print(exc.__notes__[-2:])
    os.environ["PATH"] = "/no/such/directory"
    async with await local_process.clone(CLONE.NEWUSER, False) as child:
        try:
            await child.map_ids()
        except FileNotFoundError as exc:
            print(exc.__notes__[-1])

trio.run(main)
"""


async def test_an_ordinary_user_has_the_tools_for_it() -> None:
    if shutil.which("newuidmap") is None:
        pytest.skip("newuidmap is missing (Debian: uidmap)")
    async with ordinary_user() as user:
        (user.directory / "program").write_text(_ORDINARY)
        if os.geteuid() != 0:
            pytest.skip("only root can give somebody subordinate ids")
        files = {
            "subuid": f"{NAME}:300000:65536\nsomebody:1:5\n",
            "subgid": f"{NAME}:400000:65536\n",
            "passwd": f"{NAME}:x:{UID}:{GID}::/:/bin/sh\n",  # without a name there is no map
        }
        for name, text in files.items():
            own = user.directory / name
            own.write_text(text)
            own.chmod(0o644)
            await user.process.task.mount(own, f"/etc/{name}", "", MS.BIND, "")
        done = await user.run(user.directory / "program")
    said = (done.stdout or b"").decode().splitlines()
    assert done.clean(), said
    assert said[0] == (
        f"[['0', '{UID}', '1', '1', '300000', '65536'],"
        f" ['0', '{GID}', '1', '1', '400000', '65536']] 1000"
    )
    assert "newuidmap: " in said[1]
    assert "/etc/subuid says which ids" in said[1]
    assert said[2] == "newuidmap is missing (Debian: uidmap)"


def test_files_of_subordinate_ids() -> None:
    text = "root:1:5\nme:100000:65536\n\n# no\nme:bad:5\n1000:500000:10\nme:7:0\n"
    assert parse_subordinate(text, ["me", "1000"], 1000) == [
        (0, 1000, 1),
        (1, 100000, 65536),
        (65537, 500000, 10),
    ]
    with pytest.raises(LookupError, match="no line for you or 5"):
        parse_subordinate(text, ["you", "5"], 5)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([], "nothing to map"),
        ([(0, 0, 0)], "is no range"),
        ([(-1, 0, 1)], "is no range"),
        ([(0, 2**32 - 2, 2)], "is no range"),
        ([(0, 1, 10), (9, 100, 1)], "overlap inside"),
        ([(0, 1, 10), (20, 10, 1)], "overlap outside"),
    ],
)
async def test_what_is_no_map(ranges: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=f"^uids: .*{message}"):
        check_ranges("uids", ranges)
    async with await rsyscall.local_process.clone(CLONE.NEWUSER, False) as child:
        with pytest.raises(ValueError, match=r"^gids: "):
            await child.map_ids([(0, 0, 1)], ranges)
        assert (await child.run(TRUE, check=False)).died()

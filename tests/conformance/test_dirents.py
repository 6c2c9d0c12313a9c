"""Names in directories, against what the standard library finds."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rsyscall
from conformance.ways import WAYS
from rsyscall.fcntl import O
from rsyscall.linux.dirent import DT, Dirent, DirentList
from rsyscall.unistd import SEEK


@pytest.fixture(params=["direct", "child", "stub-no-ring"])
async def process(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process:
        yield process


@pytest.fixture
def names(tmp_path: Path) -> dict[str, tuple[DT, int]]:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    for i in range(300):
        (tmp_path / f"file {i}").touch()
    Path(os.fsdecode(bytes(tmp_path) + b"/undecodable\xff")).touch()
    kinds = {"is_dir": DT.DIR, "is_symlink": DT.LNK}
    found: dict[str, tuple[DT, int]] = {}
    for entry in os.scandir(tmp_path):
        kind = next((kinds[k] for k in ("is_symlink", "is_dir") if getattr(entry, k)()), DT.REG)
        found[entry.name] = (DT.FIFO if entry.name == "fifo" else kind, entry.inode())
    return found


async def test_all_names(
    process: rsyscall.Process, tmp_path: Path, names: dict[str, tuple[DT, int]]
) -> None:
    async with await process.task.open(tmp_path, O.RDONLY | O.DIRECTORY) as fd:
        found = DirentList()
        while some := await fd.getdents(1000):
            found += some
        told = {entry.name: (entry.type, entry.inode) for entry in found}
        assert told.keys() - {".", ".."} == names.keys()
        assert all(told[name] == names[name] for name in names)
        await fd.lseek(found[9].offset, SEEK.SET)
        assert (await fd.getdents())[0] == found[10]
        await fd.lseek(0, SEEK.SET)
        async with process.batch() as batch:
            step = batch.getdents(fd)
        assert step.value[:10] == found[:10]
        await fd.lseek(0, SEEK.SET)
        with pytest.raises(OSError, match="Invalid argument"):
            await fd.getdents(4)
        with pytest.raises(ValueError, match=r"^count: "):
            await fd.getdents(-1)


async def test_into_memory(process: rsyscall.Process, tmp_path: Path) -> None:
    (tmp_path / "name").touch()
    async with await process.task.open(tmp_path, O.RDONLY | O.DIRECTORY) as fd:
        filled, rest = await fd.getdents(await process.malloc(DirentList, 1000))
        assert filled.size() + rest.size() == 1000
        assert {entry.name for entry in await filled.read()} >= {".", "..", "name"}
        filled, _ = await fd.getdents(filled + rest)
        assert filled.size() == 0


@given(
    st.lists(
        st.builds(
            Dirent,
            st.integers(0, 2**64 - 1),
            st.integers(-(2**63), 2**63 - 1),
            st.sampled_from(DT),
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60),
        )
    )
)
def test_there_and_back(entries: list[Dirent]) -> None:
    data = DirentList(entries).to_bytes()
    assert DirentList.from_bytes(data) == entries
    assert len(data) % 8 == 0
    if entries:
        with pytest.raises(ValueError, match="dirent"):
            DirentList.from_bytes(data[:-1])


def test_a_kind_that_has_no_name() -> None:
    data = bytearray(Dirent(1, 2, DT.REG, "x").to_bytes())
    data[18] = 14
    entry, _ = Dirent.from_bytes(bytes(data))
    assert (entry.type, entry.name) == (DT.UNKNOWN, "x")

"""The process of every test, reached in each way in turn. Tests do not ask which way it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import rsyscall
from conformance.ways import ALIKE, ELSEWHERE, INSIDE, WAYS
from rsyscall.handle import Task

#: Modules about calls that have nothing to do with how a process has begun, or what it shares.
PLAIN = {
    "test_batch_prepared",
    "test_batch_results",
    "test_credentials",
    "test_environ",
    "test_files",
    "test_io",
    "test_limits",
    "test_memfd",
    "test_pointers",
    "test_signals",
    "test_sockets",
    "test_stat",
}

#: Modules and tests about what is common to processes of one machine only: descriptors that pass
#: from one to another, and memory that is mapped in both.
TOGETHER = {
    "test_channels",
    "test_send_to",
    "test_pointers_go_by_memmove_where_the_arena_is_mapped_here_too",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if _is_made(item)]


def _is_made(item: pytest.Item) -> bool:
    params: dict[str, object] = getattr(getattr(item, "callspec", None), "params", {})
    values = {value for value in params.values() if isinstance(value, str)}
    if values & ELSEWHERE and (
        item.path.stem in TOGETHER
        or getattr(item, "originalname", "") in TOGETHER
        or "process_vm" in values
    ):
        return False
    return item.path.stem not in PLAIN or not values & ALIKE


@pytest.fixture(params=WAYS)
async def process(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process:
        yield process


@pytest.fixture(params=[way for way in WAYS if way not in INSIDE])
async def apart(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[rsyscall.Process]:
    """A process that is not the interpreter: for calls that the latter refuses."""
    async with WAYS[request.param](tmp_path) as process:
        yield process


@pytest.fixture(params=sorted(INSIDE))
async def inside(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncGenerator[rsyscall.Process]:
    """The interpreter itself: for what it refuses."""
    async with WAYS[request.param](tmp_path) as process:
        yield process


@pytest.fixture
async def task(process: rsyscall.Process) -> Task:
    return process.task


@pytest.fixture
async def stranger() -> AsyncGenerator[rsyscall.Process]:
    """Another process, which shares nothing with the one under test."""
    async with rsyscall.open_process() as process:
        yield process

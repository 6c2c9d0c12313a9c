"""The process that makes children, reached in each way in turn."""

from __future__ import annotations

import ctypes
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import rsyscall
from conformance.ways import WAYS

_PR_SET_DUMPABLE = 4

PARENTS = [
    "direct",
    "child",
    "child-no-ring",
    "child-shared-files",
    "child-private-memory",
    "grandchild",
    "stub",
    "stub-no-ring",
    "child-of-stub",
    "grandchild-of-stub",
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "parent" in metafunc.fixturenames:
        names: str | None = metafunc.config.getoption("--parents")
        metafunc.parametrize("parent", names.split(",") if names else PARENTS, indirect=True)


@pytest.fixture
async def parent(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process:
        yield process


@pytest.fixture(params=["direct", "child", "stub"])
async def origin(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncGenerator[rsyscall.Process]:
    """The parent, in a few ways: for what depends on little more than whose memory it is."""
    async with WAYS[request.param](tmp_path) as process:
        yield process


@pytest.fixture(params=["stub", "stub-no-ring", "child", "child-private-memory"])
async def process(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncGenerator[rsyscall.Process]:
    """One with followers: a call that blocks holds up no others."""
    async with WAYS[request.param](tmp_path) as process:
        assert not process.task.can_stall
        yield process
    # A test may have changed the ids of one that shares our memory by a call of its own.
    assert ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0) == 0

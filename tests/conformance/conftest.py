"""The process of every test, reached in each way in turn. Tests do not ask which way it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import rsyscall
from conformance.ways import INSIDE, WAYS
from rsyscall.handle import Task


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

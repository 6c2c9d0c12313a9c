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

#: Modules about programs alone, which are started on other machines, too.
PROGRAMS = {"test_spawn", "test_spawn_failures", "test_stdio"}

#: Tests there that need a child that serves, which there is none of on another machine, or ends of
#: pipes that come here.
NEAR = {
    "test_the_death_of_the_parent",
    "test_a_cgroup",
    "test_what_was_not_waited_for_ends_with_its_parent",
    "test_unless_it_is_detached",
    "test_pipes_are_streams",
    "test_a_clone_meanwhile_does_not_hold_a_pipe_open",
    "test_errors_where_the_output_of_the_parent_goes",
    "test_a_pipe_for_which_there_is_no_room",
    "test_a_parent_that_is_dead_leaves_no_pipe",
    "test_a_map_that_is_refused",
    "test_no_room_for_descriptors",
    "test_a_parent_that_is_dead_by_then",
    "test_where_there_is_no_dev_null",
    "test_ids_that_one_may_not_have",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "parent" in metafunc.fixturenames:
        given: str | None = metafunc.config.getoption("--parents")
        names = given.split(",") if given else PARENTS
        test = metafunc.definition
        if not given and test.path.stem in PROGRAMS and test.originalname not in NEAR:
            names = [*names, "ssh"]
        metafunc.parametrize("parent", names, indirect=True)


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

"""A pytest plugin: processes as fixtures, for tests of code that makes system calls.

`rsyscall_process` is a separate stub; `rsyscall_pair` is served by a thread of the test process,
over a real socketpair. Both are a `Process` and need pytest-trio; without it the plugin can be
loaded, and the fixtures say so when they are used. Nothing happens in tests that do not ask.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import pytest

if TYPE_CHECKING:
    from rsyscall.thread import Process

__all__ = ["rsyscall_pair", "rsyscall_process"]

_Generator: TypeAlias = "Callable[[], AsyncGenerator[Process]]"


def _missing(function: _Generator) -> object:
    name = function.__name__

    def fixture() -> None:
        raise pytest.UsageError(f"the fixture {name} needs pytest-trio (pip install pytest-trio)")

    return pytest.fixture(name=name)(fixture)


_fixture: Callable[[_Generator], object]
try:
    import pytest_trio  # pyright: ignore[reportMissingTypeStubs] - it has none
except ImportError:
    _fixture = _missing
else:
    _fixture = cast("Any", pytest_trio).trio_fixture


# What they import is imported when they are used: the plugin is loaded in every run of pytest.


@_fixture
async def rsyscall_process() -> AsyncGenerator[Process]:
    """The process of a separate stub, which ends with the test; see open_process."""
    from rsyscall.tasks.spawn import open_process

    async with open_process() as process:
        yield process


@_fixture
async def rsyscall_pair() -> AsyncGenerator[Process]:
    """The test's own process, its calls served by a thread over a socketpair; see open_pair."""
    from rsyscall.tasks.pair import open_pair

    async with open_pair() as process:
        yield process

"""A pytest plugin: processes as fixtures, for tests of code that makes system calls.

`rsyscall_process` is a separate stub; `rsyscall_pair` is served by a thread of the test process,
over a real socketpair. Both are a `Process` and need pytest-trio; without it the plugin can be
loaded, and the fixtures say so when they are used. Nothing happens in tests that do not ask.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rsyscall.thread import Process

__all__ = ["rsyscall_pair", "rsyscall_process"]


async def _process() -> AsyncIterator[Process]:
    from rsyscall.tasks.spawn import open_process

    async with open_process() as process:
        yield process


async def _pair() -> AsyncIterator[Process]:
    from rsyscall.tasks.pair import open_pair

    async with open_pair() as process:
        yield process


def _missing(name: str) -> Callable[[], None]:
    def fixture() -> None:
        raise pytest.UsageError(f"the fixture {name} needs pytest-trio (pip install pytest-trio)")

    return fixture


try:
    import pytest_trio
except ImportError:
    rsyscall_process: Any = pytest.fixture(name="rsyscall_process")(_missing("rsyscall_process"))
    rsyscall_pair: Any = pytest.fixture(name="rsyscall_pair")(_missing("rsyscall_pair"))
else:
    rsyscall_process = pytest_trio.trio_fixture(name="rsyscall_process")(_process)
    rsyscall_pair = pytest_trio.trio_fixture(name="rsyscall_pair")(_pair)

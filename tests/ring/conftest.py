"""Every test of the ring comes to an end, and leaves the process as it was."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from e2e.servers import open_fds

#: Ten million frames take a while where others want the CPUs too.
SECONDS = 240


def _open_fds() -> dict[str, str]:
    # Without the one that the listing itself uses, as its target cannot be read afterwards.
    return open_fds(os.getpid())


def _rings() -> list[str]:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sorted(line.split(None, 5)[5] for line in maps if "/memfd:" in line)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Generator[None]:
    before = _open_fds(), _rings(), threading.active_count()
    yield
    gc.collect()
    assert (_open_fds(), _rings(), threading.active_count()) == before


@pytest.fixture(autouse=True)
def _it_ends() -> Generator[None]:
    """By a signal, since no deadline of trio's ends a wait that is shielded, or a loop."""

    def too_late(*_: object) -> None:
        raise AssertionError(f"it hangs: not over after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)

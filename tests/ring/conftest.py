"""Every test of the ring comes to an end, and leaves the process as it was."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import cast

import pytest

from e2e.servers import open_fds

#: Ten million frames take a while where others want the CPUs too.
SECONDS = 240


def _state() -> tuple[dict[str, str], list[str]]:
    maps = Path("/proc/self/maps").read_text().splitlines()
    rings = sorted(line.split(None, 5)[5] for line in maps if "/memfd:" in line)
    return open_fds(os.getpid()), rings


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Generator[None]:
    before = _state()
    yield
    if _state() != before:
        gc.collect()
    assert _state() == before


@pytest.fixture(autouse=True)
def _it_ends(request: pytest.FixtureRequest) -> Generator[None]:
    """By a signal, since no deadline of trio's ends a wait that is shielded, or a loop."""
    module = cast("object", request.module)  # pyright: ignore[reportUnknownMemberType]
    seconds = cast("int", getattr(module, "SECONDS", SECONDS))

    def too_late(*_: object) -> None:
        raise AssertionError(f"it hangs: not over after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)

"""Every asynchronous method, cancelled at each of its points, against what the manual says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from conformance.cancellation import (
    ROWS,
    Row,
    at_every_point,
    calls,
    children,
    streams,
    table,
    watch_the_doors,
)
from conformance.ways import WAYS
from rsyscall.batch import BoundBatch, PreparedBatch
from rsyscall.epoller import AsyncFileDescriptor, AsyncReadBuffer, Epoller
from rsyscall.epoller._watched import EpolledFileDescriptor
from rsyscall.handle import LinearPointer
from rsyscall.inotify_watch import Inotify, Watch
from rsyscall.monitor import AsyncChildPid, AsyncSignalfd
from rsyscall.streams import RemoteListener, RemoteReceiveStream, RemoteSendStream, RemoteStream
from rsyscall.sys.mman import MemoryMapping
from rsyscall.thread import ChildProcess, Process

DOCS = Path(__file__).parents[2] / "docs" / "cancellation.md"
#: Where a call is made here, is answered while it is waited for, and later.
SOME = ["direct", "stub", "stub-no-ring"]


TESTS = [(way, row) for row in ROWS for way in SOME if row.inside or way != "direct"]


@pytest.mark.parametrize(("way", "row"), TESTS, ids=[f"{row.name}-{way}" for way, row in TESTS])
async def test_row(way: str, row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with WAYS[way](tmp_path) as process:
        watch_the_doors(monkeypatch.setattr)
        assert await at_every_point(row, process, tmp_path) >= 1


def test_the_manual_has_the_same_table() -> None:
    lines = [line for line in DOCS.read_text().splitlines() if line.startswith("|")]
    assert lines == table()


def test_modules_of_rows_are_imported() -> None:
    assert {row.scenario.__module__ for row in ROWS} == {
        one.__name__ for one in (calls, streams, children)
    }


#: Tasks and handles have a row for all.
CLASSES: list[type] = [
    AsyncChildPid,
    AsyncFileDescriptor,
    AsyncReadBuffer,
    AsyncSignalfd,
    BoundBatch,
    ChildProcess,
    EpolledFileDescriptor,
    Epoller,
    Inotify,
    LinearPointer,
    MemoryMapping,
    PreparedBatch,
    Process,
    RemoteListener,
    RemoteReceiveStream,
    RemoteSendStream,
    RemoteStream,
    Watch,
]


#: What is meant for other modules of ours.
INSIDE: dict[type, set[str]] = {
    AsyncChildPid: {"post_mortem", "finish"},
    ChildProcess: {"finish", "finish_children"},
    Process: {"finish_children"},
    Epoller: {"confirm_end", "control", "remove"},
}


@pytest.mark.parametrize("cls", CLASSES)
def test_every_method_has_a_row(cls: type) -> None:
    if cls is AsyncReadBuffer:
        assert any("methods of `AsyncReadBuffer`" in row.methods for row in ROWS)
        return
    there = " ".join([row.methods for row in ROWS])
    named = {name.split(".")[-1].removesuffix("()") for name in re.findall(r"`([^`]+)`", there)}
    methods = {
        name
        for name, _ in inspect.getmembers(cls, inspect.iscoroutinefunction)
        if not name.startswith("_")
    } - INSIDE.get(cls, set())
    assert methods - named == set()

"""Counting what this process has, to see that nothing is left over."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

T = TypeVar("T")
_LIBC = ctypes.CDLL(None)
_PR_GET_DUMPABLE = 3
_WALL = 0x40000000  # those, too, that send no signal when they end


_PATH = re.compile(r" (/.*)$", re.MULTILINE)
_LIBRARY = re.compile(r"\.so(\.|$)")


def file_descriptors() -> dict[int, str]:
    """Those that are open, and what they are."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that was used for listing
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def threads() -> dict[int, str]:
    """The threads, without trio's idle workers: those are kept for a while and used again.

    A worker that is still in a call has the name of its job, and is counted. One that has had
    enough is gone for Python a moment before it is for the kernel, and has its name there.
    """
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found: dict[int, str] = {}
    for tid in map(int, os.listdir("/proc/self/task")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            comm = Path(f"/proc/self/task/{tid}/comm").read_text()
            name = names.get(tid, "Trio thread ?" if comm.startswith("Trio thread ") else "?")
            if not name.startswith("Trio thread "):
                found[tid] = name
    return found


def children() -> set[int]:
    """The child processes, zombies among them."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
    except ChildProcessError:
        return set()
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parent = stat.read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.add(int(stat.parent.name))
    return found


def file_mappings() -> Counter[str]:
    """Mappings of files. Not of libraries, which stay once they are loaded.

    Anonymous mappings come and go as allocators and stacks please, and merge with their neighbours.
    """
    global _counted
    pages = Path("/proc/self/statm").read_text().split()[0]
    if _counted is None or _counted[0] != pages:  # to count takes longer than most tests
        counted = Counter(_PATH.findall(Path("/proc/self/maps").read_text()))
        found = Counter({path: n for path, n in counted.items() if not _LIBRARY.search(path)})
        _counted = pages, found
    return _counted[1]


#: How many pages all mappings have had when they were counted last, and what was found.
_counted: tuple[str, Counter[str]] | None = None


def is_dumpable() -> bool:
    """Whether others may look into this process, which children in its memory can end: prctl(2)."""
    return bool(_LIBC.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 1)


@dataclass(frozen=True)
class Census:
    """What this process has."""

    fds: dict[int, str]
    threads: dict[int, str]
    children: set[int]
    mappings: Counter[str]
    dumpable: bool


def census() -> Census:
    """Count."""
    return Census(file_descriptors(), threads(), children(), file_mappings(), is_dumpable())


def _settled(before: Census, patience: float) -> Census:
    """Count when all threads are gone that were not there before, at the latest in so many seconds.

    A thread that was joined, and an idle worker of trio's that has had enough, are gone for Python
    a moment before they are gone for the kernel, and there is no event to wait for: pidfds of
    threads came with Linux 6.9 only.
    """
    deadline = time.monotonic() + patience
    while True:
        after = census()
        if after.threads.keys() <= before.threads.keys() or time.monotonic() > deadline:
            return after
        os.sched_yield()


@contextlib.contextmanager
def unchanged(patience: float = 5) -> Generator[None]:
    """Nothing may be left over, nor be missing, when the block is left.

    patience: how long a thread that was joined may take to be gone, in seconds.
    """
    before = census()
    yield
    after = _settled(before, patience)
    # Python no longer knows these, so they were about to go when they were counted.
    leaving = {tid for tid, name in before.threads.items() if name == "?"} - after.threads.keys()
    had = vars(before) | {"threads": {t: n for t, n in before.threads.items() if t not in leaving}}
    has = vars(after)
    changed = [
        f"{what}: {has[what]} instead of {had[what]}" for what in had if has[what] != had[what]
    ]
    assert not changed, "; ".join(changed)


def run_and_count(
    function: Callable[[], Awaitable[T]],
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """trio.run, after which no task and no busy worker thread may be left."""

    async def main() -> T:
        limiter = trio.to_thread.current_default_thread_limiter()
        before = trio.lowlevel.current_statistics()
        result = await function()
        after = trio.lowlevel.current_statistics()
        assert after.tasks_living == before.tasks_living, "a task is left over"
        assert limiter.borrowed_tokens == 0, "a worker thread is left over"
        return result

    return trio.run(main, clock=clock, instruments=instruments)

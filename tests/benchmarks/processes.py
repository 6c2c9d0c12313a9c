"""Children: what it takes to make one and see its end, and programs likewise."""

from __future__ import annotations

import contextlib
import mmap
import resource
import statistics
import subprocess
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Generator

import trio

import rsyscall
from benchmarks import floor
from benchmarks.measure import (
    Row,
    Samples,
    Scale,
    Subject,
    duration,
    interleave,
    per_call,
    progress,
    ratio_row,
    recorded,
)
from rsyscall.sys.wait import W

__all__ = ["large_parent", "many_children", "processes"]

_TRUE = "/bin/true"
_COMMAND = rsyscall.Command(_TRUE, [_TRUE], {})
#: A parent, this many descriptors a child, and those that are open anyway.
_FDS_EACH, _FDS = 8, 256


async def _cycle(parent: rsyscall.Process) -> None:
    child = await parent.clone()
    await child.task.getppid()
    await child.exit(0)
    await child.pid.waitpid(W.EXITED)


async def _spawn(parent: rsyscall.Process) -> None:
    child = await parent.spawn(_COMMAND)
    await child.check()


async def _fork_exec(parent: rsyscall.Process) -> None:
    child = await parent.fork()
    program = await child.exec(_COMMAND)
    await program.check()


def _by_subprocess() -> None:
    subprocess.run([_TRUE], check=True)


def _times(
    n: int, work: Callable[[rsyscall.Process], Awaitable[None]], parent: rsyscall.Process
) -> Subject:
    return lambda: per_call(n, lambda: work(parent))


async def processes(scale: Scale) -> list[Row]:
    """A child from its clone to its end, and a program from its start to its end."""
    n, here = max(1, scale.slow // 25), rsyscall.local_process

    async def clone_c() -> float:
        return floor.clone(n)

    async def spawn_c() -> float:
        return floor.spawn(n, _TRUE)

    async def by_subprocess() -> None:
        _by_subprocess()

    async def by_trio() -> None:
        await trio.run_process([_TRUE])

    async with rsyscall.open_process() as stub:
        children = await interleave(
            "a child",
            {"C": clone_c, "ours": _times(n, _cycle, here), "stub": _times(n, _cycle, stub)},
            scale.rounds,
        )
        programs = await interleave(
            "a program",
            {
                "C": spawn_c,
                "subprocess": lambda: per_call(n, by_subprocess),
                "trio": lambda: per_call(n, by_trio),
                "spawn": _times(n, _spawn, here),
                "fork": _times(n, _fork_exec, here),
                "stub": _times(n, _spawn, stub),
            },
            scale.rounds,
        )
    cycle = "clone, a call, exit and its end"
    rows = [
        ratio_row(
            f"{cycle}, against C's clone and waitpid", children, "ours", "C", budget=3, floor="C"
        ),
        ratio_row(f"{cycle}, of a stub's child, against C's", children, "stub", "C", floor="C"),
    ]
    for way, name in (("spawn", "spawn"), ("fork", "fork, exec")):
        for other, what, budget in (
            ("subprocess", "subprocess.run", 1.1),
            ("trio", "trio.run_process", 0.8),
        ):
            name_ = f"{name} and check of {_TRUE}, against {what}"
            rows.append(
                ratio_row(name_, programs, way, other, budget=budget, floor="C", direct=other)
            )
    rows.append(
        ratio_row(
            f"spawn and check of {_TRUE}, by a stub, against subprocess.run",
            programs,
            "stub",
            "subprocess",
            floor="C",
            direct="subprocess",
        )
    )
    return rows


@contextlib.contextmanager
def _touched(size: int) -> Generator[None]:
    """Memory that is there, in small pages: the worst for whoever copies their tables."""
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for at in range(0, size, mmap.PAGESIZE):
            memory[at] = 1
        yield


async def large_parent(scale: Scale) -> list[Row]:
    """The same while we have much memory."""
    n, here = max(1, scale.slow // 25), rsyscall.local_process
    works = {"clone": _cycle, "spawn": _spawn, "fork": _fork_exec}

    def with_memory(size: int, work: Callable[[rsyscall.Process], Awaitable[None]]) -> Subject:
        async def measure() -> float:
            with _touched(size) if size else contextlib.nullcontext():
                await work(here)  # cold caches are not what is asked about
                return await _times(n, work, here)()

        return measure

    subjects: dict[str, Subject] = {}
    for way, work in works.items():
        subjects[way] = with_memory(0, work)
        subjects[f"large {way}"] = with_memory(scale.memory, work)
    samples: Samples = await interleave("a large parent", subjects, max(1, scale.rounds // 3))
    names = {
        "clone": "clone, a call, exit and its end",
        "spawn": f"spawn and check of {_TRUE}",
        "fork": f"fork, exec and check of {_TRUE}",
    }
    return [
        ratio_row(
            f"{name} beside {scale.memory >> 20:,} MiB of ours, against without",
            samples,
            f"large {way}",
            way,
            budget=1.1,
            direct=way,
        )
        for way, name in names.items()
    ]


@contextlib.contextmanager
def _room_for_descriptors(n: int) -> Generator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, n)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _live(n: int) -> float:
    """Python's memory for each of n children, in KiB, when all have been called."""
    children: list[rsyscall.ChildProcess] = []
    tracing = tracemalloc.is_tracing()
    before = tracemalloc.get_traced_memory()[0] if tracing else 0
    for _ in range(n):
        children.append(await rsyscall.local_process.clone())
    for child in children:
        await child.task.getppid()
    used = tracemalloc.get_traced_memory()[0] - before if tracing else 0
    for child in children:
        await child.exit(0)
    for child in children:
        await child.pid.waitpid(W.EXITED)
    return used / n / 1024


async def many_children(scale: Scale) -> list[Row]:
    """Many children at the same time: made, called once each, and reaped."""
    n, seconds = scale.children, list[float]()
    with _room_for_descriptors(_FDS + _FDS_EACH * n):
        for _ in range(max(1, scale.rounds // 7)):
            progress(f"{n} children")
            start = time.perf_counter()
            await _live(n)
            seconds.append(time.perf_counter() - start)
        tracemalloc.start()
        try:
            await _live(1)  # what is kept once is nobody's own
            kib = await _live(n)
        finally:
            tracemalloc.stop()
    name = f"{n:,} children alive, each called once"
    each = duration(statistics.median(seconds) / n)
    return [
        recorded(f"{name}: clone to reaping", seconds, "s", budget=2, ours=f"{each} each"),
        recorded(f"{name}: Python's memory each", [kib], "KiB", budget=30, decimals=1),
    ]

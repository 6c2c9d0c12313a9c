"""Many tasks on one ring: what a call costs beside a switch, and whether everybody gets a turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable

import trio

import rsyscall
from benchmarks.measure import Row, Scale, duration, interleave, progress, recorded
from rsyscall.sys.syscall import SYS

__all__ = ["deadlines", "many_tasks"]

_TASKS = 64


async def _together(n: int, work: Callable[[int], Awaitable[None]]) -> float:
    """Seconds for one turn of many tasks that take n each."""
    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(_TASKS):
            nursery.start_soon(work, n)
    return (time.perf_counter() - start) / n / _TASKS


async def _fairness(seconds: float, process: rsyscall.Process, *, switch: bool) -> list[int]:
    """How many calls each of the tasks made in that time."""
    syscall, counts = process.task.sysif.syscall, [0] * _TASKS

    async def work(index: int) -> None:
        while True:
            if switch:
                await trio.lowlevel.checkpoint()
            await syscall(SYS.getppid)
            counts[index] += 1

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for index in range(_TASKS):
                nursery.start_soon(work, index)
    return counts


async def many_tasks(scale: Scale) -> list[Row]:
    """64 tasks."""
    n = max(1, scale.calls // _TASKS)
    async with rsyscall.open_process(ring=True) as process:
        syscall, checkpoint = process.task.sysif.syscall, trio.lowlevel.checkpoint

        async def bare(n: int) -> None:
            for _ in range(n):
                await checkpoint()

        async def calls(n: int) -> None:
            for _ in range(n):
                await checkpoint()
                await syscall(SYS.getppid)

        subjects: dict[str, Callable[[], Awaitable[float]]] = {
            "bare": lambda: _together(n, bare),
            "calls": lambda: _together(n, calls),
        }
        samples = await interleave("64 tasks", subjects, scale.rounds)
        above = [(b - a) * 1e6 for a, b in zip(samples["bare"], samples["calls"], strict=True)]
        rows = [
            recorded(
                "64 tasks, a switch between any two calls: a call above the switch",
                above,
                "us",
                budget=5,
                direct=f"{duration(statistics.median(samples['bare']))} (the switch)",
                ours=duration(statistics.median(samples["calls"])),
            )
        ]
        for switch in (True, False):
            how = "a switch between any two" if switch else "calls in a row"
            progress(f"64 tasks: fairness, {how}")
            counts: list[int] = []
            seconds = scale.seconds
            while not counts or min(counts) == 0:  # too short for everybody's first turn
                counts = await _fairness(seconds, process, switch=switch)
                seconds *= 2
            rows.append(
                recorded(
                    f"64 tasks, {how}: most calls of a task over fewest",
                    [max(counts) / min(counts)],
                    "x",
                    budget=2 if switch else None,
                    ours=f"{min(counts)} to {max(counts)} calls",
                )
            )
    return rows


async def deadlines(scale: Scale) -> list[Row]:
    """How late a deadline fires while calls complete one after the other."""
    async with rsyscall.open_process(ring=True) as process:
        syscall = process.task.sysif.syscall

        async def call() -> None:
            await syscall(SYS.getppid)

        def late(work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[float]]:
            async def measure() -> float:
                with trio.move_on_after(scale.delay) as scope:
                    while True:
                        await work()
                return trio.current_time() - scope.deadline

            return measure

        subjects = {"switches": late(trio.lowlevel.checkpoint), "calls": late(call)}
        samples = await interleave("deadlines", subjects, scale.rounds)
    return [
        recorded(
            f"move_on_after({scale.delay:g}) around calls in a row: how late",
            [late * 1e3 for late in samples["calls"]],
            "ms",
            direct=f"{duration(statistics.median(samples['switches']))} (switches only)",
            ours=f"longest {duration(max(samples['calls']))}",
        )
    ]

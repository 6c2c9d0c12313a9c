"""What a process costs beside time: CPU when idle, memory, and size."""

from __future__ import annotations

import contextlib
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import trio

import rsyscall
from benchmarks.measure import Row, Scale, progress, recorded, step

__all__ = ["footprint", "idle"]


def _cpu_ms(pids: Iterable[int | str]) -> float:
    """The CPU time of all threads of these processes so far."""
    ns = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            ns += int((task / "schedstat").read_text().split()[0])
    return ns / 1e6


async def idle(scale: Scale) -> list[Row]:
    """Stubs with which nobody does anything, and their client, which is this process."""
    async with contextlib.AsyncExitStack() as stack:
        pids: list[int] = []
        for n in range(scale.stubs):
            if n % 10 == 0:
                step(f"idle: starting {scale.stubs} stubs, {n} are there")
            process = await stack.enter_async_context(rsyscall.open_process(ring=True))
            for _ in range(10):
                await process.task.getppid()
            pids.append(int(process.pid))
        progress(f"idle: waiting {scale.idle:g} s")
        # Ours is read last and first, since the reading is our work.
        stubs, client = _cpu_ms(pids), _cpu_ms(["self"])
        await trio.sleep(scale.idle)
        client = _cpu_ms(["self"]) - client
        stubs = _cpu_ms(pids) - stubs
    return [
        recorded(
            f"CPU of {scale.stubs} idle stubs and their client in {scale.idle:g} s",
            [client + stubs],
            "ms",
            budget=20,
            ours=f"stubs {stubs:.2f} ms, client {client:.2f} ms",
        )
    ]


def _private_kib(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_\w+: +(\d+) kB$", rollup, re.MULTILINE)))


_IMPORT = """
import time
a = time.perf_counter()
import trio
b = time.perf_counter()
import rsyscall
print(b - a, time.perf_counter() - b)
"""


def _import_times() -> tuple[float, float]:
    """Milliseconds that a fresh interpreter takes to import trio, and us after it."""
    command = [sys.executable, "-c", _IMPORT]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    trio_s, ours_s = map(float, output.split())
    return trio_s * 1e3, ours_s * 1e3


async def footprint(scale: Scale) -> list[Row]:
    """Sizes, and what importing takes."""
    stub = rsyscall.stub_path().stat().st_size / 1024
    async with rsyscall.open_process(ring=True) as process:
        for _ in range(100):
            await process.task.getppid()
        private = _private_kib(int(process.pid))
    trios: list[float] = []
    ours: list[float] = []
    for n in range(-1, scale.imports):
        step(f"import rsyscall: {max(n, 0) + 1} of {scale.imports}")
        trio_ms, ours_ms = _import_times()
        if n >= 0:  # the first may have compiled the modules
            trios.append(trio_ms)
            ours.append(ours_ms)
    return [
        recorded("the stub's file", [stub], "KiB", budget=32, decimals=1),
        recorded(
            "private memory of an idle stub with a ring", [private], "KiB", budget=64, decimals=1
        ),
        recorded(
            "import rsyscall beyond import trio",
            ours,
            "ms",
            budget=60,
            direct=f"{statistics.median(trios):.1f} ms (trio)",
            decimals=1,
        ),
    ]

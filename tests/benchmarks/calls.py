"""One call at a time: over the ring, over the socket, beside busy threads and processes."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Mapping

import trio

import rsyscall
from benchmarks import floor
from benchmarks.measure import (
    Row,
    Scale,
    duration,
    interleave,
    per_call,
    progress,
    ratio_row,
    recorded,
)
from benchmarks.raw import RawStub, raw_stub
from rsyscall.sys.syscall import SYS

__all__ = ["busy_cpus", "busy_thread", "direct_getppid", "single_calls", "socket_calls"]


async def direct_getppid(n: int) -> float:
    """os.getppid()."""
    getppid = os.getppid
    start = time.perf_counter()
    for _ in range(n):
        getppid()
    return (time.perf_counter() - start) / n


async def _floor_getppid(n: int) -> float:
    return floor.getppid(n)


async def _getppid(process: rsyscall.Process, n: int) -> float:
    """The call without its type."""
    syscall, number = process.task.sysif.syscall, SYS.getppid
    start = time.perf_counter()
    for _ in range(n):
        await syscall(number)
    return (time.perf_counter() - start) / n


async def single_calls(scale: Scale) -> list[Row]:
    """One awaited call over the ring."""
    n = scale.calls
    async with rsyscall.open_process(ring=True) as process:
        subjects: dict[str, Callable[[], Awaitable[float]]] = {
            "C": lambda: _floor_getppid(n),
            "os": lambda: direct_getppid(n),
            "raw": lambda: _getppid(process, n),
            "typed": lambda: per_call(n, process.task.getppid),
        }
        samples = await interleave("single calls", subjects, scale.rounds)
    return [
        ratio_row(
            "one awaited sysif.syscall(SYS.getppid), ring",
            samples,
            "raw",
            "os",
            budget=12,
            floor="C",
            direct="os",
        ),
        ratio_row(
            "the same by task.getppid()",
            samples,
            "typed",
            "os",
            budget=20,
            floor="C",
            direct="os",
        ),
    ]


async def _trio_socket(stub: RawStub, sock: trio.socket.SocketType, n: int) -> float:
    frames = stub.calls(n)
    start = time.perf_counter()
    for frame in frames:
        await sock.send(frame)
        await sock.recv(64)
    return (time.perf_counter() - start) / n


async def _floor_socket(stub: RawStub, n: int) -> float:
    return floor.socket(n, stub.sock.fileno(), b"".join(stub.calls(n)))


async def socket_calls(scale: Scale) -> list[Row]:
    """One awaited call over the socketpair, and a bare ping-pong with the same stub.

    Where the two ends run decides more than what they do: to wake a CPU that is idle takes several
    times as long as all the rest, and the scheduler changes its mind between rounds, for each of
    them by itself. So they are put on the same CPU, and then on two; as it comes is recorded.
    """
    n = scale.slow
    async with rsyscall.open_process(ring=False) as process:
        with raw_stub() as blocking, raw_stub() as stub:
            sock = trio.socket.from_stdlib_socket(stub.sock.dup())
            pids = [int(process.pid), blocking.pid, stub.pid]
            cpus = sorted(os.sched_getaffinity(0))
            with sock:
                subjects: dict[str, Callable[[], Awaitable[float]]] = {
                    "C": lambda: _floor_socket(blocking, n),
                    "bare": lambda: _trio_socket(stub, sock, n),
                    "ours": lambda: _getppid(process, n),
                }
                with _on_cpus({0: cpus[0], **dict.fromkeys(pids, cpus[0])}):
                    one = await interleave("socket calls, one CPU", subjects, scale.rounds)
                with _on_cpus({0: cpus[0], **dict.fromkeys(pids, cpus[-1])}):
                    two = await interleave("socket calls, two CPUs", subjects, scale.rounds)
                free = await interleave("socket calls", subjects, scale.rounds)
    name = "the same by sysif.syscall, socketpair, against a bare trio ping-pong"
    return [
        ratio_row(name, one, "ours", "bare", budget=1.2, floor="C", direct="bare"),
        ratio_row(
            "the same with the stub on another CPU",
            two,
            "ours",
            "bare",
            budget=1.2,
            floor="C",
            direct="bare",
        ),
        ratio_row(
            "the same wherever the scheduler puts them",
            free,
            "ours",
            "bare",
            floor="C",
            direct="bare",
        ),
    ]


@contextlib.contextmanager
def _spinning_thread() -> Generator[None]:
    stop = False

    def spin() -> None:
        while not stop:
            pass

    thread = threading.Thread(target=spin, name="busy")
    thread.start()
    try:
        yield
    finally:
        stop = True
        thread.join()


async def _latencies(seconds: float, call: Callable[[], Awaitable[object]]) -> list[float]:
    """Of each call, for so long; at least of one."""
    now = time.perf_counter
    found: list[float] = []
    end = now() + seconds
    while not found or now() < end:
        start = now()
        await call()
        found.append(now() - start)
    return found


async def busy_thread(scale: Scale) -> list[Row]:
    """A call beside a Python thread that never waits: what the interpreter's lock costs."""

    async def local() -> None:
        os.getppid()

    rows: list[Row] = []
    async with (
        rsyscall.open_process(ring=True) as ring,
        rsyscall.open_process(ring=False) as socket,
    ):
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "os.getppid()": local,
            "a call over the ring": ring.task.getppid,
            "a call over the socketpair": socket.task.getppid,
        }
        latencies: dict[str, list[float]] = {name: [] for name in calls}
        slices = 5 if scale.rounds > 1 else 1
        with _spinning_thread():
            for _ in range(slices):
                for name, call in calls.items():
                    progress(f"beside a busy thread: {name}")
                    latencies[name] += await _latencies(scale.seconds / slices, call)
    direct = statistics.mean(latencies["os.getppid()"])
    for name, found in latencies.items():
        if name == "os.getppid()":
            continue
        found.sort()
        tail = found[min(len(found) - 1, int(len(found) * 0.99))]
        shown = (
            f"median {duration(statistics.median(found))}, 99% {duration(tail)},"
            f" longest {duration(found[-1])}"
        )
        mean = recorded(
            f"{name} beside a busy Python thread, mean",
            [statistics.mean(found) * 1e6],
            "us",
            direct=duration(direct),
            ours=shown,
        )
        rows.append(mean)
    return rows


@contextlib.contextmanager
def _busy_cpus() -> Generator[None]:
    """As many processes that never wait as there are CPUs."""
    code = "print(flush=True)\nwhile True: pass"
    hogs: list[subprocess.Popen[bytes]] = []
    try:
        for _ in os.sched_getaffinity(0):
            command = [sys.executable, "-S", "-c", code]
            hogs.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        for hog in hogs:
            assert hog.stdout is not None
            hog.stdout.readline()
        yield
    finally:
        for hog in hogs:
            hog.kill()
            assert hog.stdout is not None
            hog.stdout.close()
            hog.wait()


async def busy_cpus(scale: Scale) -> list[Row]:
    """Ring and socketpair: every CPU has something else to do; and one has to do for both ends."""
    n = scale.slow
    async with (
        rsyscall.open_process(ring=True) as ring,
        rsyscall.open_process(ring=False) as socket,
    ):
        subjects: dict[str, Callable[[], Awaitable[float]]] = {
            "C": lambda: _floor_getppid(n),
            "ring": lambda: _getppid(ring, n),
            "socket": lambda: _getppid(socket, n),
        }
        with _busy_cpus():
            busy = await interleave("all CPUs busy", subjects, scale.rounds)
        cpu = min(os.sched_getaffinity(0))
        with _on_cpus(dict.fromkeys([0, int(ring.pid), int(socket.pid)], cpu)):
            one = await interleave("both ends on one CPU", subjects, scale.rounds)
    name = "ring against socketpair, all CPUs kept busy by others"
    return [
        ratio_row(name, busy, "ring", "socket", budget=1, floor="C", direct="socket"),
        ratio_row(
            "ring against socketpair, both ends moved to one CPU",
            one,
            "ring",
            "socket",
            floor="C",
            direct="socket",
        ),
    ]


@contextlib.contextmanager
def _on_cpus(where: Mapping[int, int]) -> Generator[None]:
    """Have each process, 0 being this one, keep to a CPU, though they began with all of them."""
    before = os.sched_getaffinity(0)
    try:
        for pid, cpu in where.items():
            os.sched_setaffinity(pid, {cpu})
        yield
    finally:
        for pid in where:
            os.sched_setaffinity(pid, before)

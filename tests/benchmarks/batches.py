"""Batches: many calls in one round trip."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import tempfile
import time
from array import array
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path

import trio

import rsyscall
from benchmarks import floor
from benchmarks.calls import direct_getppid
from benchmarks.measure import Row, Scale, duration, interleave, per_call, ratio_row, recorded
from benchmarks.raw import start_stub
from rsyscall.fcntl import O
from rsyscall.sys.syscall import SYS
from rsyscall.unistd import SEEK

__all__ = ["batches", "far_away", "files"]

_STEPS = 1000


async def batches(scale: Scale) -> list[Row]:
    """A thousand calls of getppid in one batch, prepared and not."""
    n = max(1, scale.calls // _STEPS)
    async with rsyscall.open_process(ring=True) as process:
        batch = rsyscall.Batch()
        for _ in range(_STEPS):
            batch.getppid()
        prepared = await process.prepare(batch)

        async def run() -> array[int]:
            return await prepared.run(array=True)

        async def untyped() -> None:
            async with process.batch() as b:
                for _ in range(_STEPS):
                    b.syscall(SYS.getppid)

        async def typed() -> None:
            async with process.batch() as b:
                for _ in range(_STEPS):
                    b.getppid()

        async def each(call: Callable[[], Awaitable[object]]) -> float:
            return await per_call(n, call) / _STEPS

        async def in_c() -> float:
            return floor.getppid(n * _STEPS)

        subjects: dict[str, Callable[[], Awaitable[float]]] = {
            "C": in_c,
            "os": lambda: direct_getppid(n * _STEPS),
            "prepared": lambda: each(run),
            "untyped": lambda: each(untyped),
            "typed": lambda: each(typed),
        }
        samples = await interleave("batches", subjects, scale.rounds)

    def row(name: str, subject: str, budget: float) -> Row:
        return ratio_row(name, samples, subject, "os", budget=budget, floor="C", direct="os")

    return [
        row("prepared batch of 1,000, per call", "prepared", 0.7),
        row("batch of 1,000 by b.syscall, building included, per call", "untyped", 4),
        row("batch of 1,000 by b.getppid, building included, per call", "typed", 4),
    ]


@contextlib.contextmanager
def _small_file(size: int) -> Generator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "small")
        path.write_bytes(b"x" * size)
        yield path


async def files(scale: Scale) -> list[Row]:
    """Open, read and close a small file."""
    n, size = scale.slow, 100
    with _small_file(size) as path:
        name = str(path)
        async with rsyscall.open_process(ring=True) as process:
            task = process.task

            async def in_c() -> float:
                return floor.file(n, path, size)

            async def direct() -> float:
                start = time.perf_counter()
                for _ in range(n):
                    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
                    os.read(fd, size)
                    os.close(fd)
                return (time.perf_counter() - start) / n

            async def one_by_one() -> None:
                fd = await task.open(name, O.RDONLY)
                await fd.read(size)
                await fd.close()

            async def ad_hoc() -> bytes:
                async with process.batch() as b:
                    fd = b.open(name, O.RDONLY)
                    data = b.read(fd, size)
                    b.close(fd)
                return data.value

            kept = rsyscall.Batch()
            fd = kept.open(kept.parameter("path"), O.RDONLY)
            content = kept.read(fd, size)
            kept.close(fd)
            prepared = await process.prepare(kept)

            async def run() -> bytes:
                return (await prepared.run(path=name))[content]

            for way in (ad_hoc, run):
                if len(await way()) != size:
                    raise AssertionError(f"{way.__name__} has not read the file")
            subjects: dict[str, Callable[[], Awaitable[float]]] = {
                "C": in_c,
                "os": direct,
                "one by one": lambda: per_call(n, one_by_one),
                "ad hoc": lambda: per_call(n, ad_hoc),
                "prepared": lambda: per_call(n, run),
            }
            samples = await interleave("files", subjects, scale.rounds)

    def row(name: str, subject: str, budget: float | None = None) -> Row:
        return ratio_row(name, samples, subject, "C", budget=budget, floor="C", direct="os")

    return [
        row("open + read + close of a small file, one batch, against C", "ad hoc", 4),
        row("the same prepared, the path a parameter", "prepared", 4),
        row("the same by three awaited calls", "one by one"),
    ]


async def _pump(source: trio.SocketStream, sink: trio.SocketStream, delay: float) -> None:
    """Pass bytes on, each of them so much later, however many are under way."""
    put, take = trio.open_memory_channel[tuple[float, bytes]](1000)

    async def read() -> None:
        async with put:
            async for data in source:
                await put.send((trio.current_time() + delay, bytes(data)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        with contextlib.suppress(trio.BrokenResourceError):  # who says BYE does not wait for ours
            async for due, data in take:
                await trio.sleep_until(due)
                await sink.send_all(data)
            await sink.send_eof()
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def _slow_link(delay: float) -> AsyncGenerator[rsyscall.Process]:
    """A stub behind a relay that delays each direction."""
    ours, process = start_stub()
    stub = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    with tempfile.TemporaryDirectory() as directory, trio.socket.socket(socket.AF_UNIX) as listener:
        address = str(Path(directory, "socket"))
        await listener.bind(address)
        listener.listen(1)

        async def relay() -> None:
            accepted, _ = await listener.accept()
            async with stub, trio.SocketStream(accepted) as client, trio.open_nursery() as nursery:
                nursery.start_soon(_pump, client, stub, delay)
                nursery.start_soon(_pump, stub, client, delay)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay)
            async with rsyscall.connect(f"unix:{address}", ring=False) as far:
                yield far
    process.wait()


async def far_away(scale: Scale) -> list[Row]:
    """Calls that need each other's results, over a slow link."""
    steps, trips = 20, 2 * scale.delay
    rounds = min(scale.rounds, 5)
    async with _slow_link(scale.delay) as process:
        task = process.task

        async def single() -> None:
            await task.getppid()

        async def batch() -> None:
            async with process.batch() as b:
                fd = b.open("/dev/zero", O.RDONLY)
                at = b.lseek(fd, 0, SEEK.SET)
                for _ in range(steps - 3):
                    at = b.lseek(fd, at, SEEK.SET)
                b.close(fd)

        async def one_by_one() -> None:
            fd = await task.open("/dev/zero", O.RDONLY)
            at = 0
            for _ in range(steps - 2):
                at = await fd.lseek(at, SEEK.SET)
            await fd.close()

        subjects: dict[str, Callable[[], Awaitable[float]]] = {
            "single": lambda: per_call(1, single),
            "batch": lambda: per_call(1, batch),
            "one by one": lambda: per_call(1, one_by_one),
        }
        samples = await interleave("far away", subjects, rounds)
    return [
        recorded(
            f"batch of 20 dependent calls, {scale.delay * 1e3:g} ms each way",
            [taken / trips for taken in samples["batch"]],
            "round trips",
            budget=1,
            floor=duration(trips),
            direct=f"{duration(statistics.median(samples['one by one']))} (one by one)",
            ours=duration(statistics.median(samples["batch"])),
            decimals=1,
        )
    ]

"""Memory: copying that of another process, by every road, streaming it, and handing it out."""

from __future__ import annotations

import mmap
import os
import random
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import rsyscall
from benchmarks import floor
from benchmarks.measure import Row, Scale, duration, interleave, per_call, ratio_row, recorded
from rsyscall.handle import Task
from rsyscall.memory.heap import Block, Heap
from rsyscall.near.sysif import SyscallInterface
from rsyscall.sys.mman import MAP, PROT
from rsyscall.sysif.memory import MemoryRoads

__all__ = ["allocations", "far_memory", "stream"]

_MIB = 1024 * 1024
_RW = PROT.READ | PROT.WRITE


def _by_frames(task: Task) -> Task:
    """Its memory is to be reached by frames."""
    sysif = task.sysif
    if not isinstance(sysif, MemoryRoads):
        raise TypeError(f"{sysif} has no roads")
    sysif.reach(task.address_space)
    return task


def _arena(data: bytes) -> mmap.mmap:
    """Memory that could be shared, as an arena is, with something in it."""
    fd = os.memfd_create("arena")
    try:
        os.posix_fallocate(fd, 0, len(data))
        memory = mmap.mmap(fd, len(data))
    finally:
        os.close(fd)
    memory[:] = data
    return memory


async def far_memory(scale: Scale) -> list[Row]:
    """1 MiB of a stub's memory."""
    n = max(1, scale.slow // 10)
    async with (
        rsyscall.open_process(ring=True) as process,
        rsyscall.open_process(ring=True) as ring,
        rsyscall.open_process(ring=False) as socket,
    ):
        tasks = {"vm": process.task, "ring": _by_frames(ring.task)}
        tasks["socket"] = _by_frames(socket.task)
        buffer = bytearray(_MIB)
        addresses: dict[str, int] = {}
        for name, task in tasks.items():
            mapping = await task.mmap(_MIB, _RW, MAP.PRIVATE)
            await mapping.write(0, b"x" * _MIB)
            addresses[name] = mapping.near.address
        pointer = await process.ptr(b"x" * _MIB)
        addresses["arena"], tasks["arena"] = int(pointer.near), process.task

        def reader(name: str) -> Callable[[], Awaitable[bytes]]:
            sysif: SyscallInterface = tasks[name].sysif
            address, read = addresses[name], sysif.read_memory
            return lambda: read(address, _MIB)

        def filler(name: str) -> Callable[[], Awaitable[None]]:
            address, fill = addresses[name], tasks[name].sysif.read_memory_into
            return lambda: fill(address, buffer)

        # In C from the same kind of memory, and into the same: a copy takes as long as what it is
        # of, and where in its pages that begins, makes it take.
        source = _arena(b"x" * _MIB)

        async def in_c() -> float:
            return floor.far_read(n, int(process.pid), addresses["vm"], buffer)

        async def memcpy() -> float:
            return floor.copy(n, buffer, source)

        few = max(1, n // 10)
        subjects: dict[str, Callable[[], Awaitable[float]]] = {
            "C": in_c,
            "vm": lambda: per_call(n, reader("vm")),
            "vm into": lambda: per_call(n, filler("vm")),
            "memcpy": memcpy,
            "arena": lambda: per_call(n, reader("arena")),
            "arena into": lambda: per_call(n, filler("arena")),
            "ring": lambda: per_call(few, reader("ring")),
            "socket": lambda: per_call(few, reader("socket")),
        }
        samples = await interleave("far memory", subjects, scale.rounds)
    rows = [
        ("read, against process_vm_readv", "vm", "C", 1.1),
        ("read into a buffer of ours, against process_vm_readv", "vm into", "C", 1.1),
        ("read through the arena, against memcpy", "arena", "memcpy", 1.2),
        ("read through the arena into a buffer of ours", "arena into", "memcpy", 1.2),
        ("read by frames, ring, against process_vm_readv", "ring", "C", None),
        ("read by frames, socket, against process_vm_readv", "socket", "C", None),
    ]
    return [
        ratio_row(f"1 MiB of far memory {what}", samples, way, over, budget=budget, floor=over)
        for what, way, over, budget in rows
    ]


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) / 1024 if found is not None else 0.0


def _forget_peak() -> None:
    """It is counted from here on."""
    Path("/proc/self/clear_refs").write_text("5")


async def stream(scale: Scale) -> list[Row]:
    """A large mapping, piece by piece."""
    length = max(8, min(1024, scale.calls // 19)) * _MIB
    async with rsyscall.open_process(ring=True) as process:
        mapping = await process.task.mmap(length, _RW, MAP.PRIVATE)
        chunk = b"x" * _MIB
        for offset in range(0, length, _MIB):
            await mapping.write(offset, chunk)
        _forget_peak()
        before, start, got = _peak_mib(), time.perf_counter(), 0
        async for piece in mapping.chunks(0, length):
            got += len(piece)
        took = time.perf_counter() - start
        grown = _peak_mib() - before
    return [
        recorded(
            f"{length // _MIB} MiB streamed: how much larger this process was at most",
            [grown],
            "MiB",
            budget=4,
            ours=f"{got / took / _MIB:.0f} MiB/s",
        )
    ]


async def allocations(scale: Scale) -> list[Row]:
    """Pieces of random sizes, taken and given back; a million at full scale."""
    n = scale.calls * 50
    random_ = random.Random(1)
    sizes = [random_.randrange(1, 5000) for _ in range(1024)]
    heap: Heap[str] = Heap()
    heap.add("one", 64 * _MIB)
    live: list[Block[str] | None] = [None] * 1024
    start = time.perf_counter()
    for i in range(n):
        at = i * 7919 & 1023
        old = live[at]
        if old is not None:
            heap.give_back(old)
        live[at] = heap.take(sizes[i & 1023], 16)
    for block in live:
        if block is not None:
            heap.give_back(block)
    took = (time.perf_counter() - start) / n
    if heap.taken or set(heap.empty) != {"one"}:
        raise AssertionError("the heap is not as it began")
    return [
        recorded(
            f"{n:,} allocations of random sizes, and as many frees: each pair",
            [took * 1e6],
            "us",
            ours=duration(took),
        )
    ]

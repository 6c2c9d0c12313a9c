"""What rsyscall costs, beside what the same work costs in C and in Python without it."""

from __future__ import annotations

from benchmarks.batches import batches, far_away, files
from benchmarks.calls import busy_cpus, busy_thread, single_calls, socket_calls
from benchmarks.instructions import instructions
from benchmarks.many import deadlines, many_tasks
from benchmarks.measure import Benchmark
from benchmarks.memory import allocations, far_memory, stream
from benchmarks.processes import large_parent, many_children, processes
from benchmarks.resources import footprint, idle
from benchmarks.ssh import by_ssh
from benchmarks.streams import streams

__all__ = ["BENCHMARKS"]

BENCHMARKS: dict[str, Benchmark] = {
    "single": single_calls,
    "socket": socket_calls,
    "tasks": many_tasks,
    "deadlines": deadlines,
    "streams": streams,
    "batches": batches,
    "files": files,
    "processes": processes,
    "large-parent": large_parent,
    "many-children": many_children,
    "idle": idle,
    "busy-cpus": busy_cpus,
    "busy-thread": busy_thread,
    "far-away": far_away,
    "ssh": by_ssh,
    "far-memory": far_memory,
    "stream": stream,
    "allocations": allocations,
    "footprint": footprint,
    "instructions": instructions,
}

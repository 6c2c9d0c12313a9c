"""Instructions per call, counted by callgrind: they do not depend on the machine's mood."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import trio

import rsyscall._core
from benchmarks.measure import Row, Scale, progress
from benchmarks.raw import raw_stub

__all__ = ["instructions"]

#: Makes calls through a ring whose answers are there already, so that it never waits; without the
#: rest of the package, which would take long to import under callgrind.
_CLIENT = """
import importlib.machinery, importlib.util, mmap, struct, sys
path, calls, answers_there, getppid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), 110
loader = importlib.machinery.ExtensionFileLoader("rsyscall._core", path)
spec = importlib.util.spec_from_file_location("rsyscall._core", path, loader=loader)
ring_module = importlib.util.module_from_spec(spec)
loader.exec_module(ring_module)
header, size = 4096, 1 << 20
memory = mmap.mmap(-1, 2 * (header + size))
from ctypes import addressof, c_char
start = addressof(c_char.from_buffer(memory))
theirs = header + size
answers = b"".join(
    b"\\xce" + struct.pack(">I", len(body)) + body
    for body in (b"\\x95\\x03" + b"\\xcf" + struct.pack(">Q", i) + b"\\x00\\x01\\x90"
                 for i in range(1, answers_there + 1))
)
memory[theirs + header : theirs + header + len(answers)] = answers
memory[theirs : theirs + 4] = struct.pack("=I", len(answers))
ring = ring_module.Ring(start, start + theirs, size, 0, 1, size, 0, shared=True)
def run(call):
    for _ in range(calls):
        if call(getppid) != 1:
            raise SystemExit("the ring gave another answer")
run(ring.call)
"""


class _Callgrind:
    def __init__(self, valgrind: str, directory: Path) -> None:
        self.log = directory / "log"
        self.command = [
            valgrind,
            "--tool=callgrind",
            f"--callgrind-out-file={directory / 'out'}",
            f"--log-file={self.log}",
        ]

    def collected(self) -> int:
        """How many instructions the process that has just ended took."""
        found = re.search(r"Collected : (\d+)", self.log.read_text())
        if found is None:
            raise RuntimeError(f"callgrind has counted nothing:\n{self.log.read_text()}")
        return int(found[1])


#: The instructions of a process that makes so many of at most so many calls.
_Count: TypeAlias = Callable[[_Callgrind, int, int], int]


def _stub(callgrind: _Callgrind, n: int, most: int) -> int:
    with raw_stub(callgrind.command) as stub:
        for frame in stub.calls(most)[:n]:
            if not stub.exchange(frame):
                raise RuntimeError(f"the stub ended under callgrind:\n{callgrind.log.read_text()}")
    return callgrind.collected()


def _client(callgrind: _Callgrind, n: int, most: int) -> int:
    program = [_CLIENT, rsyscall._core.__file__, str(n), str(most)]
    python = [sys.executable, "-I", "-S", "-c", *program]
    subprocess.run([*callgrind.command, *python], check=True, env={"PYTHONHASHSEED": "0"})
    return callgrind.collected()


#: Name, how it is counted, and for how many times as many calls: Python itself does not take the
#: same number of instructions each time, which many calls make up for.
_SUBJECTS: tuple[tuple[str, _Count, int], ...] = (
    ("instructions of the stub for a call over the socket", _stub, 1),
    ("instructions of a Python loop around Ring.call, the answer there already", _client, 50),
)


async def _run(valgrind: str, count: _Count, n: int, most: int, counts: dict[int, int]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        callgrind = _Callgrind(valgrind, Path(directory))
        counts[n] = await trio.to_thread.run_sync(count, callgrind, n, most)


async def instructions(scale: Scale) -> list[Row]:
    """Stub and client core; no rows without valgrind."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        progress("instructions: left out, there is no valgrind")
        return []
    rows: list[Row] = []
    for name, count, times in _SUBJECTS:
        progress(name)
        few, many = times * scale.instructions, 2 * times * scale.instructions
        counts: dict[int, int] = {}

        async with trio.open_nursery() as nursery:
            for n in (few, many):
                nursery.start_soon(_run, valgrind, count, n, many, counts)
        each = (counts[many] - counts[few]) / (many - few)
        rows.append(Row(name, each, "instructions", decimals=0))
    return rows

"""Killing a child, or its parent, at every point of its life; and counting what is left.

Two ways of coming to each point. A tracer stops whoever is to die at each of its system calls; and
each time that a function of the client's modules about children is entered, or goes on, is a point
at which the child dies first. Neither needs anything in what is tested.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import leaks
import rsyscall
from rsyscall.child import memory
from rsyscall.sys.syscall import SYS

_SOURCES = Path(rsyscall.__file__).parent
_FILES = {
    str(_SOURCES / name)
    for name in (
        *("child/exec.py", "child/lent.py", "child/memory.py", "child/spawn.py", "child/start.py"),
        *("child/unshare.py", "handle/_child_pid.py", "monitor.py", "sysif/child.py", "thread.py"),
    )
}
for _file in _FILES:
    assert Path(_file).exists(), f"{_file}: nothing of it would be visited"


def children(pid: int) -> set[int]:
    """Those of a process's first thread, zombies among them."""
    file = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY)
    try:
        return {int(child) for child in os.read(file, 65536).split()}
    finally:
        os.close(file)


def wait_dead(pid: int) -> None:
    """Return once a process that was killed is dead; nobody has waited for it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(5000), f"{pid} was killed and has not died"
    finally:
        os.close(pidfd)


@dataclass(frozen=True)
class Belongings:
    """What a process has, as far as it may have to do with children."""

    children: set[int]
    fds: set[str]
    threads: set[str]
    mappings: int

    @classmethod
    def of(cls, pid: int) -> Belongings:
        """Of a process; of ours, without the memory that is kept for the next children."""
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        if pid == os.getpid():  # the rest are Python's affair; each child's memory has a guard
            spans = [line.split()[0].split("-") for line in lines if " ---p " in line]
            mappings = sum(int(end, 16) - int(start, 16) == 4096 for start, end in spans)
            mappings -= len(memory._spare)  # pyright: ignore[reportPrivateUsage]
        else:
            mappings = len(lines)
        fds = {f"{fd} {os.readlink(f'/proc/{pid}/fd/{fd}')}" for fd in _open_in(pid)}
        threads = leaks.threads() if pid == os.getpid() else os.listdir(f"/proc/{pid}/task")
        return cls(children(pid), fds, set(map(str, threads)), mappings)


async def belongings(process: rsyscall.Process) -> Belongings:
    """What it has, without the threads that a stub keeps for a while for calls that may block."""
    if int(process.pid) != os.getpid():
        await process.task.sysif.syscall(SYS.setresuid, -1, -1, -1)  # is made by one alone
    return Belongings.of(int(process.pid))


def _open_in(pid: int) -> list[str]:
    directory = os.open(f"/proc/{pid}/fd", os.O_RDONLY)
    try:
        found = os.listdir(directory)
    finally:
        os.close(directory)
    return [fd for fd in found if os.path.lexists(f"/proc/{pid}/fd/{fd}")]


class Tracer:
    """The program in tracer.py."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        self._program = program

    def _ask(self, line: str) -> tuple[int, int]:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(line + "\n")
        self._program.stdin.flush()
        answer = self._program.stdout.readline().split()
        assert len(answer) == 2, "the tracer has ended"
        return int(answer[0]), int(answer[1])

    @contextlib.contextmanager
    def killing(self, pid: int, who: str, point: int) -> Generator[list[int]]:
        """Have a child of the process, or itself, die at a point, as counted by tracer.py.

        What is yielded has afterwards how many points were reached, and how many have died.
        """
        outcome: list[int] = []
        self._ask(f"{pid} {who} {point}")
        try:
            yield outcome
        finally:
            outcome += self._ask("off")


@contextlib.contextmanager
def tracer() -> Generator[Tracer]:
    """One that runs."""
    command = [sys.executable, "-IS", str(Path(__file__).with_name("tracer.py"))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as program:
        yield Tracer(program)


class Functions:
    """Kills the children that a process gets when the client's functions come to their n-th point.

    A point counts once there is a child, and once, however often a function comes by.
    """

    def __init__(self, parent: int, n: int) -> None:
        self.parent = parent
        self.n = n
        self.before: set[int] = children(parent)
        self.seen = set[tuple[str, int]]()
        self.killed: str | None = None

    def _look(self, frame: FrameType, _event: str, _argument: object) -> None:
        where = frame.f_code.co_filename, frame.f_lineno
        if where[0] not in _FILES or where in self.seen or len(self.seen) == self.n:
            return
        if there := children(self.parent) - self.before:
            self.seen.add(where)
            if len(self.seen) == self.n:
                self.killed = f"{where[0]}:{where[1]}"
                for pid in there:
                    os.kill(pid, signal.SIGKILL)
                    wait_dead(pid)

    @contextlib.contextmanager
    def watched(self) -> Generator[None]:
        """Count while the block is executed."""
        before = sys.gettrace()
        sys.settrace(self._look)
        try:
            yield
        finally:
            sys.settrace(before)

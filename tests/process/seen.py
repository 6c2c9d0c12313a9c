"""What /proc says of processes, and programs that tell what they have found."""

from __future__ import annotations

import os
from pathlib import Path

from rsyscall.command import Command
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor, Task

SH = Command("/bin/bash", ["bash", "-c"], {})  # dash knows descriptors up to 9 only
TRUE = Command("/bin/true", ["true"], {})
FALSE = Command("/bin/false", ["false"], {})
SLEEP = Command("/bin/sleep", ["sleep", "1000"], {})


def status(pid: int) -> dict[str, str]:
    """The lines of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def fds(pid: int) -> set[int]:
    return {int(name) for name in os.listdir(f"/proc/{pid}/fd")}


def maps(pid: int) -> int:
    """How many mappings it has."""
    return len(Path(f"/proc/{pid}/maps").read_text().splitlines())


async def output(task: Task, path: Path) -> FileDescriptor:
    """A new file, to write to."""
    return await task.open(path, O.RDWR | O.CREAT | O.TRUNC)

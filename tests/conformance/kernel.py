"""What the kernel says of a process, by way of /proc."""

from __future__ import annotations

import os
from pathlib import Path

import rsyscall
from rsyscall.handle import FileDescriptor

__all__ = ["contents", "is_open", "limits", "permissions"]


def is_open(process: rsyscall.Process, fd: int | FileDescriptor) -> bool:
    """Whether the number is that of an open file."""
    number = int(fd.near) if isinstance(fd, FileDescriptor) else fd
    return os.path.lexists(f"/proc/{int(process.pid)}/fd/{number}")


def permissions(process: rsyscall.Process, address: int) -> str:
    """Those of the mapping that an address is in, such as r-xp; nothing if it is in none."""
    for line in Path(f"/proc/{int(process.pid)}/maps").read_text().splitlines():
        span, flags = line.split()[:2]
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            return flags
    return ""


def limits(process: rsyscall.Process, name: str) -> list[str]:
    """The soft and the hard one of that name."""
    for line in Path(f"/proc/{int(process.pid)}/limits").read_text().splitlines():
        if line.startswith(name):
            return line.removeprefix(name).split()[:2]
    return []


def contents(directory: Path) -> dict[str, bytes]:
    """The files of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}

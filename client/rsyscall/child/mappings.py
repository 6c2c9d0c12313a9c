"""The ids of a user namespace."""

from __future__ import annotations

import dataclasses
import os

from rsyscall.child.steps import call, run
from rsyscall.handle import Task
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import In, Ref, Step

__all__ = ["effective_ids", "map_lines", "map_steps", "write_user_mappings"]

_AT_FDCWD = -100


def map_lines(inside: tuple[int, int], outside: tuple[int, int]) -> list[tuple[str, str]]:
    """Files of /proc/self and what to write there, to map one user and one group id.

    Without privileges there can be no more than that, and no setgroups(2).
    """
    return [
        ("setgroups", "deny"),
        ("uid_map", f"{inside[0]} {outside[0]} 1"),
        ("gid_map", f"{inside[1]} {outside[1]} 1"),
    ]


def map_steps(index: int, file: str, line: str) -> list[tuple[str, Step]]:
    """Steps of a batch, from the index-th on, that write a line, and what they are for."""
    name = f"writing {line!r} to /proc/self/{file}"
    path, data = In(f"/proc/self/{file}".encode() + b"\0"), line.encode()
    write = call(SYS.write, Ref(index), In(data), len(data))
    return [
        (name, call(SYS.openat, _AT_FDCWD, path, os.O_WRONLY | os.O_CLOEXEC, 0)),
        (name, dataclasses.replace(write, ok=len(data))),
        (name, call(SYS.close, Ref(index))),
    ]


async def effective_ids(task: Task) -> tuple[int, int]:
    """The user and the group id that files are made with. A checkpoint."""
    uid = await task.sysif.syscall(SYS.geteuid)
    return uid, await task.sysif.syscall(SYS.getegid)


async def write_user_mappings(
    task: Task, inside: tuple[int, int], outside: tuple[int, int]
) -> None:
    """Have the task write the mappings of the user namespace that it has begun.

    OSError, with the file as a note, if that is refused. A checkpoint; if cancelled, nothing was
    written.
    """
    steps: list[Step] = []
    names: list[str] = []
    for file, line in map_lines(inside, outside):
        for name, step in map_steps(len(steps), file, line):
            names.append(name)
            steps.append(step)
    await run(task.sysif, steps, names)

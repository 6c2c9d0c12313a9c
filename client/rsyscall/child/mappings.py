"""The ids of a user namespace."""

from __future__ import annotations

from rsyscall._checkpoint import checkpoint, shield
from rsyscall.child.refusals import explain_map
from rsyscall.child.steps import run, write_file
from rsyscall.handle import Task
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import Step

__all__ = ["effective_ids", "map_lines", "map_steps", "write_user_mappings"]


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
    path = f"/proc/self/{file}"
    name = f"writing {line!r} to {path}"
    return [(name, step) for step in write_file(path.encode(), line.encode(), index=index)]


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
    await checkpoint()
    with shield(not task.sysif.immediate):
        for file, line in map_lines(inside, outside):
            names, steps = zip(*map_steps(0, file, line), strict=True)
            try:
                await run(task.sysif, steps, names)
            except OSError as exc:
                await explain_map(task, exc)
                raise

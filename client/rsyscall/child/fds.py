"""Which file descriptors a child keeps."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from rsyscall.child.steps import call, run
from rsyscall.handle import Task
from rsyscall.sys.syscall import SYS

__all__ = ["close_on_exec", "gaps", "kept"]

_LAST = 2**32 - 1
_CLOSE_RANGE_CLOEXEC = 4
#: The same numbers are free again and again.
_KEPT = 8


def kept(task: Task) -> set[int]:
    """The numbers that a copy of the task's table is to have: those of handles, and stdio."""
    return {0, 1, 2, *task.fd_numbers}


def gaps(keep: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """All numbers but these, as pairs of the first and the last one of each gap."""
    return _gaps(frozenset(keep))


@functools.lru_cache(_KEPT)
def _gaps(keep: frozenset[int]) -> tuple[tuple[int, int], ...]:
    start, found = 0, list[tuple[int, int]]()
    for number in sorted(keep):
        if number > start:
            found.append((start, number - 1))
        start = number + 1
    if start <= _LAST:
        found.append((start, _LAST))
    return tuple(found)


async def close_on_exec(task: Task, keep: Iterable[int]) -> None:
    """See rsyscall.thread.do_cloexec_except."""
    steps = [
        call(SYS.close_range, first, last, _CLOSE_RANGE_CLOEXEC)
        for first, last in gaps({0, 1, 2, *keep})
    ]
    await run(task.sysif, steps)

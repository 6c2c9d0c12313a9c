"""Which file descriptors a child keeps."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from rsyscall._descriptors import Held
from rsyscall.handle import Task

__all__ = ["gaps", "kept"]

_LAST = 2**32 - 1
#: The same numbers are free again and again.
_KEPT = 8


def kept(task: Task) -> dict[int, Held]:
    """What a copy of the task's table is to have, by number: what has handles, and stdio.

    To be asked before the copy is made: what has changed meanwhile is not taken for the same.
    """
    return task.fd_table.named()


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

"""Which file descriptors a child keeps."""

from __future__ import annotations

import errno
import functools
from collections.abc import Iterable

from rsyscall._descriptors import Held
from rsyscall.child.steps import call, run
from rsyscall.fcntl import O
from rsyscall.handle import Task
from rsyscall.sys.syscall import SYS

__all__ = ["close_on_exec", "gaps", "kept", "open_numbers"]

_LAST = 2**32 - 1
_CLOSE_RANGE_CLOEXEC, _F_SETFD, _FD_CLOEXEC = 4, 2, 1
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


async def close_on_exec(task: Task, keep: Iterable[int]) -> None:
    """See rsyscall.thread.do_cloexec_except."""
    kept_open = {0, 1, 2, *keep}
    flag = _CLOSE_RANGE_CLOEXEC
    try:
        await run(task.sysif, [call(SYS.close_range, *gap, flag) for gap in gaps(kept_open)])
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOSYS):  # before Linux 5.11
            raise
        for number in sorted(await open_numbers(task) - kept_open):
            step = call(SYS.fcntl, number, _F_SETFD, _FD_CLOEXEC, ok=(errno.EBADF,))
            await run(task.sysif, [step])


async def open_numbers(task: Task) -> set[int]:
    """What is open in the task's table, by its /proc."""
    async with await task.open("/proc/self/fd", O.RDONLY | O.DIRECTORY) as fd:
        found = set[int]()
        while names := [entry.name for entry in await fd.getdents()]:
            found |= {int(name) for name in names if name.isdecimal()}
        return found - {int(fd.near)}

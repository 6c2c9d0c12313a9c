"""Time namespaces.

clone(2) knows none, and unshare(2) is for the children that come later. Who has its memory for
itself can enter the one that it has just made, by setns(2), once it has set its clocks.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TypeAlias

from rsyscall import far
from rsyscall.child.steps import call, run, write_file
from rsyscall.handle import Task
from rsyscall.sched import CLONE
from rsyscall.sys.syscall import SYS
from rsyscall.sys.timerfd import CLOCK
from rsyscall.time import Timespec
from rsyscall_protocol import In, Ref, Step

__all__ = ["TimeOffsets", "check_offsets", "enter", "enter_steps", "set_offsets"]

#: By how much clocks of a time namespace are ahead of ours, in seconds.
TimeOffsets: TypeAlias = "Mapping[CLOCK, float | Timespec]"

_AT_FDCWD, _NANO = -100, 1_000_000_000
_NAMES = {CLOCK.MONOTONIC: "monotonic", CLOCK.BOOTTIME: "boottime"}
_NEWTIME = int(CLONE.NEWTIME)


def check_offsets(offsets: TimeOffsets | None, flags: CLONE) -> str:
    """What is to be written to /proc/self/timens_offsets.

    ValueError, naming the argument, for another clock, what is no time, or without CLONE.NEWTIME.
    """
    if offsets and CLONE.NEWTIME not in flags:
        raise ValueError("time_offsets: only a new time namespace (CLONE.NEWTIME) can have them")
    lines: list[str] = []
    for clock, offset in (offsets or {}).items():
        if clock not in _NAMES:
            raise ValueError(f"time_offsets: {clock!r} is the same in all time namespaces")
        if isinstance(offset, Timespec):
            nanos = offset.to_nanos()
        elif isinstance(offset, int):
            nanos = offset * _NANO
        elif math.isfinite(offset):
            nanos = round(offset * _NANO)
        else:
            raise ValueError(f"time_offsets: {offset} is no number of seconds")
        sec, nsec = divmod(nanos, _NANO)
        lines.append(f"{_NAMES[CLOCK(clock)]} {sec} {nsec}\n")
    return "".join(lines)


def _setting(lines: str, index: int) -> list[tuple[str, Step]]:
    if not lines:
        return []
    name = f"writing {lines!r} to /proc/self/timens_offsets"
    steps = write_file(b"/proc/self/timens_offsets", lines.encode(), index=index)
    return [(name, step) for step in steps]


def _entering(index: int) -> list[tuple[str, Step]]:
    name, undo = "entering the time namespace", (int(SYS.close), (Ref(index),))
    path = In(b"/proc/self/ns/time_for_children\0")
    return [
        (name, call(SYS.openat, _AT_FDCWD, path, os.O_RDONLY | os.O_CLOEXEC, 0, undo=undo)),
        (name, call(SYS.setns, Ref(index), _NEWTIME)),
        (name, call(SYS.close, Ref(index))),
    ]


def enter_steps(index: int, lines: str) -> list[tuple[str, Step]]:
    """Steps, from the index-th on, by which a process gets into a new time namespace."""
    steps = [("making the time namespace", call(SYS.unshare, _NEWTIME))]
    steps += _setting(lines, index + 1)
    return steps + _entering(index + len(steps))


async def _run(task: Task, steps: list[tuple[str, Step]]) -> None:
    if steps:
        names, calls = zip(*steps, strict=True)
        await run(task.sysif, calls, names)


async def enter(task: Task, lines: str) -> None:
    """Have a task that has its memory for itself enter a new time namespace.

    OSError, with what for as a note. A checkpoint.
    """
    await _run(task, enter_steps(0, "")[:1])
    await set_offsets(task, lines)
    await _run(task, _entering(0))
    task.timens = task.timens_for_children = far.TimeNamespace(task.near_process.id)


async def set_offsets(task: Task, lines: str) -> None:
    """Set the clocks of the time namespace that a task has made for its children.

    OSError, with what for as a note. A checkpoint; if cancelled, nothing was set.
    """
    await _run(task, _setting(lines, 0))

"""Ranges of ids in a user namespace, written from outside by who may have them.

Whoever is privileged writes them himself; anybody else has newuidmap(1) and newgidmap(1), which
look into /etc/subuid and /etc/subgid. See user_namespaces(7).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pwd
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rsyscall._errors import noted
from rsyscall.child.mappings import effective_ids
from rsyscall.child.steps import call, run, write_file
from rsyscall.command import Command
from rsyscall.near.sysif import In, Out
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import Ref

if TYPE_CHECKING:
    from rsyscall.handle import Task
    from rsyscall.thread import ChildProcess, Process

__all__ = ["IdRange", "subordinate_ranges", "write_ranges"]

_AT_FDCWD, _ROOM = -100, 65536
_LAST = 2**32 - 1
_TOOLS = {"uid": "newuidmap", "gid": "newgidmap"}


class IdRange(NamedTuple):
    """Ids of a user namespace: so many, from one on inside, and from another one on outside."""

    inside: int
    outside: int
    length: int = 1


def check_ranges(name: str, ranges: Sequence[tuple[int, ...]]) -> list[IdRange]:
    """ValueError, naming the argument, for what no map can be."""
    found = [IdRange(*one) for one in ranges]
    if not found:
        raise ValueError(f"{name}: there is nothing to map")
    for one in found:
        if one.length < 1 or min(one) < 0 or max(one[:2]) + one.length > _LAST:
            raise ValueError(f"{name}: {one} is no range of ids")
    for which, what in enumerate(("inside", "outside")):
        ordered = sorted(found, key=lambda one: one[which])
        for a, b in itertools.pairwise(ordered):
            if a[which] + a.length > b[which]:
                raise ValueError(f"{name}: {a} and {b} overlap {what}")
    return found


async def _read(task: Task, path: str) -> str:
    steps = [
        call(SYS.openat, _AT_FDCWD, In(path.encode() + b"\0"), os.O_RDONLY | os.O_CLOEXEC, 0),
        call(SYS.read, Ref(0), Out(_ROOM), _ROOM),
        call(SYS.close, Ref(0)),
    ]
    done = await run(task.sysif, steps, [f"reading {path}"] * 3)
    return done.outs[0][: done.values[1]].decode(errors="replace")


def parse_subordinate(text: str, names: Sequence[str], own: int) -> list[IdRange]:
    """Our own id as 0, and from 1 on those that a file like /etc/subuid gives to one of the names.

    LookupError if it gives none.
    """
    found = [IdRange(0, own)]
    for line in text.splitlines():
        owner, _, numbers = line.strip().partition(":")
        first, _, count = numbers.partition(":")
        if owner in names and first.isdecimal() and count.isdecimal() and int(count):
            inside = found[-1].inside + found[-1].length
            found.append(IdRange(inside, int(first), int(count)))
    if len(found) == 1:
        raise LookupError(f"no line for {' or '.join(names)}")
    return found


async def subordinate_ranges(task: Task, kind: str) -> list[IdRange]:
    """What the system gives to the user of a task: kind is uid or gid.

    LookupError, naming the file, if that is nothing; OSError if it cannot be read. A checkpoint.
    """
    uid, gid = await effective_ids(task)
    names = [str(uid)]
    with contextlib.suppress(KeyError):  # as we know the user, and else by the number
        names.insert(0, pwd.getpwuid(uid).pw_name)
    path = f"/etc/sub{kind}"
    try:
        return parse_subordinate(await _read(task, path), names, uid if kind == "uid" else gid)
    except LookupError as exc:
        raise LookupError(f"{path}: {exc}") from None


async def _by_tool(parent: Process, pid: int, kind: str, ranges: list[IdRange]) -> None:
    tool = _TOOLS[kind]
    words = [tool, str(pid), *(str(number) for one in ranges for number in one)]
    try:
        done = await parent.run(Command(tool, words), check=False, capture_stderr=True)
    except FileNotFoundError as exc:
        exc.add_note(f"{tool} is missing (Debian: uidmap)")
        raise
    if not done.clean():
        said = (done.stderr or b"").decode(errors="replace").strip()
        raise noted(
            PermissionError(errno.EPERM, os.strerror(errno.EPERM)),
            f"{tool}: {said or done}",
            f"/etc/sub{kind} says which ids a user may map",
        )


async def _write(parent: Process, pid: int, kind: str, ranges: list[IdRange]) -> None:
    """By the parent itself if it may, or else by the tool."""
    path = f"/proc/{pid}/{kind}_map"
    lines = "".join([f"{one.inside} {one.outside} {one.length}\n" for one in ranges])
    steps = write_file(path.encode(), lines.encode())
    try:
        await run(parent.task.sysif, steps, [f"writing {lines!r} to {path}"] * 3)
    except PermissionError:
        await _by_tool(parent, pid, kind, ranges)


async def write_ranges(
    parent: Process,
    child: ChildProcess,
    uids: Sequence[tuple[int, ...]] | None,
    gids: Sequence[tuple[int, ...]] | None,
) -> None:
    """See ChildProcess.map_ids."""
    given = (("uid", uids), ("gid", gids))
    checked = {
        kind: None if ranges is None else check_ranges(f"{kind}s", ranges) for kind, ranges in given
    }
    for kind, ranges in checked.items():
        found = await subordinate_ranges(parent.task, kind) if ranges is None else ranges
        await _write(parent, child.pid.pid.near.id, kind, found)

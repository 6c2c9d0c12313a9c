"""Functions of rsyscall.thread whose first argument is a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsyscall.child.fds import close_on_exec
from rsyscall.child.mappings import write_user_mappings as map_ids

if TYPE_CHECKING:
    from rsyscall import near
    from rsyscall.thread import Process

__all__ = ["do_cloexec_except", "write_user_mappings"]


async def write_user_mappings(
    thr: Process,
    uid: int,
    gid: int,
    in_namespace_uid: int | None = None,
    in_namespace_gid: int | None = None,
) -> None:
    """Map one user and one group id into the user namespace that a process has begun.

    uid, gid: the ids outside. in_namespace_uid, in_namespace_gid: what they are inside; by default
    the same. OSError, with the file as a note. A checkpoint; if cancelled, nothing was written.
    user_namespaces(7).
    """
    inside = (
        uid if in_namespace_uid is None else in_namespace_uid,
        gid if in_namespace_gid is None else in_namespace_gid,
    )
    await map_ids(thr.task, inside, (uid, gid))


async def do_cloexec_except(thr: Process, excluded_fds: set[near.FileDescriptor]) -> None:
    """Have all descriptors of a process closed on exec, but stdio and these.

    OSError as the calls report it. A checkpoint; if cancelled, it may have been done for some.
    close_range(2), fcntl(2).
    """
    await close_on_exec(thr.task, {int(number) for number in excluded_fds})

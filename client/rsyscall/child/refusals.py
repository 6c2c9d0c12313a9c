"""Why the system may have refused to make a namespace."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping, Sequence

from rsyscall._checkpoint import shield
from rsyscall.child.namespaces import NAMESPACES
from rsyscall.child.steps import call, run
from rsyscall.handle import Task
from rsyscall.near.sysif import SyscallError
from rsyscall.sched import CLONE
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import In, Out, Ref

__all__ = ["explain", "explain_map", "likely", "likely_of_map"]

#: How many there may be, for each user in each user namespace.
_LIMITS = {
    CLONE.NEWUSER: "user.max_user_namespaces",
    CLONE.NEWNS: "user.max_mnt_namespaces",
    CLONE.NEWPID: "user.max_pid_namespaces",
    CLONE.NEWNET: "user.max_net_namespaces",
    CLONE.NEWUTS: "user.max_uts_namespaces",
    CLONE.NEWIPC: "user.max_ipc_namespaces",
    CLONE.NEWCGROUP: "user.max_cgroup_namespaces",
    CLONE.NEWTIME: "user.max_time_namespaces",
}
#: Settings that keep ordinary users from user namespaces, and the value with which they do; Debian
#: has had the first, and Ubuntu has the second.
_FORBIDDING = {
    "kernel.unprivileged_userns_clone": "0",
    "kernel.apparmor_restrict_unprivileged_userns": "1",
}
_AT_FDCWD, _ROOM = -100, 64


def likely(number: int, flags: CLONE, settings: Mapping[str, str]) -> str | None:
    """What may be wrong, in words; None if nothing can be said.

    number: the error. flags: the namespaces that were wanted. settings: those of sysctl(8) that
    there are.
    """
    if number == errno.ENOSPC:
        found = [
            f"{name} is {settings.get(name, '?')}"
            for flag, name in _LIMITS.items()
            if flag in flags
        ]
        return f"{', '.join(found)}; or too many are nested (32 at most)"
    if number == errno.EINVAL:
        return f"perhaps the kernel was built without {flags!r}"
    if number not in (errno.EPERM, errno.EACCES):
        return None
    if CLONE.NEWUSER not in flags:
        return f"{flags!r} needs CAP_SYS_ADMIN, or CLONE.NEWUSER with it"
    if found_settings := _found(settings):
        return f"{found_settings}: only who is privileged may have user namespaces"
    return "a seccomp filter or a security module forbids user namespaces, or the root is a chroot"


def likely_of_map(number: int, settings: Mapping[str, str]) -> str | None:
    """What may be wrong with a uid_map or gid_map, in words; None if nothing can be said."""
    if number not in (errno.EPERM, errno.EACCES):
        return None
    found = _found(settings)
    if found:
        return f"{found}: only who is privileged may use user namespaces"
    return (
        "without CAP_SETUID and CAP_SETGID outside one may map his own ids only; nobody may twice,"
        " nor where a security module forbids it"
    )


def _found(settings: Mapping[str, str]) -> str:
    found = [
        f"{name} is {value}" for name, value in _FORBIDDING.items() if settings.get(name) == value
    ]
    return " and ".join(found)


async def explain_map(task: Task, exc: OSError) -> None:
    """Add to the error of a write to a uid_map or gid_map what may be wrong. Not a checkpoint."""
    if exc.errno is not None and any("id_map" in note for note in getattr(exc, "__notes__", ())):
        note = likely_of_map(exc.errno, await _settings(task, list(_FORBIDDING)))
        if note is not None:
            exc.add_note(note)


async def _setting(task: Task, name: str) -> str | None:
    """A setting as the task sees it: the limits are those of its user namespace."""
    path = In(f"/proc/sys/{name.replace('.', '/')}".encode() + b"\0")
    steps = [
        call(SYS.openat, _AT_FDCWD, path, 0o2000000, 0),
        call(SYS.read, Ref(0), Out(_ROOM), _ROOM),
        call(SYS.close, Ref(0)),
    ]
    with contextlib.suppress(OSError, SyscallError):
        return (await run(task.sysif, steps)).outs[0].rstrip(b"\0").decode().strip()
    return None


async def _settings(task: Task, names: Sequence[str]) -> dict[str, str]:
    settings = dict[str, str]()
    with shield():
        for name in names:
            value = await _setting(task, name)
            if value is not None:
                settings[name] = value
    return settings


async def explain(task: Task, flags: CLONE, exc: OSError) -> None:
    """Add to an error of clone(2) or unshare(2) what may be wrong. Not a checkpoint."""
    wanted = flags & (NAMESPACES | CLONE.NEWTIME)
    if not wanted or exc.errno is None:
        return
    names = [name for flag, name in _LIMITS.items() if flag in wanted] + list(_FORBIDDING)
    note = likely(exc.errno, wanted, await _settings(task, names))
    if note is not None:
        exc.add_note(note)

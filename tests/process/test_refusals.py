"""Namespaces that the system refuses to make: the error says which setting is the likely cause."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable

import pytest

import rsyscall
from process.seen import TRUE
from rsyscall.child.refusals import likely, likely_of_map
from rsyscall.fcntl import O
from rsyscall.sched import CLONE
from rsyscall.thread import write_user_mappings


async def forbid(process: rsyscall.Process, kind: str) -> None:
    """In its own user namespace, and in none that was there before."""
    async with await process.task.open(f"/proc/sys/user/max_{kind}_namespaces", O.WRONLY) as fd:
        await fd.write(b"0\n")


@pytest.mark.parametrize("how", ["clone", "unshare", "spawn"])
async def test_no_room_for_a_user_namespace(parent: rsyscall.Process, how: str) -> None:
    async with await parent.clone(CLONE.NEWUSER) as inside:
        await forbid(inside, "user")
        tries: dict[str, Callable[[], Awaitable[object]]] = {
            "clone": lambda: inside.clone(CLONE.NEWUSER),
            "unshare": lambda: inside.unshare(CLONE.NEWUSER),
            "spawn": lambda: inside.spawn(TRUE, unshare=CLONE.NEWUSER),
        }
        with pytest.raises(OSError, match="No space left on device") as caught:
            await tries[how]()
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.__notes__[-1].startswith("user.max_user_namespaces is 0; ")
        assert (await inside.run(TRUE)).clean()


async def test_each_has_its_limit(parent: rsyscall.Process) -> None:
    async with await parent.clone(CLONE.NEWUSER) as inside:
        await forbid(inside, "uts")
        with pytest.raises(OSError, match="No space") as caught:
            await inside.spawn(TRUE, unshare=CLONE.NEWUTS | CLONE.NEWUSER)
        assert "user.max_uts_namespaces is 0" in caught.value.__notes__[-1]
        assert (await inside.run(TRUE, unshare=CLONE.NEWIPC)).clean()


async def test_a_map_that_is_refused(parent: rsyscall.Process) -> None:
    async with await parent.clone(CLONE.NEWUSER, False) as child:
        with pytest.raises(PermissionError) as caught:
            await write_user_mappings(child, 5, 5)  # whose ids nobody there has
        assert "one may map his own ids only" in caught.value.__notes__[-1]
        assert any("/proc/self/uid_map" in note for note in caught.value.__notes__)
        await write_user_mappings(child, os.geteuid(), os.getegid())  # nothing has happened
        assert (await child.run(TRUE)).clean()


def test_settings_of_distributions() -> None:
    """This kernel need not have them."""
    debian = {"kernel.unprivileged_userns_clone": "0", "user.max_user_namespaces": "100"}
    ubuntu = {"kernel.apparmor_restrict_unprivileged_userns": "1"}
    for settings, told in (
        (debian, "kernel.unprivileged_userns_clone is 0: "),
        (ubuntu, "kernel.apparmor_restrict_unprivileged_userns is 1: "),
        (dict.fromkeys(debian | ubuntu, "x"), "a seccomp filter or a security module "),
        ({}, "a seccomp filter or a security module "),
    ):
        note = likely(errno.EPERM, CLONE.NEWUSER | CLONE.NEWNET, settings)
        assert note is not None
        assert note.startswith(told)
    for settings, told in (
        (ubuntu, "kernel.apparmor_restrict_unprivileged_userns is 1: "),
        ({}, "without CAP_SETUID "),
    ):
        assert (likely_of_map(errno.EPERM, settings) or "").startswith(told)
    assert likely_of_map(errno.EINVAL, ubuntu) is None
    assert "CAP_SYS_ADMIN" in (likely(errno.EPERM, CLONE.NEWNET, debian) or "")
    assert "built without" in (likely(errno.EINVAL, CLONE.NEWTIME, {}) or "")
    assert likely(errno.EAGAIN, CLONE.NEWUSER, debian) is None

"""A child that shares our memory and becomes somebody else ends that we can be looked into."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

import rsyscall
from conformance.ways import WAYS
from process.seen import TRUE
from rsyscall.fcntl import O
from rsyscall.sched import CLONE
from rsyscall.sys.prctl import PR

NOBODY = 65534


async def by_a_call(child: rsyscall.Process) -> None:
    await child.task.setresgid(NOBODY, NOBODY, NOBODY)


async def by_a_batch(child: rsyscall.Process) -> None:
    async with child.batch() as b:
        b.setresgid(NOBODY, NOBODY, NOBODY)


@pytest.mark.privileged
@pytest.mark.parametrize("change", [by_a_call, by_a_batch])
async def test_we_are_dumpable_again_once_the_last_of_them_is_gone(
    change: Callable[[rsyscall.Process], Awaitable[None]],
) -> None:
    us = rsyscall.local_process
    assert await us.task.prctl(PR.GET_DUMPABLE) == 1
    async with await us.clone():
        async with await us.clone() as child:
            await change(child)
            assert await us.task.prctl(PR.GET_DUMPABLE) != 1
        assert await us.task.prctl(PR.GET_DUMPABLE) != 1  # the other might have its ids
    assert await us.task.prctl(PR.GET_DUMPABLE) == 1
    assert os.stat("/proc/self/stat").st_uid == os.geteuid()


@pytest.mark.parametrize("way", ["direct", "stub"])
async def test_what_a_child_says_of_it_is_forgotten_with_it(tmp_path: Path, way: str) -> None:
    async with WAYS[way](tmp_path) as parent:
        ask = parent.task.prctl
        async with await parent.clone() as child:
            await child.task.prctl(PR.SET_DUMPABLE, 0)
            assert await ask(PR.GET_DUMPABLE) == 0
        assert await ask(PR.GET_DUMPABLE) == 1
        async with await parent.clone() as child:
            await child.task.getpid()
            await ask(PR.SET_DUMPABLE, 0)  # but not what we say ourselves
        assert await ask(PR.GET_DUMPABLE) == 0
        await ask(PR.SET_DUMPABLE, 1)


async def test_entering_a_user_namespace_leaves_us_dumpable(tmp_path: Path) -> None:
    async with (
        WAYS["stub"](tmp_path) as parent,
        await parent.clone(CLONE.NEWUSER) as other,
        await parent.clone() as child,
        await child.task.open(f"/proc/{int(other.pid)}/ns/user", O.RDONLY) as fd,
    ):
        await child.setns(fd)
        assert await parent.task.prctl(PR.GET_DUMPABLE) == 1


def proc_owner(process: rsyscall.Process) -> int:
    return os.stat(f"/proc/{int(process.pid)}/stat").st_uid


@pytest.mark.privileged
@pytest.mark.parametrize("change", [by_a_call, by_a_batch])
@pytest.mark.parametrize("way", ["stub", "child-private-memory"])
async def test_so_is_any_other_memory(
    tmp_path: Path, way: str, change: Callable[[rsyscall.Process], Awaitable[None]]
) -> None:
    async with WAYS[way](tmp_path) as parent:
        ask = parent.task.prctl
        async with await parent.clone() as other:
            async with await other.clone() as child:
                await change(child)
                assert await ask(PR.GET_DUMPABLE) != 1
                # Somebody with the child's ids could get at it, whatever becomes of this program.
                await parent.run(TRUE, uid=NOBODY)
                assert await ask(PR.GET_DUMPABLE) != 1
            assert await ask(PR.GET_DUMPABLE) != 1
        assert await ask(PR.GET_DUMPABLE) == 1
        await parent.task.prctl(PR.SET_DUMPABLE, 0)
        async with await parent.clone() as child:
            await change(child)
        assert await ask(PR.GET_DUMPABLE) == 0  # as it was told to be


@pytest.mark.privileged
@pytest.mark.parametrize("way", ["stub", "child", "direct"])
async def test_many_programs_with_other_ids_at_once(tmp_path: Path, way: str) -> None:
    async with WAYS[way](tmp_path) as parent:

        async def start(uid: int) -> None:
            for _ in range(uid % 4):  # each at another step
                await parent.task.getpid()
            await parent.run(TRUE, uid=uid, gid=uid, groups=[])

        async def clone() -> None:
            async with await parent.clone() as child:
                await child.task.setresuid(NOBODY, NOBODY, NOBODY)

        for _ in range(5):
            async with trio.open_nursery() as nursery:
                for i in range(8):
                    nursery.start_soon(start, NOBODY - i)
                if way == "stub":  # otherwise the parent itself is one of those who share it
                    nursery.start_soon(clone)
            assert await parent.task.prctl(PR.GET_DUMPABLE) == 1
        assert proc_owner(parent) == os.geteuid()


@pytest.mark.privileged
async def test_one_that_was_told_to_exit_may_still_be_there() -> None:
    us = rsyscall.local_process
    async with await us.clone() as child:
        await by_a_call(child)
        await child.exit()
        assert await us.task.prctl(PR.GET_DUMPABLE) != 1
        await child.pid.wait()
        assert await us.task.prctl(PR.GET_DUMPABLE) == 1


async def test_what_we_have_chosen_ourselves_stays() -> None:
    us = rsyscall.local_process
    await us.task.prctl(PR.SET_DUMPABLE, 0)
    try:
        async with await us.clone() as child:
            await child.task.getpid()
        assert await us.task.prctl(PR.GET_DUMPABLE) == 0
    finally:
        await us.task.prctl(PR.SET_DUMPABLE, 1)

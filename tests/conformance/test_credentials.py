"""Who a process is, against what /proc and the standard library say."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

import rsyscall
from conformance.seen import nothing_sent
from rsyscall import near
from rsyscall.handle import Task
from rsyscall.near.sysif import SyscallSendError

#: An id that is nobody's here; only a privileged process can take it.
OTHER = 54321


def status(pid: near.Pid) -> dict[str, list[str]]:
    lines = Path(f"/proc/{int(pid)}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


async def test_getpid_is_the_pid_of_the_task(process: rsyscall.Process) -> None:
    pid = await process.task.getpid()
    assert isinstance(pid, near.Pid)
    assert pid == process.task.near_process == process.task.near_pid
    assert int(process.pid) == int(pid)
    assert status(pid)["Pid"] == [str(int(pid))]


async def test_getppid_is_the_parent(task: Task) -> None:
    assert status(task.near_process)["PPid"] == [str(int(await task.getppid()))]


async def test_the_ids_are_those_in_proc(task: Task) -> None:
    known = status(task.near_process)
    assert await task.getuid() == os.getuid()
    assert await task.getgid() == os.getgid()
    for name, ids, effective in (
        ("Uid", await task.getresuid(), await task.geteuid()),
        ("Gid", await task.getresgid(), await task.getegid()),
    ):
        assert [str(value) for value in ids] == known[name][:3]
        assert effective == ids[1]
    assert sorted(await task.getgroups()) == sorted(map(int, known["Groups"]))


async def test_groups_and_sessions_are_those_that_os_knows(task: Task) -> None:
    pid = int(task.near_process)
    assert await task.getpgid() == near.Pgid(os.getpgid(pid))
    assert await task.getpgid(task.near_process) == await task.getpgid(pid)
    assert await task.getsid() == near.Pid(os.getsid(pid))
    assert await task.getsid(os.getppid()) == near.Pid(os.getsid(os.getppid()))


async def test_all_ids_in_one_batch(process: rsyscall.Process) -> None:
    task = process.task
    async with process.batch() as batch:
        steps = [batch.getuid(), batch.getegid(), batch.getresuid(), batch.getresgid()]
        groups, pgid, sid = batch.getgroups(), batch.getpgid(), batch.getsid()
    assert [step.value for step in steps] == [
        await task.getuid(),
        await task.getegid(),
        await task.getresuid(),
        await task.getresgid(),
    ]
    assert groups.value == await task.getgroups()
    assert (pgid.value, sid.value) == (await task.getpgid(), await task.getsid())


async def test_a_process_group_and_a_session_of_its_own(apart: rsyscall.Process) -> None:
    task, pid = apart.task, int(apart.pid)
    if os.getpgid(pid) != pid:
        await task.setpgid()
        assert os.getpgid(pid) == pid
        await task.setpgid(near.Pgid(os.getpgid(0)), pid)
        assert os.getpgid(pid) == os.getpgid(0)
        assert await task.setsid() == pid
    assert os.getsid(pid) in (pid, os.getsid(0))
    if os.getsid(pid) == pid:
        with pytest.raises(PermissionError):
            await task.setsid()


CHANGES: dict[str, tuple[Callable[[Task, int], Awaitable[None]], str, str]] = {
    "setuid": (lambda task, n: task.setuid(n), "Uid", "res"),
    "setgid": (lambda task, n: task.setgid(n), "Gid", "res"),
    "setreuid": (lambda task, n: task.setreuid(-1, n), "Uid", "es"),
    "setregid": (lambda task, n: task.setregid(n, -1), "Gid", "r"),
    "setresuid": (lambda task, n: task.setresuid(n, -1, n), "Uid", "rs"),
    "setresgid": (lambda task, n: task.setresgid(-1, n, n), "Gid", "es"),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_ids_can_be_changed(apart: rsyscall.Process, name: str) -> None:
    """Of real, effective and saved: which are changed, and which follow."""
    change, which, expected = CHANGES[name]
    before = status(apart.pid)[which][:3]
    wanted = [
        str(OTHER) if letter in expected else old for letter, old in zip("res", before, strict=True)
    ]
    if os.geteuid() == 0:
        await change(apart.task, OTHER)
        assert status(apart.pid)[which][:3] == wanted
        return
    else:
        with pytest.raises(PermissionError):
            await change(apart.task, OTHER)
        assert status(apart.pid)[which][:3] == before
    own = os.getuid() if which == "Uid" else os.getgid()
    await change(apart.task, own)
    assert status(apart.pid)[which][0] == str(own)


@pytest.mark.parametrize("groups", [[], [OTHER, 7, OTHER + 1], list(range(1000, 1100))])
async def test_setgroups(apart: rsyscall.Process, groups: list[int]) -> None:
    if os.geteuid() == 0:
        await apart.task.setgroups(groups)
        assert sorted(await apart.task.getgroups()) == sorted(groups)
        assert sorted(map(int, status(apart.pid)["Groups"])) == sorted(groups)
        async with apart.batch() as batch:
            batch.setgroups([])
            step = batch.getgroups()
        assert step.value == []
    else:
        with pytest.raises(PermissionError):
            await apart.task.setgroups(groups)


async def test_what_is_no_id_is_refused(task: Task) -> None:
    with nothing_sent(task):
        for wrong in (-2, 2**32 - 1, 2**32):
            with pytest.raises(ValueError, match=f"suid: {wrong} is not from 0"):
                await task.setresuid(-1, -1, wrong)
            with pytest.raises(ValueError, match=f"groups: {wrong} is not from 0"):
                await task.setgroups([0, wrong])
        with pytest.raises(ValueError, match="uid: -1 is not from 0"):
            await task.setuid(-1)


async def test_ids_of_the_interpreter_are_not_changed(inside: rsyscall.Process) -> None:
    before = status(inside.pid)["Uid"]
    task = inside.task
    if inside is rsyscall.local_process:
        async with trio.open_nursery() as nursery:
            begun, leave = trio.Event(), threading.Event()
            token = trio.lowlevel.current_trio_token()

            def work() -> None:
                token.run_sync_soon(begun.set)
                leave.wait()

            nursery.start_soon(trio.to_thread.run_sync, work)
            try:
                await begun.wait()
                with pytest.raises(SyscallSendError, match="concerns one thread only"):
                    await task.setresuid(-1, -1, -1)
            finally:
                leave.set()
    else:
        for change in (task.setuid(os.getuid()), task.setgroups(os.getgroups())):
            with pytest.raises(PermissionError):
                await change
    assert status(inside.pid)["Uid"] == before

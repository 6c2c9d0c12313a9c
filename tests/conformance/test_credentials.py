"""Who a process is, against what /proc and the standard library say."""

from __future__ import annotations

import os
from pathlib import Path

import rsyscall
from rsyscall import near
from rsyscall.handle import Task


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


async def test_getuid_and_getgid_are_the_real_ids(task: Task) -> None:
    assert await task.getuid() == os.getuid()
    assert await task.getgid() == os.getgid()
    assert status(task.near_process)["Uid"][0] == str(await task.getuid())
    assert status(task.near_process)["Gid"][0] == str(await task.getgid())

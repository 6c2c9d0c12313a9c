"""Mounts, in namespaces of a process of its own; against /proc/PID/mountinfo."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import rsyscall
from conformance.seen import nothing_sent
from rsyscall.handle import Task
from rsyscall.near.typed import perform
from rsyscall.sched import CLONE, setns_call, unshare_call
from rsyscall.sys.mount import MS, UMOUNT
from rsyscall.unistd import O


def mounts(task: Task) -> dict[str, tuple[str, str]]:
    """Mount points, with the type and the options of each."""
    lines = Path(f"/proc/{int(task.near_process)}/mountinfo").read_text().splitlines()
    found: dict[str, tuple[str, str]] = {}
    for line in lines:
        before, _, after = line.partition(" - ")
        found[before.split()[4]] = after.split()[0], before.split()[5]
    return found


@pytest.fixture
async def alone(apart: rsyscall.Process, tmp_path: Path) -> Task:
    """A task with user, mount and UTS namespaces of its own, where it may do everything."""
    task = apart.task
    pid, uid, gid = int(apart.pid), os.getuid(), os.getgid()
    await perform(task, unshare_call(CLONE.NEWUSER | CLONE.NEWNS | CLONE.NEWUTS))
    Path(f"/proc/{pid}/setgroups").write_text("deny")
    Path(f"/proc/{pid}/uid_map").write_text(f"0 {uid} 1")
    Path(f"/proc/{pid}/gid_map").write_text(f"0 {gid} 1")
    await task.mount("none", "/", "", MS.REC | MS.PRIVATE, "")
    return task


async def test_a_file_system_is_mounted_changed_and_unmounted(alone: Task, tmp_path: Path) -> None:
    point = str(tmp_path)
    await alone.mount("name", tmp_path, "tmpfs", MS.NOSUID | MS.NODEV, "size=1m,mode=700")
    kind, options = mounts(alone)[point]
    assert kind == "tmpfs"
    assert {"rw", "nosuid", "nodev"} <= set(options.split(","))
    await alone.mkdir(tmp_path / "inside")
    assert not (tmp_path / "inside").exists()
    await alone.mount(
        "", await alone.ptr(point), b"", MS.REMOUNT | MS.BIND | MS.RDONLY | MS.NOSUID | MS.NODEV, ""
    )
    assert "ro" in mounts(alone)[point][1].split(",")
    with pytest.raises(OSError, match="Read-only"):
        await alone.mkdir(tmp_path / "more")
    with pytest.raises(OSError, match="busy"):
        async with await alone.open(tmp_path, O.RDONLY):
            await alone.umount(tmp_path)
    await alone.umount(tmp_path, UMOUNT.DETACH | UMOUNT.NOFOLLOW)
    assert point not in mounts(alone)
    assert point not in Path("/proc/self/mounts").read_text()


async def test_a_new_root(alone: Task, tmp_path: Path) -> None:
    old = rsyscall.Process(alone)
    async with old.batch() as b:
        b.mount("root", tmp_path, "tmpfs", MS.NONE, "")
        b.chdir(tmp_path)
        b.mkdir("old")
        b.pivot_root(".", "old")
        b.chdir("/")
        b.umount("old", UMOUNT.DETACH)
        b.rmdir("old")
    assert set(mounts(alone)) == {"/"}
    assert mounts(alone)["/"][0] == "tmpfs"
    assert await alone.getcwd() == "/"
    await alone.mkdir("/a")
    await alone.mkdir("/a/b")
    await alone.mount("again", "/a", "tmpfs", MS.NONE, "")
    await alone.mkdir("/a/b")
    await alone.pivot_root("/a", "/a/b")
    assert set(mounts(alone)) == {"/", "/b"}


async def test_a_host_name(alone: Task) -> None:
    await alone.sethostname("far away")
    async with await alone.open("/proc/sys/kernel/hostname", O.RDONLY) as fd:
        assert await fd.read(100) == b"far away\n"
    async with rsyscall.Process(alone).batch() as b:
        b.sethostname(b"")
    assert os.uname().nodename != "far away"


async def test_setns_enters_the_namespace_of_another(alone: Task) -> None:
    await alone.sethostname("inside")
    async with rsyscall.open_process() as other:
        path = f"/proc/{int(alone.near_process)}/ns/"
        for kind, flag in (("user", CLONE.NEWUSER), ("uts", CLONE.NEWUTS)):
            async with await other.task.open(path + kind, O.RDONLY) as fd:
                await perform(other.task, setns_call(fd.near, flag))
        async with await other.task.open("/proc/sys/kernel/hostname", O.RDONLY) as fd:
            assert await fd.read(100) == b"inside\n"


async def test_mount_names_the_argument_that_is_wrong(task: Task) -> None:
    with nothing_sent(task):
        for i, name in enumerate(["source", "target", "filesystemtype", "", "data"]):
            if name:
                args = ["a", "b", "c", MS.NONE, "d"]
                args[i] = "a\0b"
                with pytest.raises(ValueError, match=f"{name}: embedded null byte"):
                    await task.mount(*args)  # type: ignore[arg-type] # pyright: ignore
        with pytest.raises(ValueError, match="put_old: embedded null byte"):
            await task.pivot_root("a", "b\0c")


async def test_a_server_in_the_interpreter_keeps_its_root(inside: rsyscall.Process) -> None:
    if inside is not rsyscall.local_process:
        with pytest.raises(PermissionError):
            await inside.task.pivot_root("/", "/")
        with pytest.raises(PermissionError):
            await inside.task.chroot("/")

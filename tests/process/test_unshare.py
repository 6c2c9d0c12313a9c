"""Leaving what is shared, and entering what others have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import rsyscall
from process.seen import TRUE, fds, status
from rsyscall import far, local_process
from rsyscall.fcntl import O
from rsyscall.near.sysif import In, SyscallSendError
from rsyscall.sched import CLONE
from rsyscall.signal import SIG
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import W

NAMESPACES = [
    (CLONE.NEWNS, "mountns", "mnt"),
    (CLONE.NEWNET, "netns", "net"),
    (CLONE.NEWUTS, "utsns", "uts"),
    (CLONE.NEWIPC, "ipcns", "ipc"),
    (CLONE.NEWCGROUP, "cgroupns", "cgroup"),
    (CLONE.NEWUSER, "userns", "user"),
]
KINDS = [kind for _, kind, _ in NAMESPACES] + ["pidns", "timens"]


def links(process: rsyscall.Process) -> dict[str, str]:
    where = f"/proc/{int(process.pid)}/ns"
    return {name: os.readlink(f"{where}/{name}") for name in os.listdir(where)}


def objects(process: rsyscall.Process) -> dict[str, object]:
    return {kind: getattr(process.task, kind) for kind in KINDS}


@pytest.mark.parametrize(("flag", "kind", "name"), NAMESPACES, ids=str)
@pytest.mark.privileged
async def test_unshare_moves_exactly_one(
    parent: rsyscall.Process, flag: CLONE, kind: str, name: str
) -> None:
    async with await parent.clone() as child:
        before = links(child), objects(child)
        await child.unshare(flag)
        after = links(child), objects(child)
        assert {n for n in before[0] if before[0][n] != after[0].get(n)} == {name}
        assert {k for k in KINDS if before[1][k] is not after[1][k]} == {kind}
        assert objects(parent) == before[1]


@pytest.mark.privileged
async def test_unshare_of_pids_is_for_children(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child:
        before = child.task.pidns
        await child.unshare(CLONE.NEWPID)
        assert child.task.pidns is before
        async with await child.clone() as first:
            assert first.task.pidns is child.task.pidns_for_children is not before
            assert int(await first.task.getpid()) == int(first.task.near_process) == 1


@pytest.mark.privileged
async def test_a_time_namespace_wants_private_memory(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child:
        await child.unshare(CLONE.NEWTIME)
        with pytest.raises(ValueError, match=r"^vm: "):
            await child.clone()
        async with await child.clone(vm=False) as inside:
            assert inside.task.timens is child.task.timens_for_children is not child.task.timens
            assert links(inside)["time"] != links(child)["time"]


async def test_a_task_has_the_calls_as_well(origin: rsyscall.Process) -> None:
    async with await origin.clone(CLONE.NEWUSER) as child:
        before = child.task.utsns
        await child.task.unshare(CLONE.NEWUTS)
        assert child.task.utsns is not before
        with pytest.raises(ValueError, match=r"^flags: .*unshare_files"):
            await child.task.unshare(CLONE.FILES)
        async with await child.task.open("/proc/self/ns/uts", O.RDONLY) as fd:
            now = child.task.utsns
            await child.task.setns(fd, CLONE.NEWUTS)
            assert child.task.utsns is not now
        with pytest.raises(ValueError, match=r"^status: "):
            await child.task.exit(256)
        await child.task.exit(5)
        assert (await child.pid.waitpid(W.EXITED)).exit_status == 5


@pytest.mark.parametrize("flags", [CLONE.VM, CLONE.SIGHAND, CLONE.PARENT], ids=str)
async def test_what_cannot_be_unshared(parent: rsyscall.Process, flags: CLONE) -> None:
    async with await parent.clone() as child:
        with pytest.raises(ValueError, match=r"^flags: "):
            await child.unshare(flags)


@pytest.mark.privileged
async def test_unshare_of_what_is_not_allowed_says_what_would_help(
    parent: rsyscall.Process,
) -> None:
    async with await parent.clone(vm=False) as child:
        await child.task.sysif.syscall(SYS.setresuid, 33, 33, 33)
        before = child.task.netns
        with pytest.raises(PermissionError) as caught:
            await child.unshare(CLONE.NEWNET)
        assert "CAP_SYS_ADMIN" in caught.value.__notes__[-1]
        assert child.task.netns is before


async def test_the_working_directory(parent: rsyscall.Process) -> None:
    async with await parent.clone() as middle, await middle.clone(CLONE.FS) as child:
        await child.unshare(CLONE.FS)
        assert child.task.fs is not middle.task.fs
        await middle.task.sysif.call(SYS.chdir, (In(b"/proc\0"),))
        assert os.readlink(f"/proc/{int(child.pid)}/cwd") != "/proc"


@pytest.mark.parametrize("how", ["unshare", "unshare_files"])
async def test_a_table_of_its_own(parent: rsyscall.Process, how: str) -> None:
    await parent.task.getpid()
    before = fds(int(parent.pid))
    async with (
        await parent.task.memfd_create("x") as fd,
        await parent.clone(CLONE.FILES) as child,
        await parent.clone() as sibling,
    ):
        there = child.inherit_fd(fd)
        if how == "unshare":
            await child.unshare(CLONE.FILES)
        else:
            await child.unshare_files()
        assert child.task.fd_table is not parent.task.fd_table
        own = child.task.fd_table.own - {-1}
        wanted = {0, 1, 2, int(fd.near)} | own | {int(f.near) for f in parent.task.fd_handles}
        assert fds(int(child.pid)) == wanted
        await there.write(b"x")
        await there.close()
        assert (await fd.fstat()).size == 1
        with pytest.raises(far.FDTableMismatchError):
            fd.for_task(child.task)
        # It is seen by the end of its socket now, and goes on to be.
        await child.exit(3)
        assert (await child.pid.waitpid(W.EXITED)).exit_status == 3
        assert await sibling.task.getpid() == sibling.task.near_process
    assert fds(int(parent.pid)) == before


async def test_a_parent_leaves_its_table_to_its_child(parent: rsyscall.Process) -> None:
    async with (
        await parent.clone() as middle,
        await middle.clone(CLONE.FILES) as child,
        await middle.clone() as other,
    ):
        await middle.unshare_files()
        assert middle.task.fd_table is not child.task.fd_table
        for process in (middle, child, other):
            assert await process.task.getpid() == process.task.near_process
        await other.exit(4)
        assert (await other.pid.waitpid(W.EXITED)).exit_status == 4
        await child.pid.kill(SIG.TERM)
        assert (await child.pid.waitpid(W.EXITED)).killed_with() == SIG.TERM


async def test_a_user_namespace_of_its_own(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child:
        await child.unshare_user(7, 8)
        assert (await child.task.getuid(), await child.task.getgid()) == (7, 8)
        assert (await child.run(TRUE)).clean()
    async with await parent.clone(CLONE.NEWUSER) as child:
        assert await child.task.getuid() == await parent.task.getuid()
    async with await parent.clone(CLONE.NEWUSER, False) as child:
        assert await child.task.getuid() == 65534


@pytest.mark.privileged
async def test_a_user_namespace_without_privileges(parent: rsyscall.Process) -> None:
    """What it is for: then all the others can be begun."""
    async with await parent.clone(vm=False) as user:
        await user.task.sysif.syscall(SYS.setresgid, 33, 33, 33)
        await user.task.sysif.syscall(SYS.setresuid, 33, 33, 33)
        await user.task.sysif.syscall(SYS.prctl, 4, 1)
        async with await user.clone(CLONE.NEWUSER | CLONE.NEWNET | CLONE.NEWNS) as child:
            assert await child.task.getuid() == 33
            await child.unshare(CLONE.NEWUTS)
        async with await user.clone() as child:
            await child.unshare_user(0, 0)
            await child.unshare(CLONE.NEWNS)
            assert await child.task.getuid() == 0
            found = status(int(child.pid))
            assert found["Uid"].split() == ["33"] * 4


@pytest.mark.parametrize("told", [True, False], ids=["told", "asked"])
@pytest.mark.parametrize(("flag", "kind", "name"), NAMESPACES[:-1], ids=str)
@pytest.mark.privileged
async def test_setns(
    parent: rsyscall.Process, flag: CLONE, kind: str, name: str, told: bool
) -> None:
    async with await parent.clone(flag) as inside, await parent.clone() as child:
        await inside.task.getpid()
        path = f"/proc/{int(inside.pid)}/ns/{name}"
        async with await child.task.open(path, O.RDONLY) as fd:
            before = objects(child)
            await child.setns(fd, flag if told else CLONE.NONE)
            assert links(child)[name] == links(inside)[name]
            after = objects(child)
            assert {k for k in KINDS if before[k] is not after[k]} == {kind}


async def test_setns_of_what_is_no_namespace(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child, await child.task.memfd_create("x") as fd:
        with pytest.raises(ValueError, match=r"^nstype: "):
            await child.setns(fd)
        with pytest.raises(ValueError, match=r"^nstype: "):
            await child.setns(fd, CLONE.FILES)
        with pytest.raises(OSError, match="Invalid"):
            await child.setns(fd, CLONE.NEWNET)


async def test_the_interpreter_with_threads_is_left_alone() -> None:
    import trio

    async def occupied() -> None:
        before = Path("/proc/self/ns/net").readlink()
        with pytest.raises(SyscallSendError):
            await local_process.unshare(CLONE.NEWNET)
        assert Path("/proc/self/ns/net").readlink() == before

    await trio.to_thread.run_sync(lambda: None)
    await occupied()


@pytest.mark.privileged
async def test_a_namespace_that_is_left_and_entered_again(parent: rsyscall.Process) -> None:
    async with (
        await parent.clone() as child,
        await child.task.open("/proc/self/ns/uts", O.RDONLY) as back,
    ):
        before = links(child)["uts"]
        await child.unshare(CLONE.NEWUTS)
        assert links(child)["uts"] != before
        await child.setns(back, CLONE.NEWUTS)
        assert links(child)["uts"] == before

"""Children that serve us: what they share, how they end, and what is left of them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest
import trio
import trio.testing

import rsyscall
from process.seen import TRUE, fds, status
from rsyscall import far
from rsyscall.handle.process import ChildDeadError, DeadTaskError
from rsyscall.near.sysif import In, SyscallHangup
from rsyscall.sched import CLONE
from rsyscall.signal import SIG, Sigset
from rsyscall.sys.mman import MAP, PROT
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import CLD, CalledProcessError, W
from rsyscall.thread import ChildProcess

KINDS = ["mountns", "netns", "utsns", "ipcns", "cgroupns", "userns", "pidns", "timens"]


async def test_a_child_is_a_child(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child:
        assert await child.task.getppid() == parent.task.near_process
        assert await child.task.getpid() == child.pid.pid.near == child.task.near_process
        assert int(status(int(child.pid))["PPid"]) == int(parent.pid)


async def test_fork_is_clone(parent: rsyscall.Process) -> None:
    async with await parent.fork() as child:
        assert child.task.address_space is parent.task.address_space
        assert child.task.fd_table is not parent.task.fd_table


async def test_memory_is_shared_unless_that_is_not_wanted(parent: rsyscall.Process) -> None:
    mapping = await parent.task.mmap(4096, PROT.READ | PROT.WRITE, MAP.PRIVATE)
    await mapping.write(0, b"before")
    async with await parent.clone() as sharing, await parent.clone(vm=False) as private:
        await mapping.write(0, b"after!")
        assert await mapping.for_task(sharing.task).read(0, 6) == b"after!"
        with pytest.raises(far.AddressSpaceMismatchError):
            mapping.for_task(private.task)
        assert await private.task.sysif.read_memory(mapping.near.address, 6) == b"before"
    await mapping.munmap()


async def test_a_pointer_of_the_parent_is_one_of_the_child(parent: rsyscall.Process) -> None:
    pointer = await parent.ptr(b"hello")
    async with await parent.clone() as child, await child.task.memfd_create("x") as fd:
        at = pointer.near
        parts = await fd.write(pointer)
        assert await fd.pread(10, 0) == b"hello"
        made = await child.ptr(b"from the child")
    assert made.near != at  # the memory is still there, and still that of both
    assert parts[0].near == at
    assert await parent.task.sysif.read_memory(made.near, 14) == b"from the child"


@pytest.mark.parametrize("shared", [False, True])
async def test_file_descriptors(parent: rsyscall.Process, shared: bool) -> None:
    async with await parent.task.memfd_create("before") as before:
        flags = CLONE.FILES if shared else CLONE.NONE
        async with await parent.clone(flags) as child:
            assert (child.task.fd_table is parent.task.fd_table) == shared
            inherited = child.inherit_fd(before)
            await inherited.write(b"x")
            assert await before.pread(1, 0) == b"x"
            async with await parent.task.memfd_create("after") as after:
                if shared:
                    await after.for_task(child.task).write(b"x")
                else:
                    with pytest.raises(far.FDTableMismatchError):
                        child.inherit_fd(after)
                    with pytest.raises(far.FDTableMismatchError):
                        after.for_task(child.task)
            if not shared:
                await inherited.close()
        assert (await before.fstat()).size == 1  # closed in the copy only


async def test_a_copied_table_has_only_what_has_a_handle(parent: rsyscall.Process) -> None:
    raw = await parent.task.sysif.syscall(SYS.dup, 0)
    handle = await parent.task.memfd_create("kept")
    async with await parent.clone() as sibling, await parent.clone() as child:
        await child.task.getpid()
        open_there = fds(int(child.pid))
        assert {0, 1, 2, int(handle.near)} <= open_there
        assert raw not in open_there
        own = child.task.fd_table.own
        assert open_there == {0, 1, 2, int(handle.near)} | (own - {-1}) | {
            int(fd.near) for fd in parent.task.fd_handles
        }
        await sibling.task.getpid()
    await handle.close()
    await parent.task.sysif.syscall(SYS.close, raw)


@pytest.mark.parametrize(
    ("flag", "kind", "name"),
    [
        (CLONE.NEWNS, "mountns", "mnt"),
        (CLONE.NEWNET, "netns", "net"),
        (CLONE.NEWUTS, "utsns", "uts"),
        (CLONE.NEWIPC, "ipcns", "ipc"),
        (CLONE.NEWCGROUP, "cgroupns", "cgroup"),
        (CLONE.NEWUSER, "userns", "user"),
        (CLONE.NEWPID, "pidns", "pid"),
    ],
    ids=lambda value: str(value),
)
@pytest.mark.privileged
async def test_each_flag_moves_exactly_the_namespace_of_its_name(
    parent: rsyscall.Process, flag: CLONE, kind: str, name: str
) -> None:
    async with await parent.clone(flag) as child:
        for other in KINDS:
            same = getattr(child.task, other) is getattr(parent.task, other)
            assert same == (other != kind), other
        for entry in os.listdir("/proc/self/ns"):
            if entry.endswith("_for_children"):
                continue
            links = [os.readlink(f"/proc/{int(p.pid)}/ns/{entry}") for p in (parent, child)]
            assert (links[0] == links[1]) == (entry != name), entry


async def test_fs_is_shared_with_its_flag_only(parent: rsyscall.Process) -> None:
    """Tried at a child of the parent, for no test changes the directory of pytest itself."""
    async with (
        await parent.clone() as middle,
        await middle.clone(CLONE.FS) as shared,
        await middle.clone() as copied,
    ):
        await middle.task.sysif.call(SYS.chdir, (In(b"/proc\0"),))
        assert os.readlink(f"/proc/{int(shared.pid)}/cwd") == "/proc"
        assert os.readlink(f"/proc/{int(copied.pid)}/cwd") != "/proc"
        assert shared.task.fs is middle.task.fs
        assert copied.task.fs is not middle.task.fs


@pytest.mark.privileged
async def test_the_first_in_a_pid_namespace_is_one(parent: rsyscall.Process) -> None:
    async with await parent.clone(CLONE.NEWPID) as child:
        assert int(await child.task.getpid()) == int(child.task.near_process) == 1
        assert int(await child.task.getppid()) == 0
        async with await child.clone() as grandchild:
            assert int(await grandchild.task.getpid()) == int(grandchild.pid) > 1
            assert int(await grandchild.task.getppid()) == 1


@pytest.mark.parametrize(
    "flags",
    [
        CLONE.VFORK,
        CLONE.SIGHAND,
        CLONE.PARENT,
        CLONE.CHILD_CLEARTID,
        CLONE.FS | CLONE.NEWNS,
        CLONE.FS | CLONE.NEWUSER,
        CLONE.SYSVSEM | CLONE.NEWIPC,
    ],
    ids=str,
)
async def test_flags_that_no_child_can_have(parent: rsyscall.Process, flags: CLONE) -> None:
    with pytest.raises(ValueError, match=r"^flags: "):
        await parent.clone(flags)


async def test_what_the_kernel_refuses_is_an_oserror_and_nothing_is_left(
    parent: rsyscall.Process,
) -> None:
    async with await parent.clone() as middle:
        if os.geteuid() == 0:
            await middle.task.sysif.syscall(SYS.setresuid, 33, 33, 33)
        await middle.task.getpid()  # it has closed what it does not keep
        before = fds(int(middle.pid))
        with pytest.raises(PermissionError) as caught:
            await middle.clone(CLONE.NEWNET)
        assert "in clone(" in caught.value.__notes__[0]
        assert fds(int(middle.pid)) == before
    restore_dumpable(parent)


def restore_dumpable(process: rsyscall.Process) -> None:
    """A child has changed its ids, and so whoever shares its memory is not dumpable any more."""
    if process.task.address_space.ours:
        import ctypes

        assert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0


# ---- the end ----


@pytest.mark.parametrize("code", [0, 7, 255])
async def test_exit(parent: rsyscall.Process, code: int) -> None:
    async with await parent.clone() as child:
        await child.exit(code)
        state = await child.pid.waitpid(W.EXITED)
        assert (state.code, state.exit_status) == (CLD.EXITED, code)
        assert state.pid == child.pid.pid.near.id
        assert child.pid.pid.death_state == state
        if code == 0:
            assert await child.pid.check() == state
        else:
            with pytest.raises(CalledProcessError) as caught:
                await child.pid.check()
            assert caught.value.state == state


async def test_exit_with_a_status_that_is_none(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child:
        for number in (-1, 256):
            with pytest.raises(ValueError, match=f"^status: {number} "):
                await child.exit(number)
        assert await child.task.getpid() == child.task.near_process


@pytest.mark.parametrize("sig", [SIG.KILL, SIG.TERM, SIG.USR1, SIG.INT], ids=str)
async def test_a_signal_ends_it(parent: rsyscall.Process, sig: SIG) -> None:
    async with await parent.clone() as child:
        await child.pid.kill(sig)
        state = await child.pid.waitpid(W.EXITED)
        assert (state.code, state.killed_with()) == (CLD.KILLED, sig)


@pytest.mark.parametrize("flags", [CLONE.NONE, CLONE.FILES], ids=str)
@pytest.mark.parametrize("ring", [False, True])
async def test_whoever_waits_for_a_call_hears_of_its_death(
    parent: rsyscall.Process, flags: CLONE, ring: bool
) -> None:
    async with await parent.clone(flags, ring=ring) as child:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                caught: list[BaseException] = []

                async def call() -> None:
                    with pytest.raises(SyscallHangup) as info:
                        await child.task.sysif.syscall(SYS.pause)
                    caught.append(info.value)

                nursery.start_soon(call)
                nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked(0.01)
                await child.pid.kill(SIG.KILL)
        assert len(caught) == 2
        for exc in caught:
            assert re.search("killed by SIGKILL|not sent", str(exc)), exc


async def test_afterwards_everything_is_an_error_that_says_why(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child, await child.task.memfd_create("x") as fd:
        await child.pid.kill()
        await child.pid.wait()
        uses: list[Callable[[], object]] = [
            child.task.getpid,
            lambda: fd.write(b"x"),
            lambda: child.clone(),
            lambda: child.exit(0),
            lambda: child.task.mmap(4096, PROT.READ, MAP.PRIVATE),
        ]
        for use in uses:
            with pytest.raises(DeadTaskError, match="killed by SIGKILL"):
                await use()  # type: ignore[misc] # each returns an awaitable
        with pytest.raises(ChildDeadError):
            await child.pid.kill()


async def test_nothing_is_left_in_the_parent(parent: rsyscall.Process) -> None:
    async with await parent.clone() as warm:
        await warm.ptr(b"x")
    pid = int(parent.pid)
    before = fds(pid), len(parent.task.fd_table.own)
    for flags in (CLONE.NONE, CLONE.FILES):
        for ring in (False, True):
            for vm in (False, True):
                async with await parent.clone(flags, ring=ring, vm=vm) as child:
                    await child.task.getpid()
                assert (fds(pid), len(parent.task.fd_table.own)) == before


async def test_leaving_the_block_ends_it_even_when_cancelled(parent: rsyscall.Process) -> None:
    child = await parent.clone()
    with trio.CancelScope() as scope:
        async with child:
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert child.pid.pid.death_state is not None
    assert child.pid.pid.death_state.killed_with() == SIG.KILL
    assert not os.path.exists(f"/proc/{int(child.pid)}") or int(child.pid) == 1


async def test_a_cancelled_clone_leaves_nothing(parent: rsyscall.Process) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await parent.clone()
    assert scope.cancelled_caught


async def test_children_at_any_depth_end_with_their_ancestor(parent: rsyscall.Process) -> None:
    pids: list[int] = []
    async with await parent.clone() as first:
        process: ChildProcess = first
        for _ in range(4):
            process = await process.clone()
            pids.append(int(process.pid))
            assert await process.task.getpid() == process.task.near_process
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


async def test_many_at_once(parent: rsyscall.Process) -> None:
    async with trio.open_nursery() as nursery:

        async def one() -> None:
            async with await parent.clone() as child:
                assert await child.task.getpid() == child.task.near_process
                await child.exit(3)
                assert (await child.pid.waitpid(W.EXITED)).exit_status == 3

        for _ in range(20):
            nursery.start_soon(one)


async def test_rusage(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child:
        await child.task.getpid()
        switches = int(status(int(child.pid))["voluntary_ctxt_switches"])
        await child.exit(0)
        await child.pid.wait()
        rusage = child.pid.pid.rusage
        assert rusage is not None
        assert 0 <= rusage.ru_stime < 10
        assert rusage.ru_nvcsw >= switches


async def test_the_priority_of_a_child(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child:
        pid = child.pid.pid
        before = await pid.getpriority()
        assert before == os.getpriority(os.PRIO_PROCESS, int(child.pid))
        await pid.setpriority(before + 3)
        assert await pid.getpriority() == before + 3
        assert os.getpriority(os.PRIO_PROCESS, int(child.pid)) == before + 3
        assert os.path.exists(pid.as_proc_path() / "stat")
        await child.exit()
        await child.pid.wait()
        with pytest.raises(ChildDeadError):
            await pid.setpriority(3)


# ---- stop and continue ----


async def test_what_is_blocked_stays_so_in_parents_and_children(parent: rsyscall.Process) -> None:
    async with await parent.clone() as middle:
        await middle.task.sigmask_block(Sigset([SIG.USR2, SIG.CHLD]))
        wanted = 1 << (SIG.USR2 - 1) | 1 << (SIG.CHLD - 1)
        async with await middle.clone() as child:
            await child.task.getpid()
            assert int(status(int(child.pid))["SigBlk"], 16) == wanted
        await middle.run(TRUE)
        assert int(status(int(middle.pid))["SigBlk"], 16) == wanted


async def test_stop_and_continue(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child:
        with trio.fail_after(10):
            await child.pid.kill(SIG.STOP)
            state = await child.pid.wait()
            assert (state.code, state.sig, state.died()) == (CLD.STOPPED, SIG.STOP, False)
            await child.pid.kill(SIG.CONT)
            state = await child.pid.wait()
            assert state.code is CLD.CONTINUED
            assert await child.task.getpid() == child.task.near_process
            await child.pid.kill(SIG.TERM)
            assert (await child.pid.wait()).killed_with() == SIG.TERM


async def test_waiting_for_nothing_in_particular(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child:
        for options in (W.NONE, W.NOHANG, W.EXITED | W.NOHANG):
            with pytest.raises(ValueError, match=r"^options: "):
                await child.pid.waitpid(options)


async def test_a_wait_may_be_cancelled_and_by_many(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child:
        with trio.move_on_after(0.01):
            await child.pid.waitpid(W.EXITED)
        states: list[object] = []

        async def wait() -> None:
            states.append(await child.pid.waitpid(W.EXITED))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.01)
            await child.pid.kill(SIG.TERM)
        assert len(states) == 3
        assert len(set(map(str, states))) == 1

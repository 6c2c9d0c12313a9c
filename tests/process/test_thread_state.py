"""What concerns one thread is made by one alone, and children are made by any."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

import rsyscall
from process.blocking import (
    RW,
    blocked,
    field,
    left,
    tasks,
)
from process.seen import SLEEP, TRUE
from rsyscall.near.sysif import OtherCallsBlocked
from rsyscall.sched import CLONE
from rsyscall.signal import SIG, Sigset
from rsyscall.sys.mman import MAP
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import W
from rsyscall_protocol import (
    Batch,
    In,
    Step,
    flatten,
)

PR_SET_PDEATHSIG = 1


async def test_no_helper_keeps_the_ids(process: rsyscall.Process) -> None:
    """A thread that was made before would be uid 0 still."""
    old = os.getuid()
    new = old or 12345
    sysif = process.task.sysif
    async with blocked(process, 3):
        pass
    assert len(tasks(process)) > 1
    await sysif.syscall(SYS.setresuid, new, new, new)
    (task,) = tasks(process)
    assert field(task, "Uid") == [str(new)] * 4
    async with blocked(process, 3):
        for task in tasks(process):
            assert field(task, "Uid") == [str(new)] * 4


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("setresuid", (-1, -1, -1)),
        ("setresgid", (-1, -1, -1)),
        ("unshare", (CLONE.FS,)),
        ("prctl", (PR_SET_PDEATHSIG, signal.SIGTERM)),
        ("rt_sigprocmask", (0, In(bytes(8)), 0, 8)),
        ("sched_setaffinity", (0, 8, In(b"\xff" * 8))),
        ("landlock_restrict_self", (-1, 0)),
        ("seccomp", (-1, 0, 0)),
        ("capset", (In(b"\x26\x05\x08\x20" + bytes(4)), In(bytes(24)))),
        ("setns", (-1, 0)),
        ("execve", (In(b"\0"), 0, 0)),
        ("exit", (1,)),
    ],
)
async def test_per_thread_state_is_refused_beside_a_blocked_call(
    process: rsyscall.Process,
    name: str,
    args: Sequence[int | In],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rsyscall.sysif.patience.PATIENCE_SECONDS", 0.01)
    sysif = process.task.sysif
    async with blocked(process, 2):
        with pytest.raises(OtherCallsBlocked) as caught:
            await sysif.call(SYS[name], args)
        assert str(caught.value).startswith(f"{name}(")
        assert [call.partition("(")[0] for call in caught.value.blocked] == ["read", "read"]
        assert "nothing was done" in str(caught.value)
        # The same in a batch, of which no step is made.
        steps = Step(SYS.umask, (0o777,)), Step(SYS[name], flatten(args))
        with pytest.raises(OtherCallsBlocked):
            await sysif.batch(Batch(0, steps))
        assert await sysif.syscall(SYS.umask, 0o22) != 0o777


@pytest.mark.parametrize("how", ["syscall", "call", "batch", "steps", "prepared"])
async def test_what_must_be_alone_waits_for_what_is_slow(
    process: rsyscall.Process, how: str
) -> None:
    sysif, done = process.task.sysif, False

    async def alone() -> None:
        nonlocal done
        if how == "syscall":
            await sysif.syscall(SYS.setresuid, -1, -1, -1)
        elif how == "call":
            await sysif.call(SYS.setresuid, (-1, -1, -1))
        elif how == "batch":
            await sysif.batch(Batch(0, (Step(SYS.setresuid, (-1, -1, -1)),)))
        else:
            batch = process.batch()
            batch.syscall(SYS.setresuid, -1, -1, -1)
            if how == "steps":
                await batch.run()
            else:
                async with await process.prepare(batch) as prepared:
                    await prepared.run()
        done = True

    async with blocked(process, 2) as reads:
        reads.nursery.start_soon(alone)
        for left in (1, 0):
            await trio.testing.wait_all_tasks_blocked(0.01)  # it has been refused by now
            assert not done
            await reads.release(1)
            while reads.returned + left < 2:
                await trio.lowlevel.checkpoint()
    assert done


async def test_what_must_be_alone_is_cancelled_while_it_waits(process: rsyscall.Process) -> None:
    async with blocked(process, 1):
        with trio.move_on_after(0.05) as scope:
            await process.task.sysif.syscall(SYS.umask, 0o77)
            await process.task.sysif.syscall(SYS.setresuid, -1, -1, -1)
        assert scope.cancelled_caught
        assert await process.task.sysif.syscall(SYS.umask, 0o22) == 0o77


async def test_children_are_made_beside_a_blocked_call(process: rsyscall.Process) -> None:
    await process.task.sigmask_block(Sigset([SIG.USR2]))
    mapping = await process.task.mmap(4096, RW, MAP.PRIVATE | MAP.ANONYMOUS)
    await mapping.write(0, b"here")
    async with blocked(process, 3):
        first = tasks(process)
        for vm, ring in [(True, None), (True, False), (False, None), (False, False)]:
            async with await process.clone(vm=vm, ring=ring) as child:
                assert await child.task.getpid() == child.pid.pid.near
                at = mapping.near.address
                assert await child.task.sysif.read_memory(at, 4) == b"here"
                assert field(Path(f"/proc/{int(child.pid)}"), "SigBlk") == [f"{1 << 11:016x}"]
                async with await child.clone() as grandchild:
                    assert await grandchild.task.getppid() == child.pid.pid.near
                await child.exit(3)
                assert (await child.pid.waitpid(W.EXITED)).exit_status == 3
        await process.run(TRUE)
        # All threads have the mask of the first.
        assert len(first) > 3
        assert {*(field(task, "SigBlk")[0] for task in tasks(process))} == {f"{1 << 11:016x}"}
    await mapping.munmap()


async def test_a_thread_that_has_made_a_child_stays(process: rsyscall.Process) -> None:
    """PR_SET_PDEATHSIG is about the thread: one that leaves because it is idle would kill."""
    async with blocked(process, 3):
        child = await process.clone(vm=False)
        await child.task.sysif.syscall(SYS.prctl, PR_SET_PDEATHSIG, SIG.TERM)
    idle = {task for task in tasks(process) if task.name != str(int(process.pid))}
    made = [task for task in idle if child_of(task, int(child.pid))]
    assert len(made) == 1
    for task in idle - set(made):
        await left(task)
    assert await child.task.getpid() == child.pid.pid.near
    await process.task.sysif.syscall(SYS.setresuid, -1, -1, -1)
    assert len(tasks(process)) == 1
    assert (await child.pid.waitpid(W.EXITED)).killed_with() == SIG.TERM


async def test_a_program_that_is_to_die_with_its_parent_is_made_by_the_first_thread(
    process: rsyscall.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with blocked(process, 2) as reads:
        with monkeypatch.context() as patch:
            patch.setattr("rsyscall.sysif.patience.PATIENCE_SECONDS", 0.01)
            with pytest.raises(OtherCallsBlocked):
                await process.spawn(SLEEP, pdeathsig=SIG.TERM)
        await reads.release(2)
        child = await process.spawn(SLEEP, pdeathsig=SIG.TERM)
    (first,) = [task for task in tasks(process) if child_of(task, int(child))]
    assert first.name == str(int(process.pid))
    await process.task.sysif.syscall(SYS.setresuid, -1, -1, -1)
    assert child.pid.death_state is None
    await child.kill(SIG.KILL)
    assert (await child.waitpid(W.EXITED)).killed_with() == SIG.KILL


def child_of(task: Path, pid: int) -> bool:
    """Whether this thread has made it."""
    return str(pid) in (task / "children").read_text().split()


async def test_namespaces_of_all_threads(process: rsyscall.Process) -> None:
    """With a helper alive unshare(CLONE_NEWUSER) is EINVAL, and CLONE_NEWNS leaves it behind."""
    sysif = process.task.sysif
    for flag, name in [(CLONE.NEWUSER, "user"), (CLONE.NEWNS, "mnt"), (CLONE.NEWUTS, "uts")]:
        async with blocked(process, 2):
            pass
        assert len(tasks(process)) > 1
        await sysif.syscall(SYS.unshare, flag)
        async with blocked(process, 2):
            found = {os.readlink(task / "ns" / name) for task in tasks(process)}
        assert len(found) == 1
        assert found != {os.readlink(f"/proc/self/ns/{name}")}

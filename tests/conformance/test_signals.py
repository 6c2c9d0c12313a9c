"""Signals of a process, against what /proc says of it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import rsyscall
from conformance.seen import nothing_sent
from rsyscall import near
from rsyscall.far import AddressSpaceMismatchError
from rsyscall.handle import Task
from rsyscall.near.sysif import In, SyscallSendError
from rsyscall.signal import (
    SA,
    SIG,
    HowSIG,
    Sigaction,
    Sighandler,
    SignalMaskError,
    SignalTask,
    Sigset,
)
from rsyscall.sys.syscall import SYS
from rsyscall.tasks.pair import open_pair


def shown(task: Task, name: str) -> Sigset:
    """A set of signals in /proc/PID/status."""
    lines = Path(f"/proc/{int(task.near_process)}/status").read_text().splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return Sigset.from_bytes(int(value, 16).to_bytes(8, "little"))


@pytest.fixture
async def ours(apart: rsyscall.Process) -> Task:
    """A task whose signals are not the interpreter's."""
    return apart.task


async def test_sigaction_says_what_is_to_happen(ours: Task) -> None:
    before = await ours.sigaction(SIG.USR1)
    assert before.handler is Sighandler.DFL
    assert await ours.sigaction(SIG.USR1, Sigaction(Sighandler.IGN)) == before
    assert SIG.USR1 in shown(ours, "SigIgn")
    handler = Sigaction(near.Address(0x10000), SA.RESTART, [SIG.HUP, 40], near.Address(0x20000))
    assert (await ours.sigaction(SIG.USR1, handler)).handler is Sighandler.IGN
    assert SIG.USR1 in shown(ours, "SigCgt")
    assert await ours.sigaction(SIG.USR1, Sigaction(Sighandler.DFL)) == handler
    assert SIG.USR1 not in shown(ours, "SigCgt") | shown(ours, "SigIgn")


async def test_sigaction_by_way_of_memory(ours: Task) -> None:
    act = await ours.ptr(Sigaction(Sighandler.IGN))
    old = await ours.malloc(Sigaction)
    await ours.sigaction(SIG.USR2, act, old)
    assert (await old.read()).handler is Sighandler.DFL
    await ours.sigaction(SIG.USR2, None, old)
    assert await old.read() == act.value
    assert await ours.sigaction(SIG.USR2, await ours.ptr(Sigaction(Sighandler.DFL))) == act.value


async def test_sigaction_of_a_batch(ours: Task) -> None:
    batch = rsyscall.Process(ours).batch()
    async with batch:
        first = batch.sigaction(SIG.USR1, Sigaction(Sighandler.IGN))
        second = batch.sigaction(SIG.USR1, Sigaction(Sighandler.DFL))
        third = batch.sigaction(SIG.USR1)
    handlers = [step.value.handler for step in (first, second, third)]
    assert handlers == [Sighandler.DFL, Sighandler.IGN, Sighandler.DFL]


async def test_sigaction_refuses_what_the_kernel_would_die_of(
    task: Task, stranger: rsyscall.Process
) -> None:
    with nothing_sent(task):
        with pytest.raises(ValueError, match="act: a handler needs a restorer"):
            await task.sigaction(SIG.USR1, Sigaction(near.Address(0x10000)))
        with pytest.raises(ValueError, match="signum: 65 is no signal"):
            await task.sigaction(65)
        with pytest.raises(ValueError, match=r"signum: .*NONE.* is no signal"):
            await task.sigaction(SIG.NONE)
    act = await stranger.ptr(Sigaction(Sighandler.IGN))
    with nothing_sent(task), pytest.raises(AddressSpaceMismatchError):
        await task.sigaction(SIG.USR1, act)


async def test_sigaction_of_what_cannot_be_caught_fails(ours: Task) -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        await ours.sigaction(SIG.KILL, Sigaction(Sighandler.IGN))
    assert "rt_sigaction(signum=9" in caught.value.__notes__[0]


async def test_sigaction_is_refused_in_the_interpreter(inside: rsyscall.Process) -> None:
    process = inside
    ignored = shown(process.task, "SigIgn")
    with pytest.raises((SyscallSendError, PermissionError)):
        await process.task.sigaction(SIG.USR1, Sigaction(Sighandler.IGN))
    with pytest.raises((SyscallSendError, PermissionError)):
        await process.task.sysif.syscall(SYS.rt_sigaction, SIG.USR1, 0, 0, 8)
    batch = process.batch()
    batch.sigaction(SIG.USR1)
    with pytest.raises((SyscallSendError, PermissionError)):
        await batch.run()
    assert shown(process.task, "SigIgn") == ignored


async def test_sigprocmask_changes_the_mask_and_our_idea_of_it(ours: Task) -> None:
    assert ours.sigmask == set()
    assert await ours.sigprocmask((HowSIG.BLOCK, [SIG.USR1, SIG.KILL, 50])) == set()
    assert ours.sigmask == shown(ours, "SigBlk") == {SIG.USR1, 50}
    assert await ours.sigprocmask() == {SIG.USR1, 50}
    assert await ours.sigprocmask((HowSIG.UNBLOCK, Sigset([50, SIG.HUP]))) == {SIG.USR1, 50}
    assert ours.sigmask == shown(ours, "SigBlk") == {SIG.USR1}
    old = await ours.sigprocmask((HowSIG.SETMASK, range(1, 65)))
    assert old == {SIG.USR1}
    assert ours.sigmask == shown(ours, "SigBlk") == {*range(1, 65)} - {SIG.KILL, SIG.STOP}
    async with rsyscall.Process(ours).batch() as batch:
        batch.sigprocmask((HowSIG.SETMASK, []))
    assert ours.sigmask == shown(ours, "SigBlk") == set()
    await ours.read_oldset_and_check()


async def test_sigprocmask_by_way_of_memory(ours: Task) -> None:
    some = await ours.ptr(Sigset([SIG.USR1, SIG.USR2]))
    old = await ours.malloc(Sigset)
    old = await ours.sigprocmask((HowSIG.BLOCK, some), old)
    assert await old.read() == set()
    assert await ours.sigprocmask((HowSIG.UNBLOCK, some)) == some.value
    assert ours.sigmask == shown(ours, "SigBlk") == set()
    old = await ours.sigprocmask((HowSIG.SETMASK, [SIG.HUP]), old)
    assert ours.sigmask == shown(ours, "SigBlk") == {SIG.HUP}
    assert await (await ours.sigprocmask(None, old)).read() == {SIG.HUP}
    assert ours.sigmask == {SIG.HUP}


async def test_a_mask_that_somebody_else_has_changed_is_noticed(ours: Task) -> None:
    await ours.sysif.syscall(
        SYS.rt_sigprocmask, HowSIG.BLOCK, In(Sigset([SIG.HUP]).to_bytes()), 0, 8
    )
    with pytest.raises(SignalMaskError, match=r"blocks Sigset\({HUP}\), and not Sigset\({}\)"):
        await ours.read_oldset_and_check()
    assert ours.sigmask == {SIG.HUP}
    await ours.read_oldset_and_check()


async def test_a_signal_block_has_one_owner_for_each_signal(ours: Task) -> None:
    first = await ours.sigmask_block(await ours.ptr(Sigset([SIG.USR1])))
    assert first.mask == {SIG.USR1}
    second = await ours.sigmask_block([SIG.HUP], await ours.malloc(Sigset))
    assert shown(ours, "SigBlk") == {SIG.USR1, SIG.HUP}
    with nothing_sent(ours), pytest.raises(ValueError, match=r"newset: .*USR1.* is blocked"):
        await ours.sigmask_block([SIG.USR1, SIG.USR2])
    await first.unblock()
    assert shown(ours, "SigBlk") == {SIG.HUP}
    with nothing_sent(ours), pytest.raises(ValueError, match=r"USR1.* is not blocked"):
        await first.unblock()
    await second.unblock(await ours.malloc(Sigset))
    assert shown(ours, "SigBlk") == set()


async def test_the_mask_of_the_interpreter_is_that_of_its_calling_thread() -> None:
    task: SignalTask = rsyscall.local_process.task
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert await task.sigprocmask() == {int(sig) for sig in before}
    block = await task.sigmask_block([SIG.URG])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before | {signal.SIGURG}
    await block.unblock()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


async def test_a_server_in_the_interpreter_keeps_its_mask() -> None:
    async with open_pair() as process:
        with pytest.raises(PermissionError):
            await process.task.sigprocmask((HowSIG.BLOCK, [SIG.USR1]))
        assert process.task.sigmask == set()


async def test_there_must_be_room_for_the_old_action(task: Task) -> None:
    small, _rest = (await task.malloc(Sigaction)).split(8)
    with pytest.raises(ValueError, match=r"^oldact: 8 bytes"):
        await task.sigaction(SIG.USR1, None, small)

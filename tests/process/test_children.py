"""Waiting for whichever child changes next, for groups, and for children of dead parents."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rsyscall
from conformance.ways import WAYS
from process.seen import SH, SLEEP, TRUE, status
from rsyscall import local_process
from rsyscall.handle.process import ChildDeadError, children_of
from rsyscall.monitor import AsyncSignalfd, ChildPidMonitor
from rsyscall.signal import SIG, Sigset
from rsyscall.sys.prctl import PR
from rsyscall.sys.resource import Rusage
from rsyscall.sys.wait import CLD, Siginfo, W
from rsyscall.sysif.remote import RemoteSyscallInterface

DEADLINE = 10


@pytest.fixture(params=["child", "stub", "child-of-stub"])
async def apart(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process:
        yield process


async def until(condition: Callable[[], bool]) -> None:
    """The kernel tells nobody of some changes."""
    with trio.fail_after(DEADLINE):
        while not condition():
            await trio.lowlevel.checkpoint()


async def comes_to(process: rsyscall.Process, pid: int) -> None:
    await until(lambda: status(pid)["PPid"] == str(int(process.pid)))


async def test_whichever_ends_next(origin: rsyscall.Process) -> None:
    monitor = origin.monitor
    with pytest.raises(ChildProcessError):
        await monitor.wait()
    async with (
        await origin.spawn(SLEEP) as one,
        await origin.spawn(SLEEP) as two,
        await origin.clone() as three,
    ):
        with trio.move_on_after(0.02) as scope:
            await monitor.wait(W.EXITED | W.STOPPED | W.CONTINUED)
        assert scope.cancelled_caught
        await two.kill(SIG.TERM)
        state = await monitor.wait()
        assert (state.pid, state.killed_with()) == (int(two), SIG.TERM)
        assert (await two.wait()) == state
        await three.exit(7)
        state = await monitor.wait()
        assert (state.pid, state.exit_status) == (int(three.pid), 7)
        for sig, code in ((SIG.STOP, CLD.STOPPED), (SIG.CONT, CLD.CONTINUED)):
            await one.kill(sig)
            state = await monitor.wait(W.STOPPED | W.CONTINUED)
            assert (state.pid, state.code) == (int(one), code)
        await one.kill()
        await monitor.wait()
        with pytest.raises(ChildProcessError) as caught:
            await monitor.wait()
        assert caught.value.errno == errno.ECHILD


@pytest.mark.parametrize("how", ["exit", "end"])
async def test_the_last_one_is_waited_for_by_somebody_else(
    origin: rsyscall.Process, how: str
) -> None:
    """Nothing tells of that but who has waited: no signal, as it has not exec'd, and no pidfd."""
    child = await origin.fork()
    told = trio.Event()

    async def wait() -> None:
        with contextlib.suppress(ChildProcessError):  # either of them may be the first
            assert (await origin.monitor.wait()).pid == int(child.pid)
        told.set()

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            if how == "exit":
                await child.exit()
                await child.pid.check()
            else:
                await child.end()
            await told.wait()


async def test_a_process_group(origin: rsyscall.Process) -> None:
    monitor = origin.monitor
    async with (
        await origin.spawn(SLEEP, pgid=0) as leader,
        await origin.spawn(SLEEP, pgid=leader.pid) as member,
        await origin.spawn(SLEEP) as other,
    ):
        await other.kill()
        await leader.killpg(SIG.HUP)
        states = [await monitor.wait(pgid=leader.pid) for _ in range(2)]
        assert {state.pid for state in states} == {int(leader), int(member)}
        assert {state.killed_with() for state in states} == {SIG.HUP}
        with pytest.raises(ChildProcessError):
            await monitor.wait(pgid=int(leader))
        assert (await monitor.wait()).pid == int(other)


async def test_what_cannot_be_waited_for(origin: rsyscall.Process) -> None:
    for options in (W.NONE, W.NOHANG | W.EXITED):
        with pytest.raises(ValueError, match=r"^options: "):
            await origin.monitor.wait(options)
    with pytest.raises(ValueError, match=r"^pgid: "):
        await origin.monitor.wait(pgid=0)
    async with await origin.clone() as child, await child.spawn(SLEEP) as program:
        with pytest.raises(ValueError, match=r"^pid: "):
            origin.monitor.add_child_pid(program.pid)
        theirs = origin.monitor.inherit_to_child(child.task).add_child_pid(program.pid)
        await program.kill()
        assert (await theirs.wait()).killed_with() == SIG.KILL


@pytest.mark.parametrize("made", [False, True], ids=["polls", "sigchld"])
async def test_orphans_come_to_us_and_are_waited_for(apart: rsyscall.Process, made: bool) -> None:
    task = apart.task
    script = "sleep 1000 & echo $!; sh -c 'sleep 1000 & echo $!'; echo; exec sleep 1000"
    monitor = await ChildPidMonitor.make(task, apart.epoller) if made else apart.monitor
    async with monitor, monitor.adopt_orphans() as orphans:
        async with await apart.spawn(SH.args(script), stdout=rsyscall.PIPE) as shell:
            assert shell.stdout is not None
            said = b""
            while said.count(b"\n") < 3:
                said += await shell.stdout.receive_some()
            theirs, early = map(int, said.split())
        # The shell is dead, and was waited for by the one who has made it.
        assert shell.pid.death_state is not None
        for pid, sig in ((early, signal.SIGTERM), (theirs, signal.SIGUSR1)):
            await comes_to(apart, pid)
            os.kill(pid, sig)
            with trio.fail_after(DEADLINE):
                state = await orphans.receive()
            assert (state.pid, state.killed_with()) == (pid, sig)
            assert not os.path.exists(f"/proc/{pid}")
        async with await apart.spawn(SLEEP) as known:  # is none
            await known.kill()
            assert (await known.wait()).killed_with() == SIG.KILL
        with pytest.raises(trio.WouldBlock):
            orphans.receive_nowait()
    assert await task.prctl(PR.GET_CHILD_SUBREAPER, await task.malloc(bytes, 4)) == 0


async def test_no_orphan_outlives_the_block(apart: rsyscall.Process) -> None:
    script = "for i in 1 2 3; do sh -c 'sleep 1000 & sleep 1000' & done; echo $!"
    async with apart.monitor.adopt_orphans():
        done = await apart.run(SH.args(f"{script} >&2"), capture_stderr=False, check=False)
        assert done.clean()
        mine = Path(f"/proc/{int(apart.pid)}/task/{int(apart.pid)}/children")
        await until(lambda: len(mine.read_text().split()) == 3)
        before = mine.read_text().split()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in before)
    assert mine.read_text() == ""


async def test_orphans_may_be_left_alone(apart: rsyscall.Process) -> None:
    async with apart.monitor.adopt_orphans(kill=False):
        command = SH.args("sleep 1000 > /dev/null & echo $!")
        done = await apart.run(command, capture_stdout=True)
        pid = int(done.stdout or b"")
        await comes_to(apart, pid)
    async with await apart.monitor.adopt(pid) as child:  # and may become ours
        await child.kill(SIG.TERM)
        assert (await child.wait()).killed_with() == SIG.TERM


async def test_an_error_in_the_block_comes_in_no_group(apart: rsyscall.Process) -> None:
    with pytest.raises(ZeroDivisionError):
        async with apart.monitor.adopt_orphans():
            raise ZeroDivisionError
    with trio.move_on_after(0.01) as scope:
        async with apart.monitor.adopt_orphans():
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_task_that_dies_has_no_orphans_any_more(origin: rsyscall.Process) -> None:
    async with await origin.clone() as child, child.monitor.adopt_orphans() as orphans:
        await child.pid.kill()
        with trio.fail_after(DEADLINE), pytest.raises(trio.EndOfChannel):
            await orphans.receive()


async def test_the_interpreter_adopts_no_orphans_but_those_that_are_named() -> None:
    with pytest.raises(PermissionError):
        async with local_process.monitor.adopt_orphans():
            pass
    popen = subprocess.Popen(["/bin/sleep", "1000"])
    monitor = local_process.monitor
    async with await local_process.spawn(TRUE) as ours:
        assert (await monitor.wait()).pid == int(ours)
    popen.kill()
    await until(lambda: os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT) is not None)
    with pytest.raises(ChildProcessError):
        await monitor.wait()  # a foreign one, which is left alone
    assert popen.wait() == -signal.SIGKILL

    popen = subprocess.Popen(["/bin/sleep", "1000"])
    async with await monitor.adopt(popen.pid) as child:
        assert await monitor.adopt(popen.pid) is not None
        await child.kill(SIG.TERM)
        assert (await monitor.wait()).killed_with() == SIG.TERM
    popen.returncode = -SIG.TERM
    assert list(children_of(local_process.task)) == []


async def test_who_is_no_child(origin: rsyscall.Process) -> None:
    with pytest.raises(ChildProcessError) as caught:
        await origin.monitor.adopt(os.getppid())
    assert "is no child of" in caught.value.__notes__[-1]
    with pytest.raises(ValueError, match=r"^pid: "):
        await origin.monitor.adopt(0)


async def test_children_that_are_being_made_are_not_taken_for_orphans(
    apart: rsyscall.Process,
) -> None:
    async def make() -> None:
        for _ in range(20):
            async with await apart.spawn(TRUE) as child:
                assert (await child.wait()).exit_status == 0

    async with apart.monitor.adopt_orphans() as orphans:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(make)
        with pytest.raises(trio.WouldBlock):
            orphans.receive_nowait()


# ---- the call itself ----


async def test_waitid_into_memory(origin: rsyscall.Process) -> None:
    info = await origin.malloc(Siginfo)
    usage = await origin.malloc(Rusage)
    async with await origin.spawn(SLEEP) as child:
        pid = child.pid
        with pytest.raises(ValueError, match="nothing was waited for"):
            await pid.read_siginfo()
        await pid.waitid(W.EXITED | W.NOHANG, info)
        assert await pid.read_siginfo() is None
        with pytest.raises(ValueError, match="nothing has changed"):
            await pid.read_state_change()
        await child.kill(SIG.TERM)
        await pid.wait_readable()
        await pid.waitid(W.EXITED | W.NOWAIT, info)
        assert (await pid.read_state_change()).killed_with() == SIG.TERM
        assert pid.death_state is None  # it is there for others
        await pid.waitid(W.EXITED, info, rusage=usage)
        state = await pid.read_siginfo()
        assert state is not None
        assert state == pid.death_state == await child.wait()
        assert (await usage.unsafe().read()).nvcsw >= 0
        with pytest.raises(ChildDeadError):
            await pid.waitid(W.EXITED, info)


# ---- stopping and continuing, here ----


async def test_stops_are_told_by_the_signal_and_not_by_asking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rsyscall.monitor._FIRST", 1000.0)
    calls: list[int] = []
    before = signal.signal(signal.SIGCHLD, lambda number, _: calls.append(number))
    ours = signal.getsignal(signal.SIGCHLD)
    try:
        async with await local_process.spawn(SLEEP) as one, await local_process.spawn(SLEEP) as two:
            for _ in range(20):
                for sig, code in ((SIG.STOP, CLD.STOPPED), (SIG.CONT, CLD.CONTINUED)):
                    async with trio.open_nursery() as nursery:
                        for child in (one, two):
                            nursery.start_soon(told, child, code)
                        await wait_all_tasks_blocked()
                        for child in (one, two):
                            child.pid.send_signal(sig)
        assert signal.getsignal(signal.SIGCHLD) is ours
        assert len(calls) >= 40  # who was there before hears of them, too
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.fixture(params=["child", "child-no-ring", "grandchild", "stub", "child-of-stub"])
async def elsewhere(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[rsyscall.Process]:
    """A parent that is not the interpreter, and would be asked once and never again."""
    for name in ("monitor._SHORT", "monitor._LONG", "_children._SHORT", "_children._LONG"):
        monkeypatch.setattr(f"rsyscall.{name}", 1000.0)
    async with WAYS[request.param](tmp_path) as process:
        yield process


async def test_stops_elsewhere_are_waited_for(elsewhere: rsyscall.Process) -> None:
    async with await elsewhere.spawn(SLEEP) as one, await elsewhere.spawn(SLEEP) as two:
        for sig, code in ((SIG.STOP, CLD.STOPPED), (SIG.CONT, CLD.CONTINUED)):
            async with trio.open_nursery() as nursery:
                for child in (one, two):
                    nursery.start_soon(told, child, code)
                await blocked(elsewhere, 2)
                for child in (one, two):
                    child.pid.send_signal(sig)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ended, one)
            await blocked(elsewhere, 1)
            one.pid.send_signal(SIG.KILL)


async def test_whichever_stops_elsewhere_is_waited_for(elsewhere: rsyscall.Process) -> None:
    async with await elsewhere.spawn(SLEEP) as one, await elsewhere.spawn(SLEEP) as two:
        for child in (one, two):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(next_is, elsewhere.monitor, int(child))
                await blocked(elsewhere, 1)
                child.pid.send_signal(SIG.STOP)


async def test_waiting_for_stops_gives_way(elsewhere: rsyscall.Process) -> None:
    async with await elsewhere.spawn(SLEEP) as child:
        with trio.move_on_after(DEADLINE) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(told, child, CLD.STOPPED)
                nursery.start_soon(elsewhere.monitor.wait)
                await blocked(elsewhere, 2)
                await elsewhere.task.prctl_set_name(PR.SET_NAME, "alone")  # not OtherCallsBlocked
                await until(lambda: waiting(elsewhere) == 0)
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught


async def test_only_some_wait_with_a_thread_each(
    origin: rsyscall.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsyscall.sysif.remote._MOST_GIVING_WAY", 1)
    async with (
        await origin.spawn(SLEEP) as one,
        await origin.spawn(SLEEP) as two,
        trio.open_nursery() as nursery,
    ):
        for child in (one, two):
            nursery.start_soon(told, child, CLD.STOPPED)
        if origin is not local_process:
            await blocked(origin, 1)
        for child in (one, two):
            child.pid.send_signal(SIG.STOP)


def waiting(process: rsyscall.Process) -> int:
    """How many of its calls wait for children, and give way."""
    sysif = process.task.sysif
    assert isinstance(sysif, RemoteSyscallInterface)
    options = re.findall(r"waitid\(.*options=(0x[0-9a-f]+)", "\n".join(sysif.under_way()))
    return len([value for value in options if not int(value, 16) & W.NOHANG])


async def blocked(process: rsyscall.Process, calls: int) -> None:
    """Return when so many wait."""
    await until(lambda: waiting(process) >= calls)


async def ended(child: rsyscall.AsyncChildPid) -> None:
    with trio.fail_after(DEADLINE):
        assert (await child.wait()).killed_with() == SIG.KILL


async def next_is(monitor: ChildPidMonitor, pid: int) -> None:
    with trio.fail_after(DEADLINE):
        assert (await monitor.wait(W.STOPPED)).pid == pid


async def told(child: rsyscall.AsyncChildPid, code: CLD) -> None:
    with trio.fail_after(DEADLINE):
        assert (await child.waitpid(W.STOPPED | W.CONTINUED)).code is code


def test_stops_in_a_thread_and_with_the_signal_blocked_or_ignored() -> None:
    async def stop() -> None:
        async with await local_process.spawn(SLEEP) as child:
            child.pid.send_signal(SIG.STOP)
            await told(child, CLD.STOPPED)

    thread = threading.Thread(target=trio.run, args=(stop,))
    thread.start()
    thread.join()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    try:
        trio.run(stop)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        trio.run(stop)
    finally:
        assert signal.signal(signal.SIGCHLD, signal.SIG_DFL) is signal.SIG_IGN


async def test_a_block_of_sigchld_that_is_given(origin: rsyscall.Process) -> None:
    mask = Sigset([SIG.CHLD])
    block = await origin.task.sigmask_block(mask)
    try:
        async with await ChildPidMonitor.make(
            origin.task, origin.epoller, signal_block=block
        ) as monitor:
            assert isinstance(monitor.sigfd, AsyncSignalfd)
            async with await origin.spawn(SLEEP) as child:
                child.pid.send_signal(SIG.STOP)
                with trio.fail_after(DEADLINE):
                    assert (await monitor.wait(W.STOPPED)).pid == int(child)
    finally:
        await block.unblock()

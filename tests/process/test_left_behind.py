"""What a cancellation, a reused number or a child that does not answer must not leave behind."""

from __future__ import annotations

import os
import signal

import pytest
import trio
import trio.testing

import rsyscall
from leaks import children
from process.seen import SLEEP
from rsyscall import local_process
from rsyscall.command import Command
from rsyscall.fcntl import O
from rsyscall.monitor import AsyncSignalfd
from rsyscall.signal import SIG, Sigset
from rsyscall.sys.prctl import PR
from rsyscall.sysif.requests import RequestLink


@pytest.mark.privileged
async def test_a_program_with_other_ids_whose_start_is_cancelled_does_not_run() -> None:
    for i in range(40):
        before, started = children(), False
        with trio.move_on_after(0.0002 * (i % 20)):
            async with await local_process.spawn(SLEEP, uid=65534):
                started = True
        assert children() == before, started
    assert await local_process.task.prctl(PR.GET_DUMPABLE) == 1


async def test_a_child_with_its_own_memory_whose_start_is_cancelled_leaves_no_ring() -> None:
    for i in range(30):
        with trio.move_on_after(0.0001 * i):
            async with await local_process.clone(vm=False):
                pass


async def test_the_directory_is_the_one_that_was_given_whatever_becomes_of_its_number() -> None:
    task = local_process.task
    pwd = Command("/bin/pwd", ["pwd", "-P"])
    async with (
        await task.open("/proc", O.RDONLY | O.DIRECTORY) as other,
        await task.open("/usr", O.RDONLY | O.DIRECTORY) as cwd,
    ):
        done = await local_process.run(
            pwd, cwd=cwd, fds={int(cwd.near): other}, capture_stdout=True
        )
    assert done.stdout == b"/usr\n"


async def test_a_child_that_is_stopped_and_has_a_child_can_be_ended() -> None:
    child = await local_process.clone()
    grandchild = await child.clone()
    os.kill(int(child.pid), signal.SIGSTOP)
    with trio.fail_after(20):
        state = await child.end()
    assert state.killed_with() == SIG.KILL
    assert grandchild.pid.pid.death_state is not None


async def test_a_batch_of_a_child_goes_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def long_way(*_: object) -> None:
        raise AssertionError("the long way")

    async with await local_process.fork() as child:
        await child.task.getpid()
        monkeypatch.setattr(RequestLink, "_frame_in_turn", long_way)
        async with child.batch() as b:
            pid = b.getpid()
        assert pid.value == child.task.near_process


async def test_who_waits_for_a_signal_does_not_read_what_has_its_number_next() -> None:
    async with rsyscall.open_process() as process:
        signals = await AsyncSignalfd.make(process.task, process.epoller, Sigset([SIG.USR1]))
        number = signals.fd.near

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await signals.next_signal.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await signals.close()
            pipe = await process.task.pipe()
            async with pipe.read, pipe.write:
                assert pipe.read.near == number
                await pipe.write.write(b"x" * 200)
                with trio.fail_after(20):
                    while nursery.child_tasks:
                        await trio.testing.wait_all_tasks_blocked()
                assert await pipe.read.read(500) == b"x" * 200

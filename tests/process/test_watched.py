"""Descriptors that are waited for while a server does nothing for it."""

from __future__ import annotations

import os
import signal

import pytest
import trio
import trio.testing

import rsyscall
from process.blocking import SECONDS, blocked, sleeping, tasks
from rsyscall.monitor import AsyncSignalfd
from rsyscall.sched import CLONE
from rsyscall.signal import SIG, Sigset
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import In, Size

ONE = In((1).to_bytes(8, "little"))


class Watched:
    """An eventfd of a process, and who waits for it."""

    def __init__(self, process: rsyscall.Process, fd: int, nursery: trio.Nursery) -> None:
        self.sysif = process.task.sysif
        self.fd = fd
        self.nursery = nursery
        self.told: list[bool] = []

    async def start(self, count: int = 1) -> None:
        for _ in range(count):
            self.nursery.start_soon(self._wait)
        await trio.testing.wait_all_tasks_blocked()
        await self.sysif.syscall(SYS.getpid)  # and it has read what was sent before

    async def _wait(self) -> None:
        self.told.append(await self.sysif.wait_readable(self.fd))

    async def write(self) -> None:
        await self.sysif.call(SYS.write, (self.fd, ONE, 8))

    async def until(self, count: int) -> None:
        with trio.fail_after(SECONDS):
            while len(self.told) < count:
                await trio.lowlevel.checkpoint()


async def eventfd(process: rsyscall.Process, nursery: trio.Nursery) -> Watched:
    return Watched(process, await process.task.sysif.syscall(SYS.eventfd2, 0, 0), nursery)


async def test_nothing_is_held_up(process: rsyscall.Process) -> None:
    sysif = process.task.sysif
    async with trio.open_nursery() as nursery:
        watched = await eventfd(process, nursery)
        await watched.start(3)
        assert len(tasks(process)) == 1
        await sysif.syscall(SYS.setresuid, -1, -1, -1)
        assert await sysif.syscall(SYS.getpid) == int(process.pid)
        await sysif.barrier()
        assert not watched.told
        await watched.write()
        await watched.until(3)
    assert watched.told == [True] * 3


async def test_beside_calls_that_block(process: rsyscall.Process) -> None:
    async with trio.open_nursery() as nursery:
        watched = await eventfd(process, nursery)
        await watched.start()
        async with blocked(process, 3):
            await watched.write()
            await watched.until(1)
            await watched.start()
            await watched.until(2)


async def test_it_is_cancelled(process: rsyscall.Process) -> None:
    async with trio.open_nursery() as nursery:
        watched = await eventfd(process, nursery)
        await watched.start(2)
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught
    assert not watched.told
    assert await process.task.sysif.syscall(SYS.getpid) == int(process.pid)


async def test_one_too_many_is_told_at_once(process: rsyscall.Process) -> None:
    async with trio.open_nursery() as nursery:
        watched = await eventfd(process, nursery)
        await watched.start(Size.WATCHES)
        assert not watched.told
        await watched.start()
        await watched.until(1)
        assert watched.told == [False]
        await watched.write()
        await watched.until(Size.WATCHES + 1)
    assert watched.told[1:] == [True] * Size.WATCHES


async def test_a_server_that_is_never_idle_looks_all_the_same(process: rsyscall.Process) -> None:
    async def keep_busy() -> None:
        while True:
            await process.task.sysif.syscall(SYS.getpid)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(keep_busy)
        watched = await eventfd(process, nursery)
        await watched.write()
        nursery.start_soon(watched.start)
        await watched.until(1)
        nursery.cancel_scope.cancel()


async def test_what_is_closed_is_told(process: rsyscall.Process) -> None:
    async with trio.open_nursery() as nursery:
        watched = await eventfd(process, nursery)
        await watched.start()
        await process.task.sysif.syscall(SYS.close, watched.fd)
        await watched.until(1)


async def test_where_no_thread_can_be_made(process: rsyscall.Process) -> None:
    await process.task.sysif.syscall(SYS.unshare, CLONE.NEWPID)
    await process.task.sysif.syscall(SYS.poll, 0, 0, 0)
    await process.task.sysif.syscall(SYS.getpid)
    assert process.task.can_stall
    async with trio.open_nursery() as nursery:
        watched = await eventfd(process, nursery)
        await watched.start(2)
        await watched.write()
        await watched.until(2)
    async with trio.open_nursery() as nursery:
        other = await eventfd(process, nursery)
        await other.start()
        nursery.cancel_scope.cancel()
    assert not other.told


async def test_the_end_of_the_process(process: rsyscall.Process) -> None:
    fd = await process.task.sysif.syscall(SYS.eventfd2, 0, 0)

    async def wait() -> None:
        with pytest.raises(rsyscall.SyscallHangup, match="SIGKILL"):
            await process.task.sysif.wait_readable(fd)

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(int(process.pid), signal.SIGKILL)


# ---- signals ----


async def test_signals_of_the_process_and_of_its_first_thread(process: rsyscall.Process) -> None:
    pid, mask = int(process.pid), Sigset([SIG.USR1, SIG.USR2])
    async with await AsyncSignalfd.make(process.task, process.epoller, mask) as signals:
        got: list[int] = []

        async def wait() -> None:
            while len(got) < 3:
                got.append((await signals.next_signal.wait()).signo)

        async def until(count: int) -> None:
            with trio.fail_after(SECONDS):
                while len(got) < count:
                    await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await process.task.sysif.syscall(SYS.tgkill, pid, pid, SIG.USR1)
            await until(1)
            async with blocked(process, 1):
                assert sleeping(process, SYS.read) == 1  # it is the first thread
                await process.task.sysif.syscall(SYS.tgkill, pid, pid, SIG.USR1)
                os.kill(pid, signal.SIGUSR2)
                await until(2)
                assert got == [SIG.USR1, SIG.USR2]
            await until(3)
        assert got == [SIG.USR1, SIG.USR2, SIG.USR1]


async def test_whoever_waits_for_signals_learns_that_they_are_read_no_more(
    process: rsyscall.Process,
) -> None:
    signals = await AsyncSignalfd.make(process.task, process.epoller, Sigset([SIG.USR1]))

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await signals.next_signal.wait()

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await signals.close()
            # Its number is another's now, which is never readable.
            await process.task.sysif.syscall(SYS.eventfd2, 0, 0)

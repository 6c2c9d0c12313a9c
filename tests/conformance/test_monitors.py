"""Signals and files of a process, waited for."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rsyscall
from conformance.ways import WAYS
from rsyscall.inotify_watch import Inotify
from rsyscall.monitor import AsyncSignalfd
from rsyscall.signal import SIG, Sigset
from rsyscall.sys.inotify import IN


@pytest.fixture(params=["stub", "stub-no-ring", "child", "child-of-stub"])
async def apart(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process:
        yield process


def blocked(process: rsyscall.Process) -> int:
    lines = Path(f"/proc/{int(process.pid)}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("SigBlk")).split()[1], 16)


async def test_all_who_wait_get_the_same_signal(apart: rsyscall.Process) -> None:
    await apart.task.getpid()  # a child that has just begun may still block all of them
    before = blocked(apart)
    mask = Sigset([SIG.USR1, SIG.USR2])
    async with await AsyncSignalfd.make(apart.task, apart.epoller, mask) as signals:
        assert blocked(apart) == before | 1 << (SIG.USR1 - 1) | 1 << (SIG.USR2 - 1)
        got: list[int] = []
        cancelled = trio.Event()

        async def wait(scope: trio.CancelScope) -> None:
            with scope:
                got.append((await signals.next_signal.wait()).signo)
            if scope.cancelled_caught:
                cancelled.set()

        scopes = [trio.CancelScope() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for scope in scopes:
                nursery.start_soon(wait, scope)
                await wait_all_tasks_blocked()
            scopes[0].cancel()  # who reads; what is there before that is over would be for it, too
            await cancelled.wait()
            os.kill(int(apart.pid), signal.SIGUSR1)
        assert got == [SIG.USR1] * 2
        os.kill(int(apart.pid), signal.SIGUSR2)
        info = await signals.next_signal.wait()
        assert (info.signo, info.pid) == (SIG.USR2, os.getpid())
        with pytest.raises(ValueError, match="is blocked already"):
            await AsyncSignalfd.make(apart.task, apart.epoller, mask)
        block = signals.signal_block
        with pytest.raises(ValueError, match="signal_block: "):
            await AsyncSignalfd.make(
                apart.task, apart.epoller, Sigset([SIG.HUP]), signal_block=block
            )
        usr1 = Sigset([SIG.USR1])
        async with await AsyncSignalfd.make(
            apart.task, apart.epoller, usr1, signal_block=block
        ) as other:
            os.kill(int(apart.pid), signal.SIGUSR1)
            assert (await other.next_signal.wait()).signo == SIG.USR1
        assert blocked(apart) & 1 << (SIG.USR1 - 1)
    assert blocked(apart) == before


async def test_files_are_watched(apart: rsyscall.Process, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    async with await Inotify.make(apart) as inotify:
        first = await inotify.add(one, IN.CREATE | IN.DELETE)
        second = await inotify.add(two, IN.CREATE)
        assert await inotify.add(two, IN.CREATE) is second
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                event = await first.wait_until_event(IN.CREATE, "b")
                assert (event.wd, event.mask, event.name) == (first.wd, IN.CREATE, "b")

            nursery.start_soon(wait)
            (two / "x").touch()
            (event,) = await second.wait()
            assert event.name == "x"
            for name in "abc":
                (one / name).touch()
        assert [event.name for event in await first.wait()] == ["c"]
        await first.remove()
        assert [event.mask for event in await first.wait()] == [IN.IGNORED]
        with pytest.raises(trio.ClosedResourceError):
            await first.wait()

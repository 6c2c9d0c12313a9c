"""Calls through a ring, many at once, from Python: none is lost, none waits for ever."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.lowlevel

import rsyscall
from conformance.ways import WAYS
from e2e.servers import wait_for
from ring.spinning import spin_for
from rsyscall.near.sysif import In, Ret, SyscallHangup, SyscallSendError
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall.sysif.ring import spin_us
from rsyscall.tasks.pair import open_pair
from rsyscall_protocol import Connection, Feature, Hello, Role

SECONDS = 60


def door(process: rsyscall.Process) -> RemoteSyscallInterface:
    sysif = process.task.sysif
    assert isinstance(sysif, RemoteSyscallInterface)
    return sysif


# ---- asking for one ----


@pytest.mark.parametrize("ring", [True, False, None])
@pytest.mark.parametrize("opens", [rsyscall.open_process, open_pair])
async def test_asking(opens: type, ring: bool | None) -> None:
    async with opens(ring=ring) as process:
        assert door(process).uses_ring is (ring is not False)
        assert await process.task.getpid() == process.task.near_pid


@asynccontextmanager
async def without_rings() -> AsyncGenerator[RemoteSyscallInterface]:
    """A client of a server that grants no features."""
    ours, theirs = socket.socketpair()
    sysif, server = RemoteSyscallInterface(ours), Connection(Role.SERVER)

    async def greet() -> None:
        await trio.lowlevel.wait_readable(theirs)
        server.receive(theirs.recv(2**16))
        server.next_event()
        info: dict[str, int | str] = {"arch": os.uname().machine, "pid": 1}
        hello = Hello(features=Feature.NONE, limits=server.limits, info=info)
        theirs.send(server.send(hello)[0])

    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(greet)
            yield sysif
        await sysif.close_interface()


async def test_a_ring_that_must_be_and_cannot_be_is_an_oserror() -> None:
    async with without_rings() as sysif:
        with pytest.raises(OSError, match="shared memory") as caught:
            await sysif.start(ring=True)
        assert caught.value.__notes__ == ["while moving the connection into shared memory"]


@pytest.mark.parametrize("ring", [False, None])
async def test_a_ring_that_may_be_and_cannot_be_is_left_off(ring: bool | None) -> None:
    async with without_rings() as sysif:
        await sysif.start(ring=ring)
        assert not sysif.uses_ring


# ---- many calls ----


@pytest.mark.parametrize("way", ["pair", "stub"])
@pytest.mark.parametrize("spin", [0, 50, 2000])
async def test_no_wake_up_is_lost(
    way: str, spin: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 tasks, of which some let others run in between: each reply is checked.

    It hangs if whoever uses the core in place of the one who sleeps does not look at the ring
    again afterwards.
    """
    async with WAYS[way](tmp_path) as process:
        sysif = door(process)
        spin_for(sysif, spin, monkeypatch)
        no_such_flag = 0x80000000
        turns = dict.fromkeys(range(64), 0)

        async def work(i: int) -> None:
            rng = random.Random(i)
            for n in range(300):
                if rng.random() < 0.5:
                    await trio.lowlevel.checkpoint()
                number = rng.randrange(2**31)
                if rng.random() < 0.3:
                    data = rng.randbytes(rng.randrange(1, 900))
                    with pytest.raises(OSError, match="Invalid"):
                        await sysif.call(SYS.memfd_create, [In(b"x\0"), no_such_flag, In(data)])
                else:
                    with pytest.raises(OSError, match="Bad file"):
                        await sysif.syscall(SYS.fsync, number | 2**30)
                turns[i] = n + 1

        with trio.fail_after(50):
            async with trio.open_nursery() as nursery:
                for i in range(64):
                    nursery.start_soon(work, i)
        assert set(turns.values()) == {300}
        assert not sysif.busy


@pytest.mark.parametrize("way", ["pair", "stub"])
async def test_each_of_many_tasks_gets_its_turn(way: str, tmp_path: Path) -> None:
    """With a switch between any two calls, none is ever more than a few rounds ahead."""
    async with WAYS[way](tmp_path) as process:
        counts, most = [0] * 64, 0

        async def work(i: int) -> None:
            nonlocal most
            for _ in range(100):
                await trio.lowlevel.checkpoint()
                await process.task.getpid()
                counts[i] += 1
                most = max(most, counts[i] - min(counts))

        async with trio.open_nursery() as nursery:
            for i in range(64):
                nursery.start_soon(work, i)
        assert counts == [100] * 64
        assert most <= 50, "a task was twice as fast as another"


@pytest.mark.parametrize("way", ["pair", "stub"])
async def test_much_data_passes_a_small_ring(way: str, tmp_path: Path) -> None:
    async with WAYS[way](tmp_path) as process:
        sysif = door(process)
        fd = await sysif.syscall(SYS.memfd_create, In(b"data\0"), 1)

        async def both(i: int) -> None:
            data = random.Random(i).randbytes(300_000 + i)
            at = i * 400_000
            assert await sysif.syscall(SYS.pwrite64, fd, In(data), len(data), at) == len(data)
            reply = await sysif.call(SYS.pread64, [fd, Ret(len(data)), len(data), at])
            assert reply.outs == (data,)

        async with trio.open_nursery() as nursery:
            for i in range(12):
                nursery.start_soon(both, i)
        await sysif.syscall(SYS.close, fd)


async def test_two_thousand_calls_in_flight() -> None:
    async with rsyscall.open_process(ring=True) as process:
        sysif, ends = door(process), list[int]()

        async def call(number: int) -> None:
            with pytest.raises(OSError, match="Bad file"):
                await sysif.call(SYS.fcntl, [2**30 + number, 1], return_fd=bool(number % 2))
            ends.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(2000):
                nursery.start_soon(call, number)
        assert sorted(ends) == list(range(2000))


@pytest.mark.parametrize("way", ["pair", "stub"])
async def test_deadlines_fire_while_calls_complete_in_the_spin(way: str, tmp_path: Path) -> None:
    async with WAYS[way](tmp_path) as process:
        for seconds in 0.0, 0.001, 0.02:
            with trio.move_on_after(seconds) as scope:
                while True:
                    await process.task.getpid()
            assert scope.cancelled_caught
        assert await process.task.getpid() == process.task.near_pid


async def test_beside_a_thread_that_keeps_the_interpreter_busy() -> None:
    over = threading.Event()

    def busy() -> None:
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=busy)
    async with rsyscall.open_process(ring=True) as process:
        thread.start()
        try:
            for _ in range(100):
                assert await process.task.getpid() == process.pid
        finally:
            over.set()
            thread.join()


# ---- one CPU, and none at all ----


@pytest.fixture
def one_cpu() -> Generator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("one_cpu")
@pytest.mark.parametrize("way", ["pair", "stub"])
async def test_nobody_spins_on_one_cpu(way: str, tmp_path: Path) -> None:
    assert spin_us() == 0
    async with WAYS[way](tmp_path) as process:
        ring = door(process)._ring  # pyright: ignore[reportPrivateUsage]
        assert ring is not None
        assert ring.spin_us == 0
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(process.task.getpid)
        for _ in range(100):
            assert await process.task.getpid() == process.task.near_pid
        assert spin_us() == 0


def switches(pid: int) -> int:
    """How often it has gone to sleep by itself."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches:"):
            return int(line.split()[1])
    raise AssertionError("no such field")


def sleeps_in(pid: int) -> str:
    """The number of the call that it sleeps in."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0]


async def test_an_idle_stub_sleeps_until_there_is_something_to_do() -> None:
    async with rsyscall.open_process(ring=True) as process:
        await process.task.getpid()
        pid = int(process.pid)
        polls = {str(int(SYS.ppoll)), str(int(SYS.poll))}
        wait_for(lambda: sleeps_in(pid) in polls, "a stub that sleeps")
        before = switches(pid)
        async with rsyscall.open_process(ring=True) as other:  # something else goes on meanwhile
            for _ in range(100):
                await other.task.getpid()
        assert (switches(pid), sleeps_in(pid) in polls) == (before, True)
        assert await process.task.getpid() == process.pid


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 10, 40])
@pytest.mark.parametrize("stopped", [False, True])
async def test_what_was_not_sent_when_the_stub_died_was_not_made(
    turns: int, stopped: bool, tmp_path: Path
) -> None:
    """Killed at any time; if it is stopped before, the ring fills, and much cannot be sent."""
    ends = dict[int, str]()
    async with rsyscall.open_process(ring=True) as process:
        sysif, pid = door(process), int(process.pid)

        async def call(i: int) -> None:
            path = bytes(tmp_path / str(i)) + b"\0"
            try:
                while True:
                    await sysif.syscall(SYS.mkdirat, -100, In(path), 0o700, In(bytes(600)))
                    ends[i] = "made"
                    os.rmdir(path[:-1])
            except SyscallSendError:
                ends[i] = "not sent"
            except SyscallHangup:
                ends[i] = "unknown"

        async with trio.open_nursery() as nursery:
            for i in range(60):
                nursery.start_soon(call, i)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            if stopped:
                os.kill(pid, signal.SIGSTOP)
                for _ in range(5):
                    await trio.lowlevel.checkpoint()
            os.kill(pid, signal.SIGKILL)
        made = set(map(int, os.listdir(tmp_path)))
        assert len(ends) == 60
        assert not made & {i for i, end in ends.items() if end == "not sent"}
        if stopped:
            assert "not sent" in ends.values()
        with pytest.raises(SyscallSendError):
            await sysif.syscall(SYS.getpid)

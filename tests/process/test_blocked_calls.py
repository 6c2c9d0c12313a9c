"""Calls that block: they hold up no others, and what concerns one thread is made by one alone."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import select
import signal
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

import rsyscall
from conformance.ways import WAYS
from rsyscall.near.sysif import Interrupted, OtherCallsBlocked
from rsyscall.sched import CLONE
from rsyscall.sys.mman import MAP, PROT
from rsyscall.sys.syscall import SYS
from rsyscall.tasks.pair import open_pair
from rsyscall_protocol import (
    Batch,
    Batched,
    FdArg,
    In,
    Out,
    Ret,
    Size,
    Status,
    Step,
    Struct,
    flatten,
)

SECONDS = 30
#: How often a call is cancelled at a random instant; a hundred times as often takes two minutes.
INSTANTS = int(os.environ.get("RSYSCALL_TEST_INSTANTS", "1000"))
RW = PROT.READ | PROT.WRITE
EFD_SEMAPHORE = 1
F_SETFL, F_GETPIPE_SZ = 4, 1032
PR_SET_PDEATHSIG = 1


@pytest.fixture(params=["stub", "stub-no-ring", "child-private-memory"])
async def process(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process:
        assert not process.task.can_stall
        yield process


def tasks(process: rsyscall.Process) -> list[Path]:
    return list(Path(f"/proc/{int(process.pid)}/task").iterdir())


def field(task: Path, name: str) -> list[str]:
    found = re.search(rf"^{name}:(.*)$", (task / "status").read_text(), re.MULTILINE)
    assert found is not None
    return found[1].split()


async def left(task: Path) -> None:
    """Return once a thread has ended, of which only its directory tells."""
    with trio.fail_after(SECONDS):
        while await trio.Path(task).exists():
            await trio.lowlevel.checkpoint()


def sleeping(process: rsyscall.Process, number: SYS) -> int:
    """How many threads are in this call."""
    found = 0
    for task in tasks(process):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += (task / "syscall").read_text().split()[0] == str(int(number))
    return found


async def cancelled_in(
    process: rsyscall.Process, number: SYS, function: Callable[[], Awaitable[None]]
) -> None:
    """Run it, and cancel it once its call is blocked."""
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(function)
            while not sleeping(process, number):
                await process.task.sysif.syscall(SYS.getpid)
            nursery.cancel_scope.cancel()


class Blocked:
    """So many reads that wait for an eventfd."""

    def __init__(self, process: rsyscall.Process, eventfd: int, nursery: trio.Nursery) -> None:
        self.process = process
        self.sysif = process.task.sysif
        self.eventfd = eventfd
        self.nursery = nursery
        self.returned = 0

    async def start(self, count: int) -> None:
        """Return once they are all waiting in the kernel."""
        for _ in range(count):
            self.nursery.start_soon(self._read)
        with trio.fail_after(SECONDS):
            while sleeping(self.process, SYS.read) < count:
                await self.sysif.syscall(SYS.getpid)  # whose answer tells that others go on

    async def _read(self) -> None:
        reply = await self.sysif.call(SYS.read, (self.eventfd, Ret(8), 8))
        assert reply.outs[0] == (1).to_bytes(8, "little")
        self.returned += 1

    async def release(self, count: int) -> None:
        """Let so many return."""
        await self.sysif.call(SYS.write, (self.eventfd, In(count.to_bytes(8, "little")), 8))


@contextlib.asynccontextmanager
async def blocked(process: rsyscall.Process, count: int) -> AsyncGenerator[Blocked]:
    """So many calls are blocked inside, and return at the end."""
    eventfd = await process.task.sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            reads = Blocked(process, eventfd, nursery)
            try:
                await reads.start(count)
                yield reads
            finally:
                with trio.CancelScope(shield=True):
                    await reads.release(count - reads.returned)
    await process.task.sysif.syscall(SYS.close, eventfd)


async def test_others_go_on(process: rsyscall.Process) -> None:
    sysif = process.task.sysif
    await sysif.syscall(SYS.getpid)  # a child closes what it does not want before it answers
    before = {fd.name for fd in Path(f"/proc/{int(process.pid)}/fd").iterdir()}
    async with blocked(process, 200) as reads:
        assert len(tasks(process)) > 200
        for _ in range(10_000):
            assert await sysif.syscall(SYS.getpid) == int(process.pid)
        assert reads.returned == 0
    assert reads.returned == 200
    assert {fd.name for fd in Path(f"/proc/{int(process.pid)}/fd").iterdir()} == before
    # Helpers leave when they have had nothing to do for a while.
    for task in tasks(process):
        if task.name != str(int(process.pid)):
            await left(task)


async def test_one_watches_while_nothing_blocks(process: rsyscall.Process) -> None:
    for _ in range(3000):
        await process.task.sysif.syscall(SYS.poll, 0, 0, 0)
    assert len(tasks(process)) < 20  # two, unless the machine lets a call wait for long


async def test_as_many_as_there_may_be(process: rsyscall.Process) -> None:
    async with blocked(process, Size.HELPERS) as reads:
        await reads.release(1)
    assert reads.returned == Size.HELPERS


async def test_requests_of_all_kinds_beside_a_blocked_call(process: rsyscall.Process) -> None:
    async with blocked(process, 3):
        data = os.urandom(25 * 4096)
        mapping = await process.task.mmap(len(data), RW, MAP.PRIVATE | MAP.ANONYMOUS)
        await process.task.sysif.write_memory(mapping.near.address, data)
        assert await process.task.sysif.read_memory(mapping.near.address, len(data)) == data
        batch = Batch(0, (Step(SYS.getpid),) * 50)
        values = (await process.task.sysif.batch(batch)).values
        assert set(struct.unpack("50q", values)) == {int(process.pid)}
        ours, theirs = os.pipe()
        with os.fdopen(ours, "rb") as reader:
            with os.fdopen(theirs, "wb") as writer:
                fds = [writer.fileno()]
                sent = (FdArg(0), In(b"text"), 4)
                await process.task.sysif.call(SYS.write, sent, fds=fds)
            assert reader.read() == b"text"
        reply = await process.task.sysif.call(SYS.eventfd2, (7, 0), return_fd=True)
        assert reply.fd is not None
        assert os.read(reply.fd, 8) == (7).to_bytes(8, "little")
        os.close(reply.fd)
        await mapping.munmap()


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
    process: rsyscall.Process, name: str, args: Sequence[int | In]
) -> None:
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


async def test_death_with_blocked_calls(process: rsyscall.Process) -> None:
    failed: list[Exception] = []

    async def read(eventfd: int) -> None:
        try:
            await process.task.sysif.call(SYS.read, (eventfd, Out(8), 8))
        except rsyscall.SyscallHangup as exc:
            failed.append(exc)

    eventfd = await process.task.sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(read, eventfd)
            while len(tasks(process)) < 20:
                await process.task.sysif.syscall(SYS.getpid)
            os.kill(int(process.pid), signal.SIGKILL)
    assert len(failed) == 20
    assert {str(exc) for exc in failed} == {str(failed[0])}
    assert "SIGKILL" in str(failed[0])


async def test_what_only_reads_is_made_beside_a_blocked_call(process: rsyscall.Process) -> None:
    async with blocked(process, 2):
        cpus = await process.task.sysif.call(SYS.sched_getaffinity, (0, 128, Out(128)))
        assert cpus.outs[0][: cpus.value].strip(b"\0")


async def test_the_process_ends_beside_a_blocked_call(process: rsyscall.Process) -> None:
    ended = 0

    async def fail(number: SYS, *args: int | Ret) -> None:
        nonlocal ended
        with pytest.raises(rsyscall.SyscallHangup):
            await process.task.sysif.call(number, args)
        ended += 1

    eventfd = await process.task.sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, SYS.read, eventfd, Ret(8), 8)
            while not sleeping(process, SYS.read):
                await process.task.sysif.syscall(SYS.getpid)
            nursery.start_soon(fail, SYS.exit_group, 0)
    assert ended == 2


# ---- cancellation ----


async def test_all_are_cancelled(process: rsyscall.Process) -> None:
    sysif = process.task.sysif
    eventfd = await sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            reads = Blocked(process, eventfd, nursery)
            await reads.start(200)
            for _ in range(1000):
                await sysif.syscall(SYS.getpid)
            nursery.cancel_scope.cancel()
    assert reads.returned == 0
    # None of them is left to take this, and none is blocked.
    await reads.release(1)
    assert (await sysif.call(SYS.read, (eventfd, Ret(8), 8))).outs == ((1).to_bytes(8, "little"),)
    await sysif.syscall(SYS.setresuid, -1, -1, -1)
    assert len(tasks(process)) == 1


async def test_the_effect_is_what_is_told(process: rsyscall.Process) -> None:
    """A call that is cancelled at a random instant has happened, or has not."""
    sysif, moments = process.task.sysif, random.Random(6)
    eventfd = await sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    written = taken = cancelled = 0

    async def take(scope: trio.CancelScope) -> None:
        nonlocal taken, cancelled
        with scope:
            await sysif.call(SYS.read, (eventfd, Ret(8), 8))
            taken += 1
        cancelled += scope.cancelled_caught

    with trio.fail_after(SECONDS + INSTANTS / 100):
        for _ in range(INSTANTS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take, scope := trio.CancelScope())
                for _ in range(moments.randrange(3)):
                    await trio.lowlevel.checkpoint()
                if moments.random() < 0.3:
                    await sysif.call(SYS.write, (eventfd, In((1).to_bytes(8, "little")), 8))
                    written += 1
                for _ in range(moments.randrange(20)):
                    await sysif.syscall(SYS.getpid)
                scope.cancel()
    await sysif.syscall(SYS.fcntl, eventfd, F_SETFL, os.O_NONBLOCK)
    left = 0
    with contextlib.suppress(BlockingIOError):
        while await sysif.call(SYS.read, (eventfd, Ret(8), 8)):
            left += 1
    assert written == taken + left
    assert cancelled > INSTANTS / 10
    assert taken > INSTANTS / 10


async def test_a_part_that_was_written_counts(process: rsyscall.Process) -> None:
    """Of a write that is cancelled when the pipe is full, what is in it is told."""
    sysif = process.task.sysif
    _, writer = struct.unpack("ii", (await sysif.call(SYS.pipe2, (Out(8), 0))).outs[0])
    size = await sysif.syscall(SYS.fcntl, writer, F_GETPIPE_SZ)
    wrote: list[int] = []

    async def write() -> None:
        args = (writer, In(bytes(2 * size)), 2 * size)
        wrote.append((await sysif.call(SYS.write, args)).value)

    await cancelled_in(process, SYS.write, write)
    assert wrote == [size]


async def test_a_connect_that_goes_on(process: rsyscall.Process, tmp_path: Path) -> None:
    """EINTR is not the same as nothing there, and not told as such."""
    sysif = process.task.sysif
    path = str(tmp_path / "socket")
    address = struct.pack("H", socket.AF_UNIX) + os.fsencode(path) + b"\0"
    caught: list[Interrupted] = []
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)  # and there is no room for a second one
        fd = await sysif.syscall(SYS.socket, socket.AF_UNIX, socket.SOCK_STREAM, 0)

        async def connect() -> None:
            try:
                await sysif.call(SYS.connect, (fd, In(address), len(address)))
            except Interrupted as exc:
                caught.append(exc)

        await cancelled_in(process, SYS.connect, connect)
    assert [exc.effect for exc in caught] == ["continues"]


@pytest.mark.parametrize("undone", [True, False])
async def test_a_batch_is_cancelled_in_a_step(process: rsyscall.Process, undone: bool) -> None:
    sysif = process.task.sysif
    eventfd = await sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    before = await sysif.syscall(SYS.umask, 0o22)
    await sysif.syscall(SYS.umask, before)
    steps = (
        Step(SYS.umask, (0o77,), undo=(SYS.umask, (before,)) if undone else None),
        Step(SYS.read, flatten((eventfd, Ret(8), 8))),
        Step(SYS.umask, (0o707,)),
    )
    told: list[Batched] = []

    async def run() -> None:
        told.append(await sysif.batch(Batch(0, steps)))

    await cancelled_in(process, SYS.read, run)
    mask = await sysif.syscall(SYS.umask, before)
    if undone:  # as if it had never been sent
        assert not told
        assert mask == before
    else:
        assert mask == 0o77
        assert list(told[0].statuses) == [Status.DONE, Status.BLOCKED, Status.NOT_STARTED]
        assert told[0].stopped == 1


# ---- where there are no threads ----


async def stalls(process: rsyscall.Process) -> None:
    """A call that blocks holds up the others there."""
    sysif = process.task.sysif
    eventfd = await sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    order: list[str] = []

    async def read() -> None:
        poll = Struct(struct.pack("=ihh", eventfd, select.POLLIN, 0))
        await sysif.call(SYS.poll, (poll, 1, 200))
        order.append("poll")

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await sysif.syscall(SYS.getpid)
            order.append("getpid")
    assert order == ["poll", "getpid"]
    assert len(tasks(process)) == 1


async def test_after_unsharing_pids(process: rsyscall.Process) -> None:
    await process.unshare(CLONE.NEWPID)
    assert process.task.can_stall
    assert "PID namespace" in str(process.task.stall_reason)
    await stalls(process)


async def test_where_the_kernel_refuses(process: rsyscall.Process) -> None:
    """What only the server can know it says, before it matters to others."""
    await process.task.sysif.syscall(SYS.unshare, CLONE.NEWPID)  # by the back door
    assert not process.task.can_stall
    await stalls(process)
    assert process.task.can_stall
    assert os.strerror(errno.EINVAL) in str(process.task.stall_reason)


async def test_a_server_of_one_thread() -> None:
    async with open_pair() as process:
        assert "one call at a time" in str(process.task.stall_reason)


async def test_a_process_that_blocks_all_signals_is_interrupted(process: rsyscall.Process) -> None:
    sysif = process.task.sysif
    await sysif.call(SYS.rt_sigprocmask, (2, In(b"\xff" * 8), 0, 8))
    eventfd = await sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    for _ in range(2):

        async def read() -> None:
            await sysif.call(SYS.read, (eventfd, Ret(8), 8))

        await cancelled_in(process, SYS.read, read)

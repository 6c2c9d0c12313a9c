"""Calls that block hold up no others."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import struct
from pathlib import Path

import pytest
import trio
import trio.testing

import rsyscall
from conformance.ways import WAYS
from process.blocking import (
    EFD_SEMAPHORE,
    RW,
    SECONDS,
    blocked,
    left,
    sleeping,
    tasks,
)
from process.seen import TRUE
from rsyscall.sched import CLONE
from rsyscall.sys.mman import MAP
from rsyscall.sys.syscall import SYS
from rsyscall.tasks.pair import open_pair
from rsyscall_protocol import (
    Batch,
    FdArg,
    In,
    Out,
    Ret,
    Size,
    Step,
    Struct,
)

F_DUPFD_CLOEXEC = 1030


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


async def test_one_more_holds_up_the_others_until_one_returns(process: rsyscall.Process) -> None:
    sysif = process.task.sysif
    others = await sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    held: list[int] = []

    async def hold() -> None:
        await sysif.call(SYS.read, (others, Ret(8), 8))

    async def ask() -> None:
        held.append(await sysif.syscall(SYS.getpid))

    async with blocked(process, Size.HELPERS) as reads:
        dup = reads.eventfd, F_DUPFD_CLOEXEC, 0
        ours = (await sysif.call(SYS.fcntl, dup, return_fd=True)).fd
        assert ours is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            with trio.fail_after(SECONDS):
                while sleeping(process, SYS.read) <= Size.HELPERS:
                    await trio.lowlevel.checkpoint()
            for _ in range(3):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not held
            os.eventfd_write(ours, 1)
            with trio.fail_after(SECONDS):
                # The kernel wakes all of them, and all but one go on waiting.
                while (len(held), reads.returned) != (3, 1) or (
                    sleeping(process, SYS.read) != Size.HELPERS
                ):
                    await trio.lowlevel.checkpoint()
            await sysif.call(SYS.write, (others, In((1).to_bytes(8, "little")), 8))
        os.close(ours)


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


def size(process: rsyscall.Process) -> int:
    """Of all that it has mapped, in bytes."""
    status = Path(f"/proc/{int(process.pid)}/status").read_text()
    found = re.search(r"^VmSize:\s*(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


@pytest.mark.parametrize("way", ["direct", "child", "stub"])
@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize("end", ["killed", "exits", "execs"])
async def test_threads_leave_nothing_in_shared_memory(
    way: str, ring: bool, end: str, tmp_path: Path
) -> None:
    count = 20
    async with WAYS[way](tmp_path) as parent:
        async with await parent.clone(ring=ring) as child:
            await child.exit()  # and its memory is kept for the next one
            await child.pid.wait()
        before = size(parent)
        child = await parent.clone(ring=ring)
        eventfd = await child.task.sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)

        async def read() -> None:
            with contextlib.suppress(rsyscall.SyscallHangup):
                await child.task.sysif.call(SYS.read, (eventfd, Ret(8), 8))

        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(read)
                while sleeping(child, SYS.read) < count:
                    await child.task.sysif.syscall(SYS.getpid)
                assert size(parent) - before > (count - 1) * Size.HELPER_MEMORY
                if end == "killed":
                    await child.end()
                else:
                    nursery.cancel_scope.cancel()
            if end == "exits":
                await child.exit()
                await child.pid.wait()
            elif end == "execs":
                await child.exec(TRUE)
                await child.pid.check()
        assert size(parent) - before < Size.HELPER_MEMORY


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

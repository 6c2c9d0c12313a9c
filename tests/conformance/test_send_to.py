"""Descriptors that go from one process to another, by each road, and what is left on the way."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Generator

import pytest
import trio

import rsyscall
from conformance.seen import nothing_sent, open_flags, opened, twin
from rsyscall import local_process, near
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor, InvalidHandleError, Task
from rsyscall.handle.transfer import transfer
from rsyscall.near.sysif import SyscallHangup
from rsyscall.sys.mman import MAP, PROT
from rsyscall.sys.resource import RLIMIT, Rlimit
from rsyscall.sys.syscall import SYS
from rsyscall.unistd import SEEK


def numbers(process: rsyscall.Process) -> set[int]:
    directory = f"/proc/{int(process.task.near_process)}/fd"
    # Not the one that it is listed with, if it is ours.
    return {int(name) for name in os.listdir(directory) if os.path.lexists(f"{directory}/{name}")}


async def check(fd: FileDescriptor, process: rsyscall.Process) -> None:
    """Send it, and see that it is there, and nothing else."""
    await process.task.getpid()
    before = numbers(process)
    async with await fd.send_to(process) as there:
        assert there.task is process.task
        assert fd.valid
        assert os.readlink(opened(there)) == os.readlink(opened(fd))
        assert open_flags(opened(there)) & os.O_CLOEXEC
        assert there.file is fd.file
        assert await there.read(4) == b"send"
        assert numbers(process) - before in (set(), {int(there.near)})
    assert numbers(process) == before
    assert await fd.lseek(0, SEEK.SET) == 0


async def test_from_and_to_any_process(
    process: rsyscall.Process, stranger: rsyscall.Process
) -> None:
    for source, target in (
        (process, stranger),
        (stranger, process),
        (process, local_process),
        (local_process, process),
        (process, process),
    ):
        async with await source.task.memfd_create("sent") as fd:
            await fd.write(b"send")
            await fd.lseek(0, SEEK.SET)
            before = numbers(source), numbers(target), numbers(local_process)
            await check(fd, target)
            assert (numbers(source), numbers(target), numbers(local_process)) == before


async def test_a_task_does_as_well_and_a_closed_handle_does_not(
    process: rsyscall.Process, stranger: rsyscall.Process
) -> None:
    fd = await process.task.open("/dev/null", O.RDONLY)
    async with (
        await fd.send_to(stranger.task) as there,
        await fd.send_to(twin(process.task)) as same,
    ):
        assert await there.read(1) == b""
        assert same.near == fd.near
        await fd.invalidate()
    with (
        nothing_sent(process.task),
        nothing_sent(stranger.task),
        pytest.raises(InvalidHandleError),
    ):
        await fd.send_to(stranger)


async def test_a_copy_that_was_inherited_is_used(apart: rsyscall.Process) -> None:
    async with await apart.task.open("/dev/null", O.RDONLY) as fd, await apart.clone() as child:
        with nothing_sent(apart.task), nothing_sent(child.task):
            there = await fd.send_to(child)
        assert there.near == fd.near
        await there.close()
        async with await fd.send_to(child) as again:
            assert os.readlink(opened(again)) == "/dev/null"


@contextlib.contextmanager
def no_room_here() -> Generator[None]:
    """Have the interpreter be without a free number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = os.open("/dev/null", os.O_RDONLY)
    os.close(first)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_room_here_the_other_takes_it_by_itself(
    apart: rsyscall.Process, stranger: rsyscall.Process
) -> None:
    async with await apart.task.memfd_create("taken") as fd:
        before = numbers(stranger), numbers(apart)
        with no_room_here():
            there = await fd.send_to(stranger)
        assert os.readlink(opened(there)) == os.readlink(opened(fd))
        assert await there.is_same_file(fd)
        await there.close()
        assert (numbers(stranger), numbers(apart)) == before


async def test_without_room_there_it_is_an_error_and_the_connection_goes_on(
    apart: rsyscall.Process,
) -> None:
    task = apart.task
    async with await local_process.task.open("/dev/null", O.RDONLY) as fd:
        if task.fd_table is local_process.task.fd_table:
            return  # nothing is sent
        last = await task.open("/dev/null", O.RDONLY)
        for free in (0, 1):
            await task.setrlimit(RLIMIT.NOFILE, Rlimit(int(last.near) + 1 + free, 1000))
            before = numbers(apart)
            with pytest.raises(OSError, match="Too many open files") as caught:
                await fd.send_to(apart)
            assert caught.value.errno == errno.EMFILE
            assert any(note.startswith("and pidfd_getfd: ") for note in caught.value.__notes__)
            assert numbers(apart) == before
        await last.close()


async def test_a_cancellation_leaves_nothing(stranger: rsyscall.Process) -> None:
    async with rsyscall.open_process() as other:
        await other.task.getpid()
        fd = await stranger.task.memfd_create("kept")
        before = numbers(stranger), numbers(other), numbers(local_process)
        with trio.CancelScope() as scope:
            scope.cancel()
            await fd.send_to(other)
        assert scope.cancelled_caught
        for i in range(30):
            there: FileDescriptor | None = None
            with trio.move_on_after(0.00002 * i):
                there = await fd.send_to(other)
                await trio.sleep_forever()
            if there is not None:
                await there.close()
            assert (numbers(stranger), numbers(other), numbers(local_process)) == before
        await fd.close()


@pytest.mark.parametrize("local", [True, False])
async def test_what_has_its_number_meanwhile_is_not_sent(
    stranger: rsyscall.Process, local: bool
) -> None:
    async with rsyscall.open_process() as other:
        task = (local_process if local else other).task
        sent: list[FileDescriptor] = []

        async def send(fd: FileDescriptor) -> None:
            with contextlib.suppress(InvalidHandleError):
                sent.append(await fd.send_to(stranger))

        async def replace(fd: FileDescriptor) -> None:
            await fd.close()
            async with await task.memfd_create("other"):
                await trio.lowlevel.checkpoint()

        await stranger.task.getpid()
        before = numbers(stranger)
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                fd = await task.memfd_create("sent")
                nursery.start_soon(send, fd)
                nursery.start_soon(replace, fd)
            for there in sent:
                assert os.readlink(opened(there)) == "/memfd:sent (deleted)"
                await there.close()
            sent.clear()
            assert numbers(stranger) == before


async def test_what_is_closed_before_it_is_sent_is_not_there_to_be_sent(
    stranger: rsyscall.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = await local_process.task.memfd_create("closed")

    async def close_first(source: Task, number: int, target: Task) -> int:
        await fd.close()
        return await transfer(source, number, target)

    await stranger.task.getpid()
    before = numbers(stranger)
    monkeypatch.setattr("rsyscall.handle.fd.transfer", close_first)
    with pytest.raises(InvalidHandleError, match="while it was sent"):
        await fd.send_to(stranger)
    assert numbers(stranger) == before


@pytest.mark.parametrize("dead", ["source", "target"])
async def test_who_is_dead_is_named_and_nothing_is_left(dead: str) -> None:
    async with rsyscall.open_process() as source, rsyscall.open_process() as target:
        fd = await source.task.memfd_create("gone")
        before = numbers(local_process)
        os.kill(int({"source": source, "target": target}[dead].pid), signal.SIGKILL)
        with pytest.raises(SyscallHangup, match="SIGKILL"):
            await fd.send_to(target)
        assert numbers(local_process) <= before


async def test_what_is_one_open_file_can_be_told(
    process: rsyscall.Process, stranger: rsyscall.Process
) -> None:
    task = process.task
    async with (
        await task.memfd_create("one") as fd,
        await task.memfd_create("other") as other,
        await fd.dup() as copy,
        await fd.send_to(stranger) as there,
    ):
        with nothing_sent(task):
            assert await fd.is_same_file(copy)
            assert await there.is_same_file(fd)
        assert not await fd.is_same_file(other)
        assert not await there.is_same_file(other)

        # What others have made: the kernel knows.
        raw = await task.sysif.syscall(SYS.fcntl, fd.near, 1030, 0)
        async with task.make_fd_handle(near.FileDescriptor(raw)) as same:
            assert not same.file.same_as(fd.file)
            assert await same.is_same_file(fd)
            assert same.file.same_as(fd.file)
            assert same.file.same_as(copy.file)
        raw = await stranger.task.sysif.syscall(SYS.fcntl, there.near, 1030, 0)
        async with stranger.task.make_fd_handle(near.FileDescriptor(raw)) as same:
            assert await same.is_same_file(fd)
            assert not await same.is_same_file(other)

        # A mapping knows what it is of.
        await fd.ftruncate(4096)
        mappings = [await one.mmap(4096, PROT.READ, MAP.SHARED) for one in (fd, copy, there)]
        for mapping in mappings:
            assert mapping.file.same_as(fd.file)
            assert not mapping.file.same_as(other.file)
            await mapping.munmap()

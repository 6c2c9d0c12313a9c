"""Handles of file descriptors: closing, sharing, and whose they are."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

import rsyscall
from conformance.seen import nothing_sent, opened, recording, twin
from rsyscall.far import FDTableMismatchError
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor, InvalidHandleError, SharedHandleError, Task
from rsyscall.sys.mman import MAP, PROT
from rsyscall.sys.stat import Stat
from rsyscall.unistd import SEEK


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    return path


async def test_close_closes_the_descriptor_and_nothing_else(task: Task, file: Path) -> None:
    async with await task.open(file, O.RDONLY) as other:
        fd = await task.open(file, O.RDONLY)
        assert fd.valid
        with recording(task) as recorder:
            await fd.close()
        assert recorder.sent == [("close", (fd.near, 0, 0, 0, 0, 0))]
        assert not fd.valid
        assert not opened(fd).is_symlink()
        assert await other.read(10) == b"0123456789"


async def test_a_block_closes_what_is_still_open_when_it_is_left(task: Task, file: Path) -> None:
    async with await task.open(file, O.RDONLY) as fd:
        await fd.close()
    with pytest.raises(KeyError):
        async with await task.open(file, O.RDONLY) as fd:
            raise KeyError
    assert not fd.valid
    assert not opened(fd).is_symlink()


async def test_an_error_that_is_over_keeps_no_handle_alive(
    process: rsyscall.Process, task: Task
) -> None:
    async def fails(handle: FileDescriptor) -> None:
        await handle.listen(1)

    async def fails_in_a_batch(handle: FileDescriptor) -> None:
        async with process.batch() as b:
            b.listen(handle, 1)

    async def one_of_many_fails(handle: FileDescriptor) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(handle.getpeername)

    async def is_another_one(handle: FileDescriptor) -> None:
        await handle.close()

    gc.collect()
    gc.disable()
    try:
        async with await task.memfd_create("file") as fd:
            for use in (fails, fails_in_a_batch, one_of_many_fails, is_another_one):
                other = fd.for_task(task)
                with pytest.raises((OSError, ExceptionGroup, SharedHandleError)):
                    await use(other)
                del other
                assert fd.is_only_handle(), use
    finally:
        gc.enable()


async def test_a_block_closes_even_when_cancelled(task: Task, file: Path) -> None:
    fd = await task.open(file, O.RDONLY)
    with trio.CancelScope() as scope:
        async with fd:
            scope.cancel()
            await fd.read(1)
    assert scope.cancelled_caught
    assert not fd.valid
    assert not opened(fd).is_symlink()


async def test_a_cancelled_close_leaves_the_descriptor_open(task: Task, file: Path) -> None:
    async with await task.open(file, O.RDONLY) as fd:
        with trio.CancelScope() as scope, nothing_sent(task):
            scope.cancel()
            await fd.close()
        assert scope.cancelled_caught
        assert fd.valid
        assert await fd.read(1) == b"0"


Use = Callable[[FileDescriptor], Awaitable[object]]
USES: list[Use] = [
    lambda fd: fd.read(1),
    lambda fd: fd.read(0),
    lambda fd: fd.read(-1),
    lambda fd: fd.pread(1, 0),
    lambda fd: fd.write(b"x"),
    lambda fd: fd.write(b""),
    lambda fd: fd.pwrite(b"x", 0),
    lambda fd: fd.lseek(0, SEEK.SET),
    lambda fd: fd.ftruncate(0),
    lambda fd: fd.ftruncate(-1),
    lambda fd: fd.fstat(),
    lambda fd: fd.openat("x", O.RDONLY),
    lambda fd: fd.mmap(4096, PROT.READ, MAP.SHARED),
    lambda fd: fd.close(),
    lambda fd: fd.invalidate(),
]


async def test_nothing_can_be_done_with_a_closed_handle_even_if_its_number_is_used_again(
    task: Task, file: Path
) -> None:
    fd = await task.open(file, O.RDWR)
    await fd.close()
    async with await task.open(file, O.RDWR) as again:
        assert again.near == fd.near  # the kernel takes the lowest that is free
        with nothing_sent(task):
            for use in USES:
                with pytest.raises(InvalidHandleError, match=f"{fd.near}, not valid"):
                    await use(fd)
            for refuse in (fd.is_only_handle, lambda: fd.for_task(task), lambda: fd.move(task)):
                with pytest.raises(InvalidHandleError, match=str(fd.near)):
                    refuse()
            with pytest.raises(InvalidHandleError, match=str(fd.near)), fd.borrow(task):
                pytest.fail("it was lent")
    assert file.read_bytes() == b"0123456789"


async def test_memory_is_not_consumed_by_a_closed_handle(task: Task, file: Path) -> None:
    fd = await task.open(file, O.RDWR)
    await fd.close()
    buf, statbuf = await task.ptr(b"kept"), await task.malloc(Stat)
    with nothing_sent(task):
        calls: list[Awaitable[object]] = [
            fd.read(buf),
            fd.write(buf),
            fd.pread(buf, 0),
            fd.pwrite(buf, 0),
            fd.fstat(statbuf),
        ]
        for call in calls:
            with pytest.raises(InvalidHandleError):
                await call
    assert await buf.read() == b"kept"
    assert statbuf.valid


async def test_a_descriptor_with_several_handles_is_closed_with_the_last_one(
    task: Task, file: Path
) -> None:
    one = await task.open(file, O.RDONLY)
    other = one.for_task(twin(task))
    assert other.near == one.near
    assert not one.is_only_handle()
    with nothing_sent(task):
        with pytest.raises(SharedHandleError, match=str(one.near)):
            await one.close()
        assert not await one.invalidate()
    assert not one.valid
    assert other.is_only_handle()
    assert await other.read(3) == b"012"
    assert await other.invalidate()
    assert not opened(one).is_symlink()


async def test_move_gives_up_the_handle_that_was_moved(task: Task, file: Path) -> None:
    fd = await task.open(file, O.RDONLY)
    async with fd.move(twin(task)) as moved:
        assert not fd.valid
        assert moved.is_only_handle()
        assert await moved.read(3) == b"012"


async def test_a_descriptor_of_another_table_is_refused_and_both_are_named(
    task: Task, file: Path, stranger: rsyscall.Process
) -> None:
    async with await task.open(file, O.RDONLY) as fd:
        refusals: list[Callable[[], object]] = [
            lambda: fd.for_task(stranger.task),
            lambda: fd.move(stranger.task),
        ]
        for refuse in refusals:
            with pytest.raises(FDTableMismatchError) as caught:
                refuse()
            for name in (fd, task.fd_table, stranger.task, stranger.task.fd_table):
                assert str(name) in str(caught.value)
        with pytest.raises(FDTableMismatchError), fd.borrow(stranger.task):
            pytest.fail("it was lent")
        with fd.borrow(twin(task)) as number:
            assert number == fd.near
        assert fd.valid
        assert fd.is_only_handle()


async def test_the_handles_of_a_table_are_those_that_are_valid(task: Task, file: Path) -> None:
    fd = await task.open(file, O.RDONLY)
    assert fd in task.fd_handles
    await fd.close()
    assert fd not in task.fd_handles


async def test_a_handle_is_shown_with_its_task_and_number(task: Task, file: Path) -> None:
    fd = await task.open(file, O.RDONLY)
    assert str(fd) == repr(fd) == f"FileDescriptor({task}, {fd.near})"
    await fd.close()
    assert str(fd) == f"FileDescriptor({task}, {fd.near}, not valid)"


async def test_the_standard_descriptors_are_0_1_and_2(process: rsyscall.Process) -> None:
    handles = [process.stdin, process.stdout, process.stderr]
    assert [int(fd.near) for fd in handles] == [0, 1, 2]
    assert all(fd.task is process.task for fd in handles)

"""Handles in batches: what is closed, made, refused; and batches that are not sent at all."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import rsyscall
from conformance.kernel import is_open, permissions
from rsyscall import far
from rsyscall.batch import BatchError, BoundBatch
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor, InvalidHandleError, SharedHandleError, Task
from rsyscall.near.typed import TypedCall
from rsyscall.sys.mman import MAP, PROT, MemoryInUseError, MemoryMapping, UseAfterUnmapError
from rsyscall.sys.syscall import SYS
from rsyscall.unistd import SEEK
from rsyscall_protocol import Status

PAGE = 4096
RW = PROT.READ | PROT.WRITE


async def test_a_handle_that_is_closed(process: rsyscall.Process) -> None:
    fd = await process.task.memfd_create("given")
    async with process.batch() as b:
        b.close(fd)
        assert fd.valid  # nothing has happened yet
    assert not fd.valid
    assert fd not in process.task.fd_handles
    assert not is_open(process, fd)
    with pytest.raises(InvalidHandleError):
        await fd.fstat()


async def test_handles_that_are_made(process: rsyscall.Process) -> None:
    async with process.batch() as b:
        kept, closed = b.memfd_create("kept"), b.memfd_create("closed")
        b.close(closed)
    assert kept.value in process.task.fd_handles
    assert isinstance(kept.value, FileDescriptor)
    assert kept.value is kept.value
    assert not closed.value.valid
    assert [int(fd.near) for fd in process.task.fd_handles].count(int(kept.value.near)) == 1
    assert not is_open(process, closed.value)
    with pytest.raises(InvalidHandleError):
        await closed.value.read(1)
    await kept.value.close()


async def test_a_failed_batch_leaves_handles_of_what_it_made(process: rsyscall.Process) -> None:
    batch = process.batch()
    kept, closed = batch.memfd_create("kept"), batch.memfd_create("closed")
    mapped = batch.mmap(PAGE, RW, MAP.PRIVATE)
    batch.close(closed)
    batch.syscall(SYS.lseek, -1, 0, 0)
    never = batch.memfd_create("never")
    with pytest.raises(OSError, match="Bad file descriptor"):
        await batch.run()
    # They exist even if nobody asks the steps.
    number = int(batch.result.values[0])
    assert number in [int(fd.near) for fd in process.task.fd_handles]
    assert await kept.value.write(b"works") == 5
    assert not closed.value.valid
    await mapped.value.write(0, b"works")
    with pytest.raises(BatchError):
        _ = never.value
    await kept.value.close()
    await mapped.value.munmap()


async def test_a_close_that_is_not_reached(process: rsyscall.Process) -> None:
    fd = await process.task.memfd_create("given")
    mapping = await process.task.mmap(PAGE, RW, MAP.PRIVATE)
    batch = process.batch()
    batch.syscall(SYS.lseek, -1, 0, 0)
    closing, unmapping = batch.close(fd), batch.munmap(mapping)
    with pytest.raises(OSError, match="Bad file descriptor"):
        await batch.run()
    assert closing.status == unmapping.status == Status.NOT_STARTED
    assert fd.valid
    assert is_open(process, fd)
    await fd.write(b"still there")
    await mapping.write(0, b"still there")
    await fd.close()
    await mapping.munmap()


@pytest.mark.parametrize("undo", [(SYS.getpid,), (SYS.close, -1)])
async def test_a_close_that_was_made_stays_one(
    process: rsyscall.Process, undo: tuple[SYS | int, ...]
) -> None:
    """Whatever became of its undo, and whatever was to count as its success."""
    fd, other = [await process.task.memfd_create("given") for _ in range(2)]
    mapping = await process.task.mmap(PAGE, RW, MAP.PRIVATE)
    batch = process.batch()
    batch.close(fd, undo=undo)
    batch.munmap(mapping, undo=undo)
    batch.close(other, ok=5)
    with pytest.raises(OSError, match="returned 0, not 5"):
        await batch.run()
    assert not fd.valid
    assert not other.valid
    with pytest.raises(UseAfterUnmapError):
        await mapping.read(0, 1)


async def test_mappings_that_are_unmapped(process: rsyscall.Process) -> None:
    mapping = await process.task.mmap(PAGE, RW, MAP.PRIVATE)
    copy = mapping.for_task(process.task)
    async with process.batch() as b:
        made, kept = b.mmap(PAGE, RW, MAP.PRIVATE), b.mmap(PAGE, RW, MAP.PRIVATE)
        b.munmap(made)
        b.munmap(mapping)
    for gone in (mapping, copy, made.value):
        with pytest.raises(UseAfterUnmapError):
            await gone.read(0, 1)
    assert isinstance(kept.value, MemoryMapping)
    assert permissions(process, kept.value.near.address)[:2] == "rw"
    await kept.value.munmap()


async def test_what_a_step_closes_no_later_step_uses(process: rsyscall.Process) -> None:
    """By then the number may be another file's."""
    fd = await process.task.memfd_create("given")
    mapping = await process.task.mmap(PAGE, RW, MAP.PRIVATE)
    batch = process.batch()
    made, mapped = batch.memfd_create("made"), batch.mmap(PAGE, RW, MAP.PRIVATE)
    for what in (fd, made):
        batch.close(what)
        for use in (batch.close, batch.fstat):
            with pytest.raises(InvalidHandleError, match="an earlier step closes it"):
                use(what)
    for where in (mapping, mapped):
        batch.munmap(where)
        with pytest.raises(UseAfterUnmapError, match="an earlier step unmaps it"):
            batch.mprotect(where, PROT.READ)
    await batch.run()
    assert not fd.valid


async def test_a_step_that_is_no_mapping(process: rsyscall.Process) -> None:
    batch = process.batch()
    step: Any = batch.memfd_create("no mapping")
    with pytest.raises(ValueError, match="no mmap of this batch"):
        batch.munmap(step)
    step = process.batch().mmap(PAGE, RW, MAP.PRIVATE)
    with pytest.raises(ValueError, match="no mmap of this batch"):
        batch.munmap(step)


# ---- refused before anything is sent ----


class Witness:
    """A file that the first step of a batch would cut."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(b"untouched")

    async def batch(self, process: rsyscall.Process) -> BoundBatch:
        batch = process.batch()
        fd = batch.open(self.path, O.WRONLY | O.TRUNC)
        batch.close(fd)
        return batch

    def check(self) -> None:
        assert self.path.read_bytes() == b"untouched"


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(tmp_path / "witness")


async def test_the_witness_is_one(process: rsyscall.Process, witness: Witness) -> None:
    await (await witness.batch(process)).run()
    with pytest.raises(AssertionError):
        witness.check()


async def test_a_handle_of_another_table(
    process: rsyscall.Process, stranger: rsyscall.Process, witness: Witness
) -> None:
    fd = await stranger.task.memfd_create("far away")
    for use in (BoundBatch.fstat, BoundBatch.close):
        batch = await witness.batch(process)
        use(batch, fd)
        with pytest.raises(far.FDTableMismatchError):
            await batch.run()
        assert fd.valid
    witness.check()
    await fd.close()


async def test_a_mapping_of_another_address_space(
    process: rsyscall.Process, stranger: rsyscall.Process, witness: Witness
) -> None:
    mapping = await stranger.task.mmap(PAGE, RW, MAP.PRIVATE)
    for use in (BoundBatch.munmap, BoundBatch.msync):
        batch = await witness.batch(process)
        use(batch, mapping)
        with pytest.raises(far.AddressSpaceMismatchError):
            await batch.run()
    witness.check()
    await mapping.munmap()


async def test_closed_handles(process: rsyscall.Process, witness: Witness) -> None:
    """Closed before the step is added, or after that and before the batch is sent."""
    fd = await process.task.memfd_create("closed")
    mapping = await process.task.mmap(PAGE, RW, MAP.PRIVATE)
    reading, touching = await witness.batch(process), await witness.batch(process)
    reading.read(fd, 1)
    touching.msync(mapping)
    await fd.close()
    await mapping.munmap()
    with pytest.raises(InvalidHandleError):
        await reading.run()
    with pytest.raises(UseAfterUnmapError):
        await touching.run()
    with pytest.raises(InvalidHandleError):
        process.batch().read(fd, 1)
    with pytest.raises(UseAfterUnmapError):
        process.batch().munmap(mapping)
    witness.check()


async def test_a_handle_with_siblings_is_not_closed(
    process: rsyscall.Process, witness: Witness
) -> None:
    fd = await process.task.memfd_create("shared")
    sibling = fd.for_task(process.task)
    batch = await witness.batch(process)
    batch.close(fd)
    with pytest.raises(SharedHandleError):
        await batch.run()
    witness.check()
    assert fd.valid
    assert await sibling.invalidate() is False
    await fd.close()


BAD: dict[str, tuple[Callable[[BoundBatch], object], str]] = {
    "path": (lambda b: b.open("nul\0", O.RDONLY), "path"),
    "name": (lambda b: b.memfd_create("nul\0"), "name"),
    "count": (lambda b: b.read(b.memfd_create("a"), -1), "count"),
    "offset": (lambda b: b.mmap(PAGE, RW, MAP.PRIVATE, offset=1), "offset"),
    "length": (lambda b: b.mmap(1, RW, MAP.PRIVATE), "length"),
    "negative": (lambda b: b.ftruncate(b.memfd_create("a"), -1), "length"),
}


@pytest.mark.parametrize("bad", BAD)
async def test_bad_arguments(process: rsyscall.Process, witness: Witness, bad: str) -> None:
    add, name = BAD[bad]
    batch = await witness.batch(process)
    with pytest.raises(ValueError, match=name):
        add(batch)
    witness.check()


async def test_an_exception_in_the_block(process: rsyscall.Process, witness: Witness) -> None:
    fd = await process.task.memfd_create("given")
    batch = await witness.batch(process)

    async def block() -> None:
        async with batch:
            batch.close(fd)
            raise LookupError("in the block")

    with pytest.raises(LookupError, match="in the block"):
        await block()
    witness.check()
    assert fd.valid
    await fd.close()


async def test_cancelled_before_it_is_sent(process: rsyscall.Process, witness: Witness) -> None:
    fd = await process.task.memfd_create("given")
    mapping = await process.task.mmap(PAGE, RW, MAP.PRIVATE)
    with trio.CancelScope() as scope:
        scope.cancel()
        async with await witness.batch(process) as batch:
            batch.close(fd)
            batch.munmap(mapping)
    assert scope.cancelled_caught
    witness.check()
    assert fd.valid
    await fd.write(b"still there")
    await mapping.write(0, b"still there")
    await fd.close()
    await mapping.munmap()


# ---- the process dies ----


@pytest.mark.parametrize("ring", [True, False])
async def test_killed_before_and_during(ring: bool) -> None:
    async with rsyscall.open_process(ring=ring) as process:
        fd = await process.task.memfd_create("given")
        batch = process.batch()
        batch.close(fd)
        batch.syscall(SYS.kill, int(process.pid), int(signal.SIGKILL))
        last = batch.getpid()
        with pytest.raises(rsyscall.SyscallHangup, match="killed by SIGKILL") as caught:
            await batch.run()
        assert not isinstance(caught.value, rsyscall.SyscallSendError)
        assert not fd.valid  # it may have been closed
        with pytest.raises(BatchError, match="has not run"):
            _ = last.value

        batch = process.batch()
        batch.getpid()
        with pytest.raises(rsyscall.SyscallSendError):
            await batch.run()


@pytest.mark.parametrize("ring", [True, False])
async def test_killed_with_many_batches_under_way(ring: bool) -> None:
    async with rsyscall.open_process(ring=ring) as process:
        ends: list[BaseException] = []

        async def wait(task: Task) -> None:
            batch = process.batch()
            batch.syscall(SYS.pause)
            with pytest.raises(rsyscall.SyscallHangup) as caught:
                await batch.run()
            ends.append(caught.value)

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(wait, process.task)
                await trio.testing.wait_all_tasks_blocked()
                os.kill(int(process.pid), signal.SIGKILL)
        assert len(ends) == 5


async def test_a_batch_is_run_once_by_its_block(process: rsyscall.Process) -> None:
    fd = await process.task.memfd_create("counted")
    async with process.batch() as b:
        b.write(fd, b"once")
        await b.run()
    assert await fd.lseek(0, SEEK.CUR) == 4
    await fd.close()


async def test_a_conversion_that_fails_loses_no_other_handle(process: rsyscall.Process) -> None:
    def convert(_task: object, _value: int, _outs: tuple[bytes, ...]) -> None:
        raise ZeroDivisionError("of a conversion")

    fd = await process.task.open("/", O.PATH)
    b = process.batch()
    b.add(TypedCall(SYS.getpid, (), convert, handle=True))
    opened = b.open("/", O.PATH)
    b.open("/no/such/file", O.RDONLY)
    b.close(fd)
    with pytest.raises(ZeroDivisionError):
        await b.run()
    assert is_open(process, fd)
    assert is_open(process, opened.value)
    await opened.value.close()
    await fd.close()


async def test_what_is_viewed_when_the_batch_is_sent_stays(inside: rsyscall.Process) -> None:
    mapping = await inside.task.mmap(4096, PROT.READ | PROT.WRITE, MAP.PRIVATE)
    b = inside.batch()
    b.mprotect(mapping, PROT.NONE)
    view = mapping.view()
    with pytest.raises(MemoryInUseError, match="there are views"):
        await b.run()
    assert view[0] == 0
    view.release()
    await mapping.munmap()

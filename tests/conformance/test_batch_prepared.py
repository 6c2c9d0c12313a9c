"""Batches that a process keeps: parameters, running again and again, forgetting."""

from __future__ import annotations

import errno
import os
import signal
import struct
from array import array
from pathlib import Path
from typing import Any

import pytest
import trio

import rsyscall
from conformance.kernel import is_open
from rsyscall import Batch, far
from rsyscall.batch import BatchError
from rsyscall.fcntl import O
from rsyscall.handle import InvalidHandleError, SharedHandleError
from rsyscall.near.sysif import In, InOut, Out, Struct
from rsyscall.sys.mman import MAP, PROT
from rsyscall.sys.syscall import SYS
from rsyscall.unistd import SEEK
from rsyscall_protocol import Limits, Status


async def test_a_number(process: rsyscall.Process, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    batch = Batch()
    fd = batch.open(tmp_path / "file", O.RDONLY, undo=(SYS.close, rsyscall.RESULT))
    part = batch.pread(fd, 3, batch.parameter("offset"))
    batch.close(fd)
    async with await process.prepare(batch) as prepared:
        for offset in range(10):
            result = await prepared.run(offset=offset)
            assert result[part] == part.value == b"0123456789"[offset : offset + 3]
        for number in (2**64, -(2**63) - 1):
            with pytest.raises(ValueError, match="64 bits"):
                await prepared.run(offset=number)
        assert (await prepared.run(offset=True))[part] == b"123"
        with pytest.raises(OSError, match="Invalid argument"):
            await prepared.run(offset=-1)


@pytest.mark.parametrize("kind", [str, Path])
async def test_a_path(process: rsyscall.Process, tmp_path: Path, kind: type[str | Path]) -> None:
    batch = Batch()
    fd = batch.open(batch.parameter("path"), O.RDWR | O.CREAT)
    content, stat = batch.read(fd, 100), batch.fstat(fd)
    batch.close(fd)
    async with await process.prepare(batch) as prepared:
        for name in ("a", "a longer name", "ä"):
            (tmp_path / name).write_bytes(name.encode())
            result = await prepared.run(path=kind(tmp_path / name))
            assert result[content] == name.encode()
            assert result[stat].ino == (tmp_path / name).stat().st_ino
        with pytest.raises(ValueError, match="path"):
            await prepared.run(path="nul\0")


async def test_data_and_its_length(process: rsyscall.Process) -> None:
    file = await process.task.memfd_create("data")
    batch = Batch()
    data = batch.parameter("data")
    written = batch.pwrite(file, data, batch.parameter("offset"))
    batch.ftruncate(file, data.length)
    assert data.length is data.length
    async with await process.prepare(batch) as prepared:
        for content in (b"some", b"", b"much more" * 1000):
            result = await prepared.run(offset=0, data=content)
            assert result[written] == len(content)
            assert await file.pread(100_000, 0) == content
        with pytest.raises(TypeError, match="length"):
            await prepared.run(offset=0, data=5)
        with pytest.raises(ValueError, match=r"cannot be sent|bytes"):
            await prepared.run(offset=0, data=bytes(Limits().frame))
        assert (await prepared.run(offset=0, data=b"fine"))[written] == 4
    await file.close()


async def test_a_handle(process: rsyscall.Process, stranger: rsyscall.Process) -> None:
    batch = Batch()
    written = batch.write(batch.parameter("fd"), b"data")
    files = [await process.task.memfd_create(name) for name in ("one", "two")]
    async with await process.prepare(batch) as prepared:
        for file in files:
            assert (await prepared.run(fd=file))[written] == 4
            assert await file.pread(100, 0) == b"data"
            assert (await prepared.run(fd=int(file.near)))[written] == 4
        await files[0].close()
        with pytest.raises(InvalidHandleError):
            await prepared.run(fd=files[0])
        foreign = await stranger.task.memfd_create("foreign")
        with pytest.raises(far.FDTableMismatchError):
            await prepared.run(fd=foreign)
        assert await files[1].pread(100, 0) == b"data" * 2
    await files[1].close()


async def test_a_handle_that_is_closed(process: rsyscall.Process) -> None:
    batch = Batch()
    fd = batch.parameter("fd")
    batch.syscall(SYS.lseek, batch.parameter("check"), 0, int(SEEK.CUR))
    closing = batch.close(fd)
    with pytest.raises(InvalidHandleError):
        batch.fstat(fd)
    async with await process.prepare(batch) as prepared:
        file, other = [await process.task.memfd_create(name) for name in ("file", "other")]
        with pytest.raises(OSError, match="Bad file descriptor"):
            await prepared.run(fd=file, check=-1)
        assert closing.status == Status.NOT_STARTED
        assert file.valid
        with pytest.raises(SharedHandleError):
            await prepared.run(fd=file, check=file)
        sibling = file.for_task(process.task)
        with pytest.raises(SharedHandleError):
            await prepared.run(fd=file, check=other)
        await sibling.invalidate()
        with trio.CancelScope() as scope:
            scope.cancel()
            await prepared.run(fd=file, check=other)
        assert scope.cancelled_caught
        assert file.valid
        await prepared.run(fd=file, check=other)
        assert not file.valid
        assert not is_open(process, file)
        await prepared.run(fd=int(other.near), check=other)  # a number is the caller's affair
        other.forget()


async def test_arguments_that_do_not_match(process: rsyscall.Process) -> None:
    batch = Batch()
    batch.lseek(batch.parameter("fd"), batch.parameter("offset"), SEEK.SET)
    async with await process.prepare(batch) as prepared:
        wrong: list[dict[str, Any]] = [
            {},
            {"fd": 1},
            {"fd": 1, "offset": 0, "more": 1},
            {"fd": 1, "of": 0},
        ]
        for arguments in wrong:
            with pytest.raises(TypeError, match="the parameters are fd, offset"):
                await prepared.run(**arguments)
        number: Any = 1.5
        with pytest.raises(TypeError, match="fd"):
            await prepared.run(fd=number, offset=0)
    async with await process.prepare(Batch()) as prepared:
        with pytest.raises(TypeError, match="unknown"):
            await prepared.run(unknown=1)
        assert len((await prepared.run()).values) == 0


def test_names_of_parameters() -> None:
    batch = Batch()
    batch.parameter("name")
    for name in ("name", "array"):
        with pytest.raises(ValueError, match=name):
            batch.parameter(name)


async def test_a_parameter_may_have_any_other_name(process: rsyscall.Process) -> None:
    batch = Batch()
    step = batch.lseek(batch.memfd_create("file"), batch.parameter("self"), SEEK.SET)
    batch.close(batch.steps[0])
    async with await process.prepare(batch) as prepared:
        assert (await prepared.run(self=7))[step] == 7


async def test_the_results_as_an_array(process: rsyscall.Process) -> None:
    batch = Batch()
    pid = batch.getpid()
    failing = batch.syscall(SYS.lseek, batch.parameter("fd"), 7, 0, on_error="continue")
    async with await process.prepare(batch) as prepared, await process.task.memfd_create("f") as fd:
        bad = await prepared.run(array=True, fd=-1)
        assert bad == array("q", [int(process.pid), -errno.EBADF])
        assert failing.result == -errno.EBADF
        good = await prepared.run(array=True, fd=fd)
        assert good == array("q", [int(process.pid), 7])
        # The steps and the result are those of this run too.
        assert (pid.value, failing.value) == (process.task.near_process, 7)
        assert prepared.result is not None
        assert prepared.result.values == good


async def test_a_failing_run_and_a_good_one(process: rsyscall.Process, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    batch = Batch()
    spare = batch.memfd_create("spare", undo=(SYS.close, rsyscall.RESULT))
    fd = batch.open(batch.parameter("path"), O.RDONLY)
    content = batch.read(fd, 100)
    for made in (fd, spare):
        batch.close(made)
    async with await process.prepare(batch) as prepared:
        assert prepared.result is None
        for _ in range(3):
            with pytest.raises(FileNotFoundError) as caught:
                await prepared.run(path=tmp_path / "missing")
            assert caught.value.__notes__ == [
                "in step 1 of a batch: openat(dirfd=AT_FDCWD, pathname=<parameter path>, "
                f"flags={hex(O.RDONLY | O.CLOEXEC)}, mode=0o644)"
            ]
            assert prepared.result is not None
            assert prepared.result.status(spare) == Status.UNDONE
            assert not is_open(process, spare.result)
            with pytest.raises(BatchError, match="not started"):
                _ = content.value
            assert (await prepared.run(path=tmp_path / "file"))[content] == b"content"
            assert not is_open(process, fd.result)
            assert not fd.value.valid


async def test_steps_that_make_handles(process: rsyscall.Process) -> None:
    """Of each run others, which stay."""
    batch = Batch()
    made = batch.memfd_create(batch.parameter("name"))
    mapped = batch.mmap(4096, PROT.READ, MAP.PRIVATE)
    async with await process.prepare(batch) as prepared:
        results = [await prepared.run(name=name) for name in ("one", "two")]
        await prepared.run(name="three", array=True)
        handles = [*[result[made] for result in results], made.value]
        assert len({int(fd.near) for fd in handles}) == 3
        for fd, name in zip(handles, ("one", "two", "three"), strict=True):
            link = os.readlink(f"/proc/{int(process.pid)}/fd/{int(fd.near)}")
            assert link == f"/memfd:{name} (deleted)"
            await fd.close()
        for mapping in (*[result[mapped] for result in results], mapped.value):
            await mapping.munmap()


async def test_structs_are_fresh_at_each_run(process: rsyscall.Process) -> None:
    """Addresses and outputs are written into what the server has kept, or into a copy of it."""
    batch = Batch()
    pipe = batch.syscall(SYS.pipe2, Out(8), int(O.CLOEXEC))
    batch.write(pipe.int_at(4), batch.parameter("data"))
    buffer = InOut(bytes(8))
    vector = Struct(struct.pack("QQ", 0, 8), ((0, buffer),), ((8, 8),))
    read = batch.syscall(SYS.readv, pipe.int_at(0), vector, 1)
    sent = batch.syscall(
        SYS.writev, pipe.int_at(4), Struct(struct.pack("QQ", 0, 3), ((0, In(b"abc")),)), 1
    )
    for end in (0, 4):
        batch.close(pipe.int_at(end))
    async with await process.prepare(batch) as prepared:
        for data in (b"12345678", b"xy", b"---"):
            result = await prepared.run(data=data)
            length, filled = result.outs(read)
            assert struct.unpack("Q", length) == (8,)
            assert filled == data.ljust(8, b"\0")
            assert (result[read], result[sent]) == (len(data), 3)


async def test_several_at_once(process: rsyscall.Process) -> None:
    file = await process.task.memfd_create("file")
    prepared: list[rsyscall.PreparedBatch] = []
    for i in range(5):
        batch = Batch()
        batch.lseek(file, i, SEEK.SET)
        batch.lseek(file, batch.parameter("more"), SEEK.CUR)
        prepared.append(await process.prepare(batch))
    await prepared[2].unprepare()
    for i in (4, 0, 3, 1):
        assert list(await prepared[i].run(array=True, more=10)) == [i, i + 10]
    again = await process.prepare(prepared[2].batch)
    results: list[list[int]] = []

    async def run(which: rsyscall.PreparedBatch, more: int) -> None:
        for _ in range(10):
            results.append(list(await which.run(array=True, more=more)))

    async with trio.open_nursery() as nursery:
        for i, which in enumerate([prepared[0], prepared[1], again]):
            nursery.start_soon(run, which, 100 * i)
    assert sorted(results) == sorted([[i, i + 100 * i] for i in range(3)] * 10)
    for which in (*prepared, again):
        await which.unprepare()
    await file.close()


async def test_forgotten(process: rsyscall.Process) -> None:
    batch = Batch()
    batch.getpid()
    async with await process.prepare(batch) as prepared:
        await prepared.run()
    with pytest.raises(BatchError, match="forgotten"):
        await prepared.run()
    await prepared.unprepare()
    assert await process.task.getpid() == process.task.near_process


async def test_forgetting_waits_for_the_runs(process: rsyscall.Process) -> None:
    """A server that is asked for what it does not know hangs up."""
    batch = Batch()
    batch.getpid()
    done: list[int] = []

    async def run(prepared: rsyscall.PreparedBatch) -> None:
        done.extend(await prepared.run(array=True))

    for _ in range(5):
        prepared = await process.prepare(batch)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(run, prepared)
            await trio.lowlevel.checkpoint()
            nursery.start_soon(prepared.unprepare)
            nursery.start_soon(prepared.unprepare)
    assert done == [int(process.pid)] * 25


async def test_forgetting_that_is_cancelled(process: rsyscall.Process) -> None:
    batch = Batch()
    batch.getpid()
    prepared = await process.prepare(batch)
    with trio.CancelScope() as scope:
        scope.cancel()
        await prepared.unprepare()
    assert scope.cancelled_caught
    assert list(await prepared.run(array=True)) == [int(process.pid)]
    with trio.CancelScope() as scope:
        async with prepared:
            scope.cancel()
    with pytest.raises(BatchError, match="forgotten"):
        await prepared.run()


async def test_as_many_as_there_may_be(process: rsyscall.Process) -> None:
    batch = Batch()
    batch.getpid()
    kept = [await process.prepare(batch) for _ in range(Limits().programs)]
    with pytest.raises(OSError, match="Cannot allocate memory") as caught:
        await process.prepare(batch)
    assert caught.value.errno == errno.ENOMEM
    assert caught.value.__notes__ == ["while preparing a batch"]
    await kept.pop().unprepare()
    kept.append(await process.prepare(batch))
    for prepared in kept:
        assert list(await prepared.run(array=True)) == [int(process.pid)]
        await prepared.unprepare()


async def test_what_is_added_later_is_not_run(process: rsyscall.Process) -> None:
    batch = Batch()
    data = batch.parameter("data")
    batch.syscall(SYS.write, batch.memfd_create("file"), data, 1)
    batch.close(batch.steps[0])
    async with await process.prepare(batch) as prepared:
        later = batch.getpid()
        assert data.length.name == "data.length"
        batch.parameter("later")
        result = await prepared.run(data=b"x")
        assert result.values[1] == 1
        with pytest.raises(BatchError, match="added after"):
            _ = later.value


async def test_handles_in_a_batch_without_a_process(
    process: rsyscall.Process, stranger: rsyscall.Process
) -> None:
    file, other = [await process.task.memfd_create(name) for name in ("file", "other")]
    foreign = await stranger.task.memfd_create("foreign")
    batch = Batch()
    batch.fstat(foreign)
    with pytest.raises(far.FDTableMismatchError):
        await process.prepare(batch)

    batch = Batch()
    batch.close(file)
    with pytest.raises(ValueError, match="again and again"):
        await process.prepare(batch)
    assert file.valid

    batch = Batch()
    written = batch.write(file, b"data")
    batch.fstat(other)
    async with await process.prepare(batch) as prepared:
        assert (await prepared.run())[written] == 4
        await other.close()
        with pytest.raises(InvalidHandleError):
            await prepared.run()
        assert await file.pread(100, 0) == b"data"
    with pytest.raises(InvalidHandleError):
        await process.prepare(batch)
    await file.close()
    await foreign.close()


async def test_cancelled_before_it_is_sent(process: rsyscall.Process) -> None:
    file = await process.task.memfd_create("file")
    batch = Batch()
    batch.write(file, b"data")
    with trio.CancelScope() as scope:
        scope.cancel()
        await process.prepare(batch)
    assert scope.cancelled_caught
    async with await process.prepare(batch) as prepared:
        with trio.CancelScope() as scope:
            scope.cancel()
            await prepared.run()
        assert scope.cancelled_caught
        assert await file.pread(100, 0) == b""
    await file.close()


async def test_a_brief_one(process: rsyscall.Process) -> None:
    batch = Batch(brief=True)
    first = batch.getpid()
    last = batch.syscall(SYS.lseek, batch.parameter("fd"), 3, 0)
    async with await process.prepare(batch) as prepared, await process.task.memfd_create("f") as fd:
        assert list(await prepared.run(array=True, fd=fd)) == [3]
        assert (first.status, last.value) == (Status.DONE, 3)
        with pytest.raises(OSError, match="Bad file descriptor"):
            await prepared.run(fd=-1)
        assert (first.status, last.status) == (Status.DONE, Status.FAILED)


@pytest.mark.parametrize("ring", [True, False])
async def test_the_process_dies(ring: bool) -> None:
    batch = Batch()
    batch.syscall(SYS.kill, batch.parameter("pid"), int(signal.SIGKILL))
    async with rsyscall.open_process(ring=ring) as process:
        async with await process.prepare(batch) as prepared:
            with pytest.raises(rsyscall.SyscallHangup):
                await prepared.run(pid=int(process.pid))
            with pytest.raises(rsyscall.SyscallSendError):
                await prepared.run(pid=int(process.pid))
        with pytest.raises(BatchError, match="forgotten"):
            await prepared.run(pid=int(process.pid))

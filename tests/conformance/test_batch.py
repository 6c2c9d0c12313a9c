"""Typed steps, against what the standard library says; what may stand for an argument."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest
import trio

import rsyscall
from conformance.kernel import contents, is_open, limits, permissions
from rsyscall.batch import BatchError
from rsyscall.fcntl import O
from rsyscall.linux.memfd import MFD
from rsyscall.near.sysif import In, InOut, Out, Ret, Struct, SyscallArgument
from rsyscall.sys.mman import MAP, MS, PROT, UseAfterUnmapError
from rsyscall.sys.stat import S_IF
from rsyscall.sys.syscall import SYS
from rsyscall.unistd import MAX_IO, SEEK
from rsyscall_protocol import Status

PAGE = 4096


async def test_credentials_are_those_of_the_calls(process: rsyscall.Process) -> None:
    async with process.batch() as b:
        pid, ppid, uid, gid = b.getpid(), b.getppid(), b.getuid(), b.getgid()

    assert pid.value == process.task.near_process
    assert ppid.value == await process.task.getppid()
    assert (uid.value, gid.value) == (os.getuid(), os.getgid())


async def test_file_calls(process: rsyscall.Process, tmp_path: Path) -> None:
    directory = await process.task.open(str(tmp_path), O.RDONLY | O.DIRECTORY)
    async with directory, process.batch() as b:
        fd = b.open(tmp_path / "file", O.RDWR | O.CREAT | O.EXCL, 0o640)
        written = b.write(fd, b"hello, world")
        moved = b.lseek(fd, 7, SEEK.SET)
        rest = b.read(fd, 100)
        end = b.read(fd, 100)
        at = b.pwrite(fd, b"there", 7)
        part = b.pread(fd, 5, 7)
        cut = b.ftruncate(fd, 10)
        stat = b.fstat(fd)
        again = b.openat(directory, "file", O.RDONLY)
        name = b.openat(directory, os.fspath(tmp_path / "file"), O.RDONLY)
        read = b.read(again, MAX_IO)
        none = b.close(again)
        b.close(name)

    oracle = os.stat(tmp_path / "file")
    assert (written.value, moved.value, rest.value, end.value) == (12, 7, b"world", b"")
    assert (at.value, part.value, read.value) == (5, b"there", b"hello, the")
    assert (cut.value, none.value) == (None, None)
    assert (stat.value.ino, stat.value.dev, stat.value.size) == (oracle.st_ino, oracle.st_dev, 10)
    assert int(stat.value.mode) == oracle.st_mode
    assert stat.value.mode.type == S_IF.REG
    assert (tmp_path / "file").read_bytes() == b"hello, the"
    assert fd.value.task is process.task
    assert await fd.value.pread(5, 0) == b"hello"
    await fd.value.close()


async def test_memfd_create(process: rsyscall.Process) -> None:
    async with process.batch() as b:
        plain = b.memfd_create("plain")
        sealed = b.memfd_create("sealed", MFD.ALLOW_SEALING)

    for fd, name in ((plain.value, "plain"), (sealed.value, "sealed")):
        link = os.readlink(f"/proc/{int(process.pid)}/fd/{int(fd.near)}")
        assert link == f"/memfd:{name} (deleted)"
        await fd.close()


async def test_memory_calls(process: rsyscall.Process) -> None:
    async with process.batch() as b:
        fd = b.memfd_create("shared")
        b.ftruncate(fd, 2 * PAGE)
        b.pwrite(fd, b"second page", PAGE)
        shared = b.mmap(PAGE, PROT.READ | PROT.WRITE, MAP.SHARED, fd=fd, offset=PAGE)
        anonymous = b.mmap(2 * PAGE, PROT.READ | PROT.WRITE, MAP.PRIVATE)
        synced = b.msync(shared, MS.SYNC)
        protected = b.mprotect(shared, PROT.READ)
        gone = b.mmap(PAGE, PROT.READ, MAP.PRIVATE)
        unmapped = b.munmap(gone)
        b.close(fd)

    assert (synced.value, protected.value, unmapped.value) == (None, None, None)
    assert await shared.value.read(0, 11) == b"second page"
    assert permissions(process, shared.value.near.address) == "r--s"
    assert permissions(process, anonymous.value.near.address)[:2] == "rw"
    assert anonymous.value.near.length == 2 * PAGE
    with pytest.raises(UseAfterUnmapError):
        await gone.value.read(0, 1)

    async with process.batch() as b:
        b.mprotect(anonymous.value, PROT.NONE)
        b.munmap(shared.value)
    assert permissions(process, anonymous.value.near.address)[:3] == "---"
    with pytest.raises(UseAfterUnmapError):
        await shared.value.read(0, 1)
    await anonymous.value.munmap()


async def test_an_output_is_an_argument(process: rsyscall.Process) -> None:
    async with process.batch() as b:
        pipe = b.syscall(SYS.pipe2, Out(8), int(O.CLOEXEC))
        b.write(pipe.int_at(4), b"through the pipe")
        got = b.read(pipe.int_at(0), 100)
        b.close(pipe.int_at(4))
        end = b.read(pipe.int_at(0), 100)
        b.close(pipe.int_at(0))

    assert (got.value, end.value) == (b"through the pipe", b"")
    ends = struct.unpack("ii", pipe.outs[0])
    assert not any(is_open(process, end) for end in ends)


async def test_a_number_is_an_argument(process: rsyscall.Process, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    async with process.batch() as b:
        fd = b.open(tmp_path / "file", O.RDWR)
        six = b.lseek(fd, 6, SEEK.SET)
        part = b.pread(fd, 10, six)
        b.ftruncate(fd, six)
        b.pwrite(fd, b"!", six)
        b.close(fd)

    assert part.value == b"6789"
    assert (tmp_path / "file").read_bytes() == b"012345!"


@pytest.mark.parametrize("encoder", ["core", "python"])
async def test_data_arguments(process: rsyscall.Process, tmp_path: Path, encoder: str) -> None:
    """Both encoders, with the same results; the compiled one leaves a predicate to the other."""
    ok = () if encoder == "python" else None
    poll = struct.pack("ihh", -1, 1, 0)
    async with process.batch() as b:
        b.syscall(SYS.getpid, ok=ok)
        path = In(os.fsencode(tmp_path) + b"\0")
        fd = b.syscall(SYS.openat, -100, path, os.O_RDONLY | os.O_DIRECTORY)
        link = b.syscall(SYS.readlinkat, -100, In(b"/proc/self/cwd\0"), Ret(4096), 4096)
        polled = b.syscall(SYS.poll, InOut(poll), 1, 0)
        limit = b.syscall(SYS.prlimit64, 0, 7, 0, Out(16))
        b.syscall(SYS.close, fd)

    assert [str(n) for n in struct.unpack("QQ", limit.outs[0])] == limits(process, "Max open files")
    assert link.outs == (os.fsencode(os.readlink(f"/proc/{int(process.pid)}/cwd")),)
    assert link.value == link.result == len(link.outs[0])
    assert (polled.value, polled.outs) == (0, (poll,))
    assert path.data.endswith(b"\0")


async def test_a_struct_points_at_data(process: rsyscall.Process) -> None:
    async with process.batch() as b:
        fd = b.memfd_create("vector")
        parts = [In(b"one "), In(b"after "), In(b"another")]
        lengths = [len(part.data) for part in parts]
        vector = struct.pack("QQQQQQ", *[n for length in lengths for n in (0, length)])
        pointers = tuple((16 * i, part) for i, part in enumerate(parts))
        written = b.syscall(SYS.writev, fd, Struct(vector, pointers), 3)
        content = b.pread(fd, 100, 0)
        b.close(fd)

    assert written.value == sum(lengths)
    assert content.value == b"one after another"


async def test_a_large_batch(process: rsyscall.Process) -> None:
    """Larger than the memory it goes through, both ways."""
    block = os.urandom(60_000)
    async with process.batch() as b:
        fd = b.memfd_create("large")
        for i in range(8):
            b.pwrite(fd, block, i * len(block))
        reads = [b.pread(fd, len(block), i * len(block)) for i in range(8)]
        b.close(fd)

    assert all(read.value == block for read in reads)


async def test_as_many_steps_as_there_may_be(process: rsyscall.Process) -> None:
    async with process.batch() as b:
        steps = [b.getpid() for _ in range(1024)]
    assert {step.value for step in steps} == {process.task.near_process}
    assert list(b.result.values) == [int(process.pid)] * 1024


@pytest.mark.parametrize("ok", [None, ()])
async def test_one_step_too_many(process: rsyscall.Process, ok: tuple[int, ...] | None) -> None:
    batch = process.batch()
    first = batch.memfd_create("never made", ok=ok)
    for _ in range(1024):
        batch.getpid()
    with pytest.raises(ValueError, match=r"steps|refused"):
        await batch.run()
    with pytest.raises(BatchError, match="has not run"):
        _ = first.value
    assert await process.task.getpid() == process.task.near_process


@pytest.mark.parametrize("ok", [None, ()])
async def test_replies_that_would_be_too_large(
    process: rsyscall.Process, tmp_path: Path, ok: tuple[int, ...] | None
) -> None:
    (tmp_path / "file").write_bytes(b"untouched")
    async with await process.task.open(tmp_path / "file", O.RDWR) as fd:
        batch = process.batch()
        batch.ftruncate(fd, 0, ok=ok)
        for _ in range(2):
            batch.pread(fd, MAX_IO, 0)
        with pytest.raises(ValueError, match="bytes"):
            await batch.run()
    assert (tmp_path / "file").read_bytes() == b"untouched"


async def test_an_empty_batch(process: rsyscall.Process) -> None:
    async with process.batch() as b:
        pass
    assert len(b.result.values) == b.result.started == b.result.stopped == 0
    async with process.batch(brief=True) as b:
        pass
    assert len(b.result.values) == 0


async def test_a_brief_batch(process: rsyscall.Process) -> None:
    async with process.batch(brief=True) as b:
        fd = b.memfd_create("brief")
        written = b.write(fd, b"12345")
        content = b.pread(fd, 10, 0)
        b.close(fd)
        last = b.getpid()

    assert last.value == process.task.near_process
    assert content.outs == (b"12345",)
    assert [step.status for step in b.steps] == [Status.DONE] * 5
    with pytest.raises(BatchError, match="only the last result"):
        _ = written.value

    b = process.batch(brief=True)
    one, made = b.getpid(), b.memfd_create("brief", undo=(SYS.close, rsyscall.RESULT))
    known = b.lseek(made, -1, SEEK.SET, ok={errno.EINVAL})
    b.syscall(SYS.close, -1)
    two = b.getpid()
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        await b.run()
    assert caught.value.errno == errno.EBADF
    statuses = [step.status for step in (one, made, known, two)]
    assert statuses == [Status.DONE, Status.UNDONE, Status.DONE, Status.NOT_STARTED]


async def test_from_many_tasks_at_once(process: rsyscall.Process, tmp_path: Path) -> None:
    results: dict[int, bytes] = {}

    async def batches(number: int) -> None:
        for turn in range(5):
            data = f"{number} {turn} ".encode() * (1 + 50 * number)
            async with process.batch() as b:
                fd = b.open(tmp_path / str(number), O.RDWR | O.CREAT | O.TRUNC)
                b.write(fd, data)
                content = b.pread(fd, len(data) + 1, 0)
                b.close(fd)
            assert content.value == data
            assert await process.task.getpid() == process.task.near_process
            results[number] = data

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(batches, number)
    assert contents(tmp_path) == {str(number): data for number, data in results.items()}


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ((1, 2, 3, 4, 5, 6, 7), "at most six arguments"),
        ((2**64,), "does not fit into 64 bits"),
        ((-(2**63) - 1,), "does not fit into 64 bits"),
        ((rsyscall.RESULT,), "RESULT is for an undo"),
    ],
)
async def test_arguments_that_cannot_be_sent(
    process: rsyscall.Process, args: tuple[SyscallArgument, ...], problem: str
) -> None:
    batch = process.batch()
    batch.syscall(SYS.getpid, *args)
    with pytest.raises(ValueError, match=problem):
        await batch.run()


async def test_only_earlier_steps_of_the_same_batch_are_arguments(
    process: rsyscall.Process,
) -> None:
    other = process.batch()
    foreign = other.memfd_create("foreign")
    for use in (foreign, foreign.int_at(0), other.parameter("p")):
        batch = process.batch()
        batch.close(use)
        with pytest.raises(ValueError, match=r"no earlier step|another batch"):
            await batch.run()

    batch = process.batch()
    later = [batch.getpid() for _ in range(2)][1]
    batch.steps[0].args = (later,)
    with pytest.raises(ValueError, match="no earlier step"):
        await batch.run()

    async with process.batch() as b:
        one = b.getpid()
    with pytest.raises(BatchError, match="another batch"):
        _ = other.result if other is b else b.result[foreign]
    added = b.getpid()
    with pytest.raises(BatchError, match="added after"):
        _ = added.value
    assert one.value == process.task.near_process


async def test_parameters_are_for_prepared_batches(process: rsyscall.Process) -> None:
    batch = process.batch()
    batch.close(batch.parameter("fd"))
    with pytest.raises(ValueError, match="parameters are for batches to be prepared"):
        await batch.run()

"""Reading, writing and seeking, against the standard library."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from conformance.seen import NO_FD, error_here, nothing_sent, opened
from rsyscall import near
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor, Task
from rsyscall.near.sysif import SyscallArgument
from rsyscall.sys.mman import MAP, PROT
from rsyscall.sys.syscall import SYS
from rsyscall.unistd import MAX_IO, SEEK

LARGE = os.urandom(MAX_IO + 4096)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    return path


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


async def test_read_goes_through_the_file_to_its_end(task: Task, file: Path) -> None:
    async with await task.open(file, O.RDONLY) as fd:
        assert await fd.read(4) == b"0123"
        assert await fd.read(0) == b""
        assert await fd.read(100) == b"456789"
        assert await fd.read(100) == b""
        assert await fd.lseek(0, SEEK.CUR) == 10


@pytest.mark.parametrize("count", [4095, MAX_IO - 1, MAX_IO, MAX_IO + 1, 2**62])
async def test_read_returns_as_much_as_asked_for_but_never_more_than_max_io(
    task: Task, file: Path, count: int
) -> None:
    file.write_bytes(LARGE)
    async with await task.open(file, O.RDONLY) as fd:
        expected = min(count, MAX_IO)
        assert await fd.read(count) == LARGE[:expected]
        assert await fd.lseek(0, SEEK.CUR) == expected
        assert await fd.pread(count, 4096) == LARGE[4096 : 4096 + expected]


@pytest.mark.parametrize("size", [0, 1, 4096, MAX_IO - 1, MAX_IO, MAX_IO + 1])
async def test_write_writes_all_up_to_max_io_and_says_how_much(
    task: Task, file: Path, size: int
) -> None:
    expected = min(size, MAX_IO)
    async with await task.open(file, O.WRONLY | O.TRUNC) as fd:
        assert await fd.write(LARGE[:size]) == expected
        assert file.read_bytes() == LARGE[:expected]
        assert await fd.pwrite(LARGE[:size], 1) == expected
        assert await fd.lseek(0, SEEK.CUR) == expected
    assert file.read_bytes() == (LARGE[:1] + LARGE[:expected] if size else b"")


async def test_write_appends_to_what_was_opened_for_that(task: Task, file: Path) -> None:
    async with await task.open(file, O.WRONLY | O.APPEND) as fd:
        await fd.write(b"ab")
        assert file.read_bytes() == b"0123456789ab"


async def test_pread_reads_what_os_pread_does_and_leaves_the_offset(task: Task, file: Path) -> None:
    async with await task.open(file, O.RDONLY) as fd:
        for offset in (0, 3, 9, 10, 11, 2**40):
            await fd.lseek(7, SEEK.SET)
            with file.open("rb") as here:
                assert await fd.pread(4, offset) == os.pread(here.fileno(), 4, offset)
            assert await fd.lseek(0, SEEK.CUR) == 7


@pytest.mark.parametrize("offset", [0, 3, 10, 5000, 2**33])
async def test_pwrite_writes_what_os_pwrite_does_and_leaves_the_offset(
    task: Task, file: Path, offset: int
) -> None:
    here = file.with_name("here")
    here.write_bytes(file.read_bytes())
    with here.open("r+b") as local:
        os.pwrite(local.fileno(), b"ab", offset)
    async with await task.open(file, O.RDWR) as fd:
        await fd.lseek(7, SEEK.SET)
        assert await fd.pwrite(b"ab", offset) == 2
        assert await fd.lseek(0, SEEK.CUR) == 7
    assert file.stat().st_size == here.stat().st_size
    with file.open("rb") as there, here.open("rb") as local:
        assert there.read(8192) == local.read(8192)
        assert os.pread(there.fileno(), 4, offset) == os.pread(local.fileno(), 4, offset)


async def test_negative_counts_are_refused_before_they_are_sent(task: Task, file: Path) -> None:
    async with await task.open(file, O.RDONLY) as fd:
        with nothing_sent(task):
            with pytest.raises(ValueError, match="count: -1 is negative"):
                await fd.read(-1)
            with pytest.raises(ValueError, match="count: -2 is negative"):
                await fd.pread(-2, 0)


SEEKS: list[tuple[int, SEEK]] = [
    (5, SEEK.SET),
    (0, SEEK.SET),
    (2**40, SEEK.SET),
    (3, SEEK.CUR),
    (-2, SEEK.CUR),
    (0, SEEK.END),
    (-10, SEEK.END),
    (7, SEEK.END),
    (0, SEEK.DATA),
    (0, SEEK.HOLE),
    (9, SEEK.HOLE),
]


async def test_lseek_moves_as_os_lseek_does(task: Task, file: Path) -> None:
    async with await task.open(file, O.RDONLY) as fd:
        for offset, whence in SEEKS:
            await fd.lseek(4, SEEK.SET)
            with file.open("rb") as here:
                os.lseek(here.fileno(), 4, os.SEEK_SET)
                expected = os.lseek(here.fileno(), offset, whence)
            assert await fd.lseek(offset, whence) == expected
            assert await fd.lseek(0, SEEK.CUR) == expected


@pytest.mark.parametrize(
    ("offset", "whence", "number"),
    [
        (-1, SEEK.SET, errno.EINVAL),
        (-11, SEEK.END, errno.EINVAL),
        (10, SEEK.DATA, errno.ENXIO),
        (10, SEEK.HOLE, errno.ENXIO),
    ],
)
async def test_lseek_fails_as_os_lseek_does_and_stays(
    task: Task, file: Path, offset: int, whence: SEEK, number: int
) -> None:
    async with await task.open(file, O.RDONLY) as fd:
        await fd.lseek(4, SEEK.SET)
        with file.open("rb") as here:
            expected = error_here(lambda: os.lseek(here.fileno(), offset, whence))
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            await fd.lseek(offset, whence)
        assert caught.value.errno == expected.errno == number
        assert caught.value.__notes__[0].startswith(f"in lseek(fd={int(fd.near)}, offset={offset},")
        assert await fd.lseek(0, SEEK.CUR) == 4


async def test_read_into_memory_returns_what_was_filled_and_the_rest(
    task: Task, file: Path
) -> None:
    async with await task.open(file, O.RDONLY) as fd:
        filled, rest = await fd.read(await task.malloc(bytes, 16))
        assert (filled.size(), rest.size()) == (10, 6)
        assert await filled.read() == b"0123456789"
        assert int(rest.near) == int(filled.near) + 10
        nothing, everything = await fd.read(rest)  # the end of the file
        assert (nothing.size(), everything.size()) == (0, 6)
        filled, rest = await fd.pread(filled, 8)
        assert (await filled.read(), rest.size()) == (b"89", 8)


async def test_write_from_memory_returns_what_was_written_and_the_rest(
    task: Task, file: Path
) -> None:
    async with await task.open(file, O.RDWR | O.TRUNC) as fd:
        written, rest = await fd.write(await task.ptr(b"abc"))
        assert (written.size(), rest.size()) == (3, 0)
        assert await written.read() == b"abc"
        written, rest = await fd.pwrite(written, 1)
        assert (written.size(), rest.size()) == (3, 0)
        written, rest = await fd.write(rest)  # of no size at all
        assert (written.size(), rest.size()) == (0, 0)
    assert file.read_bytes() == b"aabc"


async def test_memory_is_read_and_written_in_one_call_beyond_max_io(task: Task, file: Path) -> None:
    async with await task.open(file, O.RDWR | O.TRUNC) as fd:
        written, rest = await fd.write(await task.ptr(LARGE))
        assert (written.size(), rest.size()) == (len(LARGE), 0)
        assert file.read_bytes() == LARGE
        filled, rest = await fd.pread(written, 4096)
        assert rest.size() == 4096
        assert await filled.read() == LARGE[4096:]


async def test_a_pipe_gives_what_it_has_and_takes_what_it_can(task: Task, fifo: Path) -> None:
    async with await task.open(fifo, O.RDWR | O.NONBLOCK) as fd:
        with pytest.raises(BlockingIOError) as caught:
            await fd.read(1)
        assert caught.value.__notes__[0].startswith(f"in read(fd={int(fd.near)},")
        assert await fd.write(b"0123") == 4
        assert await fd.read(100) == b"0123"
        here = os.open(fifo, O.RDWR | O.NONBLOCK)
        try:
            room = await fd.write(LARGE)  # until it is full
            assert 0 < room < MAX_IO
            assert b"".join(iter(lambda: drain(here), b"")) == LARGE[:room]
            assert os.write(here, LARGE) == room
        finally:
            os.close(here)
        with pytest.raises(BlockingIOError):
            await fd.write(b"more")


def drain(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return b""


async def test_a_pipe_has_no_offset(task: Task, fifo: Path) -> None:
    async with await task.open(fifo, O.RDWR | O.NONBLOCK) as fd:
        calls: list[Awaitable[object]] = [
            fd.pread(1, 0),
            fd.pwrite(b"x", 0),
            fd.lseek(0, SEEK.CUR),
        ]
        for call in calls:
            with pytest.raises(OSError, match=os.strerror(errno.ESPIPE)) as caught:
                await call
            assert caught.value.errno == errno.ESPIPE


async def test_a_file_opened_one_way_cannot_be_used_the_other(task: Task, file: Path) -> None:
    async with await task.open(file, O.RDONLY) as fd:
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
            await fd.write(b"x")
        assert caught.value.__notes__ == [f"in write(fd={int(fd.near)}, buf=<1 bytes>, count=1)"]
    async with await task.open(file, O.WRONLY) as fd:
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
            await fd.read(5)
        where = f"fd={int(fd.near)}, buf=<room for 5 bytes>, count=5"
        assert caught.value.__notes__ == [f"in read({where})"]
    assert file.read_bytes() == b"0123456789"


async def test_a_directory_cannot_be_read(task: Task, tmp_path: Path) -> None:
    async with await task.open(tmp_path, O.RDONLY) as fd:
        with pytest.raises(IsADirectoryError):
            await fd.read(1)


async def test_a_negative_offset_is_refused_by_the_kernel(task: Task, file: Path) -> None:
    async with await task.open(file, O.RDWR) as fd:
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:
            await fd.pread(1, -1)
        assert "offset=-1" in caught.value.__notes__[0]
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:
            await fd.pwrite(b"x", -1)
        assert "offset=-1" in caught.value.__notes__[0]


async def test_a_full_device_is_enospc(task: Task) -> None:
    async with await task.open("/dev/full", O.WRONLY) as fd:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
            await fd.write(b"x")
        assert caught.value.errno == errno.ENOSPC


Use = Callable[[FileDescriptor], Awaitable[object]]
USES: dict[str, Use] = {
    "read": lambda fd: fd.read(1),
    "pread64": lambda fd: fd.pread(1, 0),
    "write": lambda fd: fd.write(b"x"),
    "pwrite64": lambda fd: fd.pwrite(b"x", 0),
    "lseek": lambda fd: fd.lseek(0, SEEK.CUR),
    "ftruncate": lambda fd: fd.ftruncate(0),
    "fstat": lambda fd: fd.fstat(),
    "mmap": lambda fd: fd.mmap(4096, PROT.READ, MAP.SHARED),
}


async def test_a_number_that_is_not_open_is_ebadf_and_named(task: Task) -> None:
    for call, use in USES.items():
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
            await use(task.make_fd_handle(NO_FD))
        assert caught.value.errno == errno.EBADF
        (note,) = caught.value.__notes__
        assert note.startswith(f"in {call}(")
        assert f"fd={int(NO_FD)}" in note


BAD_ADDRESSES = [0, 4096, 2**47, 2**63, 2**64 - 4096]


async def test_a_bad_address_is_efault_and_the_process_lives_on(task: Task, file: Path) -> None:
    for address in BAD_ADDRESSES:
        bad = near.Address(address)
        async with await task.open(file, O.RDWR) as fd:
            calls: dict[SYS, tuple[SyscallArgument, ...]] = {
                SYS.read: (fd.near, bad, 4),
                SYS.pread64: (fd.near, bad, 4, 0),
                SYS.write: (fd.near, bad, 4),
                SYS.pwrite64: (fd.near, bad, 4, 0),
                SYS.fstat: (fd.near, bad),
                SYS.openat: (-100, bad, O.RDONLY),
                SYS.memfd_create: (bad, 0),
            }
            for number, args in calls.items():
                with pytest.raises(OSError, match=os.strerror(errno.EFAULT)) as caught:
                    await task.sysif.syscall(number, *args)
                assert caught.value.errno == errno.EFAULT
                assert caught.value.__notes__[0].startswith(f"in {number.name}(")
                assert hex(address) in caught.value.__notes__[0]
            assert await task.getpid() == task.near_process
            assert opened(fd).read_bytes() == b"0123456789"


async def test_memory_that_is_not_there_is_efault_and_named(task: Task) -> None:
    for address in BAD_ADDRESSES:
        with pytest.raises(OSError, match=os.strerror(errno.EFAULT)) as caught:
            await task.sysif.read_memory(address, 16)
        assert caught.value.__notes__ == [f"in memory {address:#x}-{address + 16:x}"]
        with pytest.raises(OSError, match=os.strerror(errno.EFAULT)) as caught:
            await task.sysif.write_memory(near.Address(address), b"x")
        assert caught.value.__notes__ == [f"in memory {address:#x}-{address + 1:x}"]
        assert await task.getpid() == task.near_process

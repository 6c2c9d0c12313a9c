"""The contract of rsyscall.near.sysif: how a call ends, whichever process makes it."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, Sequence

import pytest
import trio
import trio.testing

from conformance.pipes import pipe_to
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor, Task
from rsyscall.near.sysif import In, Out, Ret, SyscallArgument
from rsyscall.sys.mman import MAP, PROT
from rsyscall.sys.syscall import SYS
from rsyscall.unistd.io import MAX_IO

MANY = 2000
HUGE = 5 * 1024 * 1024 + 1  # more than fits into one frame, and no multiple of anything


@pytest.fixture
async def file(task: Task) -> AsyncGenerator[FileDescriptor]:
    async with await task.memfd_create("contract") as fd:
        yield fd


async def test_a_call_returns_its_result_and_what_it_wrote(
    task: Task, file: FileDescriptor
) -> None:
    assert await task.sysif.syscall(SYS.write, file.near, In(b"0123456789"), 10) == 10
    reply = await task.sysif.call(SYS.pread64, (file.near, Ret(20), 20, 7))
    assert (reply.value, reply.outs, reply.fd) == (3, (b"789",), None)


@pytest.mark.parametrize(
    ("number", "args", "code", "note"),
    [
        (
            SYS.openat,
            (-100, In(b"/no/such/file\0"), 0, 0),
            errno.ENOENT,
            "in openat(dirfd=AT_FDCWD, pathname='/no/such/file', flags=0x0, mode=0o0)",
        ),
        (SYS.read, (-1, Out(5), 5), errno.EBADF, "in read(fd=-1, buf=<room for 5 bytes>, count=5)"),
        (
            SYS.mkdirat,
            (-100, In(b"/proc/1/new\0"), 0o700),
            errno.ENOENT,
            "in mkdirat(dirfd=AT_FDCWD, pathname='/proc/1/new', mode=0o700)",
        ),
        (100_000, (1, 2), errno.ENOSYS, "in syscall_100000(arg1=0x1, arg2=0x2)"),
    ],
    ids=["path", "descriptor", "mode", "unknown number"],
)
async def test_a_refused_call_is_an_oserror_with_the_decoded_call_as_its_only_note(
    task: Task, number: int, args: Sequence[SyscallArgument], code: int, note: str
) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its errno follows
        await task.sysif.call(number, args)
    assert (caught.value.errno, caught.value.strerror) == (code, os.strerror(code))
    assert caught.value.__notes__ == [note]
    assert type(caught.value) is type(OSError(code, ""))


async def test_an_oserror_of_one_call_does_not_harm_the_next(task: Task) -> None:
    with pytest.raises(FileNotFoundError):
        await task.open("/no/such/file", O.RDONLY)
    assert await task.getpid() == task.near_pid


async def test_a_bad_address_is_an_oserror_with_the_range_as_a_note(task: Task) -> None:
    for access in task.sysif.read_memory(16, 4), task.sysif.write_memory(16, b"1234"):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - its errno follows
            await access
        assert caught.value.errno == errno.EFAULT
        assert caught.value.__notes__ == ["in memory 0x10-14"]


@pytest.mark.parametrize(
    "args",
    [(2**64,), (-(2**63) - 1,), (0,) * 7],
    ids=["too large", "too small", "too many"],
)
async def test_arguments_that_no_register_holds_are_refused_before_anything_is_sent(
    task: Task, args: Sequence[int]
) -> None:
    with pytest.raises(ValueError, match="arg"):
        await task.sysif.call(SYS.getpid, args)
    assert await task.getpid() == task.near_pid


async def test_a_cancelled_call_that_was_not_sent_has_no_effect(
    task: Task, file: FileDescriptor
) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await file.write(b"never")
    assert scope.cancelled_caught
    assert (await file.fstat()).size == 0


async def test_a_cancelled_call_that_was_sent_has_its_result_or_no_effect(task: Task) -> None:
    got: list[bytes] = []
    after: list[bool] = []

    async def read() -> None:
        with scope:
            got.append(await reader.read(100))
            after.append(scope.cancelled_caught)
            await trio.lowlevel.checkpoint()
            pytest.fail("the checkpoint after the call did not raise Cancelled")

    async with pipe_to(task) as (reader, writer):
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            if waits_for_what_was_sent(task):
                await trio.testing.wait_all_tasks_blocked()
                assert not scope.cancelled_caught
                os.write(writer, b"at last")
        assert scope.cancelled_caught
        if waits_for_what_was_sent(task):
            assert (got, after) == ([b"at last"], [False])
        else:
            assert (got, after) == ([], [])
            os.write(writer, b"later")
            assert await reader.read(100) == b"later"


async def test_a_deadline_that_passes_during_a_call_leaves_its_result_intact(
    task: Task, autojump_clock: trio.testing.MockClock
) -> None:
    if not waits_for_what_was_sent(task):
        return  # then it ends the call, see above
    async with pipe_to(task) as (reader, writer):

        async def write_when_it_has_passed() -> None:
            await trio.sleep(2)
            os.write(writer, b"late")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_when_it_has_passed)
            with trio.move_on_after(1) as scope:
                assert await reader.read(100) == b"late"
                await trio.lowlevel.checkpoint()
            assert scope.cancelled_caught


def waits_for_what_was_sent(task: Task) -> bool:
    """Whether calls cannot be interrupted."""
    return task.can_stall


async def test_trio_goes_on_while_a_call_blocks(task: Task) -> None:
    async with pipe_to(task) as (reader, writer), trio.open_nursery() as nursery:

        async def read() -> None:
            assert await reader.read(100) == b"x"

        nursery.start_soon(read)
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        os.write(writer, b"x")


async def test_each_of_many_tasks_gets_its_own_result(task: Task, file: FileDescriptor) -> None:
    await file.write(b"".join(i.to_bytes(8, "big") for i in range(MANY)))
    results: dict[int, bytes] = {}

    async def read(i: int) -> None:
        results[i] = await file.pread(8, 8 * i)

    async with trio.open_nursery() as nursery:
        for i in range(MANY):
            nursery.start_soon(read, i)
    assert results == {i: i.to_bytes(8, "big") for i in range(MANY)}


async def test_large_results_of_many_tasks_together_exceed_every_limit_and_all_come(
    task: Task, file: FileDescriptor
) -> None:
    """A window holds few of them at a time, so most have to wait until they may be sent."""
    size, tasks = 300_000, 64
    await file.ftruncate(size)
    await file.pwrite(b"first", 0)
    await file.pwrite(b"last", size - 4)
    right: list[int] = []

    async def read(i: int) -> None:
        data = await file.pread(size, 0)
        if (len(data), data[:5], data[-4:]) == (size, b"first", b"last"):
            right.append(i)

    async with trio.open_nursery() as nursery:
        for i in range(tasks):
            nursery.start_soon(read, i)
    assert sorted(right) == list(range(tasks))


async def test_one_call_moves_at_most_max_io(file: FileDescriptor) -> None:
    data = os.urandom(MAX_IO + 1)
    assert await file.write(data) == MAX_IO
    assert await file.pread(MAX_IO + 1, 0) == data[:MAX_IO]


async def test_memory_of_any_size_is_read_and_written_completely(
    task: Task, file: FileDescriptor
) -> None:
    data = os.urandom(HUGE)
    await file.ftruncate(HUGE)
    length = -(-HUGE // 4096) * 4096
    mapping = await file.mmap(length, PROT.READ | PROT.WRITE, MAP.SHARED)
    await mapping.write(0, data)
    assert await mapping.read(0, HUGE) == data
    await mapping.munmap()


async def test_the_barrier_waits_for_a_call_that_blocks(task: Task) -> None:
    passed = False

    async def barrier() -> None:
        nonlocal passed
        await task.sysif.barrier()
        passed = True

    async with pipe_to(task) as (reader, writer), trio.open_nursery() as nursery:
        nursery.start_soon(reader.read, 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(barrier)
        await trio.testing.wait_all_tasks_blocked()
        too_early = passed
        os.write(writer, b"x")
    assert (too_early, passed) == (False, True)

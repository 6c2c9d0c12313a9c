"""What has no handle any more is closed, once, and nothing else is; against /proc."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import trio

import rsyscall
from conformance.kernel import is_open
from conformance.seen import nothing_sent, opened, recording, twin
from rsyscall import near
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor, InvalidHandleError, OwnDescriptorError, Task
from rsyscall.near.sysif import In
from rsyscall.sys.resource import RLIMIT, Rlimit
from rsyscall.sys.socket import AF, SOCK
from rsyscall.sys.syscall import SYS


def numbers(process: rsyscall.Process) -> set[int]:
    """What is open in it."""
    task = process.task
    return {int(name) for name in os.listdir(f"/proc/{int(task.near_process)}/fd")}


async def made(process: rsyscall.Process, path: Path) -> list[int]:
    """Make one of each kind that the header modules have, and keep only the numbers."""
    task = process.task
    pipe, pair = await task.pipe(), await task.socketpair(AF.UNIX, SOCK.STREAM)
    fds: list[FileDescriptor] = [
        await task.open(path, O.RDWR | O.CREAT),
        await task.memfd_create("x"),
        await task.socket(AF.UNIX, SOCK.STREAM),
        await task.eventfd(0),
        await task.epoll_create(),
        *(pipe[0], pipe[1], pair[0], pair[1]),
    ]
    fds.append(await fds[0].dup())
    await pair[0].sendmsg([b"x"], fds=[fds[0], fds[1]])
    fds += (await pair[1].recvmsg(1, fds=2)).fds
    async with process.batch() as b:
        steps = [b.open(path, O.RDONLY), b.dup(fds[0])]
        ends = b.pipe()
    fds += [step.value for step in steps] + [ends.value[0], ends.value[1]]
    return [int(fd.near) for fd in fds]


async def duplicate(process: rsyscall.Process, times: int) -> None:
    """Have a batch make descriptors, and drop them."""
    async with process.batch() as b:
        for _ in range(times):
            b.dup(process.stdin)


async def test_what_has_no_handle_left_is_closed_when_asked(
    process: rsyscall.Process, tmp_path: Path
) -> None:
    task = process.task
    await task.fd_table.run_gc()
    await task.getpid()  # a child that has just begun has closed what it does not keep
    before = numbers(process)
    with recording(task) as recorder:
        fd = await task.open("/dev/null", O.RDONLY)
        number = int(fd.near)
        del fd
        gc.collect()
    assert [name for name, _ in recorder.sent] == ["openat"]
    assert is_open(process, number)
    await task.fd_table.run_gc()
    assert numbers(process) == before

    found = await made(process, tmp_path / "f")
    assert len(set(found)) == len(found) == 16
    await task.fd_table.run_gc()
    assert numbers(process) == before
    with nothing_sent(task):  # once
        await task.fd_table.run_gc()


async def test_what_somebody_can_name_stays_open(process: rsyscall.Process) -> None:
    task = process.task
    one = await task.open("/dev/null", O.RDONLY)
    other = one.for_task(twin(task))
    async with process.batch() as b:
        step = b.open("/dev/zero", O.RDONLY)
    argument = await (await task.open("/dev/null", O.RDONLY)).as_argument()
    raw = await task.sysif.syscall(SYS.openat, -100, In(b"/dev/null\0"), os.O_CLOEXEC)
    task.make_fd_handle(near.FileDescriptor(raw))
    del one
    await task.fd_table.run_gc()
    assert os.readlink(opened(other)) == "/dev/null"
    assert os.readlink(opened(step.value)) == "/dev/zero"
    assert is_open(process, argument)
    assert is_open(process, raw)
    await step.value.close()
    number = int(other.near)
    del other
    # The one that was told to stay open for another program is closed by who knows its number.
    for left in (argument, raw):
        await task.make_fd_handle(near.FileDescriptor(left)).close()
    assert is_open(process, number)
    await task.fd_table.run_gc()
    assert not is_open(process, number)


async def test_a_handle_in_a_cycle_is_no_handle(task: Task, process: rsyscall.Process) -> None:
    cycle: list[object] = [await task.open("/dev/null", O.RDONLY)]
    cycle.append(cycle)
    number = int(cycle[0].near)  # type: ignore[attr-defined] # pyright: ignore - a descriptor
    del cycle
    await task.run_fd_table_gc()
    assert not is_open(process, number)


async def test_what_was_dropped_can_be_taken_up_again_until_it_is_closed(task: Task) -> None:
    number = (await task.open("/dev/null", O.RDONLY)).near
    fd: FileDescriptor = task.make_fd_handle(number)
    with nothing_sent(task):
        await task.fd_table.run_gc()
    assert os.readlink(opened(fd)) == "/dev/null"
    await fd.close()
    with nothing_sent(task):
        with pytest.raises(InvalidHandleError):
            await fd.close()
        await task.fd_table.run_gc()


async def test_who_makes_many_closes_what_is_left_of_them(
    task: Task, process: rsyscall.Process
) -> None:
    await task.fd_table.run_gc()
    await task.getpid()  # a child that has just begun has closed what it does not keep
    before = numbers(process)
    for _ in range(200):
        await task.open("/dev/null", O.RDONLY)
    assert len(numbers(process) - before) < 100
    for _ in range(20):
        await duplicate(process, 10)
    assert len(numbers(process) - before) < 100
    await task.fd_table.run_gc()
    assert numbers(process) == before


async def test_a_cancelled_collection_is_made_another_time(
    task: Task, process: rsyscall.Process
) -> None:
    number = (await task.open("/dev/null", O.RDONLY)).near
    with trio.CancelScope() as scope, nothing_sent(task):
        scope.cancel()
        await task.run_fd_table_gc()
    assert scope.cancelled_caught
    assert is_open(process, int(number))
    await task.fd_table.run_gc()
    assert not is_open(process, int(number))


async def test_a_number_that_was_closed_otherwise_is_not_taken_for_the_same(task: Task) -> None:
    async with await task.open("/dev/null", O.RDONLY) as fd:
        number = fd.near
        await task.sysif.syscall(SYS.close, number)
        async with await task.open("/dev/zero", O.RDONLY) as again:
            assert again.near == number
            assert not fd.valid
            with nothing_sent(task), pytest.raises(InvalidHandleError):
                await fd.read(1)
            del fd
            await task.fd_table.run_gc()
            assert os.readlink(opened(again)) == "/dev/zero"


async def test_a_number_that_was_closed_otherwise_is_not_closed_again(task: Task) -> None:
    number = (await task.open("/dev/null", O.RDONLY)).near
    await task.sysif.syscall(SYS.close, number)
    async with await task.open("/dev/zero", O.RDONLY) as again:
        assert again.near == number
        await task.fd_table.run_gc()
        assert os.readlink(opened(again)) == "/dev/zero"


async def test_a_step_whose_descriptor_the_batch_has_closed_does_not_stand_for_the_next(
    process: rsyscall.Process,
) -> None:
    async with process.batch() as b:
        first = b.open("/dev/null", O.RDONLY)
        b.close(first)
        second = b.open("/dev/zero", O.RDONLY)
    fd = second.value
    assert not first.value.valid
    assert first.value.near == fd.near
    assert fd.valid
    assert os.readlink(opened(fd)) == "/dev/zero"
    await fd.close()


async def test_no_room_for_another_is_no_error_while_there_is_garbage(
    apart: rsyscall.Process,
) -> None:
    task = apart.task
    await task.fd_table.run_gc()
    free = await task.open("/dev/null", O.RDONLY)
    await task.setrlimit(RLIMIT.NOFILE, Rlimit(int(free.near) + 1, 1000))
    with pytest.raises(OSError, match="Too many open files"):
        await task.open("/dev/null", O.RDONLY)
    del free
    gc.collect()
    async with await task.open("/dev/zero", O.RDONLY) as fd:
        assert await fd.read(1) == b"\0"


async def test_what_is_needed_to_reach_the_process_is_refused() -> None:
    async with rsyscall.open_process() as stub, await stub.clone() as child:
        for process in (stub, child):
            task = process.task
            assert task.own_fds
            for number in task.own_fds:
                fd = task.make_fd_handle(near.FileDescriptor(number))
                async with await task.open("/dev/null", O.RDONLY) as null:
                    with nothing_sent(task):
                        for use in (fd.close(), fd.invalidate(), null.dup2(fd)):
                            with pytest.raises(OwnDescriptorError, match=str(number)):
                                await use
                        with pytest.raises(OwnDescriptorError):
                            process.batch().dup2(null, fd)
                    assert await task.getpid() == task.near_process
                assert fd.valid


@pytest.mark.parametrize("way", ["direct", "stub"])
async def test_a_hundred_thousand_dropped_leave_the_table_as_it_began(way: str) -> None:
    async with rsyscall.open_process() as stub:
        process = {"direct": rsyscall.local_process, "stub": stub}[way]
        await process.task.fd_table.run_gc()
        await process.task.getpid()
        before = numbers(process)
        for _ in range(250):
            await duplicate(process, 400)
        assert 0 < len(numbers(process) - before) <= 2 * 400
        await process.task.fd_table.run_gc()
        assert numbers(process) == before
        table = process.task.fd_table
        assert not table.garbage
        assert not table.lost
        assert len(table.held) < 50

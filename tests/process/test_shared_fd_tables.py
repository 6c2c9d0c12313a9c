"""Descriptors of tables that are shared, copied and left by processes."""

from __future__ import annotations

import fcntl
import gc
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio

import rsyscall
from conformance.seen import nothing_sent, recording
from conformance.ways import WAYS
from process.seen import fds
from rsyscall import near
from rsyscall.far import FDTableMismatchError
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor, Task
from rsyscall.near.sysif import In
from rsyscall.sched import CLONE
from rsyscall.sys.syscall import SYS


@pytest.fixture(params=["direct", "child-shared-files", "stub", "grandchild-of-stub"])
async def home(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[rsyscall.Process]:
    """Whoever makes the children."""
    async with WAYS[request.param](tmp_path) as process:
        yield process


def pid(process: rsyscall.Process) -> int:
    return int(process.task.near_process)


def is_open(process: rsyscall.Process, fd: int | FileDescriptor) -> bool:
    # One at a time: who lists the interpreter's table has opened something there.
    number = fd if isinstance(fd, int) else int(fd.near)
    return os.path.lexists(f"/proc/{pid(process)}/fd/{number}")


async def null(task: Task) -> FileDescriptor:
    return await task.open("/dev/null", O.RDONLY)


async def test_what_a_child_takes_along_is_closed_when_its_parent_has_lost_it_long_before(
    home: rsyscall.Process,
) -> None:
    await home.task.fd_table.run_gc()
    async with await home.clone(CLONE.FILES) as child:
        mine = await null(home.task)
        its = mine.for_task(child.task)
        del mine
        gc.collect()
        other = await null(home.task)  # by then it is known to be lost, and to have a handle
        await child.unshare_files()
        await home.task.fd_table.run_gc()
        assert not is_open(home, its)
        assert is_open(child, its)
        await other.close()


async def test_what_a_child_leaves_in_a_shared_table_is_closed_by_its_parent(
    home: rsyscall.Process,
) -> None:
    await home.task.fd_table.run_gc()
    async with await home.clone(CLONE.FILES) as child:
        lost, kept = int((await null(child.task)).near), await null(child.task)
        mine = kept.for_task(home.task)
        gc.collect()
        await child.unshare_files()
        await home.task.fd_table.run_gc()
        assert is_open(home, mine)
        assert not is_open(home, lost)
        await mine.close()
        assert is_open(child, kept)
        assert not is_open(home, kept)


async def test_a_descriptor_that_only_who_unshares_has_is_garbage_for_the_others(
    home: rsyscall.Process,
) -> None:
    async with await home.clone(CLONE.FILES) as child:
        fd = await null(child.task)
        await child.unshare_files()
        assert is_open(home, fd)
        assert is_open(child, fd)
        await home.task.fd_table.run_gc()
        assert not is_open(home, fd)
        assert is_open(child, fd)


async def test_what_a_dead_child_had_in_a_shared_table_is_closed_by_its_parent(
    home: rsyscall.Process,
) -> None:
    async with await home.clone(CLONE.FILES) as child:
        fds_of_child = [await null(child.task) for _ in range(3)]
    saved, number = fds_of_child[0].for_task(home.task), int(fds_of_child[2].near)
    assert saved.is_only_handle()  # that of the dead does not count
    del fds_of_child
    await home.task.fd_table.run_gc()
    assert is_open(home, saved)
    assert not is_open(home, number)
    await saved.close()


async def test_a_shared_table_is_tidied_by_others_than_oneself(home: rsyscall.Process) -> None:
    async with await home.clone(CLONE.FILES) as child:
        number = int((await null(home.task)).near)
        gc.collect()
        with nothing_sent(home.task):
            await home.task.run_fd_table_gc(use_self=False)
        assert not is_open(child, number)


async def test_what_was_inherited_is_closed_with_the_last_that_can_name_it(
    home: rsyscall.Process,
) -> None:
    fd = await null(home.task)
    number = int(fd.near)
    async with await home.clone() as child, await child.clone() as unrelated:
        await unrelated.task.getpid()  # what it does not keep it has closed by now
        assert not is_open(unrelated, number)  # the child had no handle of it
        child.inherit_fd(fd)
        await child.task.fd_table.run_gc()
        assert is_open(child, number)  # it can be asked for again
        there = child.inherit_fd(fd)
        async with await child.clone() as grandchild:
            await there.close()
            with pytest.raises(FDTableMismatchError):
                child.inherit_fd(fd)
            await grandchild.task.fd_table.run_gc()
            assert is_open(grandchild, number)
            assert grandchild.inherit_fd(fd).file is fd.file
            await fd.close()
            await grandchild.task.fd_table.run_gc()
            assert not is_open(grandchild, number)


async def test_a_number_that_is_used_again_is_not_inherited(home: rsyscall.Process) -> None:
    fd = await null(home.task)
    async with await home.clone() as child, await home.task.open("/dev/zero", O.RDONLY) as zero:
        await fd.close()
        async with await home.task.open("/dev/full", O.RDONLY) as again:
            assert again.near == fd.near
            for wrong in (again, zero):
                with pytest.raises(FDTableMismatchError):
                    child.inherit_fd(wrong)
        old = await null(home.task)
        async with await home.clone() as other:
            await zero.dup3(old, O.CLOEXEC)
            with pytest.raises(FDTableMismatchError):
                other.inherit_fd(old)
            await other.task.fd_table.run_gc()
            assert not is_open(other, old)
        await old.close()


async def test_what_was_inherited_can_be_given_up(home: rsyscall.Process) -> None:
    async with await null(home.task) as one, await null(home.task) as other:
        async with await home.clone() as child:
            kept = child.inherit_fd(one)
            child.task.fd_table.remove_inherited()
            for fd in (one, other):
                with pytest.raises(FDTableMismatchError):
                    child.inherit_fd(fd)
            await child.task.fd_table.run_gc()
            assert not is_open(child, other)
            await kept.close()
            assert fds(pid(child)) == {0, 1, 2} | child.task.fd_table.own
        assert is_open(home, one)
        assert is_open(home, other)


async def test_what_is_meant_for_a_program_stays_open_in_a_child(home: rsyscall.Process) -> None:
    async with await null(home.task) as fd, await home.clone() as child:
        number = await child.inherit_fd(fd).as_argument()
        await fd.close()
        await child.task.fd_table.run_gc()
        assert is_open(child, number)


async def test_what_no_call_of_ours_has_made_is_nobodys_garbage(home: rsyscall.Process) -> None:
    number = await home.task.sysif.syscall(SYS.openat, -100, In(b"/dev/null\0"), os.O_CLOEXEC)
    home.task.make_fd_handle(near.FileDescriptor(number))
    gc.collect()
    async with await home.clone(CLONE.FILES) as child:
        await child.task.fd_table.run_gc()
        assert is_open(home, number)
    await home.task.make_fd_handle(near.FileDescriptor(number)).close()


@pytest.mark.parametrize("ring", [True, False])
async def test_what_watches_for_a_child_that_has_our_table_is_opened_by_us(ring: bool) -> None:
    """Killed when it has opened one and not said so, it would leave that in our table for good."""
    async with await rsyscall.local_process.clone(CLONE.FILES, ring=ring) as child:
        made = await child.task.pipe(flags=O.NONBLOCK)
        with recording(child.task) as recorder:
            async with (
                await child.make_afd(made.read) as reader,
                await child.make_afd(made.write) as writer,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(reader.read_some_bytes)
                while not any(name == "epoll_ctl" for name, _ in recorder.sent):
                    await trio.lowlevel.checkpoint()
                opened = {name for name in os.listdir("/proc/self/fd") if _is_epoll(name)}
                await writer.write_all_bytes(b"x")
        assert not any(name == "epoll_create1" for name, _ in recorder.sent)
        asked = {args[1] for name, args in recorder.sent if name == "fcntl"}
        assert asked == {fcntl.F_GETFL}
        # That of trio stays, and both of this one were there and are gone.
        assert len(opened - {name for name in os.listdir("/proc/self/fd") if _is_epoll(name)}) == 2


def _is_epoll(name: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]"
    except FileNotFoundError:  # what lists the directory
        return False

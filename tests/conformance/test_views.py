"""Memory of our own that is looked at where it is, and what may not happen to it meanwhile."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

import rsyscall
from conformance.pipes import pipe_to
from conformance.seen import nothing_sent, unmapping
from rsyscall import far, near
from rsyscall._raw import ffi
from rsyscall.batch import BoundBatch
from rsyscall.sys.mman import (
    MADV,
    MAP,
    PROT,
    MemoryInUseError,
    MemoryMapping,
    UseAfterUnmapError,
)

RW = PROT.READ | PROT.WRITE
PAGE = 4096


async def test_memory_of_our_own_is_viewed(inside: rsyscall.Process) -> None:
    task = inside.task
    mapping = await task.mmap(2 * PAGE, RW, MAP.PRIVATE)
    view = mapping.view(100, 50)
    assert (len(view), view.readonly) == (50, False)
    view[:5] = b"seen!"
    assert await mapping.read(100, 5) == b"seen!"
    part = view[2:4]
    del view
    with nothing_sent(task):
        for call in (
            mapping.munmap(),
            mapping[0].mprotect(PROT.NONE),
            mapping.mremap(PAGE),
            mapping.madvise(MADV.DONTNEED),
        ):
            with pytest.raises(MemoryInUseError, match="views"):
                await call
    await mapping[1].mprotect(PROT.READ)  # nobody looks there
    assert bytes(part) == b"en"
    del part
    assert mapping[1].view().readonly
    await mapping[1].mprotect(PROT.NONE)
    with pytest.raises(ValueError, match="may not be read"):
        mapping.view()
    for offset, n in ((0, 3 * PAGE), (-1, 1), (PAGE, -1)):
        with pytest.raises(ValueError, match=r"mapping|offset"):
            mapping.view(offset, n)
    await mapping.munmap()
    with pytest.raises(UseAfterUnmapError):
        mapping.view()
    async with await task.memfd_create("file") as fd:
        await fd.ftruncate(PAGE)
        async with unmapping(await fd.mmap(PAGE, RW, MAP.SHARED)) as mapped:
            with pytest.raises(ValueError, match="of a file"):
                mapped.view()


@pytest.mark.parametrize("prepared", [False, True])
async def test_what_a_batch_changes_is_not_viewed_meanwhile(
    inside: rsyscall.Process, prepared: bool
) -> None:
    task = inside.task
    mapping = await task.mmap(2 * PAGE, RW, MAP.PRIVATE)
    async with pipe_to(task) as (reader, writer), contextlib.AsyncExitStack() as stack:
        batch = rsyscall.Batch() if prepared else inside.batch()
        batch.read(reader, 1)
        batch.mprotect(mapping[0], PROT.NONE)
        run: Callable[[], Awaitable[object]]
        if isinstance(batch, BoundBatch):
            run = batch.run
        else:  # before: that, too, is waited for
            run = (await stack.enter_async_context(await inside.prepare(batch))).run
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(MemoryInUseError, match="being changed"):
                mapping.view()
            view = mapping[1].view()
            os.write(writer, b"x")
    with pytest.raises(ValueError, match="may not be read"):
        mapping.view()
    assert view[0] == 0
    view.release()
    await mapping[0].mprotect(RW)
    assert mapping.view()[0] == 0
    await mapping.munmap()


async def test_what_a_batch_unmaps_is_not_viewed_meanwhile(inside: rsyscall.Process) -> None:
    task = inside.task
    mapping = await task.mmap(PAGE, RW, MAP.PRIVATE)
    async with pipe_to(task) as (reader, writer), trio.open_nursery() as nursery:
        batch = inside.batch()
        batch.read(reader, 1)
        batch.munmap(mapping)
        nursery.start_soon(batch.run)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(UseAfterUnmapError):
            mapping.view()
        os.write(writer, b"x")


async def test_what_others_have_mapped_is_not_ours(inside: rsyscall.Process) -> None:
    task = inside.task
    with contextlib.closing(mmap.mmap(-1, PAGE)) as memory:
        view = ffi.from_buffer("char[]", memory)
        address = int(ffi.cast("uintptr_t", view))
        ffi.release(view)
        handle = MemoryMapping(task, near.MemoryMapping(address, PAGE, PAGE), far.File())
        await handle.write(0, b"python")
        assert memory[:6] == b"python"
        with pytest.raises(MemoryInUseError):
            await handle.munmap()
        with pytest.raises(MemoryInUseError):
            handle.view()


@pytest.mark.parametrize("ring", [True, False])
async def test_memory_that_is_not_ours_has_no_views(ring: bool) -> None:
    async with rsyscall.open_process(ring=ring) as process:
        mapping = await process.task.mmap(PAGE, RW, MAP.PRIVATE)
        with pytest.raises(ValueError, match="not in our own memory"):
            mapping.view()

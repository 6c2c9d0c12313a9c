"""Random changes of two address spaces: what we believe of them is what the kernel shows.

The model is a table of pages, kept by this test alone. After every step it equals what our own
account says, and both equal /proc/PID/maps but for what was there before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rsyscall
from rsyscall import near
from rsyscall.handle import Task
from rsyscall.near.sysif import Reply, SyscallArgument
from rsyscall.sys.mman import (
    MADV,
    MAP,
    MREMAP,
    PROT,
    MemoryInUseError,
    MemoryMapping,
    UseAfterUnmapError,
)
from rsyscall.sys.syscall import SYS
from rsyscall_protocol._constants import Size

T = TypeVar("T")


class Pick(Protocol):
    """Chooses one of several."""

    def __call__(self, choices: Sequence[T], /) -> T: ...


PAGE = 4096
RW = PROT.READ | PROT.WRITE
PROTS = [PROT.NONE, PROT.READ, RW, PROT.READ | PROT.EXEC]
OPERATIONS = ["mmap", "mmap", "file", "next to", "fixed", "munmap", "mprotect", "mremap", "madvise"]


def shown(prot: int, shared: bool) -> str:
    letters = ((PROT.READ, "r"), (PROT.WRITE, "w"), (PROT.EXEC, "x"))
    return "".join(c if prot & bit else "-" for bit, c in letters) + ("s" if shared else "p")


def kernel(pid: int, *, threads: bool = False) -> dict[int, str]:
    """All pages of a process but the kernel's own, and what may be done with them.

    threads: also those of the server's threads, which come and go.
    """
    pages: dict[int, str] = {}
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        where, what = line.split()[:2]
        start, end = (int(number, 16) for number in where.split("-"))
        if "[v" not in line and (threads or (end - start) % Size.HELPER_MEMORY):
            pages.update(dict.fromkeys(range(start, end, PAGE), what))
    return pages


class Space:
    """One process, the tasks that have its memory, and the model of it."""

    def __init__(self, tasks: list[Task], fd: rsyscall.FileDescriptor | None) -> None:
        self.tasks = tasks
        self.fd = fd
        self.pid = int(tasks[0].near_process)
        self.before = kernel(self.pid)
        self.pages: dict[int, tuple[int, bool]] = {}
        self.handles: list[MemoryMapping] = []

    def check(self) -> None:
        model = {page: shown(*what) for page, what in self.pages.items()}
        now = kernel(self.pid)
        assert {page: now[page] for page in now.keys() - self.before.keys()} == model
        assert self.before.keys() <= now.keys()
        ours: dict[int, str] = {}
        for region in self.tasks[0].address_space.regions:
            for page in range(region.start, region.end, PAGE):
                assert page not in ours
                ours[page] = shown(region.prot, region.shared)
        assert ours == model

    def put(self, mapping: MemoryMapping, prot: int, shared: bool) -> None:
        for page in pages(mapping):
            self.pages[page] = (prot, shared)
        self.handles.append(mapping)


def pages(mapping: MemoryMapping) -> range:
    start = mapping.near.address
    return range(start, start + mapping.near.length, PAGE)


def whole(space: Space, mapping: MemoryMapping) -> bool:
    """Whether no page of the handle is gone, as far as it can say itself."""
    try:
        mapping.check_valid()
    except UseAfterUnmapError:
        return False
    assert all(page in space.pages for page in pages(mapping))
    return True


async def step(space: Space, pick: Pick) -> None:
    """One operation. pick: chooses one of several."""
    task, what = pick(space.tasks), pick(OPERATIONS)
    count, prot, shared = pick(range(1, 6)), pick(PROTS), pick([False, True])
    flags = MAP.SHARED if shared else MAP.PRIVATE
    if what == "mmap" or not space.handles:
        space.put(await task.mmap(count * PAGE, prot, flags), prot, shared)
        return
    if what == "file":
        if space.fd is None:
            return
        mapping = await space.fd.mmap(count * PAGE, prot, flags, PAGE * (count % 2))
        space.put(mapping, prot, shared)
        return
    handle = pick(space.handles).for_task(task)
    low = pick(range(handle.pages))
    part = handle[low : low + count]
    start, length = near.Address(part.near.address), count * PAGE
    target = range(int(start), int(start) + length, PAGE)
    if what == "next to":
        start = near.Address(handle.near.address + handle.near.length)
        target = range(int(start), int(start) + length, PAGE)
        taken = any(page in space.pages or page in space.before for page in target)
        try:
            mapping = await task.mmap(length, prot, flags | MAP.FIXED_NOREPLACE, addr=start)
        except FileExistsError:
            assert taken or not kernel(space.pid, threads=True).keys().isdisjoint(target)
        else:
            assert not taken
            space.put(mapping, prot, shared)
    elif what == "fixed":
        try:
            mapping = await task.mmap(length, prot, flags | MAP.FIXED, addr=start)
        except MemoryInUseError:
            assert any(page not in space.pages for page in target)
        else:
            space.put(mapping, prot, shared)
    else:
        await change(space, part, what, prot, count, pick)


async def change(
    space: Space, part: MemoryMapping, what: str, prot: PROT, count: int, pick: Pick
) -> None:
    valid = whole(space, part)
    # What is refused, by us or by the kernel, has changed nothing: that is checked afterwards.
    with contextlib.suppress(UseAfterUnmapError, OSError):
        if what == "munmap":
            await part.munmap()
            for page in pages(part):
                del space.pages[page]
        elif what == "mprotect":
            await part.mprotect(prot)
            for page in pages(part):
                space.pages[page] = (int(prot), space.pages[page][1])
        elif what == "madvise":
            await part.madvise(pick([MADV.DONTNEED, MADV.WILLNEED]))
        else:
            how = pick([MREMAP.NONE, MREMAP.MAYMOVE, MREMAP.MAYMOVE | MREMAP.DONTUNMAP])
            moved = await part.mremap(count * PAGE, how)
            old = [space.pages[page] for page in pages(part)]
            if MREMAP.DONTUNMAP not in how:
                for page in pages(part):
                    del space.pages[page]
            for i, page in enumerate(pages(moved)):
                space.pages[page] = old[min(i, len(old) - 1)]
            space.handles.append(moved)
        assert valid


async def run(data: st.DataObject) -> None:
    async with (
        rsyscall.open_process() as one,
        await one.clone() as together,
        await one.clone(vm=False) as other,
        await one.task.memfd_create("pages") as fd,
        await other.task.memfd_create("pages") as other_fd,
    ):
        spaces = [Space([one.task, together.task], fd), Space([other.task], other_fd)]
        await fd.ftruncate(6 * PAGE)
        await other_fd.ftruncate(6 * PAGE)

        def pick(choices: Sequence[T]) -> T:
            return data.draw(st.sampled_from(choices))

        for _ in range(pick(range(5, 26))):
            await step(pick(spaces), pick)
            for space in spaces:
                space.check()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_we_believe_of_an_address_space_is_what_the_kernel_shows(
    data: st.DataObject,
) -> None:
    trio.run(run, data)


async def test_an_arena_is_not_kept_when_its_process_ends_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever looks for what is left over would find it here."""
    async with rsyscall.open_process() as stub:
        sysif = stub.task.sysif
        call = sysif.call

        async def last_call(
            number: SYS | int,
            args: Sequence[SyscallArgument] = (),
            *,
            fds: Sequence[int] = (),
            return_fd: bool = False,
        ) -> Reply:
            reply = await call(number, args, fds=fds, return_fd=return_fd)
            await sysif.close_interface()
            return reply

        monkeypatch.setattr(sysif, "call", last_call)
        await stub.task.malloc(bytes, 1)
    assert "rsyscall-arena" not in Path("/proc/self/maps").read_text()

"""What the tests compare with: how the kernel shows a process, and what its task sends."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from pathlib import Path
from typing import SupportsInt

import pytest

from rsyscall import near
from rsyscall.handle import BaseFileDescriptor, Task
from rsyscall.near.sysif import Buffer, Reply, SyscallArgument, SyscallInterface
from rsyscall.sys.mman import MemoryMapping
from rsyscall.sys.syscall import SYS

#: A number that no table of file descriptors has room for.
NO_FD = near.FileDescriptor(2**30)


class RecordingInterface(SyscallInterface):
    """A door that notes what goes through it: a call's name, or what is done to memory."""

    def __init__(self, inner: SyscallInterface) -> None:
        self.inner = inner
        self.sent: list[tuple[str, Sequence[SyscallArgument]]] = []

    async def call(
        self,
        number: SYS | int,
        args: Sequence[SyscallArgument] = (),
        *,
        fds: Sequence[int] = (),
        return_fd: bool = False,
    ) -> Reply:
        self.sent.append((SYS(number).name, args))
        return await self.inner.call(number, args, fds=fds, return_fd=return_fd)

    async def read_memory(self, address: SupportsInt, length: int) -> bytes:
        self.sent.append(("read_memory", (address, length)))
        return await self.inner.read_memory(address, length)

    async def write_memory(self, address: SupportsInt, data: Buffer) -> None:
        self.sent.append(("write_memory", (address, len(data))))
        await self.inner.write_memory(address, data)

    async def barrier(self) -> None:
        await self.inner.barrier()

    async def close_interface(self) -> None:
        await self.inner.close_interface()


@contextlib.contextmanager
def recording(task: Task) -> Generator[RecordingInterface]:
    """Note what the task sends inside the block."""
    inner = task.sysif
    task.sysif = recorder = RecordingInterface(inner)
    try:
        yield recorder
    finally:
        task.sysif = inner


@contextlib.contextmanager
def nothing_sent(task: Task) -> Generator[None]:
    """The task may send nothing inside the block."""
    with recording(task) as recorder:
        yield
    assert recorder.sent == []


def error_here(call: Callable[[], object]) -> OSError:
    """The error of a call of the standard library, which must fail."""
    with pytest.raises(OSError, match=r".") as caught:
        call()
    return caught.value


def twin(task: Task) -> Task:
    """Another task that has all of this one's namespaces."""
    return Task(task.sysif, task.near_process, task.fd_table, task.address_space, task.pidns)


def opened(fd: BaseFileDescriptor) -> Path:
    """The link in /proc to what a file descriptor has open."""
    return Path(f"/proc/{int(fd.task.near_process)}/fd/{int(fd.near)}")


def open_flags(link: Path) -> int:
    """The flags of an open file, given its link in /proc; O_CLOEXEC is the descriptor's."""
    lines = (link.parent.parent / "fdinfo" / link.name).read_text().splitlines()
    return int(next(line for line in lines if line.startswith("flags:")).split()[1], 8)


def permissions(mapping: MemoryMapping) -> str | None:
    """What /proc says may be done with all of a mapping, such as "rw-p"; None if it is no more.

    The kernel joins neighbours that are alike, so that a line may show more than the mapping.
    """
    start, end = mapping.near.address, mapping.near.address + mapping.near.length
    maps = Path(f"/proc/{int(mapping.task.near_process)}/maps").read_text().splitlines()
    for line in maps:
        where, what = line.split()[:2]
        first, last = (int(number, 16) for number in where.split("-"))
        if first <= start and end <= last:
            return what
        assert last <= start or end <= first, f"partly mapped: {line}"
    return None


@contextlib.asynccontextmanager
async def unmapping(mapping: MemoryMapping) -> AsyncGenerator[MemoryMapping]:
    """Unmap a mapping at the end of the block."""
    try:
        yield mapping
    finally:
        await mapping.munmap()

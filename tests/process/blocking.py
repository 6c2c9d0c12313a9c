"""Calls that are blocked, and the threads of a process."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import trio

import rsyscall
from rsyscall.sys.mman import PROT
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import (
    In,
    Ret,
)

SECONDS = 30
RW = PROT.READ | PROT.WRITE
EFD_SEMAPHORE = 1


def tasks(process: rsyscall.Process) -> list[Path]:
    return list(Path(f"/proc/{int(process.pid)}/task").iterdir())


def field(task: Path, name: str) -> list[str]:
    found = re.search(rf"^{name}:(.*)$", (task / "status").read_text(), re.MULTILINE)
    assert found is not None
    return found[1].split()


async def left(task: Path) -> None:
    """Return once a thread has ended, of which only its directory tells."""
    with trio.fail_after(SECONDS):
        while await trio.Path(task).exists():
            await trio.lowlevel.checkpoint()


def sleeping(process: rsyscall.Process, number: SYS) -> int:
    """How many threads are in this call, but for the one that looks, which is in its own."""
    found = 0
    for task in tasks(process):
        if task.name == str(threading.get_native_id()):
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += (task / "syscall").read_text().split()[0] == str(int(number))
    return found


async def cancelled_in(
    process: rsyscall.Process, number: SYS, function: Callable[[], Awaitable[None]]
) -> None:
    """Run it, and cancel it once its call is blocked."""
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(function)
            while not sleeping(process, number):
                await process.task.sysif.syscall(SYS.getpid)
            nursery.cancel_scope.cancel()


class Blocked:
    """So many reads that wait for an eventfd."""

    def __init__(self, process: rsyscall.Process, eventfd: int, nursery: trio.Nursery) -> None:
        self.process = process
        self.sysif = process.task.sysif
        self.eventfd = eventfd
        self.nursery = nursery
        self.returned = 0

    async def start(self, count: int) -> None:
        """Return once they are all waiting in the kernel."""
        for _ in range(count):
            self.nursery.start_soon(self._read)
        with trio.fail_after(SECONDS):
            while sleeping(self.process, SYS.read) < count:
                await self.sysif.syscall(SYS.getpid)  # whose answer tells that others go on

    async def _read(self) -> None:
        reply = await self.sysif.call(SYS.read, (self.eventfd, Ret(8), 8))
        assert reply.outs[0] == (1).to_bytes(8, "little")
        self.returned += 1

    async def release(self, count: int) -> None:
        """Let so many return."""
        await self.sysif.call(SYS.write, (self.eventfd, In(count.to_bytes(8, "little")), 8))


@contextlib.asynccontextmanager
async def blocked(process: rsyscall.Process, count: int) -> AsyncGenerator[Blocked]:
    """So many calls are blocked inside, and return at the end."""
    eventfd = await process.task.sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            reads = Blocked(process, eventfd, nursery)
            try:
                await reads.start(count)
                yield reads
            finally:
                with trio.CancelScope(shield=True):
                    await reads.release(count - reads.returned)
    await process.task.sysif.syscall(SYS.close, eventfd)

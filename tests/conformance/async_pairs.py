"""Pairs of descriptors of a process that can be waited for, and the ways in which that differs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import rsyscall
from rsyscall.epoller import AsyncFileDescriptor
from rsyscall.fcntl import O
from rsyscall.sys.socket import AF, SOCK

#: Where ways differ in how they end, and how their events come.
SOME = ["direct", "stub", "stub-no-ring", "child", "child-shared-files", "child-of-stub"]


@contextlib.asynccontextmanager
async def pipe(
    process: rsyscall.Process,
) -> AsyncGenerator[tuple[AsyncFileDescriptor, AsyncFileDescriptor]]:
    made = await process.task.pipe(flags=O.NONBLOCK)
    async with (
        await process.make_afd(made.read) as reader,
        await process.make_afd(made.write) as writer,
    ):
        yield reader, writer


@contextlib.asynccontextmanager
async def sockets(
    process: rsyscall.Process,
) -> AsyncGenerator[tuple[AsyncFileDescriptor, AsyncFileDescriptor]]:
    made = await process.task.socketpair(AF.UNIX, SOCK.STREAM | SOCK.NONBLOCK)
    async with (
        await process.make_afd(made.first) as first,
        await process.make_afd(made.second) as second,
    ):
        yield first, second

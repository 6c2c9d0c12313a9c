"""Descriptors that cannot be sent are an error of the one call, whatever else is under way."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

from conformance.ways import ELSEWHERE, WAYS
from rsyscall.near.sysif import FdArg
from rsyscall.sys.syscall import SYS

F_GETFD = 1
FD_CLOEXEC = 1
NEVER_OPEN = 2**30  # above any limit

remote = pytest.mark.parametrize("way", sorted(WAYS.keys() - ELSEWHERE - {"direct"}))


@remote
async def test_a_closed_descriptor_is_an_error_of_that_call_alone(way: str, tmp_path: Path) -> None:
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    async with WAYS[way](tmp_path) as process:
        task, ends = process.task, dict[int, object]()

        async def call(i: int) -> None:
            fds = [null, NEVER_OPEN] if i % 2 else [null, null]
            try:
                ends[i] = (await task.sysif.call(SYS.fcntl, [FdArg(1), F_GETFD], fds=fds)).value
            except OSError as exc:
                ends[i] = exc.errno if "nothing was sent" in exc.__notes__[0] else exc

        for _ in range(4):  # more than may be under way at once: none of them still counts
            async with trio.open_nursery() as nursery:
                for i in range(600):
                    nursery.start_soon(call, i)
            assert {ends[i] for i in range(0, 600, 2)} == {FD_CLOEXEC}
            assert {ends[i] for i in range(1, 600, 2)} == {errno.EBADF}
        assert await task.getpid() == task.near_pid
    os.close(null)


@remote
@pytest.mark.parametrize("fd", [-1, 2**31, -(2**31) - 1, 2**64])
async def test_what_is_no_number_of_a_descriptor_is_refused(
    way: str, tmp_path: Path, fd: int
) -> None:
    async with WAYS[way](tmp_path) as process:
        with pytest.raises(ValueError, match=r"fds\[1\]"):
            await process.task.sysif.call(SYS.fcntl, [FdArg(0), F_GETFD], fds=[0, fd])
        assert await process.task.getpid() == process.task.near_pid

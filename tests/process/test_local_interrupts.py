"""The interpreter's own calls, which worker threads make, are cancelled as those of any process."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest
import trio

import leaks
import rsyscall
from process.blocking import EFD_SEMAPHORE, cancelled_in

# They are collected here as well, with the fixture of this file.
from process.test_interrupted import (
    test_a_batch_is_cancelled_in_a_step,
    test_a_connect_that_goes_on,
    test_a_part_that_was_written_counts,
    test_all_are_cancelled,
    test_the_bytes_of_a_pipe_are_those_that_are_told,
    test_the_effect_is_what_is_told,
)
from rsyscall import local_process
from rsyscall.near.sysif import Ret
from rsyscall.sys.syscall import SYS

__all__ = [
    "test_a_batch_is_cancelled_in_a_step",
    "test_a_connect_that_goes_on",
    "test_a_part_that_was_written_counts",
    "test_all_are_cancelled",
    "test_the_bytes_of_a_pipe_are_those_that_are_told",
    "test_the_effect_is_what_is_told",
]


@pytest.fixture
def process() -> Generator[rsyscall.Process]:
    """Closed afterwards is what calls have opened of which there are no handles."""
    before = leaks.file_descriptors()
    yield local_process
    for number, what in leaks.file_descriptors().items():
        if before.get(number) != what:
            os.close(number)


async def _read(eventfd: int) -> None:
    await local_process.task.sysif.call(SYS.read, (eventfd, Ret(8), 8))


async def test_signals_that_are_blocked_do_not_matter(process: rsyscall.Process) -> None:
    eventfd = await process.task.sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        for _ in range(2):
            await cancelled_in(process, SYS.read, lambda: _read(eventfd))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


async def test_what_was_cancelled_before_it_began(process: rsyscall.Process) -> None:
    sysif = process.task.sysif
    eventfd = await sysif.syscall(SYS.eventfd2, 1, EFD_SEMAPHORE)
    with trio.CancelScope() as scope:
        scope.cancel()
        await _read(eventfd)
    assert scope.cancelled_caught
    assert (await sysif.call(SYS.read, (eventfd, Ret(8), 8))).value == 8


async def test_handlers_of_ours_stay_what_they_are(process: rsyscall.Process) -> None:
    """The signal that interrupts is one that nobody has a handler for."""
    heard: list[int] = []
    last = signal.SIGRTMAX - 1
    before = signal.signal(last, lambda number, _: heard.append(number))
    try:
        eventfd = await process.task.sysif.syscall(SYS.eventfd2, 0, EFD_SEMAPHORE)
        await cancelled_in(process, SYS.read, lambda: _read(eventfd))
        assert not heard
        signal.raise_signal(last)
        assert heard == [last]
    finally:
        signal.signal(last, before)

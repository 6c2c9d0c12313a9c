"""The counters around every test notice what they are there for."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import threading
from collections.abc import Generator
from functools import partial

import pytest
import trio

from leaks import run_and_count, threads, unchanged


@contextlib.contextmanager
def noticed(what: str) -> Generator[None]:
    """The block leaves something over; afterwards it is for the caller to tidy up."""
    with pytest.raises(AssertionError, match=f"{what}: "), unchanged(patience=0):
        yield


def test_an_open_file_descriptor() -> None:
    with noticed("fds"):
        fd = os.dup(0)
    os.close(fd)


def test_a_file_descriptor_that_became_another() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    with noticed("fds"):
        os.close(fd)
        assert os.open("/dev/zero", os.O_RDONLY) == fd
    os.close(fd)


def test_a_running_thread() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    with noticed("threads"):
        thread.start()
    done.set()
    thread.join()


def test_a_zombie() -> None:
    with noticed("children"):
        child = subprocess.Popen("true")
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    child.wait()


def test_a_mapped_file() -> None:
    fd = os.memfd_create("left over")
    os.ftruncate(fd, 4096)
    with noticed("mappings"):
        mapping = mmap.mmap(fd, 4096)
    mapping.close()
    os.close(fd)


def test_a_trio_task() -> None:
    async def spawn() -> None:
        trio.lowlevel.spawn_system_task(trio.sleep_forever)

    with pytest.raises(AssertionError, match="a task"):
        run_and_count(spawn)


def test_a_worker_thread_in_a_call() -> None:
    begun, done = trio.Event(), threading.Event()

    def job() -> None:
        trio.from_thread.run_sync(begun.set)
        done.wait()

    async def abandon() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.to_thread.run_sync, job, abandon_on_cancel=True))
            await begun.wait()
            nursery.cancel_scope.cancel()

    with pytest.raises(AssertionError, match="a worker thread"):
        run_and_count(abandon)
    (worker,) = (thread for thread in threading.enumerate() if thread.name.startswith("job from"))
    assert worker.native_id in threads()
    done.set()

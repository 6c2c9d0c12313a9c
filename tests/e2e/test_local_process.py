"""The interpreter's own process: import, several runs of trio, threads, credentials."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

import rsyscall
from e2e.servers import DEADLINE
from rsyscall import near
from rsyscall.near.sysif import SyscallSendError
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import In, Ret

task = rsyscall.local_process.task


def interpreter(script: str) -> object:
    """What the last line of a script's output says, as JSON, in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


IMPORT = """
import json, os, threading, trio, sys

def refuse(*args, **kwargs):
    raise AssertionError("importing runs trio")

def look():
    fds = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            fds[name] = os.readlink("/proc/self/fd/" + name)
        except FileNotFoundError:  # the one that was used for listing
            pass
    return fds, os.listdir("/proc/self/task"), list(sys.flags), threading.active_count()

trio.run = trio.lowlevel.start_guest_run = refuse
trio.lowlevel.spawn_system_task = refuse
before = look()
import rsyscall, rsyscall.testing
print(json.dumps([before == look(), int(rsyscall.local_process.pid) == os.getpid()]))
"""


def test_importing_runs_no_trio_and_leaves_no_descriptor_or_thread() -> None:
    assert interpreter(IMPORT) == [True, True]


def test_local_process_works_in_one_run_of_trio_after_another() -> None:
    ours, theirs = os.pipe()
    reader = near.FileDescriptor(ours)

    async def use(data: bytes) -> bytes:
        handle = task.make_fd_handle(reader)
        assert await task.getpid() == near.Pid(os.getpid())
        os.write(theirs, data)
        got = await handle.read(100)  # in a worker thread
        pointer = await task.ptr(got)  # in memory that the first run has mapped
        return await pointer.read()

    assert [trio.run(use, data) for data in (b"1", b"2", b"3")] == [b"1", b"2", b"3"]
    os.close(ours)
    os.close(theirs)


async def test_only_a_call_that_may_block_is_made_in_a_worker_thread() -> None:
    ours, theirs = os.pipe()

    async def read() -> None:
        assert await task.make_fd_handle(near.FileDescriptor(ours)).read(1) == b"x"

    def who_reads() -> list[int]:
        begins = f"{int(SYS.read)} {ours:#x} "
        tasks = Path("/proc/self/task").iterdir()
        return [int(t.name) for t in tasks if (t / "syscall").read_text().startswith(begins)]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        with trio.fail_after(DEADLINE):
            while not (readers := who_reads()):  # noqa: ASYNC110 - nothing tells that it is there
                await trio.sleep(0.001)
        thread = await task.sysif.syscall(SYS.gettid)
        os.write(theirs, b"x")
    os.close(ours)
    os.close(theirs)
    assert len(readers) == 1
    assert readers != [threading.get_native_id()]
    assert thread == threading.get_native_id()


CREDENTIAL_CALLS = {
    SYS.setuid: (os.getuid(),),
    SYS.setgid: (os.getgid(),),
    SYS.setresuid: (-1, -1, -1),
    SYS.setresgid: (-1, -1, -1),
    SYS.setfsuid: (os.getuid(),),
    SYS.capset: (0, 0),
}


@pytest.mark.parametrize("number", CREDENTIAL_CALLS, ids=lambda number: SYS(number).name)
async def test_credential_calls_are_refused_with_several_threads(number: SYS) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(SyscallSendError, match=f"^{number.name}.*one thread only.*several"):
            await task.sysif.call(number, CREDENTIAL_CALLS[number])
    finally:
        done.set()
        thread.join()


SINGLE = """
import json, trio, rsyscall
from rsyscall.sys.syscall import SYS

async def main():
    sysif = rsyscall.local_process.task.sysif
    return [await sysif.syscall(number, -1, -1, -1) for number in (SYS.setresuid, SYS.setresgid)]

print(json.dumps(trio.run(main)))
"""


def test_credential_calls_are_made_with_one_thread() -> None:
    assert interpreter(SINGLE) == [0, 0]


async def test_more_calls_block_than_trio_has_threads_for() -> None:
    returned: list[int] = []
    eventfd = await task.sysif.syscall(SYS.eventfd2, 0, 1)  # as a semaphore

    async def read() -> None:
        returned.append((await task.sysif.call(SYS.read, (eventfd, Ret(8), 8))).value)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            count = In((60).to_bytes(8, sys.byteorder))
            await task.sysif.call(SYS.write, (eventfd, count, 8))  # it may block as well
    await task.sysif.syscall(SYS.close, eventfd)
    assert returned == [8] * 60

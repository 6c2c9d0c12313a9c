"""What came after Linux 5.10 is not needed: it is refused here, by a filter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import old_kernel

_PROGRAM = """
import os
import sys

import trio

import rsyscall
from rsyscall import PIPE, Command, local_process
from rsyscall.fcntl import O
from rsyscall.near import FileDescriptor
from rsyscall.sched import CLONE
from rsyscall.signal import SIG
from rsyscall.sys.mman import MAP, PROT
from rsyscall.sys.wait import CLD, W
from rsyscall.thread import do_cloexec_except

SH = Command("/bin/sh", ["sh", "-c"], {})


async def check(process):
    assert await process.task.getpid() == process.task.near_process
    async with await process.task.memfd_create("x") as fd:
        await fd.write(b"hello")
        mapping = await fd.mmap(4096, PROT.READ | PROT.WRITE, MAP.SHARED)
        assert await mapping.read(0, 5) == b"hello"
        await mapping.munmap()
    done = await process.run(SH.args("exit 3"), check=False)
    assert done.exit_status == 3
    async with await process.spawn(SH.args("read x; echo $x"), stdin=PIPE, stdout=PIPE) as program:
        await program.stdin.send_all(b"word\\n")
        assert await program.stdout.receive_some() == b"word\\n"
        assert (await process.monitor.wait()).pid == int(program)


async def children(process):
    for options in ({}, {"ring": False}, {"vm": False}, {"flags": CLONE.FILES}):
        async with await process.clone(**options) as child:
            await check(child)
            async with await child.clone() as grandchild:
                await check(grandchild)
            closed = await child.task.memfd_create("closed")
            kept = await child.task.memfd_create("kept")
            for fd in (closed, kept):
                await fd.disable_cloexec()
            await do_cloexec_except(child, {FileDescriptor(int(kept.near))})
            numbers = f"/proc/$$/fd/{int(closed.near)} /proc/$$/fd/{int(kept.near)}"
            command = SH.args(f"readlink {numbers} > {kept_in}; true")
            await (await child.exec(command)).check()
            assert open(kept_in).read() == "/memfd:kept (deleted)\\n"


async def stolen():
    async with await local_process.spawn(SH.args("exit 3")) as child:
        await child.pid.wait_readable()
        os.waitpid(int(child), 0)
        assert (await child.wait()).code is CLD.UNKNOWN


async def main():
    await check(local_process)
    await children(local_process)
    await stolen()
    for ring in (True, False):
        async with rsyscall.open_process(ring=ring) as process:
            await check(process)
            await children(process)


kept_in = sys.argv[1]
trio.run(main)
"""


def test_nothing_newer_is_needed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PROGRAM, str(tmp_path / "kept")]
    filtered = [sys.executable, old_kernel.__file__, *command]
    done = subprocess.run(filtered, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_newer_calls_are_refused() -> None:
    """The filter does what it is for."""
    program = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(441, -1, 0, 0, 0, 0, 0) == -1
print(os.strerror(ctypes.get_errno()))
assert libc.syscall(436, 1000, 1001, 4) == -1
print(os.strerror(ctypes.get_errno()))
try:
    socket.socketpair()[0].getsockopt(socket.SOL_SOCKET, 77, 4)
except OSError as exc:
    print(exc.strerror)
"""
    command = [sys.executable, old_kernel.__file__, sys.executable, "-c", program]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert said.splitlines() == [
        "Function not implemented",
        "Invalid argument",
        "Protocol not available",
    ]
    assert "epoll_pwait2" in old_kernel.later_calls()
    assert "close_range" not in old_kernel.later_calls()

"""Where clone3(2) is filtered out, children are made by clone(2) and clear handlers themselves."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from rsyscall.sys.syscall import SYS

_CHILD = """
import ctypes
import signal
import struct
import sys
from pathlib import Path

import trio

import rsyscall

number, error = int(sys.argv[1]), int(sys.argv[2])
if error:
    libc = ctypes.CDLL(None, use_errno=True)
    load, equal, leave = 0x20, 0x15, 0x06
    code = ctypes.create_string_buffer(b"".join(
        struct.pack("@HBBI", *line)
        for line in [
            (load, 0, 0, 0),
            (equal, 0, 1, number),
            (leave, 0, 0, 0x00050000 | error),
            (leave, 0, 0, 0x7FFF0000),
        ]
    ))
    program = struct.pack("@HxxxxxxQ", 4, ctypes.addressof(code))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, program) == 0
    assert libc.syscall(number, 0, 0) == -1 and ctypes.get_errno() == error

signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGHUP, signal.SIG_IGN)


def signals(pid, name):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1], 16)


async def main():
    async with await rsyscall.local_process.clone() as child:
        await child.task.getppid()
        caught = signals(int(child.pid), "SigCgt")
        dumping = {3, 4, 5, 6, 7, 8, 11, 24, 31}
        assert {n for n in range(1, 65) if caught >> (n - 1) & 1} == dumping, hex(caught)
        # Those that Python ignores for itself stay so while it serves.
        ignored = signals(int(child.pid), "SigIgn")
        assert {n for n in range(1, 65) if ignored >> (n - 1) & 1} == {1, 13, 25}, hex(ignored)
    program = await rsyscall.local_process.spawn(rsyscall.Command("/bin/true", ["true"]))
    await program.check()


trio.run(main)
"""


@pytest.mark.parametrize("error", [0, errno.ENOSYS, errno.EPERM])
def test_children_without_clone3(error: int) -> None:
    command = [sys.executable, "-c", _CHILD, str(int(SYS.clone3)), str(error)]
    subprocess.run(command, check=True, timeout=60)

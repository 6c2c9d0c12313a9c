"""An interpreter in which system calls are refused, as by an older kernel or a container."""

from __future__ import annotations

import errno
import subprocess
import sys
import textwrap

from rsyscall.sys.syscall import SYS

_FILTER = """
import ctypes
import struct


def refuse(error, *numbers):
    libc = ctypes.CDLL(None, use_errno=True)
    load, equal, leave = 0x20, 0x15, 0x06
    lines = [(load, 0, 0, 0)]
    lines += [(equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    lines += [(leave, 0, 0, 0x7FFF0000), (leave, 0, 0, 0x00050000 | error)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("@HBBI", *line) for line in lines))
    program = struct.pack("@HxxxxxxQ", len(lines), ctypes.addressof(code))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, program) == 0
    for number in numbers:
        assert libc.syscall(number, -1, -1, -1, -1, -1, -1) == -1
        assert ctypes.get_errno() == error
"""


def run_filtered(
    program: str, numbers: tuple[SYS, ...], *args: str, error: int = errno.ENOSYS
) -> subprocess.CompletedProcess[str]:
    """Run a program of Python in which these calls fail, also in all that it starts."""
    begin = f"refuse({error}, {', '.join(str(int(number)) for number in numbers)})\n"
    source = _FILTER + begin + textwrap.dedent(program)
    command = [sys.executable, "-c", source, *args]
    return subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)


def check_filtered(
    program: str, numbers: tuple[SYS, ...] | SYS, *args: str, error: int = errno.ENOSYS
) -> str:
    """What it writes; it has to end well."""
    refused = (numbers,) if isinstance(numbers, SYS) else numbers
    done = run_filtered(program, refused, *args, error=error)
    assert done.returncode == 0, done.stderr
    return done.stdout

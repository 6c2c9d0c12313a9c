"""Linux 5.10, as far as a filter can make it: what came later is refused as that would refuse it.

    python tests/old_kernel.py COMMAND [ARGUMENT ...]

runs a command and all that it starts that way.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
import tomllib
from pathlib import Path

_CALLS = Path(__file__).parents[1] / "protocol" / "syscalls.toml"
_OLDEST = (5, 10)

#: What calls that there were have learnt since: call, number of the argument, its value, the error.
_LATER = [
    ("getsockopt", 2, 77, errno.ENOPROTOOPT),  # SO_PEERPIDFD, 6.5
    ("close_range", 2, 4, errno.EINVAL),  # CLOSE_RANGE_CLOEXEC, 5.11
    ("ioctl", 1, 0xC040FF0B, errno.ENOTTY),  # PIDFD_GET_INFO, 6.13
    ("madvise", 2, 22, errno.EINVAL),  # MADV_POPULATE_READ, 5.14
    ("madvise", 2, 23, errno.EINVAL),  # MADV_POPULATE_WRITE, 5.14
    ("madvise", 2, 25, errno.EINVAL),  # MADV_COLLAPSE, 6.1
    ("memfd_create", 1, 8 | 1, errno.EINVAL),  # MFD_NOEXEC_SEAL, 6.3
    ("memfd_create", 1, 16 | 1, errno.EINVAL),  # MFD_EXEC, 6.3
    ("pidfd_open", 1, 0o200, errno.EINVAL),  # PIDFD_THREAD, 6.9
    ("prctl", 0, 0x53564D41, errno.EINVAL),  # PR_SET_VMA, 5.17
    ("prctl", 0, 65, errno.EINVAL),  # PR_SET_MDWE, 6.3
    ("fcntl", 1, 1027, errno.EINVAL),  # F_DUPFD_QUERY, 6.10
]
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000


def later_calls() -> dict[str, int]:
    """The calls that Linux 5.10 has not, by name."""
    calls = tomllib.loads(_CALLS.read_text())["calls"]
    return {
        name: fields["x86_64"]
        for name, fields in calls.items()
        if "x86_64" in fields and _version(fields.get("since", "0.0")) > _OLDEST
    }


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _program() -> bytes:
    calls = tomllib.loads(_CALLS.read_text())["calls"]
    lines = [(_LOAD, 0, 0, 0)]
    for number in later_calls().values():
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERROR | errno.ENOSYS)]
    for name, index, value, error in _LATER:
        lines += [
            (_LOAD, 0, 0, 0),
            (_EQUAL, 0, 3, calls[name]["x86_64"]),
            (_LOAD, 0, 0, 16 + 8 * index),  # the lower half
            (_EQUAL, 0, 1, value),
            (_RETURN, 0, 0, _ERROR | error),
        ]
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("@HBBI", *line) for line in lines)


def enter() -> None:
    """From now on, for this process and all that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    data = _program()
    code = ctypes.create_string_buffer(data)
    program = struct.pack("@HxxxxxxQ", len(data) // 8, ctypes.addressof(code))
    # Who is privileged need not give up what makes programs privileged.
    if os.geteuid() != 0 and libc.prctl(38, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    if libc.prctl(22, 2, program) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


if __name__ == "__main__":
    enter()
    os.execvp(sys.argv[1], sys.argv[1:])

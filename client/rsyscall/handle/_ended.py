"""What is told of a child that has ended."""

from __future__ import annotations

import contextlib
import fcntl
import resource
import struct

__all__ = ["exit_status", "rusage"]

_RUSAGE = struct.Struct("2q2q14q")
#: What is asked of a pidfd, and told; then what is of no interest here; and a status as of wait(2).
_PIDFD_INFO = struct.Struct("@Q52xI")
_PIDFD_GET_INFO, _PIDFD_INFO_EXIT = 0xC040FF0B, 8


def rusage(data: bytes) -> resource.struct_rusage:
    """What it has used, from a struct rusage."""
    sec, usec, sys_sec, sys_usec, *counts = _RUSAGE.unpack(data)
    return resource.struct_rusage((sec + usec / 1e6, sys_sec + sys_usec / 1e6, *counts))


def exit_status(pidfd: int) -> int | None:
    """Its status as of wait(2), after somebody's wait, if its pidfd knows it (Linux 6.15)."""
    info = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, 0))
    with contextlib.suppress(OSError):
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
        known, status = _PIDFD_INFO.unpack(info)
        if known & _PIDFD_INFO_EXIT:
            return int(status)
    return None

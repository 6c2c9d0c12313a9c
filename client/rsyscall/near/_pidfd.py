"""Pidfds that are opened here, of children that others have made."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct

__all__ = ["open_child"]

#: What is asked of a pidfd, and told; and the parent's pid.
_PIDFD_INFO = struct.Struct("@Q16xI36x")
_PIDFD_GET_INFO, _PIDFD_INFO_PID = 0xC040FF0B, 1


def open_child(pid: int, parent: int) -> int:
    """A pidfd of a child of the parent's; -1 if it cannot be told that it is one (Linux 6.13)."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    info = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_PID, 0))
    with contextlib.suppress(OSError):
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
        known, its_parent = _PIDFD_INFO.unpack(info)
        # Should the parent have died, or be elsewhere, the number may be somebody else's.
        if known & _PIDFD_INFO_PID and its_parent == parent and _is_near(pidfd, pid):
            return pidfd
    os.close(pidfd)
    return -1


def _is_near(pidfd: int, pid: int) -> bool:
    """Whether a process has this pid, and no other in a namespace below ours."""
    fd = os.open(f"/proc/self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"\nNSpid:\t%d\n" % pid in os.read(fd, 4096)
    finally:
        os.close(fd)

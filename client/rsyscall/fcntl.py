"""`#include <fcntl.h>`"""

from __future__ import annotations

import enum

from rsyscall._raw import lib

__all__ = ["AT", "FD", "F_SEAL", "F", "O"]


class O(enum.IntFlag):  # noqa: E742 - the prefix of the header's names
    """Flags of open(2)."""

    NONE = 0
    RDONLY = lib.O_RDONLY
    WRONLY = lib.O_WRONLY
    RDWR = lib.O_RDWR
    CREAT = lib.O_CREAT
    EXCL = lib.O_EXCL
    NOCTTY = lib.O_NOCTTY
    TRUNC = lib.O_TRUNC
    APPEND = lib.O_APPEND
    NONBLOCK = lib.O_NONBLOCK
    DSYNC = lib.O_DSYNC
    DIRECT = lib.O_DIRECT
    LARGEFILE = lib.O_LARGEFILE
    DIRECTORY = lib.O_DIRECTORY
    NOFOLLOW = lib.O_NOFOLLOW
    NOATIME = lib.O_NOATIME
    CLOEXEC = lib.O_CLOEXEC
    SYNC = lib.O_SYNC
    PATH = lib.O_PATH
    TMPFILE = lib.O_TMPFILE


class AT(enum.IntFlag):
    """Flags of the calls that end in "at", and the directory that is the working directory.

    EACCESS: faccessat(2) asks for the effective ids, not for the real ones.
    """

    NONE = 0
    FDCWD = lib.AT_FDCWD
    REMOVEDIR = lib.AT_REMOVEDIR
    EMPTY_PATH = lib.AT_EMPTY_PATH
    SYMLINK_NOFOLLOW = lib.AT_SYMLINK_NOFOLLOW
    SYMLINK_FOLLOW = lib.AT_SYMLINK_FOLLOW
    EACCESS = lib.AT_EACCESS  # has the value of REMOVEDIR, and so is another name of it


class F(enum.IntEnum):
    """What fcntl(2) is to do."""

    GETFD = lib.F_GETFD
    SETFD = lib.F_SETFD
    GETFL = lib.F_GETFL
    SETFL = lib.F_SETFL
    SETPIPE_SZ = lib.F_SETPIPE_SZ
    GETPIPE_SZ = lib.F_GETPIPE_SZ
    ADD_SEALS = lib.F_ADD_SEALS
    GET_SEALS = lib.F_GET_SEALS


class FD(enum.IntFlag):
    """Flags of a file descriptor."""

    NONE = 0
    CLOEXEC = lib.FD_CLOEXEC


class F_SEAL(enum.IntFlag):
    """What can no longer be done with a memfd."""

    NONE = 0
    SEAL = lib.F_SEAL_SEAL
    SHRINK = lib.F_SEAL_SHRINK
    GROW = lib.F_SEAL_GROW
    WRITE = lib.F_SEAL_WRITE
    FUTURE_WRITE = lib.F_SEAL_FUTURE_WRITE

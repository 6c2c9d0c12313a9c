"""Numbers and flags."""

from __future__ import annotations

import enum

__all__ = [
    "FOPEN",
    "FUSE_ATTR",
    "FUSE_GETATTR",
    "FUSE_INIT",
    "FUSE_KERNEL_MINOR_VERSION",
    "FUSE_KERNEL_VERSION",
    "FUSE_MIN_READ_BUFFER",
    "FUSE_OPCODE",
    "FUSE_OPEN",
    "FUSE_READ",
    "FUSE_RELEASE",
    "FUSE_ROOT_ID",
    "FUSE_WRITE",
]

#: The version of the protocol of which the structures are here. Those that are read are the same
#: since 7.9, and INIT is read in all its forms.
FUSE_KERNEL_VERSION = 7
FUSE_KERNEL_MINOR_VERSION = 38
#: The node that is mounted.
FUSE_ROOT_ID = 1
#: Bytes that a read must have room for at least; for a server that has told a max_write, at least
#: 80 more than that. A read with less room is an OSError (EINVAL).
FUSE_MIN_READ_BUFFER = 8192


class FUSE_INIT(enum.IntFlag):
    """What the kernel offers in INIT, and what of it the server takes in its reply.

    Beyond 32 bits only together with INIT_EXT.
    """

    NONE = 0
    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    FILE_OPS = 1 << 2
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    SPLICE_WRITE = 1 << 7
    SPLICE_MOVE = 1 << 8
    SPLICE_READ = 1 << 9
    FLOCK_LOCKS = 1 << 10
    HAS_IOCTL_DIR = 1 << 11
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    MAP_ALIGNMENT = 1 << 26
    SUBMOUNTS = 1 << 27
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    SECURITY_CTX = 1 << 32
    HAS_INODE_DAX = 1 << 33
    HAS_EXPIRE_ONLY = 1 << 35


class FUSE_ATTR(enum.IntFlag):
    """Flags of FuseAttr."""

    NONE = 0
    SUBMOUNT = 1 << 0
    DAX = 1 << 1


class FUSE_GETATTR(enum.IntFlag):
    """Flags of GETATTR. FH: the file handle is one."""

    NONE = 0
    FH = 1 << 0


class FUSE_OPEN(enum.IntFlag):
    """Flags of OPEN that are not those of open(2)."""

    NONE = 0
    KILL_SUIDGID = 1 << 0


class FUSE_READ(enum.IntFlag):
    """Flags of READ. LOCKOWNER: the lock owner is one."""

    NONE = 0
    LOCKOWNER = 1 << 1


class FUSE_WRITE(enum.IntFlag):
    """Flags of WRITE. CACHE: from the page cache, and the file handle is a guess."""

    NONE = 0
    CACHE = 1 << 0
    LOCKOWNER = 1 << 1
    KILL_SUIDGID = 1 << 2


class FUSE_RELEASE(enum.IntFlag):
    """Flags of RELEASE."""

    NONE = 0
    FLUSH = 1 << 0
    FLOCK_UNLOCK = 1 << 1


class FOPEN(enum.IntFlag):
    """How the kernel is to treat a file, or a directory, that was opened.

    DIRECT_IO: not by way of the page cache, so that the size in its attributes does not matter.
    KEEP_CACHE: what is cached of it stays valid. CACHE_DIR: what is read of a directory is cached.
    """

    NONE = 0
    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    NONSEEKABLE = 1 << 2
    CACHE_DIR = 1 << 3
    STREAM = 1 << 4
    NOFLUSH = 1 << 5
    PARALLEL_DIRECT_WRITES = 1 << 6


class FUSE_OPCODE(enum.IntEnum):
    """What is asked for.

    Kernels learn more: a number that has no name here is a member all the same, as UNKNOWN_99.
    """

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52

    @classmethod
    def _missing_(cls, value: object) -> FUSE_OPCODE | None:
        if not isinstance(value, int) or not 0 <= value < 2**32:
            return None
        unknown = int.__new__(cls, value)
        unknown._name_ = f"UNKNOWN_{value}"
        unknown._value_ = value
        return unknown

    def __reduce_ex__(self, proto: object) -> tuple[object, ...]:
        """How it is copied and pickled: by its number, as the class has not all names."""
        return type(self), (self._value_,)

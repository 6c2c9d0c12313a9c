"""Near: identifiers valid inside one namespace, and the door through which calls leave."""

from rsyscall.near.sysif import (
    SyscallError,
    SyscallHangup,
    SyscallInterface,
    SyscallSendError,
)
from rsyscall.near.types import (
    Address,
    FileDescriptor,
    MemoryMapping,
    Pgid,
    Pid,
    Process,
    WatchDescriptor,
)

__all__ = [
    "Address",
    "FileDescriptor",
    "MemoryMapping",
    "Pgid",
    "Pid",
    "Process",
    "SyscallError",
    "SyscallHangup",
    "SyscallInterface",
    "SyscallSendError",
    "WatchDescriptor",
]

"""System calls as methods on process objects.

`local_process` is the interpreter itself; `open_process` starts a stub of our own; `connect` gets a
process from a server behind a UNIX socket. Each has a `task`, and every system call is a method on
it or on the handles it returns. Modules are named after C headers.
"""

# The order matters to nobody but Python: rsyscall.handle composes what the header modules define,
# and they need rsyscall.handle.fd; with this package's own import it is always handle that comes
# first.
from rsyscall.batch import RESULT, Batch, BatchError, PreparedBatch, Step
from rsyscall.command import Command
from rsyscall.epoller import AsyncFileDescriptor
from rsyscall.handle import (
    FileDescriptor,
    LinearPointer,
    Pointer,
    ReadablePointer,
    Task,
    WrittenPointer,
)
from rsyscall.monitor import AsyncChildPid
from rsyscall.near.sysif import (
    ForkedError,
    ProtocolHangup,
    SyscallError,
    SyscallHangup,
    SyscallSendError,
)
from rsyscall.sys.mman import MemoryMapping
from rsyscall.tasks.local import local_process
from rsyscall.tasks.spawn import open_process, stub_path
from rsyscall.tasks.unix import connect
from rsyscall.thread import ChildProcess, Process

__all__ = [
    "RESULT",
    "AsyncChildPid",
    "AsyncFileDescriptor",
    "Batch",
    "BatchError",
    "ChildProcess",
    "Command",
    "FileDescriptor",
    "ForkedError",
    "LinearPointer",
    "MemoryMapping",
    "Pointer",
    "PreparedBatch",
    "Process",
    "ProtocolHangup",
    "ReadablePointer",
    "Step",
    "SyscallError",
    "SyscallHangup",
    "SyscallSendError",
    "Task",
    "WrittenPointer",
    "connect",
    "local_process",
    "open_process",
    "stub_path",
]

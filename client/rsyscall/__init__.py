"""System calls as methods on process objects.

`local_process` is the interpreter itself; `open_process` starts a stub of our own; `connect` gets a
process from a server behind a UNIX socket. Each has a `task`, and every system call is a method on
it or on the handles it returns. Modules are named after C headers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

# The order matters to nobody but Python: rsyscall.handle composes what the header modules define,
# and they need rsyscall.handle.fd; with this package's own import it is always handle that comes
# first.
from rsyscall.handle import (
    FileDescriptor,
    LinearPointer,
    Pointer,
    ReadablePointer,
    Task,
    WrittenPointer,
)
from rsyscall.near.sysif import (
    ForkedError,
    Interrupted,
    OtherCallsBlocked,
    ProtocolHangup,
    SyscallError,
    SyscallHangup,
    SyscallSendError,
)
from rsyscall.path import Path
from rsyscall.struct import Int32, Int64
from rsyscall.sys.mman import MemoryMapping

if TYPE_CHECKING:
    from rsyscall.batch import RESULT, Batch, BatchError, PreparedBatch, Step
    from rsyscall.child.run import CompletedProcess
    from rsyscall.child.stdio import DEVNULL, PIPE, STDOUT
    from rsyscall.command import Command
    from rsyscall.epoller import AsyncFileDescriptor
    from rsyscall.monitor import AsyncChildPid
    from rsyscall.path import Path
    from rsyscall.tasks.local import local_process
    from rsyscall.tasks.spawn import open_process, stub_path
    from rsyscall.tasks.unix import connect
    from rsyscall.thread import ChildProcess, Process

__all__ = [
    "DEVNULL",
    "PIPE",
    "RESULT",
    "STDOUT",
    "AsyncChildPid",
    "AsyncFileDescriptor",
    "Batch",
    "BatchError",
    "ChildProcess",
    "Command",
    "CompletedProcess",
    "FileDescriptor",
    "ForkedError",
    "Int32",
    "Int64",
    "Interrupted",
    "LinearPointer",
    "MemoryMapping",
    "OtherCallsBlocked",
    "Path",
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

#: Where the names are that are imported when they are first asked for.
_LATER = {
    "DEVNULL": "child.stdio",
    "PIPE": "child.stdio",
    "RESULT": "batch",
    "STDOUT": "child.stdio",
    "AsyncChildPid": "monitor",
    "AsyncFileDescriptor": "epoller",
    "Batch": "batch",
    "BatchError": "batch",
    "ChildProcess": "thread",
    "Command": "command",
    "CompletedProcess": "child.run",
    "Path": "path",
    "PreparedBatch": "batch",
    "Process": "thread",
    "Step": "batch",
    "connect": "tasks.unix",
    "local_process": "tasks.local",
    "open_process": "tasks.spawn",
    "stub_path": "tasks.spawn",
}


def __getattr__(name: str) -> object:
    """A name that is imported only now. AttributeError for one that there is not."""
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All names, whether they are imported already or not."""
    return sorted({*globals(), *_LATER})

"""Waiting for descriptors of any process, without holding it up.

An `Epoller` has an epoll instance in the process, and that same instance is open here: trio waits
for it, and what has happened is taken from it here, without asking the process. Only what begins,
changes or ends a watch is a call in the process. `AsyncFileDescriptor` reads and writes with it:
it tries, and waits if it was too early.
"""

from rsyscall.epoller._afd import AsyncFileDescriptor
from rsyscall.epoller._buffer import AsyncReadBuffer, EOFException
from rsyscall.epoller._epoller import Epoller
from rsyscall.epoller._watched import EpolledFileDescriptor, RemovedFromEpollError

__all__ = [
    "AsyncFileDescriptor",
    "AsyncReadBuffer",
    "EOFException",
    "EpolledFileDescriptor",
    "Epoller",
    "RemovedFromEpollError",
]

"""`#include <poll.h>`"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterable, Sequence

import rsyscall.far
from rsyscall._raw import lib
from rsyscall.abi import ABI, NATIVE, Layout
from rsyscall.handle.borrow import in_struct
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.near.sysif import InOut, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, perform
from rsyscall.signal import Sigset
from rsyscall.struct import Record
from rsyscall.sys.syscall import SYS
from rsyscall.time import Timespec

__all__ = ["POLL", "PollTask", "Pollfd", "poll_call", "ppoll_call"]

_POLLFD = Layout("struct pollfd", "i32 fd, i16 events, i16 revents")
_SIGSET = 8


class POLL(enum.IntFlag):
    """What can be waited for, and what can be found."""

    NONE = 0
    IN = lib.POLLIN
    PRI = lib.POLLPRI
    OUT = lib.POLLOUT
    RDHUP = lib.POLLRDHUP
    ERR = lib.POLLERR
    HUP = lib.POLLHUP
    NVAL = lib.POLLNVAL


class Pollfd(Record):
    """struct pollfd: a descriptor, what to wait for, and what was found."""

    __slots__ = ("events", "fd", "revents")

    def __init__(self, fd: BaseFileDescriptor, events: POLL, revents: POLL = POLL.NONE) -> None:
        """Nothing is checked."""
        self.fd: BaseFileDescriptor = fd
        self.events: POLL = events
        self.revents: POLL = revents


def _pollfds(fds: Sequence[Pollfd], abi: ABI) -> InOut:
    parts = [_POLLFD.pack(abi, int(one.fd.near), int(one.events), 0) for one in fds]
    return InOut(b"".join(parts))


def _found(fds: Sequence[Pollfd], data: bytes, abi: ABI) -> list[Pollfd]:
    size = _POLLFD.size(abi)
    parts = [_POLLFD.unpack(abi, data[at : at + size]) for at in range(0, len(data), size)]
    found = [POLL(revents & 0xFFFF) for _, _, revents in parts]
    return [Pollfd(one.fd, one.events, now) for one, now in zip(fds, found, strict=True)]


@declares("poll")
def poll_call(fds: Sequence[Pollfd], timeout: int, *, abi: ABI = NATIVE) -> TypedCall[list[Pollfd]]:
    """poll(2)."""
    if not -1 <= timeout < 2**31:
        raise ValueError(f"timeout: {timeout} is not a number of milliseconds, nor -1")
    limit = None if timeout < 0 else Timespec.from_nanos(timeout * 1_000_000)
    return ppoll_call(fds, limit, abi=abi)


@declares("ppoll")
def ppoll_call(
    fds: Sequence[Pollfd],
    tmo_p: Timespec | None,
    sigmask: Iterable[int] | None = None,
    *,
    abi: ABI = NATIVE,
) -> TypedCall[list[Pollfd]]:
    """ppoll(2)."""
    kept = list(fds)

    def convert(task: rsyscall.far.Task, _value: int, outs: tuple[bytes, ...]) -> list[Pollfd]:
        return _found(kept, outs[0], task.abi)

    timeout: SyscallArgument = 0
    if tmo_p is not None:
        timeout = InOut(tmo_p.to_bytes_for(abi))
    mask = 0 if sigmask is None else in_struct(Sigset(sigmask), abi)
    args = (_pollfds(kept, abi), len(kept), timeout, mask, _SIGSET)
    return TypedCall(SYS.ppoll, args, convert, outs=True)


class PollTask(rsyscall.far.Task):
    """A task that can look at several descriptors at once.

    Both raise ValueError for what is no timeout; InvalidHandleError, FDTableMismatchError; OSError
    as the call reports it. They are checkpoints; if cancelled, nothing has happened. While such a
    call waits, so does all else in a process whose calls are made one by one: rsyscall.epoller
    waits without.
    """

    async def poll(
        self,
        fds: Sequence[Pollfd],
        timeout: int,  # noqa: ASYNC109 - the call's own
    ) -> list[Pollfd]:
        """Wait until one of the descriptors is as wanted.

        timeout: how long at most, in milliseconds; 0: not at all; -1: without end. Returns all of
        them with what was found. poll(2).
        """
        call = poll_call(fds, timeout, abi=self.abi)
        return await self._poll(fds, call)

    async def ppoll(
        self, fds: Sequence[Pollfd], tmo_p: Timespec | None, sigmask: Iterable[int] | None = None
    ) -> list[Pollfd]:
        """poll, where the timeout is exact, None being without end.

        sigmask: which signals are blocked meanwhile; None: those that are. ValueError for what is
        no signal. ppoll(2).
        """
        call = ppoll_call(fds, tmo_p, sigmask, abi=self.abi)
        return await self._poll(fds, call)

    async def _poll(self, fds: Sequence[Pollfd], call: TypedCall[list[Pollfd]]) -> list[Pollfd]:
        with contextlib.ExitStack() as stack:
            for one in fds:
                stack.enter_context(one.fd.borrow(self))  # type: ignore[arg-type] # has a table
            return await perform(self, call)

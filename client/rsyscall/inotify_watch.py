"""Waiting for what happens to files that a process sees."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

import trio

from rsyscall import near
from rsyscall.epoller import AsyncFileDescriptor
from rsyscall.epoller._shared import SharedRead
from rsyscall.sys.inotify import IN, InotifyEventList, InotifyFlag

if TYPE_CHECKING:
    from rsyscall.sys.inotify import InotifyEvent
    from rsyscall.thread import Process

__all__ = ["Inotify", "Watch"]

_ROOM = 65536


class Watch:
    """A file that is watched.

    inotify: by which instance. wd: the watch. pending_events: what has been read and not returned.
    """

    def __init__(self, inotify: Inotify, wd: near.WatchDescriptor) -> None:
        """Only Inotify.add makes them."""
        self.inotify = inotify
        self.wd = wd
        self.pending_events: list[InotifyEvent] = []
        self.removed: bool = False

    async def wait(self) -> list[InotifyEvent]:
        """Wait until something has happened, and return all that has.

        trio.ClosedResourceError once the watch has ended (and its last event, IN.IGNORED, was
        returned); SyscallHangup if the process ends. A checkpoint; if cancelled, nothing was taken.
        """
        await trio.lowlevel.checkpoint()
        while not self.pending_events:
            if self.removed:
                raise trio.ClosedResourceError(f"the watch {int(self.wd)} has ended")
            await self.inotify.more.wait()
        events, self.pending_events = self.pending_events, []
        return events

    async def wait_until_event(self, mask: IN, name: str | None = None) -> InotifyEvent:
        """Wait until one of some events has happened, and return it; earlier ones are dropped.

        name: of which file in the directory; None: whichever. Later ones stay. Otherwise as wait.
        """
        while True:
            events = await self.wait()
            for i, event in enumerate(events):
                if event.mask & mask and name in (None, event.name):
                    self.pending_events[:0] = events[i + 1 :]
                    return event

    async def remove(self) -> None:
        """End the watch; an event with IN.IGNORED is its last. OSError. A checkpoint."""
        await self.inotify.afd.handle.inotify_rm_watch(self.wd)


class Inotify:
    """Watches of files.

    afd: where events are read. As a context manager it is closed at the end of the block.
    """

    def __init__(self, afd: AsyncFileDescriptor) -> None:
        """See make."""
        self.afd = afd
        self._watches: dict[near.WatchDescriptor, Watch] = {}
        #: Its `wait()` returns when more has been read.
        self.more: SharedRead[None] = SharedRead(self._read)

    @staticmethod
    async def make(process: Process) -> Inotify:
        """Make one in a process. OSError. A checkpoint; if cancelled, nothing was made."""
        fd = await process.task.inotify_init(InotifyFlag.NONBLOCK)
        return Inotify(AsyncFileDescriptor(process.epoller, fd))

    async def add(self, path: str | os.PathLike[str], mask: IN) -> Watch:
        """Watch a file. If it is watched already, that watch is changed and returned.

        ValueError for a path with a NUL; OSError as the call reports it. A checkpoint; if
        cancelled, it is not watched. inotify_add_watch(2).
        """
        wd = await self.afd.handle.inotify_add_watch(path, mask)
        return self._watches.setdefault(wd, Watch(self, wd))

    async def _read(self) -> None:
        data = await self.afd.read_some_bytes(_ROOM)
        for event in InotifyEventList.from_bytes_for(data, self.afd.handle.task.abi):
            if event.mask & IN.Q_OVERFLOW:  # of no watch: all have to know
                for watch in self._watches.values():
                    watch.pending_events.append(event)
            elif event.wd in self._watches:
                mine = self._watches[event.wd]
                mine.pending_events.append(event)
                if event.mask & IN.IGNORED:
                    mine.removed = True
                    del self._watches[event.wd]

    async def close(self) -> None:
        """End all watches, cancelled or not. A checkpoint."""
        await self.afd.close()

    async def __aenter__(self) -> Self:
        """Itself. Not a checkpoint."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """See close."""
        await self.close()

"""The roads to the memory of a process, the fastest first.

1. What is mapped here as well (an arena, or memory of an address space that is ours, as far as we
   have mapped it ourselves and nobody unmaps it): memmove.
2. process_vm_readv(2) and process_vm_writev(2), on ourselves, too: a bad address is an error there,
   and would be a crash in 1. Whether we may, and by which pid, is found out once: by a page that is
   mapped for the purpose, and a secret written there. A pidfd says that the pid is still its.
3. READ and WRITE frames, by which the process does the same to itself. They are always there.
"""

from __future__ import annotations

import abc
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable
from typing import SupportsInt

from trio.lowlevel import checkpoint_if_cancelled

from rsyscall._checkpoint import checkpoint, due, pause, shield
from rsyscall._core import CHUNK, Here, vm_read, vm_read_into, vm_write
from rsyscall._raw import lib
from rsyscall.far import AddressSpace
from rsyscall.near.sysif import Buffer, SyscallError, SyscallInterface, check_range, unreadable
from rsyscall.sys.syscall import SYS

__all__ = ["CHUNK", "MemoryRoads", "View", "Views", "peer_pid", "pid_behind"]

#: From how many bytes on it pays to find out whether there is a faster road than frames.
_WORTH = 4096
_PROT_RW = lib.PROT_READ | lib.PROT_WRITE
_ANONYMOUS = lib.MAP_PRIVATE | lib.MAP_ANONYMOUS


def pid_behind(pidfd: int) -> int | None:
    """The pid of what a pidfd stands for, as it is seen from here; None if it is over."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", "rb") as info:
            for line in info:
                if line.startswith(b"Pid:"):
                    pid = int(line.split()[1])
                    return pid if pid > 0 else None
    except OSError:
        pass
    return None


def peer_pid(sock: socket.socket) -> int:
    """The pid of whoever made the other end of a UNIX socket, or listened there; 0: not known."""
    try:
        data = sock.getsockopt(lib.SOL_SOCKET, lib.SO_PEERCRED, 12)
    except OSError:
        return 0
    return int(struct.unpack("3i", data)[0])


class View:
    """Memory at `start` of some address space, which is at `here` of ours as well.

    owned: whether it is unmapped here when the view is closed or forgotten.
    """

    __slots__ = ("_owner", "here", "length", "start")

    def __init__(self, start: int, length: int, here: int, *, owned: bool) -> None:
        """Take over the mapping here."""
        self.start: int = start
        self.length: int = length
        self.here: int = here
        self._owner = os.getpid() if owned else 0
        if owned:  # a forked copy of us has no business there
            lib.rs_direct(SYS.madvise, here, length, lib.MADV_DONTFORK, 0, 0, 0)

    def close(self) -> None:
        """Unmap it here; nothing if that was done before."""
        owner, self._owner = self._owner, 0
        if owner and owner == os.getpid():
            lib.rs_direct(SYS.munmap, self.here, self.length, 0, 0, 0, 0)

    def __del__(self) -> None:
        """See close."""
        self.close()


class Views:
    """All views of an address space."""

    def __init__(self) -> None:
        """There are none."""
        self._views: dict[int, View] = {}
        #: What copies what is in them, and says so; of other memory it does nothing.
        self.here: Here = Here()

    def add(self, view: View) -> None:
        """Use it from now on."""
        self.here.add(view.start, view.length, view.here)
        self._views[view.start] = view

    def remove(self, start: int) -> View | None:
        """Use the view that begins there no more, if there is one."""
        self.here.remove(start)
        return self._views.pop(start, None)

    def find(self, address: int, length: int) -> int | None:
        """Where these bytes are here, if all of them are."""
        return self.here.find(address, length)

    def close(self) -> None:
        """Unmap them all here: the address space is gone, or cannot be reached any more."""
        self.here.clear()
        views, self._views = self._views, {}
        for view in views.values():
            view.close()


def views_of(space: AddressSpace) -> Views:
    """The views of an address space."""
    if space.views is None:
        space.views = Views()
    return space.views


class MemoryRoads(SyscallInterface):
    """Reading and writing the memory of a process, by the best road there is."""

    _space: AddressSpace | None = None
    _here: Here | None = None
    _owns_space = False
    _pids: Callable[[], Iterable[int | None]] | None = None
    _pid = 0
    _pidfd = -1
    #: Whether the pid may be another program's at any moment.
    executing: bool = False

    def reach(
        self,
        space: AddressSpace,
        pids: Callable[[], Iterable[int | None]] | None = None,
        *,
        owner: bool = False,
    ) -> None:
        """Say whose memory it is.

        pids: under which pids we may see a process that has it. owner: whether nobody can reach the
        memory when this interface is closed.
        """
        self._space, self._pids, self._owns_space = space, pids, owner
        self._here = views_of(space).here
        if space.ours:
            self._pids = None
            self._pid = os.getpid()

    def leave(self) -> None:
        """The process is over, or is not ours any more."""
        if self._owns_space and self._space is not None:
            self._space.lost = True
            if self._space.views is not None:
                self._space.views.close()
        self._space = self._pids = self._here = None
        self._pid = 0
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)

    @property
    def road(self) -> str:
        """Which one is taken for what is not mapped here: "process_vm", "frames", or "" so far."""
        return "process_vm" if self._pid else "" if self._pids is not None else "frames"

    @abc.abstractmethod
    async def read_by_frames(self, address: int, length: int) -> bytes | None:
        """Read; None if not all can be read. A checkpoint."""

    @abc.abstractmethod
    async def write_by_frames(self, address: int, data: memoryview) -> bool:
        """Write; False if not all can be written. A checkpoint."""

    async def read_memory(self, address: SupportsInt, length: int) -> bytes:
        """See SyscallInterface."""
        if length < 0:
            raise ValueError(f"length: {length} is negative")
        if due():  # checkpoint(), in less time
            await pause()
        else:
            await checkpoint_if_cancelled()
        here = self._here
        if here is not None and (data := here.read(address, length)) is not None:
            return data
        start = int(address)
        check_range(start, length)
        if self._pid and 0 < length <= CHUNK and not self._stale():
            got = vm_read(self._pid, self._pidfd, start, length)
            if isinstance(got, bytes):
                return got
        parts: list[bytes] = []
        for at in range(start, start + max(length, 1), CHUNK):
            if parts:
                await checkpoint()
            part = await self._read_chunk(at, min(CHUNK, start + length - at))
            if part is None:
                raise unreadable(start, length)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read_memory_into(self, address: SupportsInt, buffer: bytearray | memoryview) -> None:
        """See SyscallInterface."""
        if due():  # checkpoint(), in less time
            await pause()
        else:
            await checkpoint_if_cancelled()
        here = self._here
        if here is not None and here.fill(address, buffer):
            return
        start, view = int(address), memoryview(buffer).cast("B")
        if view.readonly:
            raise ValueError("buffer: it cannot be written")
        check_range(start, len(view))
        near = self._pid and 0 < len(view) <= CHUNK and not self._stale()
        if near and vm_read_into(self._pid, self._pidfd, start, buffer) >= 0:
            return
        for offset in range(0, len(view), CHUNK):
            if offset:
                await checkpoint()
            if not await self._fill_chunk(start + offset, view[offset : offset + CHUNK]):
                raise unreadable(start, len(view))

    async def write_memory(self, address: SupportsInt, data: Buffer) -> None:
        """See SyscallInterface."""
        if due():  # checkpoint(), in less time
            await pause()
        else:
            await checkpoint_if_cancelled()
        here = self._here
        if here is not None and here.write(address, data):
            return
        start, view = int(address), memoryview(data).cast("B")
        check_range(start, len(view))
        for offset in range(0, max(len(view), 1), CHUNK):
            if offset:
                await checkpoint()
            if not await self._write_chunk(start + offset, view[offset : offset + CHUNK]):
                raise unreadable(start, len(view))

    # ---- at most a chunk ----

    async def _read_chunk(self, address: int, length: int) -> bytes | None:
        if self._here is not None and (data := self._here.read(address, length)) is not None:
            return data
        if length and (self._pid or await self._choose(length)) and not self._stale():
            got = vm_read(self._pid, self._pidfd, address, length)
            if isinstance(got, bytes):
                return got
            if self._is_final(got):
                return None
        return await self.read_by_frames(address, length)

    async def _fill_chunk(self, address: int, buffer: memoryview) -> bool:
        if self._here is not None and self._here.fill(address, buffer):
            return True
        if len(buffer) and (self._pid or await self._choose(len(buffer))) and not self._stale():
            n = vm_read_into(self._pid, self._pidfd, address, buffer)
            if n >= 0:
                return True
            if self._is_final(n):
                return False
        data = await self.read_by_frames(address, len(buffer))
        if data is not None:
            buffer[:] = data
        return data is not None

    async def _write_chunk(self, address: int, data: memoryview) -> bool:
        if self._here is not None and self._here.write(address, data):
            return True
        if len(data) and (self._pid or await self._choose(len(data))) and not self._stale():
            n = vm_write(self._pid, self._pidfd, address, data)
            if n >= 0:
                return True
            if self._is_final(n):
                return False
        return await self.write_by_frames(address, data)

    def _stale(self) -> bool:
        return self.executing and self._space is not None and not self._space.ours

    def _is_final(self, result: int) -> bool:
        """Whether an error concerns the address; else process_vm is refused from now on."""
        if result == -errno.EFAULT:
            return True
        if result != -errno.ENOMEM:
            self._pid = 0
        return False

    async def _choose(self, length: int) -> int:
        """Find out whether process_vm is possible, if that is worth while; the pid, or 0."""
        pids = self._pids
        if pids is None or length < _WORTH:
            return 0
        self._pids = None  # not again, and not by others meanwhile
        # If it fails, frames will say what is the matter.
        with shield(), contextlib.suppress(OSError, SyscallError):
            await self._find_pid({pid for pid in pids() if pid})
        return self._pid

    async def _find_pid(self, pids: set[int]) -> None:
        pidfds: dict[int, int] = {}
        try:
            for pid in pids:
                try:
                    pidfds[pid] = os.pidfd_open(pid)
                except OSError:
                    continue
            if not pidfds:
                return
            mmap = (SYS.mmap, 0, _WORTH, _PROT_RW, _ANONYMOUS, -1, 0)
            page = await self.syscall(*mmap)
            secret = os.urandom(32)
            if await self.write_by_frames(page, memoryview(secret)):
                for pid, pidfd in pidfds.items():
                    if vm_read(pid, pidfd, page, len(secret)) == secret and self._space is not None:
                        self._pid, self._pidfd = pid, pidfds.pop(pid)
                        break
            await self.syscall(SYS.munmap, page, _WORTH)
        finally:
            for pidfd in pidfds.values():
                os.close(pidfd)

"""Processes: calls and small things that are often wanted."""

from __future__ import annotations

import functools
import os
from typing import Any, TypeVar, overload

from rsyscall.epoller import AsyncFileDescriptor, Epoller
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor, Task
from rsyscall.handle.borrow import PathArgument
from rsyscall.handle.pointer import Pointer, WrittenPointer
from rsyscall.memory.ram import MallocType, PtrValue
from rsyscall.path import Path
from rsyscall.struct import FixedSerializer, FixedSize, HasSerializer
from rsyscall.sys.mount import MS
from rsyscall.sys.socket import AF, SOCK, Sockaddr, Socketpair
from rsyscall.unistd import Pipe
from rsyscall.unistd.io import MAX_IO

__all__ = ["ProcessCalls"]

T_sized = TypeVar("T_sized", bound=FixedSize)
T_fixed = TypeVar("T_fixed", bound=FixedSerializer)
T_value = TypeVar("T_value", bound=HasSerializer)
T_path = TypeVar("T_path", bound=os.PathLike[str])
T_address = TypeVar("T_address", bound=Sockaddr)


class ProcessCalls:
    """What a process offers besides children: calls of its task, and what is made of several."""

    def __init__(self, task: Task) -> None:
        """Nothing is asked of the kernel."""
        self.task = task

    @functools.cached_property
    def epoller(self) -> Epoller:
        """What waits for its descriptors; see rsyscall.epoller."""
        return Epoller(self.task)

    async def make_afd(self, fd: FileDescriptor, set_nonblock: bool = False) -> AsyncFileDescriptor:
        """A descriptor of this process that is waited for; see AsyncFileDescriptor.make."""
        return await AsyncFileDescriptor.make(self.epoller, fd, set_nonblock)

    @overload
    async def malloc(self, cls: type[T_sized]) -> Pointer[T_sized]: ...
    @overload
    async def malloc(self, cls: type[T_fixed], size: int) -> Pointer[T_fixed]: ...
    @overload
    async def malloc(self, cls: type[bytes], size: int) -> Pointer[bytes]: ...
    @overload
    async def malloc(self, cls: type[str], size: int) -> Pointer[str]: ...
    @overload
    async def malloc(self, cls: type[T_path], size: int) -> Pointer[T_path]: ...

    async def malloc(self, cls: MallocType, size: int | None = None) -> Pointer[Any]:
        """Memory of the process; see RAMTask.malloc."""
        return await self.task._malloc(cls, size)  # pyright: ignore[reportPrivateUsage] - ours

    @overload
    async def ptr(self, data: T_value) -> WrittenPointer[T_value]: ...
    @overload
    async def ptr(self, data: bytes) -> WrittenPointer[bytes]: ...
    @overload
    async def ptr(self, data: str) -> WrittenPointer[str]: ...
    @overload
    async def ptr(self, data: T_path) -> WrittenPointer[T_path]: ...

    async def ptr(self, data: PtrValue) -> WrittenPointer[Any]:
        """Memory of the process that holds the value; see RAMTask.ptr."""
        return await self.task._ptr(data)  # pyright: ignore[reportPrivateUsage] - ours

    # ---- descriptors ----

    async def socket(self, domain: AF, type: SOCK, protocol: int = 0) -> FileDescriptor:
        """Make a socket; see Task.socket. socket(2)."""
        return await self.task.socket(domain, type, protocol)

    async def socketpair(self, domain: AF, type: SOCK, protocol: int = 0) -> Socketpair:
        """Make two sockets that are connected; see Task.socketpair. socketpair(2)."""
        return await self.task.socketpair(domain, type, protocol)

    async def pipe(self, flags: O = O.NONE) -> Pipe:
        """Make a pipe; see Task.pipe. pipe2(2)."""
        return await self.task.pipe(flags=flags)

    async def bind_getsockname(self, sock: FileDescriptor, addr: T_address) -> T_address:
        """Bind a socket, and return the address that it has then: with the port that was free.

        ValueError for an address of another family; errors of both calls. A checkpoint; if
        cancelled, it is not bound, or it is. bind(2), getsockname(2).
        """
        await sock.bind(addr)
        bound = await sock.getsockname()
        if not isinstance(bound, type(addr)):
            raise ValueError(f"addr: {addr!r}, and the socket has {bound!r}")
        return bound

    async def read_to_eof(self, fd: FileDescriptor) -> bytes:
        """Read until there is nothing more, and return all of it.

        A descriptor that blocks holds up a process whose calls are made one by one. Errors of read.
        A checkpoint; if cancelled, what had been read is lost. read(2).
        """
        found: list[bytes] = []
        while data := await fd.read(MAX_IO):
            found.append(data)
        return b"".join(found)

    # ---- files ----

    @overload
    async def spit(self, path: FileDescriptor, text: str | bytes, mode: int = 0o644) -> None: ...
    @overload
    async def spit(
        self, path: str | os.PathLike[str], text: str | bytes, mode: int = 0o644
    ) -> Path: ...

    async def spit(
        self,
        path: str | os.PathLike[str] | FileDescriptor,
        text: str | bytes,
        mode: int = 0o644,
    ) -> Path | None:
        """Write a text into a file, which is made if it does not exist, and has nothing else then.

        path: or a descriptor, which is written to where it stands. mode: permission bits of a file
        that is made, but for those of the umask. Returns the path, None for a descriptor. OSError
        as the calls report it. A checkpoint; if cancelled, or if it fails, the file may have been
        made, and a part of the text have been written. open(2), write(2).
        """
        data = os.fsencode(text) if isinstance(text, str) else text
        if isinstance(path, FileDescriptor):
            await self._write_all(path, data)
            return None
        file = await self.task.open(path, O.WRONLY | O.CREAT | O.TRUNC, mode)
        async with file:
            await self._write_all(file, data)
        return Path(path)

    async def _write_all(self, fd: FileDescriptor, data: bytes) -> None:
        while data:
            data = data[await fd.write(data) :]

    async def mkdir(self, path: str | os.PathLike[str], mode: int = 0o755) -> Path:
        """Make a directory, and return its path; see Task.mkdir. mkdir(2)."""
        await self.task.mkdir(path, mode)
        return Path(path)

    async def mount(
        self,
        source: PathArgument,
        target: PathArgument,
        filesystemtype: PathArgument,
        mountflags: MS,
        data: PathArgument,
    ) -> None:
        """Mount a file system; see Task.mount. mount(2)."""
        await self.task.mount(source, target, filesystemtype, mountflags, data)

    async def chroot(self, path: PathArgument) -> None:
        """Change the root directory; see Task.chroot. chroot(2)."""
        await self.task.chroot(path)

"""What is convenient about a process and needs no child: its stdio, memory, files and sockets."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from rsyscall import near
from rsyscall._checkpoint import shield
from rsyscall.environ import Environment
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor, Task
from rsyscall.handle.pointer import Pointer, WrittenPointer
from rsyscall.memory.ram import MallocType, PtrValue
from rsyscall.path import Path
from rsyscall.struct import FixedSerializer, FixedSize, HasSerializer

if TYPE_CHECKING:
    from rsyscall._children import ChildPidMonitor
    from rsyscall.handle.borrow import PathArgument
    from rsyscall.sys.mount import MS
    from rsyscall.sys.socket import AF, SOCK, Sockaddr, Socketpair
    from rsyscall.unistd import Pipe

__all__ = ["Conveniences"]

T_sized = TypeVar("T_sized", bound=FixedSize)
T_fixed = TypeVar("T_fixed", bound=FixedSerializer)
T_value = TypeVar("T_value", bound=HasSerializer)
T_path = TypeVar("T_path", bound=os.PathLike[str])
T_address = TypeVar("T_address", bound="Sockaddr")

_CHUNK = 65536


class Conveniences:
    """A task with its conveniences; see rsyscall.thread.Process."""

    def __init__(self, task: Task) -> None:
        """Make the conveniences of a task; nothing is asked of the kernel."""
        self.task = task

    _environ: Environment | None = None
    #: What it began with, if that was ours.
    _environ_began: dict[str, str] | None = None
    task: Task
    if not TYPE_CHECKING:  # an attribute like any other, but for when it is made

        @functools.cached_property
        def task(self) -> Task:
            """The calls."""
            return self._make_task()

    def _make_task(self) -> Task:
        """The task, when it is asked for, of who is made without one."""
        raise AttributeError("task")

    @functools.cached_property
    def stdin(self) -> FileDescriptor:
        """Its descriptor 0."""
        return self.task.make_fd_handle(near.FileDescriptor(0))

    @functools.cached_property
    def stdout(self) -> FileDescriptor:
        """Its descriptor 1."""
        return self.task.make_fd_handle(near.FileDescriptor(1))

    @functools.cached_property
    def stderr(self) -> FileDescriptor:
        """Its descriptor 2."""
        return self.task.make_fd_handle(near.FileDescriptor(2))

    @property
    def environ(self) -> Environment:
        """The environment of the programs that it starts.

        It begins as a copy of its parent's, and that of the first ones as a copy of ours; changes
        of it concern the programs that this process and its later children start. Until there is
        one they begin with our environment as it is by then.
        """
        if self._environ is None:
            self._environ_began = dict(os.environ)
            self._environ = Environment(self.task, self._environ_began)
        return self._environ

    @environ.setter
    def environ(self, environ: Environment) -> None:
        self._environ = environ

    @functools.cached_property
    def monitor(self) -> ChildPidMonitor:
        """What waits for its children, whichever changes next; see ChildPidMonitor."""
        from rsyscall._children import ChildPidMonitor

        return ChildPidMonitor(self.task)

    def variables(
        self, env: Mapping[str, str | os.PathLike[str]] | None
    ) -> Mapping[str, str | os.PathLike[str]] | None:
        """What a program begins with, before its command's changes; None: our own environment."""
        if env is None and self.has_own_environ():
            return self.environ.data
        return env

    def has_own_environ(self) -> bool:
        """Whether its environment was changed, so that it is not ours any more."""
        return self._environ is not None and self._environ.data != self._environ_began

    # ---- memory ----

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

    # ---- files ----

    @overload
    async def spit(self, path: FileDescriptor, text: str | bytes, mode: int = 0o644) -> None: ...
    @overload
    async def spit(
        self, path: str | os.PathLike[str], text: str | bytes, mode: int = 0o644
    ) -> Path: ...

    async def spit(
        self, path: str | os.PathLike[str] | FileDescriptor, text: str | bytes, mode: int = 0o644
    ) -> Path | None:
        """Make a file that holds the text, in place of what it held; or write it to a descriptor.

        mode: of a file that is made. Returns the path, or None for a descriptor. ValueError for a
        path with a NUL; OSError as the calls report it, and then only a part may have been written.
        A checkpoint; if cancelled, likewise. open(2), write(2).
        """
        data = os.fsencode(text) if isinstance(text, str) else bytes(text)
        if isinstance(path, FileDescriptor):
            await _write_all(path, data)
            return None
        fd = await self.task.open(path, O.WRONLY | O.CREAT | O.TRUNC, mode)
        async with fd:
            await _write_all(fd, data)
        return Path(path)

    async def read_to_eof(self, fd: FileDescriptor) -> bytes:
        """All that can be read from a descriptor of this process.

        One that has nothing to say holds up the calls of the process; see make_afd. OSError as the
        call reports it, and then what was read is lost. A checkpoint; if cancelled, likewise.
        read(2).
        """
        parts: list[bytes] = []
        while part := await fd.read(_CHUNK):
            parts.append(part)
        return b"".join(parts)

    async def mkdir(self, path: str | os.PathLike[str], mode: int = 0o755) -> Path:
        """Make a directory, and return its path; see FSTask.mkdir. mkdir(2)."""
        await self.task.mkdir(path, mode)
        return Path(path)

    async def chroot(self, path: PathArgument) -> None:
        """Change its root directory; see CWDTask.chroot. chroot(2)."""
        await self.task.chroot(path)

    async def mount(
        self,
        source: PathArgument,
        target: PathArgument,
        filesystemtype: PathArgument,
        mountflags: MS,
        data: PathArgument,
    ) -> None:
        """Mount a file system; see MountTask.mount. mount(2)."""
        await self.task.mount(source, target, filesystemtype, mountflags, data)

    # ---- pipes and sockets ----

    async def pipe(self, flags: O = O.NONE) -> Pipe:
        """Make a pipe; see PipeTask.pipe. pipe2(2)."""
        return await self.task.pipe(flags=flags)

    async def socket(self, domain: AF, type: SOCK, protocol: int = 0) -> FileDescriptor:
        """Make a socket; see SocketTask.socket. socket(2)."""
        return await self.task.socket(domain, type, protocol)

    async def socketpair(self, domain: AF, type: SOCK, protocol: int = 0) -> Socketpair:
        """Make two sockets that are connected; see SocketTask.socketpair. socketpair(2)."""
        return await self.task.socketpair(domain, type, protocol)

    async def bind_getsockname(self, sock: FileDescriptor, addr: T_address) -> T_address:
        """Bind a socket, and return the address that it has got, such as a port for port 0.

        ValueError if that is of another family; OSError as the calls report it. A checkpoint; if
        cancelled, the socket may have been bound. bind(2), getsockname(2).
        """
        await sock.bind(addr)
        with shield():
            found = await sock.getsockname()
        if not isinstance(found, type(addr)):
            raise ValueError(f"addr: {addr!r}, and the socket has {found!r}")
        return found


async def _write_all(fd: FileDescriptor, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[await fd.write(bytes(view[:_CHUNK])) :]

"""`#include <unistd.h>`: pipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from rsyscall.fcntl import O
from rsyscall.handle.borrow import perform_with
from rsyscall.handle.fd import FileDescriptorTask, T_fd
from rsyscall.handle.pair import HandlePair, PairSerializer, makes_pair
from rsyscall.handle.pointer import LinearPointer, Pointer
from rsyscall.near.sysif import Out, SyscallArgument
from rsyscall.near.typed import (
    TypedCall,
    declares,
    nothing,
    perform_making,
)
from rsyscall.sys.syscall import SYS

if TYPE_CHECKING:
    from rsyscall.handle import FileDescriptor

__all__ = ["Pipe", "PipeSerializer", "PipeTask", "pipe_call"]


class Pipe(HandlePair):
    """The two ends of a pipe: read is where it is read, write where it is written."""

    def __init__(self, read: FileDescriptor, write: FileDescriptor) -> None:
        """Take both."""
        super().__init__(read, write)
        self.read: FileDescriptor = read
        self.write: FileDescriptor = write


PipeSerializer = PairSerializer[Pipe]


@declares("pipe")
def pipe_call(flags: O = O.NONE) -> TypedCall[Pipe]:
    """pipe2(2)."""
    return makes_pair(Pipe, SYS.pipe2, (Out(Pipe.sizeof()), flags | O.CLOEXEC))


def _pipe_into(buf: SyscallArgument, flags: O) -> TypedCall[None]:
    return TypedCall(SYS.pipe2, (buf, flags | O.CLOEXEC), nothing)


class PipeTask(FileDescriptorTask[T_fd]):
    """A task that can make pipes."""

    @overload
    async def pipe(self, buf: None = None, flags: O = O.NONE) -> Pipe: ...
    @overload
    async def pipe(self, buf: Pointer[Pipe], flags: O = O.NONE) -> LinearPointer[Pipe]: ...

    async def pipe(
        self, buf: Pointer[Pipe] | None = None, flags: O = O.NONE
    ) -> Pipe | LinearPointer[Pipe]:
        """Make a pipe, whose ends are closed on exec, as with O.CLOEXEC.

        They are returned, or left where buf points, which is consumed. ValueError if that is too
        small; UseAfterFreeError or AddressSpaceMismatchError; OSError as the call reports it. A
        checkpoint; if cancelled, nothing was made. pipe(2).
        """
        if buf is None:
            return await perform_making(self, pipe_call(flags))
        if buf.size() < Pipe.sizeof():
            raise ValueError(f"buf: {buf.size()} bytes, two descriptors have {Pipe.sizeof()}")
        await perform_with(self, _pipe_into, buf, flags)
        return buf.filled_once()

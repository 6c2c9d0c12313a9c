"""What the typed methods of a batch have in common."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from rsyscall._core import StepList
from rsyscall.abi import ABI, NATIVE
from rsyscall.batch.step import Parameter, Step, StepOutput
from rsyscall.fcntl import AT
from rsyscall.handle.fd import BaseFileDescriptor, InvalidHandleError
from rsyscall.near.sysif import SyscallArgument
from rsyscall.near.typed import TypedCall
from rsyscall.sys.mman import MemoryMapping, UseAfterUnmapError
from rsyscall.sys.syscall import SYS

if TYPE_CHECKING:
    from rsyscall.handle import FileDescriptor

__all__ = [
    "Change",
    "DataArgument",
    "DirfdArgument",
    "FdArgument",
    "MappingArgument",
    "NumberArgument",
    "PathArgument",
    "Steps",
]

T = TypeVar("T")

#: A handle, the step that makes one, an int that a step has left, or a parameter.
FdArgument: TypeAlias = "BaseFileDescriptor | Step[FileDescriptor] | StepOutput | Parameter"
MappingArgument: TypeAlias = "MemoryMapping | Step[MemoryMapping]"
#: None is the working directory.
DirfdArgument: TypeAlias = "FdArgument | None"
PathArgument: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes] | Parameter"
DataArgument: TypeAlias = "bytes | Parameter"
NumberArgument: TypeAlias = "int | Step[int] | Parameter"


def _key(mapping: MemoryMapping) -> object:
    """The same for all handles to a mapping."""
    return mapping.near, mapping.file


class Change:
    """A use that changes a mapping; called, it checks that this may be."""

    __slots__ = ("mapping",)

    def __init__(self, mapping: MemoryMapping) -> None:
        """Which one."""
        self.mapping: MemoryMapping = mapping

    def __call__(self) -> None:
        """MemoryInUseError or UseAfterUnmapError, if it may not."""
        self.mapping.check_changeable()


class Steps(StepList):
    """Adding steps, and keeping account of the handles that they use."""

    __slots__ = ()

    @property
    def abi(self) -> ABI:
        """How values lie in the memory of who is to make the calls: here, as in ours."""
        return NATIVE

    def _fd_handle(self, fd: FdArgument) -> SyscallArgument:
        """A handle as an argument; what was closed is refused."""
        if isinstance(fd, BaseFileDescriptor):
            fd._validate()  # pyright: ignore[reportPrivateUsage] - ours
            if fd in self.gone:
                raise InvalidHandleError(f"{fd}: an earlier step closes it")
            self.used.append(fd)
            return fd.near
        if isinstance(fd, Step) or fd in self.gone:  # of steps, only such come here
            raise InvalidHandleError(f"{fd!r}: an earlier step closes it")
        return fd

    def _dirfd(self, fd: DirfdArgument) -> SyscallArgument:
        return AT.FDCWD if fd is None else self._fd(fd)

    def _range(
        self, mapping: MappingArgument, *, changes: bool = False
    ) -> tuple[SyscallArgument, int]:
        """Address and length. changes: whether it is one that only our own mappings may see."""
        if isinstance(mapping, MemoryMapping):
            mapping.check_valid()
            if changes:
                mapping.check_changeable()
            if _key(mapping) in self.gone:
                raise UseAfterUnmapError(f"{mapping}: an earlier step unmaps it")
            self.used.append(mapping)
            if changes:
                self.used.append(Change(mapping))  # once more when it is sent
            return mapping.near.address, mapping.near.length
        if mapping.closed_by >= 0:
            raise UseAfterUnmapError(f"{mapping!r}: an earlier step unmaps it")
        length = mapping.args[1] if mapping.number == SYS.mmap else None
        if mapping.ledger is not self.ledger or not isinstance(length, int):
            raise ValueError(f"mapping: {mapping!r} is no mmap of this batch")
        return mapping, length

    def _ends_handle(self, step: Step[Any], what: FdArgument | MappingArgument) -> None:
        """The step closes or unmaps it, and later ones must not use it."""
        self.gone.add(_key(what) if isinstance(what, MemoryMapping) else what)
        if isinstance(what, BaseFileDescriptor | MemoryMapping):
            self.ended.append((step, what))
        elif isinstance(what, StepOutput):
            self.end_closers[what.step.index, what.offset] = step
        elif isinstance(what, Parameter):
            self.ended_parameters.append((step, what))

    def _sized(self, call: TypedCall[T], data: DataArgument) -> TypedCall[T]:
        """The call, made for no data, with a parameter instead, and its length behind it."""
        if isinstance(data, Parameter):
            call.args = (call.args[0], data, data.length, *call.args[3:])
        return call

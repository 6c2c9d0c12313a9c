"""`#include <sched.h>`"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar, overload

import rsyscall.far
from rsyscall._raw import lib
from rsyscall.abi import ABI, NATIVE
from rsyscall.handle.borrow import perform_with
from rsyscall.handle.pointer import Pointer, WrittenPointer
from rsyscall.near.sysif import In, Ret, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, nothing, number, perform
from rsyscall.struct import Portable, Serializable, Serializer, Struct
from rsyscall.sys.syscall import SYS

if TYPE_CHECKING:
    import contextlib
    from typing import Self

__all__ = [
    "CLONE",
    "Borrowable",
    "CpuSet",
    "SchedTask",
    "Stack",
    "sched_getaffinity_call",
    "sched_setaffinity_call",
    "setns_call",
    "unshare_call",
]


class CLONE(enum.IntFlag):
    """Flags of clone(2), unshare(2) and setns(2). Those of more than 32 bits are for clone3(2)."""

    NONE = 0
    VM = lib.CLONE_VM
    FS = lib.CLONE_FS
    FILES = lib.CLONE_FILES
    SIGHAND = lib.CLONE_SIGHAND
    PIDFD = lib.CLONE_PIDFD
    PTRACE = lib.CLONE_PTRACE
    VFORK = lib.CLONE_VFORK
    PARENT = lib.CLONE_PARENT
    THREAD = lib.CLONE_THREAD
    NEWNS = lib.CLONE_NEWNS
    SYSVSEM = lib.CLONE_SYSVSEM
    SETTLS = lib.CLONE_SETTLS
    PARENT_SETTID = lib.CLONE_PARENT_SETTID
    CHILD_CLEARTID = lib.CLONE_CHILD_CLEARTID
    UNTRACED = lib.CLONE_UNTRACED
    CHILD_SETTID = lib.CLONE_CHILD_SETTID
    NEWCGROUP = lib.CLONE_NEWCGROUP
    NEWUTS = lib.CLONE_NEWUTS
    NEWIPC = lib.CLONE_NEWIPC
    NEWUSER = lib.CLONE_NEWUSER
    NEWPID = lib.CLONE_NEWPID
    NEWNET = lib.CLONE_NEWNET
    IO = lib.CLONE_IO
    NEWTIME = lib.CLONE_NEWTIME
    CLEAR_SIGHAND = lib.CLONE_CLEAR_SIGHAND
    INTO_CGROUP = lib.CLONE_INTO_CGROUP


class Borrowable(Protocol):
    """A value that points at things, which must stay for as long as it is used."""

    def borrow_with(self, stack: contextlib.ExitStack, task: rsyscall.far.Task) -> None:
        """Have them stay until the stack is closed, for a call of the task."""


T_data = TypeVar("T_data")


class Stack(Serializable, Generic[T_data]):
    """What a child finds on its stack that is cloned with it: see Task.clone.

    function: machine code, where it begins. data: what is at its stack pointer then. serializer:
    turns that into bytes. They lie at the end of the stack, as Pointer.write_to_end puts them.
    """

    def __init__(
        self, function: Pointer[Any], data: T_data, serializer: Serializer[T_data]
    ) -> None:
        """Take all three."""
        self.function = function
        self.data = data
        self.serializer = serializer

    def borrow_with(self, stack: contextlib.ExitStack, task: rsyscall.far.Task) -> None:
        """Have all that it points at stay until the stack is closed, for a call of the task.

        UseAfterFreeError, AddressSpaceMismatchError.
        """
        stack.enter_context(self.function.borrow(task))
        borrow_with = getattr(self.data, "borrow_with", None)
        if borrow_with is not None:
            borrow_with(stack, task)

    def to_bytes(self) -> bytes:
        """The address of the function, and the data. UseAfterFreeError."""
        return struct.pack("=Q", int(self.function.near)) + self.serializer.to_bytes(self.data)

    @classmethod
    def from_bytes(cls, data: bytes) -> NoReturn:
        """ValueError: whose memory an address is, and what is behind it, is not in the bytes."""
        raise ValueError("data: a stack cannot be read back")


#: Bytes of a cpu_set_t, and of the largest mask that is asked for: more CPUs than Linux can have.
_SETSIZE, _LARGEST = 128, 1024


class CpuSet(set[int], Portable, Struct):
    """A set of CPUs, by number from 0 on."""

    def __init__(self, cpus: Iterable[int] = ()) -> None:
        """ValueError for a negative number."""
        super().__init__(cpus)
        self._check(8 * _LARGEST)

    def _check(self, limit: int) -> None:
        for cpu in self:
            if not 0 <= cpu < limit:
                raise ValueError(f"cpus: {cpu!r} is not from 0 to {limit - 1}")

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """A cpu_set_t. ValueError for a number that it has no room for."""
        self._check(8 * _SETSIZE)
        return self._bytes(abi, _SETSIZE)

    def _bytes(self, abi: ABI, size: int) -> bytes:
        return abi.pack_words(sum(1 << cpu for cpu in self), size)

    def to_mask(self, abi: ABI = NATIVE) -> bytes:
        """As many bytes as there are CPUs for, and those of a cpu_set_t at least."""
        self._check(8 * _LARGEST)
        large = any(cpu >= 8 * _SETSIZE for cpu in self)
        return self._bytes(abi, _LARGEST if large else _SETSIZE)

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """From a mask of any size."""
        mask = abi.unpack_words(data)
        return cls(cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1)

    @classmethod
    def sizeof(cls) -> int:
        """The size of a cpu_set_t in bytes."""
        return _SETSIZE

    def __repr__(self) -> str:
        """In order."""
        return f"CpuSet({sorted(self)})"


def _cpus(task: rsyscall.far.Task, _value: int, outs: tuple[bytes, ...]) -> CpuSet:
    return CpuSet.from_bytes_for(outs[0], task.abi)


def _setaffinity(size: int, mask: SyscallArgument) -> TypedCall[None]:
    return TypedCall(SYS.sched_setaffinity, (0, size, mask), nothing)


@declares("sched_setaffinity")
def sched_setaffinity_call(mask: Iterable[int], *, abi: ABI = NATIVE) -> TypedCall[None]:
    """sched_setaffinity(2), of the calling thread."""
    data = CpuSet(mask).to_mask(abi)
    return _setaffinity(len(data), In(data))


@declares("sched_getaffinity")
def sched_getaffinity_call() -> TypedCall[CpuSet]:
    """sched_getaffinity(2), of the calling thread."""
    return TypedCall(SYS.sched_getaffinity, (0, _LARGEST, Ret(_LARGEST)), _cpus, outs=True)


def _getaffinity(size: int, mask: SyscallArgument) -> TypedCall[int]:
    return TypedCall(SYS.sched_getaffinity, (0, size, mask), number)


def unshare_call(flags: CLONE) -> TypedCall[None]:
    """unshare(2), and nothing but the call: who makes it must move the task's far objects."""
    return TypedCall(SYS.unshare, (flags,), nothing)


def setns_call(fd: SyscallArgument, nstype: CLONE) -> TypedCall[None]:
    """setns(2), and nothing but the call: who makes it must move the task's far objects."""
    return TypedCall(SYS.setns, (fd, nstype), nothing)


class SchedTask(rsyscall.far.Task):
    """A task that runs on CPUs."""

    async def sched_setaffinity(self, mask: WrittenPointer[CpuSet] | Iterable[int]) -> None:
        """Say on which CPUs it may run: a CpuSet, or anything that yields their numbers.

        ValueError for a negative number; UseAfterFreeError or AddressSpaceMismatchError; OSError as
        the call reports it. A checkpoint; if cancelled, nothing has changed. sched_setaffinity(2).
        """
        if isinstance(mask, WrittenPointer):
            await perform_with(self, _setaffinity, mask.size(), mask)
        else:
            await perform(self, sched_setaffinity_call(mask, abi=self.abi))

    @overload
    async def sched_getaffinity(self) -> CpuSet: ...
    @overload
    async def sched_getaffinity(self, mask: Pointer[CpuSet]) -> Pointer[CpuSet]: ...

    async def sched_getaffinity(
        self, mask: Pointer[CpuSet] | None = None
    ) -> CpuSet | Pointer[CpuSet]:
        """On which CPUs it may run: returned, or left where mask points, which is consumed.

        UseAfterFreeError or AddressSpaceMismatchError; OSError as the call reports it (EINVAL if
        mask has no room for all CPUs). A checkpoint; if cancelled, nothing has happened.
        sched_getaffinity(2).
        """
        if mask is None:
            return await perform(self, sched_getaffinity_call())
        n = await perform_with(self, _getaffinity, mask.size(), mask)
        # Behind what it has filled the kernel leaves the memory as it was.
        filled, rest = mask.readable_split(n)
        rest.free()
        return filled

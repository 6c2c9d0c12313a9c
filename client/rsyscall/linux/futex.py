"""`#include <linux/futex.h>`"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import rsyscall.far
from rsyscall.abi import ABI, Layout
from rsyscall.handle.borrow import perform_with
from rsyscall.handle.pointer import Pointer, WrittenPointer
from rsyscall.near.sysif import SyscallArgument, SyscallSendError
from rsyscall.near.typed import TypedCall, nothing
from rsyscall.struct import Portable, Struct
from rsyscall.sys.syscall import SYS

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "FUTEX_OWNER_DIED",
    "FUTEX_TID_MASK",
    "FUTEX_WAITERS",
    "FutexNode",
    "FutexTask",
    "RobustListHead",
]

#: What the kernel says in a futex whose owner has ended; who waits says so; the owner's id.
FUTEX_OWNER_DIED, FUTEX_WAITERS, FUTEX_TID_MASK = 0x40000000, 0x80000000, 0x3FFFFFFF


class FutexNode(Struct, Portable):
    """A futex that the kernel is to give up for its owner: a member of a robust list.

    next: the following one; None: there is none. futex: the id of the owner's thread.
    """

    LAYOUT: ClassVar[Layout] = Layout("futex node", "pointer next, u32 futex")

    def __init__(self, next: Pointer[FutexNode] | None, futex: int) -> None:
        """Take both."""
        self.next = next
        self.futex = futex

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """Its address and number in memory. UseAfterFreeError; ValueError for what does not fit."""
        return self.LAYOUT.pack(abi, 0 if self.next is None else int(self.next.near), self.futex)

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """From memory, but for the pointer: ValueError if it has a next one."""
        address, futex = cls.LAYOUT.unpack(abi, data)
        if address:
            raise ValueError("data: a pointer cannot be made from its address")
        return cls(None, futex)

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes."""
        return cls.LAYOUT.size()

    @classmethod
    def sizeof_for(cls, abi: ABI, /) -> int:
        """The same in the memory of a task with that ABI."""
        return cls.LAYOUT.size(abi)

    def __repr__(self) -> str:
        """For people."""
        return f"FutexNode({self.next}, {self.futex:#x})"


class RobustListHead(Struct, Portable):
    """A list of futexes that the kernel is to give up for their owner when it ends.

    first: its first member.
    """

    LAYOUT: ClassVar[Layout] = Layout(
        "struct robust_list_head", "pointer first, long futex_offset, pointer list_op_pending"
    )

    def __init__(self, first: WrittenPointer[FutexNode]) -> None:
        """The list must stay in memory for as long as the task lives: keep its pointers."""
        self.first = first

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """The structure in memory. UseAfterFreeError."""
        return self.LAYOUT.pack(abi, int(self.first.near), abi.long, 0)

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> NoReturn:
        """ValueError: whose memory an address is is not in the bytes."""
        raise ValueError("data: a pointer cannot be made from its address")

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes."""
        return cls.LAYOUT.size()

    @classmethod
    def sizeof_for(cls, abi: ABI, /) -> int:
        """The same in the memory of a task with that ABI."""
        return cls.LAYOUT.size(abi)


def _set_robust_list(head: SyscallArgument, size: int) -> TypedCall[None]:
    return TypedCall(SYS.set_robust_list, (head, size), nothing)


class FutexTask(rsyscall.far.Task):
    """A task that can own futexes."""

    async def set_robust_list(self, head: WrittenPointer[RobustListHead]) -> None:
        """Have the kernel give up the futexes of a list when the task ends, or execs.

        In each whose owner it is FUTEX_OWNER_DIED is set, and one who waits for it is woken. The
        list must stay where it is. UseAfterFreeError, AddressSpaceMismatchError; SyscallSendError
        for the interpreter's own process, where the C library has a list of its own; OSError as the
        call reports it. A checkpoint; if cancelled, nothing has changed. set_robust_list(2).
        """
        if self.sysif.immediate:
            raise SyscallSendError("the C library has a robust list of its own; nothing was done")
        size = RobustListHead.sizeof_for(self.abi)

        def declare(address: Any) -> TypedCall[None]:
            return _set_robust_list(address, size)

        await perform_with(self, declare, head)

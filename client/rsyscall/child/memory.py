"""What a child runs in: one mapping with a guard page, a stack, a session, and perhaps a ring."""

from __future__ import annotations

import abc
import contextlib
import os
import struct
import sys
from collections.abc import Sequence

from rsyscall._checkpoint import shield
from rsyscall._raw import ffi, lib
from rsyscall.child.steps import Plain
from rsyscall.far import Task
from rsyscall.near.sysif import check_reply
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.ring import RING_SIZE, SharedHalves
from rsyscall_protocol import Out, Size

__all__ = [
    "ENVIRON_AT",
    "ENVIRON_ROOM",
    "EXTRA_AT",
    "REPLY_AT",
    "RING_ROOM",
    "RUN",
    "SESSION_AT",
    "SHARED",
    "ChildMemory",
    "OwnMemory",
    "TaskMemory",
    "give_back",
    "read",
    "ring_halves",
    "start_block",
    "take",
]

_PAGE = 4096
_STACK = 32768
#: What a ring takes.
RING_ROOM = 2 * (Size.RING_HEADER + RING_SIZE)
#: Where in it the session begins, and the stack ends.
SESSION_AT = _PAGE + _STACK
#: Where in it begins what not every child needs.
EXTRA_AT = SESSION_AT + Size.CHILD_MEMORY
#: How many bytes there are for a copy of the array of our environment, and where in it: at the end
#: of what a ring takes, which who becomes a program at once has not.
ENVIRON_ROOM = 8192
ENVIRON_AT = EXTRA_AT + RING_ROOM - ENVIRON_ROOM

#: Flags of a child, as SPEC.md has them.
SHARED, RUN = 1, 2

#: Memory that children have left, for the next ones: to map it anew takes longer than the rest.
_spare: list[int] = []
_MOST_SPARE = 8
_USUAL = EXTRA_AT + -(-RING_ROOM // _PAGE) * _PAGE

_PROT_RW = lib.PROT_READ | lib.PROT_WRITE
_MAP = lib.MAP_PRIVATE | lib.MAP_ANONYMOUS | lib.MAP_NORESERVE
_MAP_SHARED = lib.MAP_SHARED | lib.MAP_ANONYMOUS
_NOHUGEPAGE, _SETMASK = 15, 2
#: Where in it the address of a BATCHED stands, and its length; or of slots, and their number.
REPLY_AT = 72
_SLOTS = struct.Struct("@QI")
_BLOCK = struct.Struct("@QQQQQIIiiIIIIQII")


def start_block(
    entry: int,
    memory: int,
    *,
    mask: int = 0,
    ranges: Sequence[tuple[int, int]],
    flags: int,
    socket: int = -1,
    pidfd: int = -1,
    page_size: int = _PAGE,
    data: int | None = None,
    end: int | None = None,
    size: int = 0,
    spin: tuple[int, int] = (0, 0),
) -> tuple[int, bytes]:
    """What a child finds on its stack, and where that is.

    entry: where it begins. memory: the address of its memory.
    end: where what is behind it begins; None: the session.
    data, size: where a batch is, and its bytes; or, of a half of the ring in the extra memory.
    """
    tail = b"".join([struct.pack("@II", *pair) for pair in ranges])
    length = -(-(_BLOCK.size + len(tail)) // 16) * 16
    if length > _STACK // 2:
        raise ValueError(f"{len(ranges)} gaps between the file descriptors to keep are too many")
    at = (memory + SESSION_AT if end is None else end) - length
    block = _BLOCK.pack(
        entry,
        memory + SESSION_AT,
        mask,
        at + _BLOCK.size,
        memory + EXTRA_AT if data is None else data,
        len(ranges),
        flags,
        socket,
        pidfd,
        page_size,
        size,
        *spin,
        0,
        0,
        0,
    )
    return at, (block + tail).ljust(length, b"\0")


class ChildMemory(abc.ABC):
    """One mapping, at `address` of some task's address space."""

    #: The signals that whoever makes the child has blocked, as a set of bits; of no interest where
    #: that is us, at once: then they are looked up when the child is made.
    mask = 0

    #: Whether the memory that it is in was dumpable when it was mapped, unless that is ours.
    dumpable = False

    #: Whether another child can have it afterwards.
    reusable = True

    #: Where the block is of a child that serves in the same memory as whoever made it; 0: none.
    block = 0

    def __init__(self, address: int, extra: int) -> None:
        """extra: the bytes behind what every child needs."""
        self.address: int = address
        self.length: int = EXTRA_AT + -(-extra // _PAGE) * _PAGE

    @property
    def room(self) -> int:
        """How many bytes there are behind what every child needs."""
        return self.length - EXTRA_AT

    @property
    def session(self) -> int:
        """Where the session begins, and the stack ends."""
        return self.address + SESSION_AT

    @property
    def extra(self) -> int:
        """Where those begin."""
        return self.address + EXTRA_AT

    @abc.abstractmethod
    async def write(self, address: int, data: bytes) -> None:
        """Write into it."""

    @abc.abstractmethod
    async def read(self, address: int, length: int) -> bytes:
        """Read from it."""

    @abc.abstractmethod
    async def free(self, *, sound: bool = True) -> None:
        """Unmap it: nobody runs in it any more.

        sound: whether whoever did left it as it was.
        """


class OwnMemory(ChildMemory):
    """In this interpreter's address space."""

    def __init__(self, extra: int = RING_ROOM, *, shared: bool = False) -> None:
        """Map it. OSError if there is no room.

        shared: with a child that has a copy of the rest.
        """
        super().__init__(0, max(extra, RING_ROOM))
        if shared:
            self.reusable: bool = False
            args = (0, self.length, _PROT_RW, _MAP_SHARED, 2**64 - 1, 0)
            self.address: int = lib.rs_direct(SYS.mmap, *args)
            check_reply(SYS.mmap, args, self.address)
            lib.rs_direct(SYS.mprotect, self.address, _PAGE, lib.PROT_NONE, 0, 0, 0)
            _shared.add(self.address)
            _mapped[self.address] = self.length
        elif extra <= RING_ROOM:
            self.address, used = take()
            if used:
                lib.rs_child_clear(self.session, self.extra, RING_SIZE)
        else:
            self.address = _map(self.length)

    async def write(self, address: int, data: bytes) -> None:
        """Write into it. Not a checkpoint."""
        _view(address, len(data))[:] = data

    async def read(self, address: int, length: int) -> bytes:
        """Read from it. Not a checkpoint."""
        return await read(address, length)

    async def free(self, *, sound: bool = True) -> None:
        """Unmap it, or keep it for another child. Not a checkpoint."""
        address, self.address = self.address, 0
        give_back(address, keep=sound and self.reusable, alone=not self.reusable)

    def halves(self) -> SharedHalves:
        """See ring_halves."""
        return ring_halves(self.address)


def _view(address: int, length: int) -> memoryview:
    return ffi.buffer(ffi.cast("char *", address), length)


async def read(address: int, length: int) -> bytes:
    """Read from such memory. Not a checkpoint."""
    return bytes(_view(address, length)[:])


class _Halves(SharedHalves):
    def __init__(self, address: int) -> None:  # its memory is not its own
        self.size = RING_SIZE
        self.address = address

    def close(self) -> None:
        pass


def ring_halves(address: int) -> SharedHalves:
    """The memory of a ring, as long as the memory at this address is mapped."""
    return _Halves(address + EXTRA_AT)


def take() -> tuple[int, bool]:
    """Memory for a child with a ring, and whether another child has left it, as it was by then.

    OSError if there is no room. See give_back.
    """
    if not _spare:
        return _map(_USUAL), False
    address = _spare.pop()
    _mapped[address] = _USUAL
    return address, True


def _map(length: int) -> int:
    address = lib.rs_child_map(length)
    check_reply(SYS.mmap, (0, length), address)
    _mapped[address] = length
    return address


def give_back(address: int, *, keep: bool = True, alone: bool = True) -> None:
    """Unmap it, or keep it for another child; nothing if that was done before.

    keep: whether another one can have it. alone: whether who was there has had no threads.
    """
    length = _mapped.pop(address, 0)
    if not length:  # or we are a copy of whoever has mapped it
        return
    if _shared:
        _shared.discard(address)
    if not alone:
        lib.rs_child_sweep(address + SESSION_AT)
    if keep and length == _USUAL and len(_spare) < _MOST_SPARE:
        _spare.append(address)
    else:
        lib.rs_direct(SYS.munmap, address, length, 0, 0, 0, 0)


#: What is in use: how long it is, by address; and what children have that share nothing else.
_mapped: dict[int, int] = {}
_shared = set[int]()


def _after_fork_in_child() -> None:
    while _mapped:
        address, length = _mapped.popitem()
        if address not in _shared:
            lib.rs_child_sweep(address + SESSION_AT)
        lib.rs_direct(SYS.munmap, address, length, 0, 0, 0, 0)
    while _spare:
        lib.rs_direct(SYS.munmap, _spare.pop(), _USUAL, 0, 0, 0, 0)


os.register_at_fork(after_in_child=_after_fork_in_child)


class TaskMemory(ChildMemory):
    """In the address space of a task elsewhere."""

    def __init__(self, task: Task, extra: int) -> None:
        """See make."""
        super().__init__(0, extra)
        self.task = task

    @classmethod
    async def make(cls, task: Task, extra: int = 0, *, shared: bool = False) -> TaskMemory:
        """Map it. OSError if there is no room. A checkpoint; if cancelled, nothing is mapped.

        shared: with a child that has a copy of the rest.
        """
        memory = cls(task, extra)
        length = memory.length
        batch = Plain()
        flags = _MAP_SHARED if shared else _MAP
        mapped = batch.syscall(SYS.mmap, 0, length, _PROT_RW, flags, -1, 0)
        guard = batch.syscall(SYS.mprotect, mapped, _PAGE, lib.PROT_NONE, on_error="continue")
        # Refused where there are no huge pages anyway.
        batch.syscall(SYS.madvise, mapped, length, _NOHUGEPAGE, on_error="continue")
        batch.syscall(SYS.rt_sigprocmask, _SETMASK, 0, Out(8), 8)
        dumpable = batch.syscall(SYS.prctl, lib.PR_GET_DUMPABLE, on_error="continue")
        done = await batch.run(task.sysif)
        memory.dumpable = done.values[dumpable.index] == 1
        memory.address, memory.mask = done.values[0], int.from_bytes(done.outs[0], sys.byteorder)
        error = done.values[guard.index]
        if error < 0:
            with shield():
                await memory.free()
            check_reply(SYS.mprotect, (done.values[0], _PAGE), error)
        return memory

    async def write(self, address: int, data: bytes) -> None:
        """Write into it. A checkpoint."""
        await self.task.sysif.write_memory(address, data)

    async def read(self, address: int, length: int) -> bytes:
        """Read from it. A checkpoint."""
        return await self.task.sysif.read_memory(address, length)

    async def sweep(self) -> None:
        """Unmap what the threads of a child that is over have left there. A checkpoint."""
        at, self.block = self.block, 0
        if at:
            slots, count = _SLOTS.unpack(await self.read(at + REPLY_AT, _SLOTS.size))
            left = b""
            if slots:
                left = await self.read(slots, 8 * min(count, Size.HELPERS))
            for slot in memoryview(left).cast("Q"):
                # The child may have written there whatever came to its mind.
                if slot and slot % _PAGE == 0 and await self._belongs(slot):
                    args = slot - Size.HELPER_STACK, Size.HELPER_MEMORY
                    await self.task.sysif.syscall(SYS.munmap, *args)

    async def _belongs(self, slot: int) -> bool:
        try:
            return int.from_bytes(await self.read(slot, 8), sys.byteorder) == self.session
        except OSError:
            return False

    async def free(self, *, sound: bool = True) -> None:
        """Unmap it; nothing if that was done before. A checkpoint."""
        with contextlib.suppress(OSError):
            await self.sweep()
        address = self.address
        self.address = 0
        if address:
            await self.task.sysif.syscall(SYS.munmap, address, self.length)

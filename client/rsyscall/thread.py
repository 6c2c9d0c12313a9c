"""Processes: a task with its conveniences."""

from __future__ import annotations

import os
from typing import Any, TypeVar, overload

from rsyscall import near
from rsyscall.batch import Batch, BoundBatch, PreparedBatch
from rsyscall.handle import FileDescriptor, Task
from rsyscall.handle.pointer import Pointer, WrittenPointer
from rsyscall.memory.ram import MallocType, PtrValue
from rsyscall.struct import FixedSerializer, FixedSize, HasSerializer

__all__ = ["Process"]

T_sized = TypeVar("T_sized", bound=FixedSize)
T_fixed = TypeVar("T_fixed", bound=FixedSerializer)
T_value = TypeVar("T_value", bound=HasSerializer)
T_path = TypeVar("T_path", bound=os.PathLike[str])


class Process:
    """A process in which we can make calls.

    task: the calls. stdin, stdout, stderr: handles of its descriptors 0, 1 and 2.
    """

    def __init__(self, task: Task) -> None:
        """Make the conveniences of a task; nothing is asked of the kernel."""
        self.task = task
        self.stdin: FileDescriptor = task.make_fd_handle(near.FileDescriptor(0))
        self.stdout: FileDescriptor = task.make_fd_handle(near.FileDescriptor(1))
        self.stderr: FileDescriptor = task.make_fd_handle(near.FileDescriptor(2))

    @property
    def pid(self) -> near.Pid:
        """Its process id, as it sees itself."""
        return self.task.near_process

    def batch(self, *, brief: bool = False) -> BoundBatch:
        """Many calls in one round trip: `async with process.batch() as b:`, then methods of b.

        The calls are made, in their order, when the block is left; see rsyscall.batch. brief:
        whether only the last result comes back. Not a checkpoint; leaving the block is one.
        """
        return BoundBatch(self.task, brief=brief)

    async def prepare(self, batch: Batch) -> PreparedBatch:
        """Send a batch once, to run it many times.

        ValueError if it closes or unmaps what a handle stands for, or cannot be sent; OSError
        (ENOMEM) if the process has no room for it. A checkpoint; if cancelled, nothing has
        happened.
        """
        return await PreparedBatch.make(batch, self.task)

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

    def __repr__(self) -> str:
        """For people."""
        return f"Process({self.task})"

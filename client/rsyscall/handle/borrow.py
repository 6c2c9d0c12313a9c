"""Calls whose arguments are handles, or data that travels inside the request."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from rsyscall._core import path_in
from rsyscall.abi import ABI, NATIVE
from rsyscall.far import Task
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.handle.pointer import Pointer, WrittenPointer
from rsyscall.near.sysif import In, SyscallArgument
from rsyscall.near.typed import TypedCall, perform
from rsyscall.struct import Struct

__all__ = ["PathArgument", "PathOrAddress", "in_struct", "path_in", "perform_with"]

T = TypeVar("T")

#: A path as methods of tasks and handles take it; a pointer is to one that is in memory already.
PathArgument: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes] | WrittenPointer[Any]
#: And as declarations take it.
PathOrAddress: TypeAlias = SyscallArgument | str | bytes | os.PathLike[str] | os.PathLike[bytes]


def in_struct(value: Struct | SyscallArgument, abi: ABI = NATIVE) -> SyscallArgument:
    """A structure, to be sent with the call; an address as it is. abi: of whom the call is."""
    return In(value.to_bytes_for(abi)) if isinstance(value, Struct) else value


async def perform_with(task: Task, declare: Callable[..., TypedCall[T]], *args: object) -> T:
    """Make the declared call with these arguments: of handles and pointers what the task may use.

    A declaration with a keyword `abi` is told that of the task. InvalidHandleError or
    FDTableMismatchError; UseAfterFreeError or AddressSpaceMismatchError; all else as perform.
    """
    if "abi" in (getattr(declare, "__kwdefaults__", None) or ()):
        declare = functools.partial(declare, abi=task.abi)
    if not any(isinstance(arg, Pointer | BaseFileDescriptor) for arg in args):
        return await perform(task, declare(*args))
    with contextlib.ExitStack() as stack:
        near: list[object] = []
        for arg in args:
            if isinstance(arg, Pointer | BaseFileDescriptor):
                near.append(stack.enter_context(arg.borrow(task)))  # type: ignore[arg-type]
            else:
                near.append(arg)
        return await perform(task, declare(*near))

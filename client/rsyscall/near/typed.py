"""Typed calls: what a method of a task or a handle asks of the kernel, and what it returns.

Each is declared once, by a function of the header module that it belongs to: number, arguments, and
how the result becomes a value. The method of a task or a handle makes the call at once; the method
of a batch, which has the same name, makes it a step.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from rsyscall._core import TypedCall

if TYPE_CHECKING:
    from rsyscall.far import Task

__all__ = [
    "DECLARED",
    "Conversion",
    "TypedCall",
    "declares",
    "first_out",
    "make_room",
    "nothing",
    "number",
    "perform",
    "perform_at_once",
    "perform_making",
]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])

#: Result and outputs of a call of the task, as a value.
Conversion: TypeAlias = "Callable[[Any, int, tuple[bytes, ...]], T]"


#: The names of all typed calls, and the functions that declare them.
DECLARED: dict[str, Callable[..., object]] = {}


def declares(name: str) -> Callable[[F], F]:
    """Enter a function as the declaration of the typed call of that name."""

    def enter(function: F) -> F:
        DECLARED[name] = function
        return function

    return enter


def number(_task: object, value: int, _outs: tuple[bytes, ...]) -> int:
    """The conversion of a call that returns a number."""
    return value


def nothing(_task: object, _value: int, _outs: tuple[bytes, ...]) -> None:
    """The conversion of a call that returns nothing."""


def first_out(_task: object, _value: int, outs: tuple[bytes, ...]) -> bytes:
    """The conversion of a call that fills a buffer."""
    return outs[0]


async def perform_at_once(task: Task, call: TypedCall[T]) -> T:
    """Make a call that does not block this time; see SyscallInterface.call_at_once."""
    reply = await task.sysif.call_at_once(call.number, call.args)
    return call.convert(task, reply.value, reply.outs)


async def perform(task: Task, call: TypedCall[T]) -> T:
    """Make the call now; errors, checkpoint and cancellation as SyscallInterface.call."""
    if call.outs:
        reply = await task.sysif.call(call.number, call.args)
        return call.convert(task, reply.value, reply.outs)
    return call.convert(task, await task.sysif.syscall(call.number, *call.args), ())


async def make_room(task: Task) -> None:
    """Before a call that makes descriptors: close what nobody can name any more, if it is much.

    A checkpoint if it does.
    """
    table = task.fd_table
    if (table.lost or table.garbage) and table.is_untidy():
        await table.gc_using_task(task)


async def perform_making(task: Task, call: TypedCall[T]) -> T:
    """perform, for a call that makes file descriptors; see make_room.

    What nobody can name any more is also closed if there is no room for another one.
    """
    table = task.fd_table
    if table.lost or table.garbage:
        await make_room(task)
        try:
            return await perform(task, call)
        except OSError as exc:
            if exc.errno != errno.EMFILE:
                raise
        await table.gc_using_task(task)
    return await perform(task, call)

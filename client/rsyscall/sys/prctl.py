"""`#include <sys/prctl.h>`"""

from __future__ import annotations

import enum
from typing import Any, Literal, TypeVar, overload

import rsyscall.far
from rsyscall import near
from rsyscall._raw import lib
from rsyscall.handle.borrow import PathArgument, PathOrAddress, path_in, perform_with
from rsyscall.handle.pointer import Pointer, ReadablePointer
from rsyscall.near.sysif import Out, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, nothing, number, perform
from rsyscall.signal import SIG
from rsyscall.struct import StrSerializer
from rsyscall.sys.capability import CAP
from rsyscall.sys.syscall import SYS

__all__ = [
    "PR",
    "PR_CAP_AMBIENT",
    "PrctlTask",
    "prctl_call",
    "prctl_cap_ambient_call",
    "prctl_get_name_call",
    "prctl_set_name_call",
    "prctl_set_pdeathsig_call",
]

T = TypeVar("T")


class PR(enum.IntEnum):
    """What prctl(2) is to do."""

    SET_PDEATHSIG = lib.PR_SET_PDEATHSIG
    GET_PDEATHSIG = lib.PR_GET_PDEATHSIG
    GET_DUMPABLE = lib.PR_GET_DUMPABLE
    SET_DUMPABLE = lib.PR_SET_DUMPABLE
    GET_KEEPCAPS = lib.PR_GET_KEEPCAPS
    SET_KEEPCAPS = lib.PR_SET_KEEPCAPS
    SET_NAME = lib.PR_SET_NAME
    GET_NAME = lib.PR_GET_NAME
    CAPBSET_READ = lib.PR_CAPBSET_READ
    CAPBSET_DROP = lib.PR_CAPBSET_DROP
    GET_SECUREBITS = lib.PR_GET_SECUREBITS
    SET_SECUREBITS = lib.PR_SET_SECUREBITS
    SET_TIMERSLACK = lib.PR_SET_TIMERSLACK
    GET_TIMERSLACK = lib.PR_GET_TIMERSLACK
    SET_CHILD_SUBREAPER = lib.PR_SET_CHILD_SUBREAPER
    GET_CHILD_SUBREAPER = lib.PR_GET_CHILD_SUBREAPER
    SET_NO_NEW_PRIVS = lib.PR_SET_NO_NEW_PRIVS
    GET_NO_NEW_PRIVS = lib.PR_GET_NO_NEW_PRIVS
    CAP_AMBIENT = lib.PR_CAP_AMBIENT


class PR_CAP_AMBIENT(enum.IntEnum):
    """What PR.CAP_AMBIENT is to do with a capability, or with all."""

    IS_SET = lib.PR_CAP_AMBIENT_IS_SET
    RAISE = lib.PR_CAP_AMBIENT_RAISE
    LOWER = lib.PR_CAP_AMBIENT_LOWER
    CLEAR_ALL = lib.PR_CAP_AMBIENT_CLEAR_ALL


#: Bytes of the name of a thread, its NUL included.
_NAME = 16


def _check_option(option: object, wanted: PR) -> None:
    if option != wanted:
        raise ValueError(f"option: {option!r} is not {wanted!r}")


@declares("prctl")
def prctl_call(
    option: PR,
    arg2: SyscallArgument = 0,
    arg3: SyscallArgument = 0,
    arg4: SyscallArgument = 0,
    arg5: SyscallArgument = 0,
) -> TypedCall[int]:
    """prctl(2)."""
    args = (option, arg2, arg3, arg4, arg5)
    if option == PR.SET_DUMPABLE and isinstance(arg2, int):
        dumpable = arg2 == 1

        def told(task: rsyscall.far.Task, value: int, _outs: tuple[bytes, ...]) -> int:
            task.address_space.dumpable_set(task, dumpable)
            return value

        return TypedCall(SYS.prctl, args, told, handle=True)
    return TypedCall(SYS.prctl, args, number)


@declares("prctl_set_pdeathsig")
def prctl_set_pdeathsig_call(
    option: Literal[PR.SET_PDEATHSIG], arg2: SyscallArgument
) -> TypedCall[None]:
    """prctl(2) with PR.SET_PDEATHSIG."""
    _check_option(option, PR.SET_PDEATHSIG)
    return TypedCall(SYS.prctl, (option, arg2, 0, 0, 0), nothing)


@declares("prctl_set_name")
def prctl_set_name_call(option: Literal[PR.SET_NAME], arg2: PathOrAddress) -> TypedCall[None]:
    """prctl(2) with PR.SET_NAME. arg2: the name, or its address."""
    _check_option(option, PR.SET_NAME)
    return TypedCall(SYS.prctl, (option, path_in(arg2, "arg2"), 0, 0, 0), nothing)


def _name(_task: object, _value: int, outs: tuple[bytes, ...]) -> str:
    return StrSerializer().from_bytes(outs[0])


@declares("prctl_get_name")
def prctl_get_name_call(option: Literal[PR.GET_NAME]) -> TypedCall[str]:
    """prctl(2) with PR.GET_NAME."""
    _check_option(option, PR.GET_NAME)
    return TypedCall(SYS.prctl, (option, Out(_NAME), 0, 0, 0), _name, outs=True)


@declares("prctl_cap_ambient")
def prctl_cap_ambient_call(
    option: Literal[PR.CAP_AMBIENT], arg2: PR_CAP_AMBIENT, arg3: SyscallArgument = 0
) -> TypedCall[int]:
    """prctl(2) with PR.CAP_AMBIENT."""
    _check_option(option, PR.CAP_AMBIENT)
    return TypedCall(SYS.prctl, (option, arg2, arg3, 0, 0), number)


class PrctlTask(rsyscall.far.Task):
    """A task that can be told, and asked, all sorts of things about itself.

    Most concern one thread only; in the interpreter's own process that is the calling one.
    """

    async def prctl(
        self,
        option: PR,
        arg2: Pointer[Any] | near.Address | int = 0,
        arg3: int = 0,
        arg4: int = 0,
        arg5: int = 0,
    ) -> int:
        """Make the call as it is, with numbers, and an address or pointer where it wants one.

        UseAfterFreeError or AddressSpaceMismatchError; OSError as the call reports it. A
        checkpoint; if cancelled, nothing has happened. prctl(2).
        """
        return await perform_with(self, prctl_call, option, arg2, arg3, arg4, arg5)

    async def prctl_set_pdeathsig(
        self, option: Literal[PR.SET_PDEATHSIG], arg2: SIG | Literal[0]
    ) -> None:
        """Which signal it gets when the thread that made it dies; 0: none.

        OSError as the call reports it. A checkpoint; if cancelled, nothing has changed. prctl(2).
        """
        await perform(self, prctl_set_pdeathsig_call(option, arg2))

    async def prctl_cap_ambient(
        self, option: Literal[PR.CAP_AMBIENT], arg2: PR_CAP_AMBIENT, arg3: CAP | Literal[0] = 0
    ) -> int:
        """Change or ask for the ambient capabilities: 1 or 0 for PR_CAP_AMBIENT.IS_SET.

        OSError as the call reports it. A checkpoint; if cancelled, nothing has changed. prctl(2).
        """
        return await perform(self, prctl_cap_ambient_call(option, arg2, arg3))

    @overload
    async def prctl_get_name(self, option: Literal[PR.GET_NAME]) -> str: ...
    @overload
    async def prctl_get_name(
        self, option: Literal[PR.GET_NAME], arg2: Pointer[T]
    ) -> ReadablePointer[T]: ...

    async def prctl_get_name(
        self, option: Literal[PR.GET_NAME], arg2: Pointer[T] | None = None
    ) -> str | ReadablePointer[T]:
        """The thread's name: returned, or left where arg2 points, which is consumed.

        ValueError if that has less than 16 bytes; UseAfterFreeError or AddressSpaceMismatchError. A
        checkpoint; if cancelled, nothing has happened. prctl(2).
        """
        if arg2 is None:
            return await perform(self, prctl_get_name_call(option))
        _check_option(option, PR.GET_NAME)
        if arg2.size() < _NAME:
            raise ValueError(f"arg2: {arg2.size()} bytes, a name may have {_NAME}")
        await perform_with(self, prctl_call, option, arg2)
        return arg2.unsafe()

    async def prctl_set_name(self, option: Literal[PR.SET_NAME], arg2: PathArgument) -> None:
        """Change the thread's name; the kernel takes the first 15 bytes.

        ValueError if it contains a NUL; UseAfterFreeError or AddressSpaceMismatchError. A
        checkpoint; if cancelled, nothing has changed. prctl(2).
        """
        await perform_with(self, prctl_set_name_call, option, arg2)

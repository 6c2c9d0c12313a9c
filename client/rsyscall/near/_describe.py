"""Calls as strace would show them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import SupportsInt, TypeAlias

from rsyscall._core import Placeholder
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import FdArg, In, InOut, Out, Ref, Ret, Struct
from rsyscall_protocol._syscalls import CALLS

__all__ = ["SyscallArgument", "describe_call"]

#: What a call may be given: a number or something that converts to one, or data inside the request;
#: in a batch also a Placeholder.
SyscallArgument: TypeAlias = SupportsInt | In | Out | Ret | InOut | Struct | FdArg | Placeholder


def _describe_argument(value: SyscallArgument | Ref, kind: str) -> str:
    match value:
        case In(data) if kind in ("path", "str"):
            return repr(os.fsdecode(data.removesuffix(b"\0")))
        case In(data) | InOut(data):
            return f"<{len(data)} bytes>"
        case Out(size) | Ret(size):
            return f"<room for {size} bytes>"
        case Struct(data):
            return f"<struct of {len(data)} bytes>"
        case FdArg(index):
            return f"<fd {index} of the request>"
        case Ref(step):  # of the library's own batches
            return f"<result of step {step + 1}>"
        case Placeholder():
            return repr(value)
        case _:
            number = int(value)
            plain = kind in (
                "fd",
                "dirfd",
                "int",
                "uint",
                "size",
                "off",
                "pid",
                "uid",
                "gid",
                "sig",
            )
            if kind in ("fd", "dirfd"):
                number = (number & 0xFFFFFFFF) - ((number & 0x80000000) << 1)
            if kind == "dirfd" and number == -100:
                return "AT_FDCWD"
            return oct(number) if kind == "mode" else str(number) if plain else hex(number)


def describe_call(number: int, args: Sequence[SyscallArgument]) -> str:
    """A call as strace would show it: name, and arguments with their names."""
    try:
        name = SYS(number).name
    except ValueError:
        name = f"syscall_{number}"
    known = CALLS.get(name, (None, 0, "", ""))[0]
    parts: list[str] = []
    for i, arg in enumerate(args[: len(known) if known is not None else 6]):
        label, kind = known[i].split(":")[:2] if known is not None else (f"arg{i + 1}", "")
        parts.append(f"{label}={_describe_argument(arg, kind)}")
    return f"{name}({', '.join(parts)})"

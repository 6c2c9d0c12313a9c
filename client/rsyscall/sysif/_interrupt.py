"""What it means that a request has been interrupted."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TypeAlias

from rsyscall.near.sysif import SyscallArgument, describe_call
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import Batched, Result, Status
from rsyscall_protocol._syscalls import CALLS

__all__ = ["GRACE_SECONDS", "MadeCall", "describe", "stuck", "without_effect"]

#: How long a call may take to end once the server has been asked to interrupt it.
GRACE_SECONDS = 10.0

#: The number and the arguments of a call.
MadeCall: TypeAlias = tuple[int, Sequence[SyscallArgument]]

_WITH_EFFECT = {
    int(SYS[name]) for name in SYS.__members__ if CALLS[name][2] in ("continues", "done")
}
_INTERRUPTED = -errno.EINTR
_BLOCKED = bytes([Status.BLOCKED])
_WITHOUT = {Status.UNDONE, Status.BLOCKED, Status.NOT_STARTED}


def describe(call: MadeCall | None) -> str:
    """A request, for people."""
    return "a batch" if call is None else describe_call(*call)


def stuck(call: MadeCall | None) -> str:
    """Why a connection is over in which a request cannot be interrupted."""
    return f"the server is stuck: not to be interrupted in {GRACE_SECONDS:g} s: {describe(call)}"


def without_effect(reply: Result | Batched, call: MadeCall | None) -> bool:
    """Whether what has been interrupted is as if it had never been sent."""
    if isinstance(reply, Result):
        return reply.value == _INTERRUPTED and (call is None or call[0] not in _WITH_EFFECT)
    steps = reply.statuses[: reply.stopped + 1]
    return steps[-1:] == _BLOCKED and all(status in _WITHOUT for status in steps)

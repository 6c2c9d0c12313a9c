"""A program from its start to its end, with what it reads and writes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

import trio

from rsyscall.child.clocks import TimeOffsets
from rsyscall.child.setup import Descriptors
from rsyscall.child.stdio import PIPE, StdioArgument
from rsyscall.handle import FileDescriptor
from rsyscall.handle.process import ChildPid
from rsyscall.monitor import AsyncChildPid
from rsyscall.sched import CLONE
from rsyscall.signal import SIG, SignalMask
from rsyscall.sys.wait import CalledProcessError, ChildState, W

if TYPE_CHECKING:
    import os


__all__ = ["CompletedProcess", "SpawnOptions", "add_captures", "finish"]


class SpawnOptions(TypedDict, total=False):
    """The keywords of Process.spawn."""

    stdin: StdioArgument
    stdout: StdioArgument
    stderr: StdioArgument
    fds: Descriptors
    cwd: str | os.PathLike[str] | FileDescriptor | None
    env: Mapping[str, str | os.PathLike[str]] | None
    uid: int | None
    gid: int | None
    groups: Sequence[int] | None
    rlimits: Mapping[int, tuple[int, int]] | None
    unshare: CLONE
    pgid: ChildPid | Literal[0] | None
    session: bool
    tty: FileDescriptor | None
    pdeathsig: SIG | int | None
    cgroup: FileDescriptor | str | os.PathLike[str] | None
    time_offsets: TimeOffsets | None
    inherited_signal_blocks: Sequence[SignalMask]


class CompletedProcess(ChildState):
    """How a program has ended, and what it wrote to what was captured.

    stdout, stderr: bytes, or None for what was not captured.
    """

    __slots__ = ("stderr", "stdout")

    def __init__(self, state: ChildState, stdout: bytes | None, stderr: bytes | None) -> None:
        """Take all three."""
        super().__init__(state.code, state.pid, state.uid, state.exit_status, state.sig)
        self.stdout: bytes | None = stdout
        self.stderr: bytes | None = stderr

    def _fields(self) -> tuple[object, ...]:
        return (*(getattr(self, name) for name in ChildState.__slots__), self.stdout, self.stderr)

    def __repr__(self) -> str:
        """For people: what was captured may be long."""
        state = ChildState(self.code, self.pid, self.uid, self.exit_status, self.sig)
        return f"{type(self).__name__}({state!r}, {self.stdout!r}, {self.stderr!r})"


def add_captures(
    options: SpawnOptions, data: bytes | None, stdout: bool, stderr: bool, *, shown: bool
) -> SpawnOptions:
    """The options with a pipe for each that we read or write ourselves.

    shown: whether somebody is given the child while it runs. ValueError for one that is given
    twice, and for a pipe of which nobody has the other end.
    """
    found: dict[str, Any] = {**options}
    for name, ours, why in (
        ("stdin", data is not None, "input"),
        ("stdout", stdout, "capture_stdout"),
        ("stderr", stderr, "capture_stderr"),
    ):
        given = found.get(name)
        if ours:
            if given is not None:
                raise ValueError(f"{why}: {name} is given, too")
            found[name] = PIPE
        elif isinstance(given, int) and given == PIPE and not shown:
            raise ValueError(f"{name}: nobody would use the other end of the pipe; see spawn")
    return cast("SpawnOptions", found)


async def _feed(stream: trio.abc.SendStream, data: bytes) -> None:
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):  # it has read as much as it wanted
            await stream.send_all(data)


async def _drain(stream: trio.abc.ReceiveStream, parts: list[bytes]) -> None:
    async with stream:
        async for part in stream:
            parts.append(bytes(part))


async def finish(
    child: AsyncChildPid, data: bytes | None, *, stdout: bool, stderr: bool, check: bool
) -> CompletedProcess:
    """Write, read and wait, all at once, until the program has ended; see Process.run."""
    written: list[list[bytes] | None] = [None, None]
    if data is None and not stdout and not stderr:
        state = await child.waitpid(W.EXITED)
    else:
        try:
            async with trio.open_nursery() as nursery:
                if data is not None and child.stdin is not None:
                    nursery.start_soon(_feed, child.stdin, data)
                for i, (wanted, stream) in enumerate(
                    ((stdout, child.stdout), (stderr, child.stderr))
                ):
                    if wanted and stream is not None:
                        parts = written[i] = list[bytes]()
                        nursery.start_soon(_drain, stream, parts)
                state = await child.waitpid(W.EXITED)
        except BaseExceptionGroup:
            await trio.lowlevel.checkpoint_if_cancelled()  # one Cancelled, and no group of them
            raise
    out, err = (None if parts is None else b"".join(parts) for parts in written)
    if check and not state.clean():
        raise CalledProcessError(state, child.command, out, err)
    return CompletedProcess(state, out, err)

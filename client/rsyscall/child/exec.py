"""A child becomes another program."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

import trio

from rsyscall._checkpoint import shield
from rsyscall._raw import ffi
from rsyscall.child.start import Child
from rsyscall.child.steps import call, raise_failure, run
from rsyscall.child.strings import Strings
from rsyscall.child.unshare import unshare_child_files
from rsyscall.handle import FileDescriptor, Task
from rsyscall.handle.process import ChildPid, ChildPidError
from rsyscall.near.sysif import Out, SyscallHangup, SyscallSendError, SyscallSendHangup
from rsyscall.signal import SIG
from rsyscall.struct import path_to_bytes
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import W
from rsyscall_protocol import Batch, In, Step

if TYPE_CHECKING:
    from rsyscall.command import Command
    from rsyscall.monitor import AsyncChildPid

__all__ = ["execute", "has_exec", "signal_mask"]

_SETMASK, _DFL, _IGN, _RESTORER = 2, 0, 1, 0x04000000
_PF_FORKNOEXEC = 0x40


def signal_mask(signals: Collection[int]) -> bytes:
    """A set of signals as the kernel wants it."""
    return sum(1 << (int(sig) - 1) for sig in set(signals)).to_bytes(8, sys.byteorder)


def _action(handler: int) -> In:
    return In(struct.pack("@QQQQ", handler, _RESTORER, 0, 0))


def has_exec(pid: ChildPid) -> bool | None:
    """Whether a child has exec'd since it was cloned; None if that cannot be seen."""
    number = pid.near.id if pid.task.pidns.ours else _visible_pid(pid)
    try:
        stat = _read(f"/proc/{number}/stat")
    except OSError:
        return None
    return not int(stat.rpartition(b")")[2].split()[6]) & _PF_FORKNOEXEC


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _visible_pid(pid: ChildPid) -> int:
    """As it is seen from here: its parent may be in another namespace."""
    with contextlib.suppress(OSError):
        for line in _read(f"/proc/self/fdinfo/{pid.pidfd}").splitlines():
            if line.startswith(b"Pid:"):
                return int(line.split()[1])
    return pid.near.id


async def _write(task: Task, address: int, data: bytes) -> None:
    if task.address_space.ours:
        ffi.memmove(ffi.cast("char *", address), data, len(data))
    else:
        await task.sysif.write_memory(address, data)


async def execute(
    child: Child,
    path: str | os.PathLike[str],
    strings: Strings,
    *,
    fd: FileDescriptor | None = None,
    flags: int = 0,
    blocked: Collection[SIG] = (),
    command: Command | None = None,
) -> AsyncChildPid:
    """Replace the child's program; see ChildProcess.execve."""
    task = child.task
    name = In(path_to_bytes(path, "path"))
    if fd is not None:
        with fd.borrow(task) as number:
            dirfd = int(number)
    else:
        dirfd = -100
    await unshare_child_files(child)
    memory = await task.malloc(bytes, strings.size)
    at = int(memory.near)
    steps = _steps(dirfd, name, at, at + strings.envp, flags, blocked)
    try:
        await _write(task, at, strings.at(at))
        await _until_gone(child, steps)
        with shield():
            await _settle(child)
    finally:
        memory.free()
    child.pid.pid.did_exec(command)
    child.over("has exec'd")
    if task.address_space is not child.pid.pid.task.address_space:
        task.address_space.end()
    with shield():
        await child.pid.pid.clear_away()
    return child.pid


def _steps(
    dirfd: int, name: In, argv: int, envp: int, flags: int, blocked: Collection[SIG]
) -> list[Step]:
    """What is done in one go. The mask, which comes first, is all that is not taken back."""
    mask = In(signal_mask(blocked))
    steps = [call(SYS.rt_sigprocmask, _SETMASK, mask, Out(8), 8)]
    for sig in (SIG.PIPE, SIG.XFSZ):
        undo = (int(SYS.rt_sigaction), (int(sig), _action(_IGN), 0, 8))
        steps.append(call(SYS.rt_sigaction, int(sig), _action(_DFL), 0, 8, undo=undo))
    steps.append(call(SYS.execveat, dirfd, name, argv, envp, flags))
    return steps


async def _until_gone(child: Child, steps: list[Step]) -> None:
    """Make the calls, and return if the child cannot answer. OSError if it can, and did not exec.

    What tells that it cannot is the end of its socket: close-on-exec, and open nowhere else. But
    when the interpreter was forked by others, they have a copy; so the child is looked at, too.
    """
    pid = child.pid.pid
    child.executing = child.sysif.executing = True
    child.sysif.probe = lambda: pid.is_dead() or has_exec(pid) is True
    try:
        reply = await child.task.sysif.batch(Batch(0, tuple(steps)))
    except BaseException as exc:
        if isinstance(exc, SyscallHangup) and not isinstance(exc, SyscallSendError):
            return
        child.executing = child.sysif.executing = False
        if isinstance(exc, SyscallSendHangup) and not isinstance(exc, ChildPidError):
            raise SyscallSendHangup(f"not sent: {await child.pid.post_mortem()}") from None
        raise
    finally:
        child.sysif.probe = None
    child.executing = child.sysif.executing = False
    mask = In(reply.outs[0])
    with shield():
        await run(child.task.sysif, [call(SYS.rt_sigprocmask, _SETMASK, mask, 0, 8)])
    raise_failure(steps, reply)
    raise AssertionError("an exec returned, and had not failed")


async def _settle(child: Child) -> None:
    """Return if it has exec'd; SyscallHangup, once that is known for certain, if it has died."""
    pid = child.pid.pid
    answer = has_exec(pid)
    if answer is None:  # without /proc: what does not die now has exec'd
        with trio.move_on_after(1):
            await pid.wait_readable()
        answer = not pid.is_dead()
    if not answer:
        state = await child.pid.waitpid(W.EXITED)
        raise SyscallHangup(f"{child.task} was to exec, and has {state}")

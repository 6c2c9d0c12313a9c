"""A child becomes another program."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from rsyscall import near
from rsyscall._checkpoint import shield
from rsyscall._raw import ffi
from rsyscall.child.fds import gaps, kept
from rsyscall.child.namespaces import unshare_table
from rsyscall.child.start import Child
from rsyscall.child.steps import call, run
from rsyscall.child.strings import Strings
from rsyscall.handle import FileDescriptor, Task
from rsyscall.handle.process import ChildPid
from rsyscall.near.sysif import Out, SyscallHangup, SyscallSendError
from rsyscall.sched import CLONE
from rsyscall.signal import SIG
from rsyscall.struct import path_to_bytes
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import W
from rsyscall_protocol import In, Step

if TYPE_CHECKING:
    from rsyscall.command import Command
    from rsyscall.monitor import AsyncChildPid

__all__ = ["execute", "has_exec", "unshare_files"]

_F_DUPFD_CLOEXEC = 1030
_SETMASK, _DFL, _IGN, _RESTORER = 2, 0, 1, 0x04000000
_PF_FORKNOEXEC = 0x40


def signal_mask(signals: Collection[int]) -> bytes:
    """A set of signals as the kernel wants it."""
    return sum(1 << (int(sig) - 1) for sig in set(signals)).to_bytes(8, sys.byteorder)


def _action(handler: int) -> In:
    return In(struct.pack("@QQQQ", handler, _RESTORER, 0, 0))


async def unshare_files(child: Child) -> None:
    """Give the child a table of its own, with what has a handle and no more. A checkpoint."""
    task = child.task
    if not child.shares_files:
        return
    keep = kept(task) | child.lent.numbers
    steps = [call(SYS.unshare, int(CLONE.FILES))]
    steps += [call(SYS.close_range, *gap, 0) for gap in gaps(keep)]
    await run(task.sysif, steps)
    with shield():
        unshare_table(task, keep - child.lent.numbers, child.lent.numbers)
        await child.has_own_table()


async def _sentinel(task: Task) -> tuple[int, socket.socket]:
    """A socket whose far end is open in the child and nowhere else; its number there, and ours."""
    done = await run(task.sysif, [call(SYS.socketpair, 1, 1 | socket.SOCK_CLOEXEC, 0, Out(8))])
    there, other = struct.unpack("2i", done.outs[0])
    with shield():
        reply = await task.sysif.call(SYS.fcntl, (other, _F_DUPFD_CLOEXEC, 0), return_fd=True)
        if reply.fd is None:
            raise AssertionError("a descriptor was asked for and did not come")
        here = socket.socket(fileno=reply.fd)
        try:
            await task.sysif.syscall(SYS.close, other)
        except BaseException:
            here.close()
            raise
    return there, here


def has_exec(pid: ChildPid) -> bool | None:
    """Whether a child has exec'd since it was cloned; None if that cannot be seen."""
    number = _visible_pid(pid)
    try:
        stat = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return None
    return not int(stat.rpartition(")")[2].split()[6]) & _PF_FORKNOEXEC


def _visible_pid(pid: ChildPid) -> int:
    try:
        for line in Path(f"/proc/self/fdinfo/{pid.pidfd}").read_text().splitlines():
            if line.startswith("Pid:"):
                return int(line.split()[1])
    except OSError:
        pass
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
    await unshare_files(child)
    memory = await task.malloc(bytes, strings.size)
    at = int(memory.near)
    await _write(task, at, strings.at(at))
    there, here = await _sentinel(task)
    with here:
        mask = int.from_bytes((await run(task.sysif, [_mask_call()])).outs[0], sys.byteorder)
        steps = _steps(dirfd, name, at, at + strings.envp, flags, blocked, mask)
        try:
            with shield():
                failed = await _until_gone(child, here, steps)
            if failed is not None:
                await _close(task, there)
                raise failed
            with shield():
                await _settle(child)
        finally:
            memory.free()
    child.pid.pid.did_exec(command)
    child.over("has exec'd")
    with shield():
        await child.pid.pid.clear_away()
    return child.pid


def _mask_call() -> Step:
    return call(SYS.rt_sigprocmask, _SETMASK, 0, Out(8), 8)


def _steps(
    dirfd: int,
    name: In,
    argv: int,
    envp: int,
    flags: int,
    blocked: Collection[SIG],
    mask: int,
) -> list[Step]:
    """What is done in one go, and taken back if the last step fails."""
    steps: list[Step] = []
    for sig in (SIG.PIPE, SIG.XFSZ):
        undo = (int(SYS.rt_sigaction), (int(sig), _action(_IGN), 0, 8))
        steps.append(call(SYS.rt_sigaction, int(sig), _action(_DFL), 0, 8, undo=undo))
    undo = (int(SYS.rt_sigprocmask), (_SETMASK, In(mask.to_bytes(8, sys.byteorder)), 0, 8))
    steps.append(call(SYS.rt_sigprocmask, _SETMASK, In(signal_mask(blocked)), 0, 8, undo=undo))
    steps.append(call(SYS.execveat, dirfd, name, argv, envp, flags))
    return steps


async def _until_gone(child: Child, here: socket.socket, steps: list[Step]) -> OSError | None:
    """Make the calls; the error if the child is still there afterwards."""
    failed: OSError | None = None

    async def watch() -> None:
        await trio.lowlevel.wait_readable(here.fileno())
        child.sysif.give_up("it exec'd or died")

    child.executing = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            await run(child.task.sysif, steps)
        except OSError as exc:
            failed = exc
        except SyscallSendError:
            child.executing = False
            raise
        except SyscallHangup:
            pass
        nursery.cancel_scope.cancel()
    child.executing = failed is None
    return failed


async def _close(task: Task, number: int) -> None:
    with shield():
        await task.sysif.syscall(SYS.close, near.FileDescriptor(number))


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

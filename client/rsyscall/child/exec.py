"""A child becomes another program."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import struct
import sys
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio

from rsyscall._checkpoint import due, give_way, shield
from rsyscall._core import Frame, environment_block, wait_child
from rsyscall._raw import ffi
from rsyscall.batch.batch import Batch as Steps
from rsyscall.child.early import EarlyChild
from rsyscall.child.served import Child
from rsyscall.child.steps import call, run
from rsyscall.child.strings import Strings
from rsyscall.child.unshare import unshare_child_files
from rsyscall.far import THIS_MACHINE
from rsyscall.handle import FileDescriptor, Task, WrittenPointer
from rsyscall.handle.changes import provide
from rsyscall.handle.process import ChildPid, ChildPidError
from rsyscall.near.sysif import (
    Out,
    SyscallHangup,
    SyscallSendError,
    SyscallSendHangup,
    check_reply,
)
from rsyscall.signal import SIG
from rsyscall.struct import path_to_bytes
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import W
from rsyscall.sysif.child import EXEC_US, ChildInterface
from rsyscall.sysif.direct import DirectSyscallInterface
from rsyscall_protocol import In

if TYPE_CHECKING:
    from rsyscall.command import Command
    from rsyscall.fcntl import AT
    from rsyscall.monitor import AsyncChildPid
    from rsyscall.unistd.exec import ArgList

__all__ = ["Target", "execute", "execute_early", "has_exec", "signal_mask", "usual_order"]

_SETMASK, _RESTORER = 2, 0x04000000
_PF_FORKNOEXEC = 0x40
_EXITED = int(W.EXITED | W.NOWAIT)
_EXITED_ALL = _EXITED | int(W.ALL)
_NO_SIGNALS, _NO_DIRECTORY = bytes(8), -100
#: Of what is executed again and again, and how many bytes its strings have at most.
_KEPT, _SMALL = 8, 8192


def signal_mask(signals: Collection[int]) -> bytes:
    """A set of signals as the kernel wants it."""
    return sum(1 << (int(sig) - 1) for sig in set(signals)).to_bytes(8, sys.byteorder)


def _action(handler: int) -> In:
    return In(struct.pack("@QQQQ", handler, _RESTORER, 0, 0))


#: What Python and every server ignore, and a program is not to.
_IGNORED = int(SIG.PIPE), int(SIG.XFSZ)
_DEFAULT, _IGNORE = _action(0), _action(1)


def has_exec(pid: ChildPid) -> bool | None:
    """Whether a child has exec'd since it was cloned; None if that cannot be seen."""
    if pid.task.machine is not THIS_MACHINE:
        return None
    number = pid.near.id if pid.task.pidns.ours else _visible_pid(pid)
    try:
        stat = _read(f"/proc/{number}/stat")
    except OSError:
        return None
    return not int(stat.rpartition(b")")[2].split()[6]) & _PF_FORKNOEXEC


def _has_exec_here(pid: ChildPid) -> bool:
    """Whether a child of ours, dead or alive, has certainly exec'd: one that has can be waited for.

    Without __WALL, that is, since from then on a signal tells of its end. So has one that others
    have waited for, who wait for whatever child has ended, or the kernel, where SIGCHLD is ignored.
    """
    if not pid.task.sysif.immediate:
        return False
    if type(wait_child(pid.pidfd_there, _EXITED)) is tuple:
        return True
    return wait_child(pid.pidfd_there, _EXITED_ALL) == -errno.ECHILD


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


class _Order:
    """The steps of an exec, as they are sent. memory: what they point at, if that is ours."""

    __slots__ = ("batch", "frame", "memory")

    def __init__(
        self,
        mask: bytes,
        dirfd: int,
        name: bytes | int,
        argv: int,
        envp: int,
        flags: int,
        memory: object = None,
    ) -> None:
        batch = Steps()
        batch.syscall(SYS.rt_sigprocmask, _SETMASK, In(mask), Out(8), 8)
        for sig in _IGNORED:
            batch.syscall(SYS.rt_sigaction, sig, _DEFAULT, 0, 8)
        path = In(name) if isinstance(name, bytes) else name
        batch.syscall(SYS.execveat, dirfd, path, argv, envp, flags)
        frame = batch.encode()
        if not isinstance(frame, Frame):
            raise AssertionError("these steps are plain")
        self.batch = batch
        self.frame: Frame = frame
        self.memory = memory


@functools.lru_cache(_KEPT)
def _order_here(
    argv: tuple[str | bytes, ...],
    variables: bytes,
    mask: bytes,
    dirfd: int,
    name: bytes,
    flags: int,
) -> _Order:
    """For a child in our memory and with our environment, which consists of these variables."""
    del variables  # only to tell one from another
    strings = Strings(argv, None)
    memory = ffi.new("char[]", strings.size)
    at = int(ffi.cast("uintptr_t", memory))
    ffi.buffer(memory)[:] = strings.at(at)
    return _Order(mask, dirfd, name, at, at + strings.envp, flags, memory)


#: What usual_order was asked for last: path, arguments, environment; and what it has said.
_last: tuple[str, tuple[str, ...], bytes, _Order] | None = None


def usual_order(path: str | os.PathLike[str], argv: Sequence[str | os.PathLike[str]]) -> _Order:
    """For a child in our memory, with our environment and no signals blocked; see Target."""
    global _last
    last, block = _last, environment_block()
    if last is not None and last[0] == path and last[1] == argv and last[2] == block:
        return last[3]
    order = _for_us(argv, block, _NO_SIGNALS, _NO_DIRECTORY, path_to_bytes(path, "path"), 0)
    args = [arg for arg in argv if type(arg) is str]
    if type(path) is str and len(args) == len(argv) and len(block) + sum(map(len, args)) <= _SMALL:
        _last = path, tuple(args), block, order  # those of a Command are a tuple
    return order


def _for_us(
    argv: Sequence[str | os.PathLike[str]],
    block: bytes,
    mask: bytes,
    dirfd: int,
    name: bytes,
    flags: int,
) -> _Order:
    # What is no string is made one here: it need not be hashable.
    args = tuple(
        [
            arg if type(arg) is str else path_to_bytes(arg, f"argv[{i}]")[:-1]
            for i, arg in enumerate(argv)
        ]
    )
    make = _order_here if sum(map(len, args)) <= _SMALL else _order_here.__wrapped__
    return make(args, block, mask, dirfd, name, flags)


class Target:
    """What a child of ours is to execute, and with what; see ChildProcess.execveat."""

    __slots__ = ("_args", "_mask", "_strings", "order")

    def __init__(
        self,
        task: Task,
        path: str | os.PathLike[str],
        argv: Sequence[str | os.PathLike[str]],
        env: Mapping[str, str | os.PathLike[str]] | None,
        *,
        fd: FileDescriptor | None,
        flags: int,
        blocked: Collection[SIG],
    ) -> None:
        """env: None for our own. blocked: the signals.

        ValueError for a string with a NUL, naming the argument; and what a handle raises.
        """
        name, dirfd = path_to_bytes(path, "path"), _NO_DIRECTORY
        if fd is not None:
            with fd.borrow(task) as number:
                dirfd = int(number)
        self._mask: bytes = signal_mask(blocked) if blocked else _NO_SIGNALS
        self._args = dirfd, name, flags
        #: What is to be sent, if it points at memory that is there already.
        self.order: _Order | None = None
        self._strings: Strings | None = None
        if env is None and task.address_space.ours:
            self.order = _for_us(argv, environment_block(), self._mask, *self._args)
        else:
            self._strings = Strings(argv, env)

    @contextlib.asynccontextmanager
    async def written(self, task: Task) -> AsyncGenerator[_Order]:
        """What is to be sent, while the strings are in the task's memory."""
        strings = self._strings
        if strings is None:
            raise AssertionError("they are there already")
        dirfd, name, flags = self._args
        async with _written(task, strings) as at:
            yield _Order(self._mask, dirfd, name, at, at + strings.envp, flags)


async def execute(child: Child, target: Target, command: Command) -> AsyncChildPid:
    """Replace the child's program; see ChildProcess.execveat. command: what is shown of it."""
    async with child.turn:
        await unshare_child_files(child)
        if target.order is not None:
            await _until_known(child, target.order)
        else:
            async with target.written(child.task) as order:
                await _until_known(child, order)
        await _replaced(child, command)
    return child.pid


async def execute_early(early: EarlyChild, order: _Order, command: Command) -> AsyncChildPid:
    """The same, of a child of which nothing was asked before."""
    await trio.lowlevel.checkpoint_if_cancelled()
    ring, pid, posted = early.ring, early.pid.pid, False
    if ring is not None:
        posted, done = ring.post_exec(order.frame, pid.pidfd, EXEC_US)
        if done:
            early.ring = pid.early = None
            pid.did_it_exec, pid.command = True, command
            early.release(None)
            if due():
                await give_way()
            return early.pid
    child = early.grow()
    async with child.turn:
        if not posted:
            await unshare_child_files(child)
        await _until_known(child, order, posted=posted)
        await _replaced(child, command)
    return child.pid


async def _replaced(child: Child, command: Command | None) -> None:
    """It has exec'd."""
    task, pid = child.task, child.pid.pid
    pid.did_exec(command)
    child.over("has exec'd")
    if task.address_space is not pid.task.address_space:
        task.address_space.end()
    await pid.clear_away()


async def _execveat(
    task: Task,
    fd: FileDescriptor | None,
    pathname: WrittenPointer[Any],
    argv: WrittenPointer[ArgList],
    envp: WrittenPointer[ArgList],
    flags: AT | None,
    command: Command | None,
) -> None:
    """See Task.execveat."""
    if isinstance(task.sysif, DirectSyscallInterface):
        raise PermissionError(errno.EPERM, "this would replace the interpreter; see os.execve")
    child = task.sysif.child if isinstance(task.sysif, ChildInterface) else None
    with contextlib.ExitStack() as stack:
        dirfd = _NO_DIRECTORY if fd is None else int(stack.enter_context(fd.borrow(task)))
        borrowed = [stack.enter_context(p.borrow(task)) for p in (pathname, argv, envp)]
        name, args, variables = map(int, borrowed)
        if isinstance(child, Child):
            order = _Order(_NO_SIGNALS, dirfd, name, args, variables, int(flags or 0))
            async with child.turn:
                await unshare_child_files(child)
                await _until_known(child, order)
                await _replaced(child, command)
            return
        try:
            await task.sysif.syscall(SYS.execveat, dirfd, name, args, variables, flags or 0)
        except SyscallSendError:
            raise
        except SyscallHangup:
            await task.sysif.close_interface()  # as it should


provide(execveat=_execveat)


@contextlib.asynccontextmanager
async def _written(task: Task, strings: Strings) -> AsyncGenerator[int]:
    """Where in the task's memory they are, as long as the block lasts."""
    if task.address_space.ours:
        memory = ffi.new("char[]", strings.size)
        at = int(ffi.cast("uintptr_t", memory))
        ffi.buffer(memory)[:] = strings.at(at)
        yield at
        ffi.release(memory)
        return
    pointer = await task.malloc(bytes, strings.size)
    try:
        at = int(pointer.near)
        await task.sysif.write_memory(at, strings.at(at))
        yield at
    finally:
        pointer.free()


async def _until_known(child: Child, order: _Order, *, posted: bool = False) -> None:
    """Return once it has certainly exec'd; an error if it has not, or has died.

    posted: whether it was told to already.
    """
    await _until_gone(child, order, posted)
    if not _has_exec_here(child.pid.pid):
        with shield():
            await _settle(child)


async def _until_gone(child: Child, order: _Order, posted: bool) -> None:
    """execveat(2), and return if the child cannot answer. OSError if it can, and did not exec.

    What tells that it cannot is the end of its socket: close-on-exec, and open nowhere else. But
    when the interpreter was forked by others, they have a copy; so the child is looked at, too.
    """
    pid = child.pid.pid
    child.executing = child.sysif.executing = True
    child.sysif.probe = lambda: pid.is_dead() or has_exec(pid) is True
    try:
        if posted:
            reply = await child.sysif.finish_exec(order.frame)
        else:
            reply = await child.sysif.exec_frame(order.frame, order.batch)
        if reply is None:
            return
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
    values = struct.unpack(f"{len(reply.values) // 8}q", reply.values)
    steps = [call(SYS.rt_sigaction, sig, _IGNORE, 0, 8) for sig in _IGNORED[: len(values) - 1]]
    if reply.outs:
        steps.append(call(SYS.rt_sigprocmask, _SETMASK, In(reply.outs[0]), 0, 8))
    with shield():
        await run(child.task.sysif, steps)
    step = order.batch.steps[len(values) - 1]
    check_reply(step.number, step.args, values[-1])
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

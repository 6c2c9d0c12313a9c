"""A program with all that it is to find around it, in one go.

The child does not serve: it runs one batch, which lies in its memory, and whose last step is the
exec. Its parent is suspended meanwhile (CLONE_VFORK), so that when clone(2) returns it is known
whether the program runs or which step has failed. Nothing is copied, and no descriptor is needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from rsyscall import near
from rsyscall._checkpoint import checkpoint, shield
from rsyscall._raw import lib
from rsyscall.child.cgroup import ENTERING, entering, start_child
from rsyscall.child.clocks import enter_steps
from rsyscall.child.dumpable import kept_dumpable
from rsyscall.child.exec import has_exec, signal_mask
from rsyscall.child.fds import gaps
from rsyscall.child.mappings import effective_ids, map_lines, map_steps
from rsyscall.child.memory import REPLY_AT, RUN, SHARED, ChildMemory, start_block
from rsyscall.child.namespaces import NAMESPACES
from rsyscall.child.refusals import explain, explain_map
from rsyscall.child.start import entry, start_memory
from rsyscall.child.stdio import DEVNULL, PIPE, STDOUT, Pipes, StdioArgument, divide
from rsyscall.child.steps import call, raise_failure
from rsyscall.child.strings import PathLike, Strings
from rsyscall.handle import FileDescriptor, Task
from rsyscall.handle.process import ChildPid
from rsyscall.monitor import AsyncChildPid
from rsyscall.near.sysif import SyscallError, SyscallHangup
from rsyscall.sched import CLONE
from rsyscall.signal import SIG
from rsyscall.struct import path_to_bytes
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import W
from rsyscall_protocol import (
    Batch,
    Batched,
    In,
    Limits,
    Ref,
    Size,
    Step,
    StepFlag,
    decode,
    encode,
)

if TYPE_CHECKING:
    from rsyscall.command import Command

__all__ = [
    "EXECUTING",
    "Descriptors",
    "ProgramSteps",
    "Setup",
    "by_number",
    "candidates",
    "encode_steps",
    "plain_steps",
    "run_program",
    "spawn",
]

_F_DUPFD_CLOEXEC, _F_SETFD = 1030, 2
_SETMASK = 2
#: How much of its stack a child can do without.
_WINDOW = 8192
#: Of what programs are started with again and again.
_KEPT = 8
_VM, _VFORK, _NEWTIME = int(CLONE.VM), int(CLONE.VFORK), int(CLONE.NEWTIME)
_UNSHARED = NAMESPACES | CLONE.NEWTIME
_PR_SET_PDEATHSIG, _TIOCSCTTY, _AT_FDCWD = 1, 0x540E, -100

_NONE = (None,) * 5

#: The name of the last step.
EXECUTING = "executing the program"

Descriptors: TypeAlias = "Mapping[int, FileDescriptor] | Iterable[FileDescriptor]"


@dataclasses.dataclass(slots=True)
class Setup:
    """What a program is to find; see Process.spawn.

    stdio: which of 0, 1 and 2 are PIPE, DEVNULL or STDOUT.
    """

    descriptors: Mapping[int, FileDescriptor]
    stdio: Mapping[int, int] = dataclasses.field(default_factory=dict[int, int])
    cwd: PathLike | FileDescriptor | None = None
    uid: int | None = None
    gid: int | None = None
    groups: Sequence[int] | None = None
    rlimits: Mapping[int, tuple[int, int]] | None = None
    unshare: CLONE = CLONE.NONE
    pgid: ChildPid | Literal[0] | None = None
    session: bool = False
    tty: FileDescriptor | None = None
    pdeathsig: SIG | int | None = None
    blocked: Collection[SIG] = ()
    cgroup: FileDescriptor | PathLike | None = None
    #: As check_offsets has them.
    time_offsets: str = ""

    def is_plain(self) -> bool:
        """Whether the program finds nothing but what all programs do."""
        return not (
            self.descriptors
            or self.stdio
            or self.session
            or self.unshare
            or self.rlimits
            or self.blocked
            or self.time_offsets
            or (self.cwd, self.uid, self.gid, self.groups, self.pgid) != _NONE
            or (self.tty, self.pdeathsig, self.cgroup) != _NONE[:3]
        )


def by_number(
    fds: Descriptors, stdin: StdioArgument, stdout: StdioArgument, stderr: StdioArgument
) -> tuple[dict[int, FileDescriptor], dict[int, int]]:
    """The handles that a program is to have, by number, and what of its stdio is none.

    ValueError if a number is given twice, or for a number where a handle belongs.
    """
    found: dict[int, FileDescriptor] = {}
    if not fds and stdin is stdout is stderr is None:
        return found, {}
    if isinstance(fds, Mapping):
        found.update(cast("Mapping[int, FileDescriptor]", fds))
    else:
        found.update({int(fd.near): fd for fd in fds})
    handles, others = divide(stdin, stdout, stderr)
    for number in handles.keys() | others.keys():
        if number in found:
            raise ValueError(f"fds: {number} is given twice")
    return found | handles, others


class ProgramSteps:
    """The steps, and what each is for."""

    def __init__(self) -> None:
        """None yet."""
        self.steps: list[Step] = []
        self.names: list[str] = []

    def add(self, name: str, step: Step) -> int:
        """One more; its number."""
        self.steps.append(step)
        self.names.append(name)
        return len(self.steps) - 1


def _number(task: Task, fd: FileDescriptor) -> int:
    with fd.borrow(task) as number:
        return int(number)


def _sources(
    s: ProgramSteps, task: Task, setup: Setup, pipes: Mapping[int, int], free: int
) -> dict[int, int | Ref]:
    """Where each descriptor of the program comes from: a number of the task's, or a step."""
    found: dict[int, int | Ref] = {
        target: _number(task, fd) for target, fd in setup.descriptors.items()
    }
    found.update(pipes)
    if DEVNULL in setup.stdio.values():
        name = "opening /dev/null"
        path = In(b"/dev/null\0")
        opened = Ref(s.add(name, call(SYS.openat, _AT_FDCWD, path, os.O_RDWR | os.O_CLOEXEC, 0)))
        # Its number may be one that is wanted for another.
        null = Ref(s.add(name, call(SYS.fcntl, opened, _F_DUPFD_CLOEXEC, free)))
        found.update({n: null for n, value in setup.stdio.items() if value == DEVNULL})
    if setup.stdio.get(2) == STDOUT:
        found[2] = found.get(1, 1)
    return found


def _add_descriptors(s: ProgramSteps, task: Task, setup: Setup, pipes: Mapping[int, int]) -> None:
    """Put each descriptor where it is to be, whatever was there."""
    wanted = setup.descriptors.keys() | setup.stdio.keys()
    free = max(wanted, default=0) + 1
    sources = _sources(s, task, setup, pipes, free)
    moved = dict[int, Ref]()
    numbers = {source for source in sources.values() if isinstance(source, int)}
    for number in numbers & wanted:
        if sources[number] == number:
            continue  # it stays where it is
        name = f"moving descriptor {number} out of the way"
        moved[number] = Ref(s.add(name, call(SYS.fcntl, number, _F_DUPFD_CLOEXEC, free)))
    for target, source in sources.items():
        if isinstance(source, Ref):
            s.add(f"making /dev/null number {target}", call(SYS.dup3, source, target, 0))
            continue
        name = f"making descriptor {source} number {target}"
        if source == target:
            s.add(name, call(SYS.fcntl, target, _F_SETFD, 0))
        else:
            s.add(name, call(SYS.dup3, moved.get(source, source), target, 0))


def _add_ids(s: ProgramSteps, setup: Setup) -> None:
    if setup.groups is not None:
        data = struct.pack(f"@{len(setup.groups)}I", *setup.groups)
        s.add("setting the groups", call(SYS.setgroups, len(setup.groups), In(data)))
    if setup.gid is not None:
        s.add("setting the group id", call(SYS.setresgid, *[setup.gid] * 3))
    if setup.uid is not None:
        s.add("setting the user id", call(SYS.setresuid, *[setup.uid] * 3))


def _steps(
    task: Task, setup: Setup, mappings: Sequence[tuple[str, str]], pipes: Mapping[int, int]
) -> ProgramSteps:
    """All but the exec. pipes: the numbers of the program's ends of pipes, by target."""
    s = ProgramSteps()
    if setup.cgroup is not None:
        where, procs = _AT_FDCWD, b"cgroup.procs"
        if isinstance(setup.cgroup, FileDescriptor):
            where = _number(task, setup.cgroup)
        else:
            procs = path_to_bytes(setup.cgroup, "cgroup")[:-1] + b"/" + procs
        for step in entering(where, procs, 0, len(s.steps)):
            s.add(ENTERING, step)
    for file, line in mappings:
        for name, step in map_steps(len(s.steps), file, line):
            s.add(name, step)
    if CLONE.NEWTIME in setup.unshare:
        for name, step in enter_steps(len(s.steps), setup.time_offsets):
            s.add(name, step)
    if isinstance(setup.cwd, FileDescriptor):
        s.add("changing the directory", call(SYS.fchdir, _number(task, setup.cwd)))
    elif setup.cwd is not None:
        path = In(path_to_bytes(setup.cwd, "cwd"))
        s.add("changing the directory", call(SYS.chdir, path))
    if setup.session or setup.tty is not None:
        s.add("making a session", call(SYS.setsid))
    if setup.pgid is not None:
        number = setup.pgid.near.id if isinstance(setup.pgid, ChildPid) else 0
        s.add("setting the process group", call(SYS.setpgid, 0, number))
    if setup.tty is not None:
        number = _number(task, setup.tty)
        s.add("getting the controlling terminal", call(SYS.ioctl, number, _TIOCSCTTY, 0))
    # Not earlier: the numbers of cwd and tty may be wanted for others.
    _add_descriptors(s, task, setup, pipes)
    for limit, (soft, hard) in (setup.rlimits or {}).items():
        data = In(struct.pack("@QQ", soft & (2**64 - 1), hard & (2**64 - 1)))
        s.add(f"setting resource limit {limit!r}", call(SYS.prlimit64, 0, int(limit), data, 0))
    _add_ids(s, setup)
    if setup.pdeathsig is not None:
        sig = int(setup.pdeathsig)
        s.add(
            "setting the death signal",
            call(SYS.prctl, _PR_SET_PDEATHSIG, sig, 0, 0, 0),
        )
        # It may have died before.
        known = CLONE.NEWPID not in setup.unshare and task.pidns_for_children is task.pidns
        parent = task.near_process.id if known else 0
        s.add("looking for the parent", dataclasses.replace(call(SYS.getppid), ok=parent))
    _add_last(s, frozenset({0, 1, 2} | setup.descriptors.keys()), setup.blocked)
    return s


@functools.cache
def plain_steps() -> ProgramSteps:
    """All but the exec, for a program that finds nothing special."""
    s = ProgramSteps()
    _add_last(s, frozenset({0, 1, 2}), ())
    return s


def _add_last(s: ProgramSteps, keep: frozenset[int], blocked: Collection[int]) -> None:
    for step in _closing(keep):
        s.add("closing all other descriptors", step)
    s.add("setting the signal mask", _masking(signal_mask(blocked)))


@functools.lru_cache(_KEPT)
def _closing(keep: frozenset[int]) -> tuple[Step, ...]:
    """Steps that close all numbers but these."""
    return tuple([call(SYS.close_range, first, last, 0) for first, last in gaps(keep)])


@functools.lru_cache(_KEPT)
def _masking(mask: bytes) -> Step:
    return call(SYS.rt_sigprocmask, _SETMASK, In(mask), 0, 8)


def candidates(path: PathLike, env: Mapping[str, PathLike] | None) -> list[bytes]:
    """Where the program may be: with a slash in its name just there, else in PATH."""
    name = path_to_bytes(path, "command")
    if b"/" in name or name == b"\0":
        return [name]
    where = os.fsencode((os.environ if env is None else env).get("PATH", os.defpath)).split(b":")
    return [os.path.join(directory or b".", name) for directory in where]


def check_setup(setup: Setup) -> None:
    """ValueError, naming the argument, for what cannot be."""
    if setup.unshare and (unknown := setup.unshare & ~_UNSHARED):
        raise ValueError(f"unshare: {unknown!r} is no namespace that a program can begin in")
    for name in ("uid", "gid"):
        value = getattr(setup, name)
        if value is not None and not 0 <= value < 2**32 - 1:
            raise ValueError(f"{name}: {value} is no id")
    for number in setup.descriptors:
        if not 0 <= number < 2**31:
            raise ValueError(f"fds: {number} is no file descriptor")


async def _mappings(task: Task, setup: Setup) -> list[tuple[str, str]]:
    """The lines that give a new user namespace our ids, or those that are wanted."""
    if not setup.unshare or CLONE.NEWUSER not in setup.unshare:
        return []
    uid, gid = await effective_ids(task)
    inside = (uid if setup.uid is None else setup.uid, gid if setup.gid is None else setup.gid)
    return map_lines(inside, (uid, gid))


async def spawn(
    task: Task, command: Command, setup: Setup, env: Mapping[str, PathLike] | None
) -> AsyncChildPid:
    """Start a program; see Process.spawn."""
    check_setup(setup)
    address = entry(task)
    # Our own environment is already where the child can see it.
    ours = env is None and task.address_space.ours
    strings = Strings(command.arguments, {} if ours else env)
    mappings = await _mappings(task, setup)
    piped = {n: n for n, value in setup.stdio.items() if value == PIPE}
    s = _steps(task, setup, mappings, piped)
    paths = candidates(command.executable_path, env)
    await checkpoint()
    pipes = Pipes(task)
    with shield(not task.sysif.immediate):
        try:
            if piped:
                await pipes.open(setup.stdio)
                s = _steps(task, setup, mappings, pipes.theirs)
            pid = await _start(
                task, setup, s, paths, strings, address, lib.rs_environ() if ours else None
            )
        except BaseException:
            pipes.close_ours()
            raise
        finally:
            await pipes.close_theirs()
    pid.pid.did_exec(command)
    pipes.hand_over(pid)
    return pid


async def _start(
    task: Task,
    setup: Setup,
    s: ProgramSteps,
    paths: list[bytes],
    strings: Strings,
    address: int,
    environ: int | None,
) -> AsyncChildPid:
    """Lay everything out, and run it. address: where the child begins."""
    shared = _is_private(task, setup)
    memory, s, body, where = await _lay_out(task, s, paths, strings, environ, shared=shared)
    behind = where != memory.extra
    try:
        stack, block = start_block(
            address,
            memory.address,
            mask=memory.mask,
            ranges=(),
            flags=RUN if shared else SHARED | RUN,
            data=where + strings.size,
            size=len(body),
            end=where if behind else None,
        )
        data = strings.at(where) + body
        if behind:  # in one piece
            await memory.write(stack, block + data)
        else:
            await memory.write(where, data)
            await memory.write(stack, block)
        return await run_program(task, memory, setup, s, stack)
    finally:
        with contextlib.suppress(OSError, SyscallError):  # gone, with a parent that is dead
            await memory.free()


async def _lay_out(
    task: Task,
    s: ProgramSteps,
    paths: list[bytes],
    strings: Strings,
    environ: int | None,
    *,
    shared: bool,
) -> tuple[ChildMemory, ProgramSteps, bytes, int]:
    """Memory for the strings and, behind them, the batch, to which the exec is added; and where.

    That is behind all else that a child needs, or, if it is not much, right behind its block.
    """
    extra, window = strings.size, _WINDOW
    while True:
        memory = await start_memory(task, extra, shared=shared)
        where = memory.session - window if window else memory.extra
        envp = where + strings.envp if environ is None else environ
        try:
            full, body = encode_steps(s, paths, where, envp)
        except BaseException:
            await memory.free()
            raise
        if strings.size + len(body) <= (window or memory.room):
            return memory, full, body, where
        window = 0
        await memory.free()
        if len(body) > Size.RING_MAX:
            raise ValueError(f"the set-up of a program is too large: {len(body)} bytes")
        extra = strings.size + len(body) + 64


def encode_steps(
    s: ProgramSteps, paths: Sequence[bytes], argv: int, envp: int
) -> tuple[ProgramSteps, bytes]:
    """The steps with the exec of the first program that is there, and the body of their batch."""
    full = ProgramSteps()
    full.steps += s.steps
    full.names += s.names
    for path in paths:
        step = call(SYS.execve, In(path), argv, envp)
        if path is not paths[-1]:
            step = dataclasses.replace(step, flags=StepFlag.CONTINUE)
        full.add(EXECUTING, step)
    return full, encode(Batch(1, tuple(full.steps)))


async def run_program(
    task: Task, memory: ChildMemory, setup: Setup, s: ProgramSteps, stack: int
) -> AsyncChildPid:
    """Run what is laid out in the memory of a child, and whose block is where its stack leads."""
    if not _changes_ids(setup):
        return await _begin(task, memory, setup, s, stack)
    # Whoever has the child's ids must not get at our memory by way of the child: so it is dumpable
    # again at the end, and not earlier.
    async with kept_dumpable(task):
        return await _begin(task, memory, setup, s, stack)


async def _begin(
    task: Task, memory: ChildMemory, setup: Setup, s: ProgramSteps, stack: int
) -> AsyncChildPid:
    flags = _VFORK | int(setup.unshare) & ~_NEWTIME | (0 if _is_private(task, setup) else _VM)
    try:
        number, here, there, _ = await start_child(task, flags, stack)
    except OSError as exc:
        await explain(task, setup.unshare, exc)
        raise
    pid = AsyncChildPid(ChildPid(task, near.Pid(number), here, there))
    try:
        await _check(pid, memory, stack, s)
    except BaseException as exc:
        await pid.end()
        if isinstance(exc, OSError):
            await explain_map(task, exc)
        raise
    return pid


def _is_private(task: Task, setup: Setup) -> bool:
    """Whether it must have a copy of the memory: nobody is in two time namespaces with the same."""
    if task.timens_for_children is not task.timens:
        return True
    return bool(setup.unshare) and CLONE.NEWTIME in setup.unshare


def _changes_ids(setup: Setup) -> bool:
    if setup.uid is not None or setup.gid is not None:
        return True
    return bool(setup.unshare) and CLONE.NEWUSER in setup.unshare


async def _check(pid: AsyncChildPid, memory: ChildMemory, stack: int, s: ProgramSteps) -> None:
    """The error of the step that has failed, if one has."""
    if not pid.pid.task.sysif.immediate and has_exec(pid.pid):
        return  # to read its memory takes longer
    where, length = struct.unpack("@QI", await memory.read(stack + REPLY_AT, 12))
    if length:
        reply = decode(await memory.read(where + Size.HEADER, length - Size.HEADER), Limits())
        if not isinstance(reply, Batched):
            raise AssertionError("a child wrote something else than a BATCHED")
        raise_failure(s.steps, _most_telling(s, reply), s.names)
    # One that is killed before its exec has ended when clone returns, or is about to; then it is as
    # if it had been killed right after.
    if pid.pid.is_dead() and has_exec(pid.pid) is False:
        state = await pid.waitpid(W.EXITED)
        raise SyscallHangup(f"the child (pid {pid.pid.near.id}) has {state} before its exec")


def _most_telling(s: ProgramSteps, reply: Batched) -> Batched:
    """Of several places where the program is not, the one where it was found to be something."""
    values = struct.unpack(f"{len(reply.values) // 8}q", reply.values)
    for i, (step, value) in enumerate(zip(s.steps, values, strict=False)):
        if step.nr == SYS.execve and value not in (-2, -20):
            return dataclasses.replace(reply, stopped=i, values=reply.values[: 8 * (i + 1)])
    return reply

"""What a program is to find, and the steps by which a child sees to that."""

from __future__ import annotations

import dataclasses
import functools
import os
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias, cast

from rsyscall.child.cgroup import ENTERING, entering
from rsyscall.child.clocks import enter_steps
from rsyscall.child.exec import signal_mask
from rsyscall.child.fds import gaps
from rsyscall.child.mappings import map_steps
from rsyscall.child.namespaces import NAMESPACES
from rsyscall.child.stdio import DEVNULL, STDOUT, StdioArgument, divide
from rsyscall.child.steps import call
from rsyscall.child.strings import PathLike
from rsyscall.handle import FileDescriptor, Task
from rsyscall.handle.process import ChildPid
from rsyscall.sched import CLONE
from rsyscall.signal import SIG
from rsyscall.struct import path_to_bytes
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import In, Ref, Step

__all__ = [
    "Descriptors",
    "ProgramSteps",
    "Setup",
    "by_number",
    "check_setup",
    "plain_steps",
    "setup_steps",
]

_F_DUPFD_CLOEXEC, _F_SETFD = 1030, 2
_SETMASK = 2
#: Of what programs are started with again and again.
_KEPT = 8
_UNSHARED = NAMESPACES | CLONE.NEWTIME
_PR_SET_PDEATHSIG, _TIOCSCTTY, _AT_FDCWD = 1, 0x540E, -100


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


def setup_steps(
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

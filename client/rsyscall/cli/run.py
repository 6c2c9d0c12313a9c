"""`rsyscall run`: what Process.spawn does, from the shell.

The exit status is that of the command, or 128 + n if signal n has killed it. If it was not started:
127 if there is no such program, 126 if it cannot be executed, 125 if anything before that failed,
as env(1) and timeout(1) have it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import grp
import os
import pwd
import re
import signal
import struct
import sys
from collections.abc import AsyncGenerator, Generator, Iterable

import trio

import rsyscall
from rsyscall import AsyncChildPid, Command, FileDescriptor, local_process
from rsyscall.child.run import SpawnOptions
from rsyscall.child.spawn import EXECUTING
from rsyscall.cli._parser import MakeParser, Parser, messages
from rsyscall.fcntl import O
from rsyscall.handle import ChildPidError
from rsyscall.near.sysif import In
from rsyscall.sched import CLONE
from rsyscall.signal import SIG
from rsyscall.sys.resource import RLIM_INFINITY, RLIMIT
from rsyscall.sys.syscall import SYS
from rsyscall.sys.timerfd import CLOCK
from rsyscall.sys.wait import CLD, W

__all__ = ["add_parser"]

_FAILED, _NOT_EXECUTABLE, _NOT_FOUND = 125, 126, 127

_NAMESPACES = {
    "mount": CLONE.NEWNS,
    "pid": CLONE.NEWPID,
    "net": CLONE.NEWNET,
    "user": CLONE.NEWUSER,
    "uts": CLONE.NEWUTS,
    "ipc": CLONE.NEWIPC,
    "cgroup": CLONE.NEWCGROUP,
    "time": CLONE.NEWTIME,
}
_CLOCKS = {"monotonic": CLOCK.MONOTONIC, "boottime": CLOCK.BOOTTIME}

_FD = re.compile(r"(\d+)(=|<>|<|>>|>)(.+)", re.DOTALL)
_OPEN = {
    "=": O.RDONLY,
    "<": O.RDONLY,
    ">": O.WRONLY | O.CREAT | O.TRUNC,
    ">>": O.WRONLY | O.CREAT | O.APPEND,
    "<>": O.RDWR | O.CREAT,
}

#: What whoever started us may send, and means for the command.
_FORWARDED = (
    SIG.HUP, SIG.INT, SIG.QUIT, SIG.TERM, SIG.USR1, SIG.USR2, SIG.WINCH, SIG.TSTP, SIG.CONT
)  # fmt: skip
#: How long a command may take to stop that was told to, in seconds.
_STOP_SECONDS = 1.0
_SIGINFO = struct.Struct("@Iii116x")


# ---- arguments ----


def _bad(message: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(message)


def _namespaces(text: str) -> CLONE:
    flags = CLONE.NONE
    for name in text.split(","):
        if name not in _NAMESPACES:
            raise _bad(f"{name!r} is none of {', '.join(_NAMESPACES)}")
        flags |= _NAMESPACES[name]
    return flags


def _uid(text: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise _bad(f"{text!r} is no user") from None


def _gid(text: str) -> int:
    if text.isdecimal():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise _bad(f"{text!r} is no group") from None


def _gids(text: str) -> list[int]:
    return [_gid(name) for name in text.split(",")] if text else []


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise _bad(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def _fd(text: str) -> tuple[int, O, str]:
    match = _FD.fullmatch(text)
    if match is None:
        raise _bad(f"{text!r} is not of the form N=FILE, N>FILE, N>>FILE or N<>FILE")
    return int(match[1]), _OPEN[match[2]], match[3]


def _signal(text: str) -> SIG | int:
    name = text.upper().removeprefix("SIG")
    if name in SIG.__members__ and SIG[name]:
        return SIG[name]
    if text.isdecimal() and 0 < int(text) < signal.NSIG:
        return int(text)
    raise _bad(f"{text!r} is no signal")


def _clock(text: str) -> tuple[CLOCK, float]:
    name, equals, value = text.partition("=")
    if name not in _CLOCKS or not equals:
        raise _bad(f"{text!r} is not of the form CLOCK=SECONDS, with {' or '.join(_CLOCKS)}")
    try:
        return _CLOCKS[name], float(value)
    except ValueError:
        raise _bad(f"{value!r} is no number of seconds") from None


def _limit(text: str) -> tuple[RLIMIT, tuple[int, int]]:
    name, equals, values = text.partition("=")
    name = name.upper().removeprefix("RLIMIT_")
    if name not in RLIMIT.__members__ or not equals:
        raise _bad(f"{text!r} is not of the form NAME=SOFT[:HARD], as in nofile=64")
    parts = values.split(":")
    numbers = [
        int(RLIM_INFINITY) if n == "unlimited" else int(n)
        for n in parts
        if n.isdecimal() or n == "unlimited"
    ]
    if len(numbers) != len(parts) or len(parts) > 2:
        raise _bad(f"{values!r} is not of the form SOFT[:HARD], with numbers or `unlimited`")
    numbers = [int(n) if n.isdecimal() else int(RLIM_INFINITY) for n in parts]
    return RLIMIT[name], (numbers[0], numbers[-1])


def add_parser(make: MakeParser) -> None:
    """Add the subcommand."""
    run = make(
        "run",
        help="run a command with namespaces, ids, limits and descriptors of its own",
        usage="rsyscall run [OPTIONS] [--] COMMAND [ARGUMENT ...]",
        description="Run COMMAND, set up as the options say, with our standard input and output and"
        " no other descriptors.",
        epilog="The exit status is that of COMMAND, or 128 + n if signal n has killed it; 127 if"
        " there is no such program, 126 if it cannot be executed, 125 if something else failed"
        " before. HUP, INT, QUIT, TERM, USR1, USR2, WINCH, TSTP and CONT are passed on to it.",
    )
    run.usage_status = _FAILED
    add = run.add_argument
    add(
        "--unshare",
        metavar="LIST",
        type=_namespaces,
        default=CLONE.NONE,
        help=f"begin in new namespaces, of {','.join(_NAMESPACES)}; with `user` the ids are"
        " mapped to ours",
    )
    add("--uid", metavar="USER", type=_uid, help="the user, by number or name")
    add("--gid", metavar="GROUP", type=_gid, help="the group, by number or name")
    add("--groups", metavar="LIST", type=_gids, help="the supplementary groups; empty: none")
    add("--cwd", metavar="DIR", help="the working directory")
    add(
        "--env",
        metavar="NAME=VALUE",
        type=_variable,
        action="append",
        default=[],
        help="a variable of its environment",
    )
    add("--clear-env", action="store_true", help="no other variables than those of --env")
    add(
        "--fd",
        metavar="N=FILE",
        type=_fd,
        action="append",
        default=[],
        help="open FILE as descriptor N, to be read; N>FILE to write it anew, N>>FILE to append,"
        " N<>FILE for both",
    )
    add(
        "--rlimit",
        metavar="NAME=SOFT[:HARD]",
        type=_limit,
        action="append",
        default=[],
        help="a resource limit, as in nofile=64; see setrlimit(2)",
    )
    add("--cgroup", metavar="DIR", help="a directory of cgroup2, to begin in")
    add(
        "--clock",
        metavar="CLOCK=SECONDS",
        type=_clock,
        action="append",
        default=[],
        help="by how much `monotonic` or `boottime` is ahead in a new time namespace",
    )
    add("--session", action="store_true", help="lead a session of its own")
    add("--tty", metavar="FILE", help="its controlling terminal, in a session of its own")
    add("--pdeathsig", metavar="SIGNAL", type=_signal, help="the signal it gets if we die")
    add("command", metavar="COMMAND", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    run.set_defaults(function=_run, parser=run)


# ---- running it ----


@contextlib.contextmanager
def _blocked(signals: Iterable[SIG]) -> Generator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [int(sig) for sig in signals])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.asynccontextmanager
async def _signalfd(signals: Iterable[SIG]) -> AsyncGenerator[int]:
    mask = sum(1 << (sig - 1) for sig in signals).to_bytes(8, sys.byteorder)
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    fd = await local_process.task.sysif.syscall(SYS.signalfd4, -1, In(mask), 8, flags)
    try:
        yield fd
    finally:
        trio.lowlevel.notify_closing(fd)
        os.close(fd)


async def _forward(fd: int, child: AsyncChildPid, *, all_of_them: bool) -> None:
    """Pass on the signals that we get.

    all_of_them: those from the terminal, too, which a child in our process group has got already.
    """
    while True:
        await trio.lowlevel.wait_readable(fd)
        number, _, code = _SIGINFO.unpack(os.read(fd, _SIGINFO.size))
        if all_of_them or code <= 0:
            with contextlib.suppress(OSError, ChildPidError):
                await child.kill(number)
        if number == SIG.TSTP:
            await _stop_with(child)


async def _stop_with(child: AsyncChildPid) -> None:
    """Stop if the command does, until somebody has us continue; it may also go on."""
    with trio.move_on_after(_STOP_SECONDS):
        state = await child.waitpid(W.STOPPED | W.EXITED)
        if state.code is CLD.STOPPED:
            os.kill(os.getpid(), SIG.STOP)


def _options(args: argparse.Namespace) -> SpawnOptions:
    return SpawnOptions(
        cwd=args.cwd,
        env={} if args.clear_env else None,
        uid=args.uid,
        gid=args.gid,
        groups=args.groups,
        rlimits=dict(args.rlimit),
        unshare=args.unshare,
        session=args.session,
        pdeathsig=args.pdeathsig,
        cgroup=args.cgroup,
        time_offsets=dict(args.clock),
    )


async def _open(
    stack: contextlib.AsyncExitStack, option: str, path: str, flags: O
) -> FileDescriptor:
    try:
        fd = await local_process.task.open(path, flags | O.NOCTTY, 0o666)
    except (OSError, ValueError) as exc:
        exc.add_note(f"while opening the file of {option}")
        raise
    return await stack.enter_async_context(fd)


async def _main(args: argparse.Namespace, command: Command) -> int:
    options = _options(args)
    async with contextlib.AsyncExitStack() as stack:
        fds = dict[int, FileDescriptor]()
        for number, flags, path in args.fd:
            if number in fds:
                raise ValueError(f"--fd: {number} is given twice")
            fds[number] = await _open(stack, f"--fd {number}", path, flags)
        options["fds"] = fds
        if args.tty is not None:
            options["tty"] = await _open(stack, "--tty", args.tty, O.RDWR)
        signals = await stack.enter_async_context(_signalfd(_FORWARDED))
        child = await stack.enter_async_context(await local_process.spawn(command, **options))
        own_session = args.session or args.tty is not None
        async with trio.open_nursery() as nursery:
            forward = functools.partial(_forward, all_of_them=own_session)
            nursery.start_soon(forward, signals, child)
            state = await child.waitpid(W.EXITED)
            nursery.cancel_scope.cancel()
    if state.returncode is None:
        raise rsyscall.SyscallHangup(f"{command}: {state}")
    return state.returncode if state.returncode >= 0 else 128 - state.returncode


def _status(exc: BaseException) -> int:
    """What the shell is told of an error."""
    notes: list[str] = getattr(exc, "__notes__", [])
    if f"while {EXECUTING}" not in notes or not isinstance(exc, OSError):
        return _FAILED
    return _NOT_FOUND if exc.errno in (errno.ENOENT, errno.ENOTDIR) else _NOT_EXECUTABLE


def _run(args: argparse.Namespace) -> int:
    parser: Parser = args.parser
    words: list[str] = args.command
    if words[:1] == ["--"]:
        del words[0]
    if not words:
        parser.error("the following arguments are required: COMMAND")
    try:
        command = Command(words[0], words, dict(args.env))
        with _blocked(_FORWARDED):
            return trio.run(_main, args, command)
    except (OSError, ValueError, rsyscall.SyscallError) as exc:
        status = _status(exc)
        name = f"{words[0]}: " if status != _FAILED else ""
        print(f"{parser.prog}: {name}{messages(exc)}", file=sys.stderr)
        return status

"""By ssh, to this machine: a call, a batch, a program, the beginning, against what ssh takes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import trio

import rsyscall
from benchmarks.measure import Row, Scale, interleave, per_call, ratio_row
from rsyscall import Command, local_process
from rsyscall.sys.syscall import SYS
from rsyscall.tasks.ssh import SSHHost, make_local_ssh

__all__ = ["by_ssh"]

#: As long as a call of getppid and its answer.
_MESSAGE = b"0123456789ab"
_STEPS = 20


def _words(host: SSHHost, command: str) -> list[str]:
    return [os.fspath(word) for word in host.command().args(command).arguments]


def _start(words: list[str], sock: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(words, stdin=sock.fileno(), stdout=sock.fileno())


@contextlib.asynccontextmanager
async def _echo(host: SSHHost) -> AsyncGenerator[trio.socket.SocketType]:
    """cat(1), at the other end of an ssh like that of a process."""
    ours, theirs = socket.socketpair()
    with trio.socket.from_stdlib_socket(ours) as sock:
        with theirs:
            process = _start(_words(host, "cat"), theirs)
        with process:
            try:
                yield sock
            finally:
                process.kill()


async def _ping_pong(sock: trio.socket.SocketType) -> None:
    await sock.send(_MESSAGE)
    await sock.recv(64)


async def _batch(process: rsyscall.Process) -> None:
    """Each step uses what the one before has returned."""
    async with process.batch() as batch:
        pid = batch.syscall(SYS.getppid)
        for _ in range(_STEPS - 1):
            pid = batch.syscall(SYS.getpgid, pid)


async def _true_by_ssh(host: SSHHost) -> float:
    start = time.perf_counter()
    process = await trio.run_process(_words(host, "true"), capture_stdout=True, capture_stderr=True)
    assert process.returncode == 0
    return time.perf_counter() - start


async def _reach(host: SSHHost) -> float:
    start = time.perf_counter()
    child, _ = await host.ssh(local_process)
    took = time.perf_counter() - start
    await child.end()
    return took


async def by_ssh(scale: Scale) -> list[Row]:
    """Over a real sshd, which is started by ssh itself.

    All run on one CPU, which they inherit: see socket_calls for why.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        return await _by_ssh(scale)
    finally:
        os.sched_setaffinity(0, before)


async def _by_ssh(scale: Scale) -> list[Row]:
    n = scale.slow
    true = Command("/bin/true", ["true"])
    async with await make_local_ssh(local_process) as host:
        child, process = await host.ssh(local_process)
        async with child, _echo(host) as sock:
            subjects: dict[str, Callable[[], Awaitable[float]]] = {
                "cat": lambda: per_call(n, lambda: _ping_pong(sock)),
                "raw": lambda: per_call(n, lambda: process.task.sysif.syscall(SYS.getppid)),
                "batch": lambda: per_call(n, lambda: _batch(process)),
            }
            calls = await interleave("by ssh", subjects, scale.rounds)
            subjects = {
                "ssh": lambda: _true_by_ssh(host),
                "reach": lambda: _reach(host),
                "spawn": lambda: per_call(5, lambda: process.run(true)),
            }
            programs = await interleave("beginning by ssh", subjects, min(5, scale.rounds))
    return [
        ratio_row(
            "getppid by ssh, against a ping-pong with cat by ssh, one CPU",
            calls,
            "raw",
            "cat",
            budget=1.2,
            direct="cat",
        ),
        ratio_row(
            f"{_STEPS} calls by ssh that depend on each other, one batch, against that ping-pong",
            calls,
            "batch",
            "cat",
            direct="cat",
        ),
        ratio_row(
            "a process reached by ssh, against `ssh HOST true`",
            programs,
            "reach",
            "ssh",
            direct="ssh",
        ),
        ratio_row(
            "/bin/true run by a process that was reached, against `ssh HOST true`",
            programs,
            "spawn",
            "ssh",
            direct="ssh",
        ),
    ]

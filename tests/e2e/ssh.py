"""What the tests of ssh have in common."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import rsyscall
from e2e.servers import DEADLINE
from rsyscall import local_process
from rsyscall.tasks.ssh import (
    SSHCommand,
    SSHDExecutables,
    SSHExecutables,
    SSHHost,
    make_local_ssh_from_executables,
)

__all__ = ["ended", "local_host", "reached", "with_options"]


@contextlib.asynccontextmanager
async def local_host(
    process: rsyscall.Process = local_process, **sshd_options: str
) -> AsyncGenerator[SSHHost]:
    """This machine, by an sshd with further options."""
    sshd = await SSHDExecutables.find(process)
    sshd.sshd = sshd.sshd.sshd_options(sshd_options)
    async with await make_local_ssh_from_executables(
        process, await SSHExecutables.find(process), sshd
    ) as host:
        yield host


@contextlib.asynccontextmanager
async def reached(host: SSHHost) -> AsyncGenerator[rsyscall.Process]:
    """A process there."""
    child, remote = await host.ssh(local_process)
    async with child:
        yield remote


def with_options(host: SSHHost, options: Mapping[str, str | Path]) -> SSHHost:
    """The same host, reached with further options of ssh."""

    def to_host(ssh: SSHCommand) -> SSHCommand:
        return host.to_host(ssh).ssh_options(options)

    return SSHHost(host.executables, to_host)


def ended(pidfd: int) -> bool:
    """Whether a process ends, and does not only when something is broken."""
    try:
        return bool(select.select([pidfd], [], [], DEADLINE)[0])
    finally:
        os.close(pidfd)

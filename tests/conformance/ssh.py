"""Reaching this machine by ssh: each test has a channel of one connection, which is made once."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import trio

import rsyscall
from e2e.servers import wait_for
from rsyscall import Command, local_process
from rsyscall.tasks.ssh import SSHHost, make_local_ssh

__all__ = ["master", "over_ssh"]

#: Set while there is a connection.
_host: SSHHost | None = None


def _words(command: Command) -> list[str]:
    return [os.fspath(word) for word in command.arguments]


@contextlib.contextmanager
def master() -> Generator[None]:
    """Have a connection for all tests. Sessions of it take a fifth of the time of a handshake."""
    global _host
    local = trio.run(make_local_ssh, local_process)
    (known_hosts,) = [
        str(word).partition("=")[2]
        for word in local.command().arguments
        if str(word).startswith("UserKnownHostsFile=")
    ]
    control = Path(known_hosts).with_name("control")
    options: dict[str, str | Path] = {"ControlPath": control, "ControlMaster": "no"}
    first = local.command().ssh_options({"ControlPath": control, "ControlMaster": "yes"}).args("-N")
    # Not as a child of ours, nor with a pidfd: tests look at all of those.
    detached = ["sh", "-c", '"$@" </dev/null >/dev/null 2>&1 &', "sh"]
    subprocess.run([*detached, *_words(first)], check=True)
    try:
        wait_for(control.exists, "ssh is connected")
        _host = SSHHost(local.executables, lambda ssh: local.to_host(ssh).ssh_options(options))
        yield
    finally:
        _host = None
        leave = local.command().ssh_options({"ControlPath": control}).args("-O", "exit")
        subprocess.run(_words(leave), check=True, stderr=subprocess.DEVNULL)
        wait_for(lambda: not control.exists(), "ssh has ended")
    trio.run(local.close)


@contextlib.asynccontextmanager
async def over_ssh(directory: Path) -> AsyncGenerator[rsyscall.Process]:
    """A process that is reached by ssh."""
    assert _host is not None, "a test by ssh is not known to be one"
    child, remote = await _host.ssh(local_process)
    async with child:
        yield remote

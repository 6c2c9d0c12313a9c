"""A stub ends when its client is killed, even where somebody else has a copy of its socket."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Generator

import pytest

from e2e.servers import DEADLINE, STUB

#: A client that has its connection, sends a copy of its end to the test if asked, and goes on.
CONNECTED = """
import socket, sys
import trio
import rsyscall

async def main():
    async with rsyscall.open_process() as process:
        await process.task.getpid()
        channel = socket.socket(fileno=int(sys.argv[1]))
        copy = [process.task.sysif.get_activity_fd().number] if sys.argv[2] == "copy" else []
        socket.send_fds(channel, [b"%d\\n" % int(process.pid)], copy)
        await trio.sleep_forever()

trio.run(main)
"""

#: A client that has started a stub and has not said anything to it.
SILENT = """
import signal, socket, subprocess, sys
ours, theirs = socket.socketpair()
stub = subprocess.Popen(
    [sys.argv[3], "--fd", str(theirs.fileno())], pass_fds=[theirs.fileno()]
)
theirs.close()
channel = socket.socket(fileno=int(sys.argv[1]))
socket.send_fds(channel, [b"%d\\n" % stub.pid], [ours.fileno()] if sys.argv[2] == "copy" else [])
signal.pause()
"""


#: A client that sends both ends away and ends.
MAKER = """
import socket, sys
one, other = socket.socketpair()
channel = socket.socket(fileno=int(sys.argv[1]))
socket.send_fds(channel, [b"x"], [one.fileno(), other.fileno()])
"""


def readable(fd: int) -> bool:
    return select.select([fd], [], [], DEADLINE)[0] != []


@contextlib.contextmanager
def client(script: str, copy: str) -> Generator[tuple[subprocess.Popen[bytes], int, list[int]]]:
    """A client in a process of its own, a pidfd of its stub, and the copies it has sent."""
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.ExitStack() as stack:
        ours.settimeout(DEADLINE)
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(theirs.fileno()), copy, STUB],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        theirs.close()
        said, copies, _, _ = socket.recv_fds(ours, 100, 1)
        for fd in copies:
            stack.callback(os.close, fd)
        pidfd = os.pidfd_open(int(said))
        stack.callback(os.close, pidfd)
        yield process, pidfd, copies


every_copy = pytest.mark.parametrize("copy", ["no copy", "copy"])


@every_copy
@pytest.mark.parametrize("script", [CONNECTED, SILENT], ids=["connected", "before HELLO"])
def test_a_stub_ends_when_its_client_is_killed(script: str, copy: str) -> None:
    """With a copy of the client's end elsewhere there is no EOF: the stub must see the death."""
    with client(script, copy) as (process, pidfd, copies):
        assert len(copies) == (copy == "copy")
        assert select.select([pidfd], [], [], 0)[0] == []
        process.send_signal(signal.SIGKILL)
        assert readable(pidfd)


def test_a_copy_alone_keeps_no_stub_that_is_started_after_the_death() -> None:
    """The client died between making the socketpair and the stub's first look at it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        maker = subprocess.run(
            [sys.executable, "-c", MAKER, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            check=True,
            timeout=DEADLINE,
        )
        assert maker.returncode == 0
        _, (end, copy), _, _ = socket.recv_fds(ours, 100, 2)
    stub = subprocess.Popen([STUB, "--fd", str(end)], pass_fds=[end])
    os.close(end)
    try:
        assert stub.wait(DEADLINE) == 0
    finally:
        stub.kill()
        stub.wait()
        os.close(copy)

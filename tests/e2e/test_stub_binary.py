"""The stub's executable: what it is made of, how it starts, and what it costs when idle."""

from __future__ import annotations

import importlib.metadata
import re
import socket
import subprocess
import sysconfig
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from e2e.servers import (
    DEADLINE,
    STUB,
    RawClient,
    StubServer,
    connect,
    environment,
    event,
    listening_stub,
    wait_for,
)
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import Call, In, Limits, Out, Write


def readelf(option: str) -> str:
    command: list[str | Path] = ["readelf", "--wide", option, STUB]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def run(
    *args: str, env: dict[str, str] | None = None, fds: Sequence[int] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [STUB, *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=env if env is not None else environment(),
        pass_fds=fds,
        timeout=DEADLINE,
        check=False,
    )


def test_is_static() -> None:
    headers = readelf("--program-headers")
    assert re.search(r"^Elf file type is EXEC ", headers, re.MULTILINE)
    types = set(re.findall(r"^  ([A-Z_]+) +0x", headers, re.MULTILINE))
    assert types >= {"LOAD"}
    assert not types & {"INTERP", "DYNAMIC", "TLS"}
    assert "There are no relocations in this file." in readelf("--relocs")


def test_nothing_is_writable_and_executable() -> None:
    flags = re.findall(
        r"^  (LOAD|GNU_STACK) .* ([R ][W ][E ]) 0x\w+$", readelf("--program-headers"), re.MULTILINE
    )
    assert ("GNU_STACK", "RW ") in flags
    assert ("LOAD", "R E") in flags
    assert not [flag for flag in flags if "WE" in flag[1]]


def test_is_small() -> None:
    assert STUB.stat().st_size <= 32 * 1024


def test_is_installed_as_a_command_too() -> None:
    """Under a name that a unit file can give; the package's own copy need not be searched for."""
    command = Path(sysconfig.get_path("scripts")) / "rsyscall-stub"
    assert command.read_bytes() == STUB.read_bytes()


def test_version() -> None:
    done = run("--version")
    version = importlib.metadata.version("rsyscall")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"rsyscall-stub {version}\n", "")


NO_SOCKET = "standard input, without --fd or LISTEN_FDS"

USAGE = "usage: rsyscall-stub [--fd N | --connect=PATH | --persist=N | --version]"


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ([], f"{NO_SOCKET}: not a socket"),
        (["--fd", ""], "--fd: not a file descriptor"),
        (["--fd", "x"], "--fd: not a file descriptor"),
        (["--fd", "3x"], "--fd: not a file descriptor"),
        (["--fd", "-1"], "--fd: not a file descriptor"),
        (["--fd", str(2**31)], "--fd: not a file descriptor"),
        (["--fd", "9" * 50], "--fd: not a file descriptor"),
        (["--fd", "1000"], "--fd: not an open file descriptor"),
        (["--fd", str(2**31 - 1)], "--fd: not an open file descriptor"),
        (["--fd", "0"], "--fd: not a socket"),
        (["--fd"], USAGE),
        (["--help"], USAGE),
        (["--fd=3"], USAGE),
        (["--version", "--fd", "3"], USAGE),
        (["--persist=x"], f"{NO_SOCKET}: not a socket"),
        (["--connect="], ": cannot connect"),
        (["--connect=/no/such/socket", "more"], "/no/such/socket: cannot connect"),
        (["--connect=/" + "x" * 107], "/" + "x" * 107 + ": cannot connect"),
        ([""], USAGE),
    ],
)
def test_cannot_start(args: list[str], line: str) -> None:
    done = run(*args)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"rsyscall-stub: {line}\n")


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_wants_a_stream_socket(kind: socket.SocketKind) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with ours, theirs:
        done = run("--fd", str(theirs.fileno()), fds=[theirs.fileno()])
    assert (done.returncode, done.stderr) == (2, "rsyscall-stub: --fd: not a stream socket\n")


def sleeps_for_good(pid: int) -> bool:
    """Whether it is in a poll without a time limit: until something comes it does nothing."""
    fields = Path(f"/proc/{pid}/syscall").read_text().split()
    return fields[0] == str(int(SYS.ppoll)) and int(fields[3], 16) == 0


def private_memory(pid: int) -> int:
    """In KiB; pages of the executable that no other stub has mapped count as well."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_\w+: +(\d+) kB$", rollup, re.MULTILINE)))


def calls(client: RawClient, requests: Sequence[Call | Write]) -> None:
    for request in requests:
        client.send(event(request))
    for _ in requests:
        client.result()


FRAME = Limits().frame
LOADS: dict[str, list[Call | Write]] = {
    "nothing": [],
    "calls": [Call(n, SYS.getpid) for n in range(1, 101)],
    "a full frame": [Write(1, 0, bytes(FRAME - 64))],
    "a full reply": [Call(1, SYS.getpid, (0,) * 6 + (Out(FRAME - 100),))],
    "all entries": [Call(1, SYS.getpid, (0,) * 6 + (In(b""),) * 1018)],
    "all requests at once": [Call(n, SYS.getpid) for n in range(1, 1025)],
}


@pytest.mark.parametrize("load", LOADS)
def test_idle(load: str) -> None:
    """After whatever it has done: no system call, no wake-up, and at most 64 KiB of memory."""
    server = StubServer()
    with server as client:
        client.greet()
        pid = server.pid
        assert pid is not None
        calls(client, LOADS[load])
        wait_for(lambda: sleeps_for_good(pid), "the stub to sleep")
        assert private_memory(pid) <= 64
        client.send(event(Call(5000, SYS.getpid)))
        assert client.result().value == pid


def test_idle_listener(tmp_path: Path) -> None:
    with listening_stub(tmp_path / "s") as stub, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(tmp_path / "s")).greet()
        wait_for(lambda: sleeps_for_good(stub.pid), "the stub to sleep")
        assert private_memory(stub.pid) <= 64

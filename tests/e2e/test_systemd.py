"""The stub as systemd starts it, by systemd's own tool and by hand."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

import rsyscall
from e2e.servers import (
    DEADLINE,
    STUB,
    RawClient,
    activate,
    bye,
    children_of,
    connect,
    environment,
    event,
    missing,
    use,
    wait_for,
)
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import Call


@contextlib.contextmanager
def socket_activate(
    directory: Path, *options: str, names: tuple[str, ...] = ("s",), status: int | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """The real systemd-socket-activate, with the stub. status: how it ends by itself."""
    listen = [f"--listen={name if name[0] == '@' else directory / name}" for name in names]
    with (directory / "stderr").open("w+b") as stderr:
        process = subprocess.Popen(
            ["systemd-socket-activate", *listen, *options, "--", STUB],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stderr=stderr,
        )
        try:
            wait_for(
                lambda: (directory / "stderr").read_text().count("Listening on") == len(names),
                "systemd-socket-activate to listen",
            )
            yield process
            if status is not None:
                assert process.wait(DEADLINE) == status
        finally:
            process.kill()
            process.wait()


def test_socket_activate(tmp_path: Path) -> None:
    """As with Accept=no: the stub listens, with a process for each client."""
    with (
        socket_activate(tmp_path, "--fdname=rsyscall.socket") as process,
        connect(tmp_path / "s") as one,
        connect(tmp_path / "s") as other,
    ):
        assert use(one, pid=process.pid) != use(other, pid=process.pid)
        assert Path(f"/proc/{process.pid}/exe").resolve() == STUB.resolve()
        bye(one)
        wait_for(lambda: len(children_of(process.pid)) == 1, "one of the processes to be reaped")
        other.send(event(Call(2, SYS.getpid)))
        assert other.result().value == children_of(process.pid)[0]
        process.terminate()
        assert process.wait(DEADLINE) == 0


def test_socket_activate_accept(tmp_path: Path) -> None:
    """As with Accept=yes: a stub for each client, which gets the connected socket."""
    with (
        socket_activate(tmp_path, "--accept", "--fdname=c") as process,
        connect(tmp_path / "s") as one,
        connect(tmp_path / "s") as other,
    ):
        pids = {use(one, pid=process.pid), use(other, pid=process.pid)}
        assert pids == set(children_of(process.pid))
        for pid in pids:
            assert Path(f"/proc/{pid}/exe").resolve() == STUB.resolve()
        bye(one)
        bye(other)


async def test_connect(tmp_path: Path) -> None:
    with socket_activate(tmp_path) as process:
        async with rsyscall.connect(f"unix:{tmp_path}/s") as remote:
            assert int(await remote.task.getppid()) == process.pid


async def test_connect_abstract(tmp_path: Path) -> None:
    name = f"@rsyscall-test-{os.getpid()}"
    with socket_activate(tmp_path, names=(name,)) as process:
        async with rsyscall.connect(f"unix:{name}") as remote:
            assert int(await remote.task.getppid()) == process.pid


def test_two_sockets(tmp_path: Path) -> None:
    with (
        socket_activate(tmp_path, names=("s", "t"), status=2),
        connect(tmp_path / "s"),
    ):
        pass
    last = (tmp_path / "stderr").read_text().splitlines()[-1]
    assert last == "rsyscall-stub: LISTEN_FDS: exactly one socket is wanted"


NO_SOCKET = "standard input, without --fd or LISTEN_FDS: not a socket"


@pytest.mark.parametrize(
    ("pid", "env", "line"),
    [
        ("$PPID", {}, NO_SOCKET),
        ("", {}, NO_SOCKET),
        ("0$$x", {}, NO_SOCKET),
        ("-$$", {}, NO_SOCKET),
        ("9" * 60, {}, NO_SOCKET),
        ("$$", {"LISTEN_FDS": None}, NO_SOCKET),
        ("$$", {"LISTEN_FDS": "0"}, "LISTEN_FDS: exactly one socket is wanted"),
        ("$$", {"LISTEN_FDS": "2"}, "LISTEN_FDS: exactly one socket is wanted"),
        ("$$", {"LISTEN_FDS": "x"}, "LISTEN_FDS: exactly one socket is wanted"),
        ("$$", {"LISTEN_FDNAMES": "a:b"}, "LISTEN_FDS: exactly one socket is wanted"),
        ("$$", {"LISTEN_PIDFDID": "x"}, NO_SOCKET),
        ("$$", {"LISTEN_PIDFDID": "-1"}, NO_SOCKET),
    ],
)
def test_meant_for_another(pid: str, env: dict[str, str | None], line: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as stderr:
        with activate(theirs, stderr=stderr, pid=pid, env=env) as process:
            assert process.wait(DEADLINE) == 2
        stderr.seek(0)
        assert stderr.read().decode() == f"rsyscall-stub: {line}\n"


@pytest.mark.parametrize("target", ["datagram", "file"])
def test_no_stream_socket(target: str) -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sock, tempfile.TemporaryFile() as stderr:
        if target == "file":
            os.dup2(stderr.fileno(), sock.fileno())
        with activate(sock, stderr=stderr) as process:
            assert process.wait(DEADLINE) == 2
        stderr.seek(0)
        what = "not a socket" if target == "file" else "not a stream socket"
        assert stderr.read().decode() == f"rsyscall-stub: LISTEN_FDS: {what}\n"


@pytest.mark.parametrize("right", [True, False])
def test_pidfd_id(right: bool) -> None:
    """LISTEN_PIDFDID names the process for good, even when its pid has come round again."""
    ours, theirs = socket.socketpair()
    script = (
        "exec 3<&$1; shift; read -r LISTEN_PIDFDID; export LISTEN_PIDFDID;"
        ' LISTEN_PID=$$ exec "$@" </dev/null'
    )
    with ours, theirs, tempfile.TemporaryFile() as stderr:
        with subprocess.Popen(
            ["bash", "-c", script, "-", str(theirs.fileno()), STUB],
            pass_fds=[theirs.fileno()],
            env=environment(LISTEN_FDS="1"),
            stdin=subprocess.PIPE,
            stderr=stderr,
        ) as process:
            theirs.close()
            assert process.stdin is not None
            identity = pidfd_id(process.pid)
            process.stdin.write(f"{identity if right else identity + 1}\n".encode())
            process.stdin.close()
            if right:
                bye_after_use(RawClient(ours), process.pid)
            assert process.wait(DEADLINE) == (0 if right else 2)
        stderr.seek(0)
        said = stderr.read().decode()
        assert said == ("" if right else f"rsyscall-stub: {NO_SOCKET}\n")


def pidfd_id(pid: int) -> int:
    """The inode of a pidfd, which is the process's own where there is pidfs."""
    fds = [os.pidfd_open(pid), os.pidfd_open(os.getpid())]
    inodes = [os.fstat(fd).st_ino for fd in fds]
    for fd in fds:
        os.close(fd)
    if inodes[0] == inodes[1]:
        missing("pidfs (Linux 6.9)")
    return inodes[0]


def bye_after_use(client: RawClient, pid: int) -> None:
    assert use(client) == pid
    bye(client)

"""The stub that finds its socket as its standard input, as inetd hands it on."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.servers import DEADLINE, STUB, RawClient, connect, environment, open_fds, use
from e2e.test_listening_stub import as_nobody, connected_by


@contextmanager
def start(sock: socket.socket, **env: str) -> Generator[subprocess.Popen[bytes]]:
    """Serve it, which closes it here."""
    with sock, subprocess.Popen([STUB], stdin=sock.fileno(), env=environment(**env)) as stub:
        sock.close()
        yield stub
        assert stub.wait(DEADLINE) == 0


@pytest.mark.parametrize("env", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}])
def test_it_is_served(env: dict[str, str]) -> None:
    """Also where the environment is that of somebody whom systemd has passed a socket."""
    ours, theirs = socket.socketpair()
    with start(theirs, **env) as stub, RawClient(ours) as client:
        assert use(client) == stub.pid
        fds = open_fds(stub.pid)
        assert fds["0"] == "/dev/null"
        assert fds["3"].startswith("socket:")


def test_one_that_listens_is_served_to_all(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        with start(sock.dup()) as stub:
            for _ in range(2):
                with connect(tmp_path / "s") as client:
                    use(client, pid=stub.pid)
            stub.terminate()


def test_another_user_is_refused_where_the_socket_has_a_name() -> None:
    """Anybody may have connected there; an end of a socketpair comes from whoever started us."""
    name = f"rsyscall-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening, as_nobody() as user:
        listening.bind("\0" + name)
        listening.listen()
        client = connected_by(user, name)
        with start(listening.accept()[0]), client:
            assert client.last_words().text == "not served"
        with socket.socket(socket.AF_UNIX) as ours:
            ours.connect(listening.getsockname())
            with start(listening.accept()[0]) as stub, RawClient(ours) as client:
                assert use(client) == stub.pid

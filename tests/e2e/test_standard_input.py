"""The stub that finds its socket as its standard input, as inetd hands it on."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.servers import (
    DEADLINE,
    HELLO,
    STUB,
    RawClient,
    bye,
    connect,
    environment,
    event,
    open_fds,
    use,
    wait_for,
)
from e2e.test_listening_stub import as_nobody, connected_by
from e2e.test_stub_binary import private_memory
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import Batched, Error, Hello, Prepare, Result, Run, Step


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


def program(client: RawClient, request: Prepare | Run) -> Result | Batched | Error:
    client.send(event(request))
    answer = client.receive()
    assert isinstance(answer, Result | Batched | Error)
    return answer


def say_nonsense(client: RawClient) -> None:
    client.send(b"?")


def test_it_goes_on_with_whoever_connects_next(tmp_path: Path) -> None:
    """With nothing of the session before, however that has ended."""
    ours, theirs = socket.socketpair()
    step = Step(int(SYS.getpid), ())
    with socket.socket(socket.AF_UNIX) as sock, RawClient(ours) as client:
        sock.bind(str(tmp_path / "s"))
        number = sock.fileno()
        with subprocess.Popen(
            [STUB, f"--persist={number}"], stdin=theirs.fileno(), pass_fds=[number]
        ) as stub:
            theirs.close()
            use(client)
            assert program(client, Prepare(2, (step,))) == Result(2, 0)
            assert isinstance(program(client, Run(3, 0)), Batched)
            sock.listen()
            bye(client)
            for end in (bye, say_nonsense, RawClient.half_close):
                with connect(tmp_path / "s") as client:
                    client.greet()
                    end(client)
            with connect(tmp_path / "s") as client, connect(tmp_path / "s") as other:
                assert use(client) == stub.pid
                other.send(HELLO)
                assert isinstance(program(client, Run(2, 0)), Error)
                client.sock.close()
                assert isinstance(other.receive(), Hello)
                other.sock.close()
            assert use_nothing_more(stub.pid) <= 64
            stub.kill()


def use_nothing_more(pid: int) -> int:
    """Its private memory, once it waits for somebody."""
    accepts = str(int(SYS.accept4))
    wait_for(lambda: Path(f"/proc/{pid}/syscall").read_text().split()[0] == accepts, "an accept")
    return private_memory(pid)

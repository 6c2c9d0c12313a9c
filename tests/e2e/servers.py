"""Servers for tests, and a client for them that can say anything."""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

import pytest

from frames import frame
from rsyscall import stub_path
from rsyscall._raw import lib
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import Bye, Call, Error, Event, Hello, Limits, Result, decode, encode
from rsyscall_protocol._msgpack import ExtType, pack

STUB = stub_path()
DEADLINE = 20.0  # seconds; reached only when something is broken


def message(*fields: object) -> bytes:
    """A frame that need not be any message of the protocol."""
    return frame(pack(list(fields)))


def ext(code: int, data: bytes) -> object:
    """An argument that is not an integer, whether the protocol knows it or not."""
    return ExtType(code, data)


def event(value: Event) -> bytes:
    return frame(encode(value))


HELLO = event(Hello())


def wait_for(what: Callable[[], bool], why: str) -> None:
    """Ask again until it is so, for events that no descriptor tells of."""
    end = time.monotonic() + DEADLINE
    while not what():
        assert time.monotonic() < end, f"waited in vain: {why}"
        select.select([], [], [], 0.001)


def missing(what: str) -> NoReturn:
    """The test cannot be made here: a skip, or a failure where everything must be there."""
    if os.environ.get("RSYSCALL_TEST_REQUIRE") == "1":
        pytest.fail(f"needs {what}")
    pytest.skip(f"needs {what}")


class Truncated(Exception):
    """The stream ended inside a frame."""


class RawClient:
    """A socket on which any bytes can be sent; what comes back must be frames."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.limits = Limits()
        sock.settimeout(DEADLINE)

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *args: object) -> None:
        self.sock.close()

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """All of the bytes; the descriptors go with the first one."""
        if fds:
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            data = data[self.sock.sendmsg([data], control) :]
        if data:  # to send nothing is an error too, once the other end is closed
            self.sock.sendall(data)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def _exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            part = self.sock.recv(n - len(data))
            if not part:
                if data:
                    raise Truncated
                return b""
            data += part
        return data

    def receive(self) -> Event | None:
        """The next message, None at the end of the stream."""
        header = self._exactly(5)
        if not header:
            return None
        assert header[0] == 0xCE, header
        (length,) = struct.unpack(">I", header[1:])
        assert length <= self.limits.frame
        body = self._exactly(length)
        if len(body) < length:
            raise Truncated
        return decode(body, self.limits)

    def greet(self, hello: bytes = HELLO) -> Hello:
        self.send(hello)
        answer = self.receive()
        assert isinstance(answer, Hello), answer
        return answer

    def result(self) -> Result:
        answer = self.receive()
        assert isinstance(answer, Result), answer
        return answer

    def last_words(self) -> Error:
        """The ERROR with which the server ends the connection: nothing but EOF follows."""
        answer = self.receive()
        assert isinstance(answer, Error), answer
        assert self.receive() is None
        return answer


class Server:
    """A server of one client. After the block it must have ended as it should."""

    client: RawClient
    pid: int | None = None  # of a process of its own

    def __enter__(self) -> RawClient:
        ours, theirs = socket.socketpair()
        self.client = RawClient(ours)
        with theirs:
            self.start(theirs)
        return self.client

    def __exit__(self, exc_type: object, *args: object) -> None:
        self.client.sock.close()
        self.finish(failed=exc_type is not None)

    def start(self, sock: socket.socket) -> None:
        """Serve the socket, which the caller closes."""
        raise NotImplementedError

    def finish(self, *, failed: bool) -> None:
        """Wait for the end, and check it unless the test has failed already."""
        raise NotImplementedError


class StubServer(Server):
    """The stub in a process of its own."""

    def start(self, sock: socket.socket) -> None:
        fd = sock.fileno()
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 - finish closes it
        self.process = subprocess.Popen(
            [STUB, "--fd", str(fd)], pass_fds=[fd], stdin=subprocess.DEVNULL, stderr=self.stderr
        )
        self.pid = self.process.pid

    def finish(self, *, failed: bool) -> None:
        with self.stderr as stderr:
            try:
                status = self.process.wait(DEADLINE)
            finally:
                self.process.kill()
                self.process.wait()
            stderr.seek(0)
            if not failed:
                assert (status, stderr.read()) == (0, b"")


class ThreadServer(Server):
    """The same loop in a thread of this process."""

    def start(self, sock: socket.socket) -> None:
        fd = os.dup(sock.fileno())
        self.thread = threading.Thread(target=lib.rs_serve, args=(fd,), daemon=True)
        self.thread.start()

    def finish(self, *, failed: bool) -> None:
        self.thread.join(DEADLINE)
        if not failed:
            assert not self.thread.is_alive()


SERVERS: dict[str, type[Server]] = {"stub": StubServer, "thread": ThreadServer}

every_server = pytest.mark.parametrize(
    "server", [pytest.param(cls, id=name) for name, cls in SERVERS.items()]
)


def connect(address: str | Path) -> RawClient:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(str(address))
    except OSError:
        sock.close()
        raise
    return RawClient(sock)


def environment(**extra: str | None) -> dict[str, str]:
    """Ours, without what an activation of the tests themselves left; then the extra ones."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("LISTEN_")}
    return env | {name: value for name, value in extra.items() if value is not None}


def activate(
    sock: socket.socket,
    *,
    under: Sequence[str] = (),
    stderr: IO[bytes] | None = None,
    pid: str = "$$",
    env: Mapping[str, str | None] = {},
) -> subprocess.Popen[bytes]:
    """Start a stub as systemd would, with the socket as descriptor 3; for tests of the details.

    under: a command that runs it. The executable is given as a descriptor, so that another user
    need have no way to its path.
    """
    with STUB.open("rb") as stub:
        command = [*under, f"/proc/self/fd/{stub.fileno()}"]
        return subprocess.Popen(
            ["bash", "-c", f'exec 3<&{sock.fileno()}; LISTEN_PID={pid} exec "$@"', "-", *command],
            pass_fds=[sock.fileno(), stub.fileno()],
            env=environment(**{"LISTEN_FDS": "1", **env}),
            stdin=subprocess.DEVNULL,
            stderr=stderr,
        )


@contextlib.contextmanager
def listening_stub(
    address: Path | str, under: Sequence[str] = ()
) -> Generator[subprocess.Popen[bytes]]:
    """A stub that listens there, as from a socket unit with Accept=no. It ends with the block."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(address))
        sock.listen(128)
        process = activate(sock, under=under, env={"LISTEN_FDNAMES": "rsyscall.socket"})
    try:
        yield process
        assert process.poll() is None, f"the stub has ended: {process.returncode}"
    finally:
        process.terminate()
        try:
            status = process.wait(DEADLINE)
        finally:
            process.kill()
            process.wait()
    assert status == 0


def use(client: RawClient, *, pid: int | None = None) -> int:
    """Make a call, and return the pid of the process we got."""
    answer = client.greet().info["pid"]
    client.send(event(Call(1, SYS.getppid)))
    parent = client.result().value
    if pid is not None:
        assert parent == pid
    return int(answer)


def bye(client: RawClient) -> None:
    client.send(event(Bye()))
    assert client.receive() == Bye()
    assert client.receive() is None


def open_fds(pid: int) -> dict[str, str]:
    """The descriptors of a process by number, and what they are."""
    found: dict[str, str] = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one iterdir itself used
            found[entry.name] = os.readlink(entry)
    return found


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def memory(pid: int, field: str) -> int:
    """A field of /proc/PID/status, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} has no {field}: it has ended")

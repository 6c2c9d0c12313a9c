"""A stub that listens, with a process for each client: its life, and who may connect."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from e2e.servers import (
    DEADLINE,
    HELLO,
    STUB,
    RawClient,
    activate,
    children_of,
    connect,
    event,
    listening_stub,
    missing,
    open_fds,
    use,
    wait_for,
)
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import Call, CallFlag, Error, ErrorCode, In

SETPRIV = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def test_sigterm(tmp_path: Path) -> None:
    """It ends at once; the processes it made go on, and end with their clients."""
    with contextlib.ExitStack() as stack:
        address = tmp_path / "s"
        with listening_stub(address):
            clients = [stack.enter_context(connect(address)) for _ in range(3)]
            pids = [use(client) for client in clients]
            assert len(set(pids)) == 3
            pidfds = [os.pidfd_open(pid) for pid in pids]
            for pidfd in pidfds:
                stack.callback(os.close, pidfd)
        with pytest.raises(ConnectionRefusedError):
            connect(address)
        for client, pid, pidfd in zip(clients, pids, pidfds, strict=True):
            client.send(event(Call(2, SYS.getpid)))
            assert client.result().value == pid
            assert not ended(pidfd, 0)
            client.sock.close()
            assert ended(pidfd, DEADLINE)


def ended(pidfd: int, seconds: float) -> bool:
    return select.select([pidfd], [], [], seconds)[0] == [pidfd]


def test_sigterm_as_init(tmp_path: Path) -> None:
    """As init of a pid namespace, where a signal's default action is nothing."""
    if os.geteuid() != 0:
        missing("root")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        unshare = ["unshare", "--pid", "--fork", "--kill-child"]
        process = activate(sock, under=unshare, pid="1")
    try:
        with connect(tmp_path / "s") as client:
            assert use(client, pid=1) == 2
            (init,) = children_of(process.pid)
            os.kill(init, signal.SIGTERM)
            assert process.wait(DEADLINE) == 0
            assert client.receive() is None  # the kernel has ended all that was in the namespace
    finally:
        process.kill()
        process.wait()


def test_several_at_once(tmp_path: Path) -> None:
    """A client that is stuck in a call keeps no other waiting."""
    with contextlib.ExitStack() as stack:
        stub = stack.enter_context(listening_stub(tmp_path / "s"))
        clients = [stack.enter_context(connect(tmp_path / "s")) for _ in range(20)]
        for client in clients:
            client.greet()
            client.send(event(Call(1, SYS.pause)))
        with connect(tmp_path / "s") as client:
            use(client, pid=stub.pid)
        assert len(children_of(stub.pid)) >= 20
        pids = children_of(stub.pid)
        for client in clients:
            client.sock.close()
        for pid in pids:  # a closed connection does not end a call
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not children_of(stub.pid), "all of them to be reaped")


def test_descriptors_of_siblings(tmp_path: Path) -> None:
    """A client's process has its own connection, and neither the listener nor another's."""
    with (
        listening_stub(tmp_path / "s") as stub,
        connect(tmp_path / "s") as one,
        connect(tmp_path / "s") as other,
    ):
        tables = [open_fds(pid) for pid in (stub.pid, use(one), use(other))]
    sockets = [
        {link for link in table.values() if link.startswith(("socket:", "anon_inode:[signalfd"))}
        for table in tables
    ]
    assert [len(links) for links in sockets] == [2, 1, 1]
    assert not sockets[0] & sockets[1]
    assert not sockets[0] & sockets[2]
    assert not sockets[1] & sockets[2]


# ---- who may connect ----


@contextlib.contextmanager
def as_nobody() -> Generator[RawClient]:
    """A process of another user, from which to connect: a stub, of course."""
    if os.geteuid() != 0:
        missing("root")
    ours, theirs = socket.socketpair()
    with theirs, STUB.open("rb") as stub:  # the user may have no way to its path
        fds = [theirs.fileno(), stub.fileno()]
        process = subprocess.Popen(
            [*SETPRIV, f"/proc/self/fd/{fds[1]}", "--fd", str(fds[0])],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
        )
    try:
        with RawClient(ours) as client:
            client.greet()
            yield client
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()


def connected_by(user: RawClient, name: str) -> RawClient:
    """A socket that the user has connected to an abstract name, handed to us."""
    address = struct.pack("H", socket.AF_UNIX) + b"\0" + name.encode()
    user.send(event(Call(1, SYS.socket, (socket.AF_UNIX, socket.SOCK_STREAM, 0))))
    near = user.result().value
    user.send(event(Call(2, SYS.connect, (near, In(address), len(address)))))
    assert user.result().value == 0
    duplicate = Call(3, SYS.fcntl, (near, fcntl.F_DUPFD_CLOEXEC, 0), CallFlag.RETURN_FD)
    user.send(event(duplicate))
    _, fds, _, _ = socket.recv_fds(user.sock, 4096, 1)
    user.send(event(Call(4, SYS.close, (near,))))
    assert user.result().value == 0
    return RawClient(socket.socket(fileno=fds[0]))


def test_another_user_is_refused() -> None:
    """Even where everybody may open the socket, as with an abstract name."""
    name = f"rsyscall-test-{os.getpid()}"
    with listening_stub("\0" + name) as stub, as_nobody() as user:
        with connected_by(user, name) as client:
            assert client.last_words() == Error(ErrorCode.PEER, 0, "not served")
        wait_for(lambda: not children_of(stub.pid), "the refused client's process to end")
        with connect("\0" + name) as client:
            use(client, pid=stub.pid)


def test_another_user_is_refused_at_once() -> None:
    """Nothing that it says is heard, and what it is told does not depend on it."""
    name = f"rsyscall-test-{os.getpid()}"
    with listening_stub("\0" + name), as_nobody() as user, connected_by(user, name) as client:
        client.send(HELLO + event(Call(1, SYS.exit_group, (7,))))
        assert client.last_words() == Error(ErrorCode.PEER, 0, "not served")


def test_root_and_the_servers_own_user_are_served() -> None:
    if os.geteuid() != 0:
        missing("root")
    name = f"rsyscall-test-{os.getpid()}"
    with listening_stub("\0" + name, SETPRIV) as stub, as_nobody() as user:
        with connected_by(user, name) as client:
            use(client, pid=stub.pid)
        with connect("\0" + name) as client:
            use(client, pid=stub.pid)

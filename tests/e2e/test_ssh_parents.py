"""ssh as the child of other processes and users, and its connections to UNIX sockets."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio
import trio.testing

import rsyscall
from e2e.servers import DEADLINE
from e2e.ssh import local_host, reached
from ordinary import GID, UID, ordinary_user
from rsyscall import local_process
from rsyscall.far import MachineMismatchError
from rsyscall.path import Path as FarPath
from rsyscall.sys.mount import MS
from rsyscall.sys.socket import AF, SOCK
from rsyscall.sys.un import SockaddrUn
from rsyscall.tasks.ssh import SSHError, make_local_ssh, ssh_bootstrap, ssh_forward

#: What can stand in the name of a socket, with all that means something to ssh.
NASTY = "a b:c\\d'e\"f%h,"


@contextlib.asynccontextmanager
async def parent(kind: str) -> AsyncGenerator[rsyscall.Process]:
    if kind == "child":
        async with await local_process.clone() as process:
            yield process
    else:
        async with rsyscall.open_process() as process:
            yield process


@pytest.mark.parametrize("kind", ["child", "stub"])
async def test_any_process_of_this_machine_can_be_the_parent(kind: str) -> None:
    async with parent(kind) as process, await make_local_ssh(process) as host:
        child, remote = await host.ssh(process)
        async with child:
            assert await remote.task.getpid() == remote.pid
            status = Path(f"/proc/{int(child)}/status").read_text()
            assert f"\nPPid:\t{int(await process.task.getpid())}\n" in status


async def test_it_ends_with_its_parent() -> None:
    async with local_host() as host:
        async with parent("child") as process:
            _, remote = await host.ssh(process)
        with pytest.raises(rsyscall.SyscallHangup):
            await remote.task.getpid()
        await trio.testing.wait_all_tasks_blocked()


async def test_no_process_of_another_machine_can_be_the_parent() -> None:
    async with local_host() as host, reached(host) as remote:
        with pytest.raises(MachineMismatchError, match="ProxyJump"):
            await host.ssh(remote)
        with pytest.raises(MachineMismatchError):
            await make_local_ssh(remote)


async def test_the_directory_goes_with_its_host() -> None:
    host = await make_local_ssh(local_process)
    words = host.command().in_shell_form()
    directory = Path(words.partition("UserKnownHostsFile=")[2].partition("/known_hosts")[0])
    assert directory.is_dir()
    del host  # nobody has closed it
    assert not directory.exists()


async def test_a_host_that_was_closed() -> None:
    async with await make_local_ssh(local_process) as host:
        pass
    with pytest.raises(ValueError, match="was closed"):
        await host.ssh(local_process)
    await host.close()


PROGRAM = """
import os, trio
from rsyscall import local_process
from rsyscall.tasks.ssh import make_local_ssh

async def main():
    async with await make_local_ssh(local_process) as host:
        child, remote = await host.ssh(local_process)
        async with child:
            print(int(await remote.task.getuid()), int(await remote.task.getgid()))
            print(remote.environ["HOME"] == os.environ["HOME"])

trio.run(main)
"""


async def test_an_ordinary_user(tmp_path: Path) -> None:
    """Without any rights, with a home, and a shell that is not bash."""
    async with ordinary_user() as user:
        if os.geteuid() == 0:  # there is no such user but here
            passwd = tmp_path / "passwd"
            line = f"ordinary:x:{UID}:{GID}::{user.directory}:/bin/sh\n"
            passwd.write_text(Path("/etc/passwd").read_text() + line)
            await user.process.task.mount(passwd, "/etc/passwd", "", MS.BIND, "")
        done = await user.run("-c", PROGRAM)
    assert done.stdout == f"{UID} {GID}\nTrue\n".encode()


# ---- UNIX sockets ----


async def test_forwarding(tmp_path: Path) -> None:
    near, far = tmp_path / f"near {NASTY}", tmp_path / f"far {NASTY}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(far))
        server.listen()
        server.settimeout(DEADLINE)
        async with local_host() as host:
            child = await ssh_forward(local_process, host.command(), FarPath(near), str(far))
            async with child:
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(near))
                    client.sendall(b"there")
                    conn, _ = await trio.to_thread.run_sync(server.accept)
                    with conn:
                        assert await trio.to_thread.run_sync(conn.recv, 100) == b"there"
            with pytest.raises(SSHError, match=r"while forwarding [^;]*; ssh printed") as refused:
                await ssh_forward(local_process, host.command(), FarPath(near), str(far))
            assert "Address already in use" in refused.value.stderr


async def test_a_directory_of_ones_own_there(tmp_path: Path) -> None:
    near, there = tmp_path / "near", tmp_path / "it's there"
    async with local_host() as host:
        child, remote = await ssh_bootstrap(
            local_process, host.command(), FarPath(near), os.fsencode(there)
        )
        async with child:
            (stub,) = there.iterdir()
            assert stub.read_bytes() == rsyscall.stub_path().read_bytes()
            listener = await remote.task.socket(AF.UNIX, SOCK.STREAM)
            await listener.bind(SockaddrUn(str(there / "data")))
            await listener.listen(1)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(near))
                conn = await listener.accept()
                assert await conn.write(b"here") == 4
                assert await trio.to_thread.run_sync(client.recv, 100) == b"here"
        with pytest.raises(ValueError, match="tmp_path_bytes: "):
            await ssh_bootstrap(local_process, host.command(), FarPath(near), b"")

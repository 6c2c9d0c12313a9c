"""Channels between processes, in all directions, and what a failure leaves of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio

import rsyscall
from conformance.seen import nothing_sent
from conformance.ways import WAYS
from rsyscall import local_process
from rsyscall.far import FDTableMismatchError
from rsyscall.handle import FileDescriptor, SharedHandleError
from rsyscall.netinet.in_ import SockaddrIn
from rsyscall.network.connection import (
    Connection,
    DirectConnection,
    FDPassConnection,
    ListeningConnection,
)
from rsyscall.sys.resource import RLIMIT, Rlimit
from rsyscall.sys.socket import AF, SOCK, Sockaddr
from rsyscall.sys.un import SockaddrUn

FEW = ["direct", "pair", "stub", "child-shared-files", "grandchild-of-stub"]


@pytest.fixture(params=FEW)
async def some(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process:
        yield process


def numbers(process: rsyscall.Process) -> set[int]:
    directory = f"/proc/{int(process.task.near_process)}/fd"
    return {int(name) for name in os.listdir(directory) if os.path.lexists(f"{directory}/{name}")}


async def talk(one: FileDescriptor, other: FileDescriptor) -> None:
    """See that they are the two ends of one channel, and close them."""
    async with one, other:
        await one.write(b"ping")
        assert await other.read(10) == b"ping"
        await other.write(b"pong")
        assert await one.read(10) == b"pong"


async def check(
    connection: Connection, here: rsyscall.Process, there: rsyscall.Process, count: int = 2
) -> None:
    """See that its channels go from one process to the other, and that they are all there is."""
    for process in (here, there):
        await process.task.getpid()
    before = numbers(here), numbers(there)
    channels = await connection.open_channels(count)
    assert len(channels) == count
    for one, other in channels:
        assert (one.task, other.task) == (here.task, there.task)
        await talk(one, other)
    afd, fd = await connection.open_async_channel()
    async with afd, fd:
        with trio.move_on_after(0.001) as scope:
            await afd.read_some_bytes()
        assert scope.cancelled_caught
        await fd.write(b"later")
        assert await afd.read_some_bytes() == b"later"
    await here.epoller.close()
    if here.task.fd_table.own == there.task.fd_table.own:
        await here.task.fd_table.run_gc()
    assert (numbers(here), numbers(there)) == before


async def test_from_the_interpreter_to_any_process(process: rsyscall.Process) -> None:
    assert await process.open_channels(0) == []
    ((here, there),) = await process.open_channels(1)
    assert (here.task, there.task) == (local_process.task, process.task)
    await talk(here, there)
    ((afd, there),) = await process.open_async_channels(1)
    assert afd.epoller is local_process.epoller
    async with afd, there:
        await there.write(b"x")
        assert await afd.read_some_bytes() == b"x"
    await local_process.epoller.close()
    with nothing_sent(process.task), pytest.raises(ValueError, match="count: -1 is negative"):
        await process.open_channels(-1)


async def test_from_any_process_to_any_other(
    some: rsyscall.Process, stranger: rsyscall.Process
) -> None:
    for here, there in ((some, stranger), (stranger, some), (some, some)):
        await check(DirectConnection(here.task, here.epoller, there.task), here, there)


async def test_a_childs_come_from_where_its_parents_do(some: rsyscall.Process) -> None:
    if some.task.sysif.immediate or some.task.address_space is not local_process.task.address_space:
        async with await some.clone() as child, await child.clone() as grandchild:
            here, there = await grandchild.connection.open_channel()
            assert (here.task, there.task) == (local_process.task, grandchild.task)
            await talk(here, there)


async def test_through_a_pair_that_was_inherited_or_sent(
    apart: rsyscall.Process, stranger: rsyscall.Process
) -> None:
    connection = await FDPassConnection.make(apart.task, apart.epoller)
    async with connection.access_fd, connection.fd:
        await check(connection, apart, apart)
        async with await apart.clone() as child:
            inherited = connection.inherit(child.task)
            await check(inherited, apart, child, 300)
            await inherited.fd.close()
        fd, connect = await connection.prep_fd_transfer()
        with pytest.raises(FDTableMismatchError):
            connection.inherit(stranger.task)
        async with await fd.send_to(stranger) as there:
            await check(connect(stranger.task, there), apart, stranger)


async def test_descriptors_are_moved_or_stay_as_they_were(stranger: rsyscall.Process) -> None:
    async with rsyscall.open_process() as here:
        first = await here.task.memfd_create("moved")
        made = DirectConnection(here.task, here.epoller, stranger.task)
        fd, connect = await made.prep_fd_transfer()
        connection = connect(stranger.task, fd)
        assert isinstance(connection, FDPassConnection)
        second = first.for_task(here.task)
        with nothing_sent(here.task), pytest.raises(SharedHandleError):
            await connection.move_fds([first])
        await second.invalidate()
        (moved,) = await connection.move_fds([first])
        assert not first.valid
        assert os.readlink(f"/proc/{int(stranger.pid)}/fd/{int(moved.near)}").startswith("/memfd:")
        (again,) = await made.inherit(here.task).move_fds([await here.task.memfd_create("own")])
        assert again.task is here.task
        await again.close()

        # There is room for two of three.
        fds = [await here.task.memfd_create(f"f{i}") for i in range(3)]
        last = max(numbers(stranger))
        await stranger.task.setrlimit(RLIMIT.NOFILE, Rlimit(last + 3, 1000))
        before = numbers(here), numbers(stranger)
        for one in (connection, made):
            with pytest.raises(OSError, match="Too many open files"):
                await one.move_fds(fds)
            assert all(fd.valid for fd in fds)
            assert (numbers(here), numbers(stranger)) == before
            with pytest.raises(OSError, match="Too many open files"):
                await one.open_channels(3)
            assert (numbers(here), numbers(stranger)) == before
        for end in (*fds, moved, connection.fd, connection.access_fd):
            await end.close()


@contextlib.asynccontextmanager
async def listening(
    process: rsyscall.Process, address: Sockaddr
) -> AsyncGenerator[tuple[FileDescriptor, Sockaddr]]:
    """A socket of the process that listens, and where."""
    async with await process.task.socket(AF(address.family), SOCK.STREAM) as sock:
        await sock.bind(address)
        await sock.listen(10)
        yield sock, await sock.getsockname()


@pytest.mark.parametrize("family", ["unix", "inet"])
async def test_to_a_socket_on_which_the_other_listens(
    some: rsyscall.Process, stranger: rsyscall.Process, tmp_path: Path, family: str
) -> None:
    for here, there in ((some, stranger), (stranger, some), (local_process, stranger)):
        path = tmp_path / f"listen-{int(there.task.near_process)}"
        path.unlink(missing_ok=True)
        address = SockaddrUn(path) if family == "unix" else SockaddrIn(0, "127.0.0.1")
        async with listening(there, address) as (sock, name):
            connection = ListeningConnection(here.task, here.epoller, name, there.task, sock)
            await check(connection, here, there)
            fd, connect = await connection.prep_fd_transfer()
            assert fd is sock
            again = connect(there.task, fd)
            # Whoever else connects is turned away.
            async with await here.task.socket(AF(name.family), SOCK.STREAM) as intruder:
                await intruder.connect(name)
                await check(again, here, there, 1)
                with contextlib.suppress(ConnectionResetError):
                    assert await intruder.read(1) == b""


async def test_a_child_that_has_inherited_the_socket_accepts(tmp_path: Path) -> None:
    async with (
        rsyscall.open_process() as stub,
        listening(stub, SockaddrUn(tmp_path / "socket")) as (sock, name),
        await stub.clone() as child,
    ):
        local = local_process
        connection = ListeningConnection(local.task, local.epoller, name, stub.task, sock)
        await check(connection.inherit(child.task), local, child)

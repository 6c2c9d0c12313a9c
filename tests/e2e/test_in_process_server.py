"""What a server in somebody's interpreter refuses, because the interpreter would not survive it."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import AsyncGenerator, Generator, Sequence

import pytest

from leaks import file_descriptors
from rsyscall import near
from rsyscall.near.sysif import In, Out, SyscallArgument, SyscallInterface
from rsyscall.sys.syscall import SYS
from rsyscall.tasks.pair import open_pair

F_DUPFD, CLOSE_RANGE_CLOEXEC = 0, 4
OURS = near.FileDescriptor(-1)  # stands for the descriptor of the fixture


@pytest.fixture
async def server() -> AsyncGenerator[SyscallInterface]:
    async with open_pair() as process:
        yield process.task.sysif


@pytest.fixture
def ours() -> Generator[int]:
    """A descriptor that the interpreter has opened; the test must leave it open."""
    fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    before = os.fstat(fd)
    yield fd
    assert os.fstat(fd).st_rdev == before.st_rdev
    os.close(fd)


@contextlib.contextmanager
def kept(fd: int) -> Generator[None]:
    """Have it as it was, whatever the block does to it."""
    copy = os.dup(fd)
    try:
        yield
    finally:
        os.dup2(copy, fd)
        os.close(copy)


async def refused(server: SyscallInterface, number: SYS, *args: SyscallArgument) -> None:
    with pytest.raises(PermissionError):
        await server.call(number, args)
    assert await server.syscall(SYS.getpid) == os.getpid()


NAME = In(b"/bin/true\0")


@pytest.mark.parametrize(
    ("number", "args"),
    [
        (SYS.execve, (NAME, 0, 0)),
        (SYS.execveat, (-100, NAME, 0, 0, 0)),
        (SYS.exit, (3,)),
        (SYS.exit_group, (3,)),
        (SYS.unshare, (0,)),
        (SYS.setns, (-1, 0)),
        (SYS.setuid, (os.getuid(),)),
        (SYS.setgid, (os.getgid(),)),
        (SYS.setresuid, (-1, -1, -1)),
        (SYS.setgroups, (0, 0)),
        (SYS.capset, (0, 0)),
        (SYS.rt_sigaction, (10, 0, 0, 8)),
        (SYS.rt_sigprocmask, (0, 0, 0, 8)),
        (SYS.brk, (0,)),
        (SYS.fork, ()),
        (SYS.vfork, ()),
        (SYS.clone, (0,)),
        (SYS.clone3, (0, 0)),
    ],
    ids=lambda value: value.name if isinstance(value, SYS) else "",
)
async def test_what_would_end_or_change_the_interpreter_is_eperm(
    server: SyscallInterface, number: SYS, args: Sequence[SyscallArgument]
) -> None:
    await refused(server, number, *args)


@pytest.mark.parametrize("high", [0, 1 << 32, -(1 << 63)], ids=["plain", "high bit", "sign"])
async def test_closing_what_the_server_did_not_make_is_eperm(
    server: SyscallInterface, ours: int, high: int
) -> None:
    """The kernel looks at 32 bits of a descriptor, so the others make no difference."""
    await refused(server, SYS.close, ours + high)


@pytest.mark.parametrize("flags", [0, CLOSE_RANGE_CLOEXEC, 2], ids=["close", "cloexec", "unshare"])
async def test_close_range_is_eperm(server: SyscallInterface, ours: int, flags: int) -> None:
    await refused(server, SYS.close_range, ours, ours, flags)


@pytest.mark.parametrize("number", [SYS.dup2, SYS.dup3], ids=lambda number: number.name)
async def test_duplicating_onto_what_the_server_did_not_make_is_eperm(
    server: SyscallInterface, ours: int, number: SYS
) -> None:
    made = await server.syscall(SYS.dup, ours)
    await refused(server, number, made, ours, 0)
    await refused(server, number, made, ours + (1 << 32), 0)
    assert await server.syscall(SYS.close, made) == 0


async def test_the_servers_own_socket_cannot_be_closed(server: SyscallInterface) -> None:
    sockets = {fd for fd, what in file_descriptors().items() if what.startswith("socket:")}
    assert len(sockets) >= 2  # the client's end is the other
    for fd in sockets:
        await refused(server, SYS.close, fd)


async def test_standard_input_is_guarded_though_a_request_leaves_zeros_out(
    server: SyscallInterface, ours: int
) -> None:
    made = await server.syscall(SYS.dup, ours)
    with kept(0):
        await refused(server, SYS.close, 0)
        await refused(server, SYS.close_range, 0, 0, 0)
        await refused(server, SYS.dup2, made, 0)
        await refused(server, SYS.dup3, made, 0, os.O_CLOEXEC)
    assert await server.syscall(SYS.close, made) == 0


async def numbers(server: SyscallInterface, number: SYS, *args: SyscallArgument) -> list[int]:
    """The descriptors that a call makes, returned or written."""
    reply = await server.call(number, args)
    return list(struct.unpack("ii", reply.outs[0])) if reply.outs else [reply.value]


@pytest.mark.parametrize(
    ("number", "args"),
    [
        (SYS.openat, (-100, In(b"/dev/null\0"), 0, 0)),
        (SYS.dup, (OURS,)),
        (SYS.fcntl, (OURS, F_DUPFD, 0)),
        (SYS.pipe, (Out(8),)),
        (SYS.pipe2, (Out(8), 0)),
        (SYS.socketpair, (1, 1, 0, Out(8))),
        (SYS.memfd_create, (In(b"made\0"), 0)),
        (SYS.eventfd2, (0, 0)),
        (SYS.epoll_create1, (0,)),
    ],
    ids=lambda value: value.name if isinstance(value, SYS) else "",
)
async def test_what_the_server_made_may_be_closed_once(
    server: SyscallInterface,
    ours: int,
    number: SYS,
    args: Sequence[SyscallArgument],
) -> None:
    for fd in await numbers(server, number, *(ours if arg is OURS else arg for arg in args)):
        assert await server.syscall(SYS.close, fd) == 0
        await refused(server, SYS.close, fd)


async def test_what_the_server_made_may_be_duplicated_onto(
    server: SyscallInterface, ours: int
) -> None:
    one, other = await numbers(server, SYS.pipe2, Out(8), 0)
    assert await server.syscall(SYS.dup2, ours, one) == one
    assert os.fstat(one).st_rdev == os.fstat(ours).st_rdev
    for fd in one, other:
        assert await server.syscall(SYS.close, fd) == 0


async def test_a_descriptor_that_was_sent_to_the_client_is_the_clients(
    server: SyscallInterface, ours: int
) -> None:
    reply = await server.call(SYS.dup, (ours,), return_fd=True)
    assert reply.fd is not None
    await refused(server, SYS.close, reply.fd)
    await refused(server, SYS.close, reply.value)
    os.close(reply.fd)

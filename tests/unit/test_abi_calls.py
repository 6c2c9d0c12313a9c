"""Calls of a task on another kind of machine: what they send, and how they read the answer."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, SupportsInt

import pytest

import rsyscall
from rsyscall import near
from rsyscall.abi import ABI, NATIVE
from rsyscall.batch import BoundBatch
from rsyscall.handle import FileDescriptor, Task
from rsyscall.near.sysif import Buffer, In, InOut, Out, Reply, SyscallArgument, SyscallInterface
from rsyscall.netinet.in_ import SockaddrIn
from rsyscall.poll import POLL, Pollfd
from rsyscall.sched import CpuSet
from rsyscall.signal import SIG, HowSIG, Sigaction, Sighandler, Sigset
from rsyscall.sys.capability import CAP, CapData, CapHeader
from rsyscall.sys.epoll import EPOLL, EPOLL_CTL, EpollEvent, EpollEventList
from rsyscall.sys.resource import RLIMIT, Rlimit, Rusage
from rsyscall.sys.socket import MSG, SO, SOL, SockaddrStorage
from rsyscall.sys.stat import S_IF, Mode, Stat, TypeMode
from rsyscall.sys.syscall import SYS
from rsyscall.sys.timerfd import TFD_TIMER
from rsyscall.time import Itimerspec, Timespec

#: There is no such machine.
ODD = ABI("odd", "big", 4, 8)
I386 = ABI("i686", "little", 4, 4)
ABIS = [ODD, I386, NATIVE]

TIME = Timespec(5, 6)
STAT = Stat(1, 2, TypeMode(S_IF.REG, Mode(0o640)), 3, 4, 5, 6, 7, 8, 9, TIME, TIME, TIME)
LIMIT, OTHER_LIMIT = Rlimit(1, 2), Rlimit(3, 4)
USAGE = Rusage(1.25, 2.5, 3, 4, 5, 6, 7, 8, 9)
TIMER, OTHER_TIMER = Itimerspec(TIME, TIME), Itimerspec(TIME, Timespec(7, 8))
EVENT = EpollEvent(2**40, EPOLL.IN)
EVENTS = EpollEventList([EVENT, EpollEvent(5, EPOLL.HUP)])
ACTION = Sigaction(Sighandler.IGN, mask=[SIG.INT, 40])
SIGNALS, OTHER_SIGNALS = Sigset([SIG.HUP, SIG.USR1]), Sigset([SIG.INT, 64])
CAPS = CapData([CAP.CHOWN], [CAP.SYS_ADMIN, CAP.BPF], [])
ADDRESS = SockaddrIn(80, "127.0.0.1")


class Door(SyscallInterface):
    """Notes a call, and gives an answer that was prepared."""

    def __init__(self, value: int, outs: tuple[bytes, ...]) -> None:
        self.reply = Reply(value, outs)
        self.sent: list[tuple[int, Sequence[SyscallArgument]]] = []

    async def call(
        self,
        number: SYS | int,
        args: Sequence[SyscallArgument] = (),
        *,
        fds: Sequence[int] = (),
        return_fd: bool = False,
    ) -> Reply:
        self.sent.append((int(number), args))
        return self.reply

    async def read_memory(self, address: SupportsInt, length: int) -> bytes:
        raise AssertionError("nothing is in memory")

    async def write_memory(self, address: SupportsInt, data: Buffer) -> None:
        raise AssertionError("nothing is in memory")

    async def barrier(self) -> None:
        """Nothing is under way."""

    async def close_interface(self) -> None:
        """Nothing is open."""


@dataclass
class Case:
    """A call: as a method, as a step; the data that it sends; the answer, and what that means."""

    name: str
    method: Callable[[Task, FileDescriptor], Awaitable[object]]
    step: Callable[[BoundBatch, FileDescriptor], Any]
    data: Callable[[ABI], list[bytes | int]]
    result: object = None
    outs: Callable[[ABI], list[bytes]] = lambda abi: []
    value: int = 0


def integer(abi: ABI, value: int, code: str = "i") -> bytes:
    return struct.pack(abi.order + code, value)


def address(abi: ABI) -> list[bytes]:
    data = ADDRESS.to_bytes_for(abi)
    return [data.ljust(SockaddrStorage.sizeof_for(abi), b"\0"), integer(abi, len(data))]


def room(abi: ABI) -> list[bytes | int]:
    size = SockaddrStorage.sizeof_for(abi)
    return [size, integer(abi, size)]


CASES = [
    Case(
        "fstat",
        lambda task, fd: fd.fstat(),
        lambda b, fd: b.fstat(fd),
        lambda abi: [Stat.sizeof_for(abi)],
        STAT,
        lambda abi: [STAT.to_bytes_for(abi)],
    ),
    Case(
        "timerfd_settime",
        lambda task, fd: fd.timerfd_settime(TFD_TIMER.NONE, TIMER),
        lambda b, fd: b.timerfd_settime(fd, TFD_TIMER.NONE, TIMER),
        lambda abi: [TIMER.to_bytes_for(abi), Itimerspec.sizeof_for(abi)],
        OTHER_TIMER,
        lambda abi: [OTHER_TIMER.to_bytes_for(abi)],
    ),
    Case(
        "timerfd_gettime",
        lambda task, fd: fd.timerfd_gettime(),
        lambda b, fd: b.timerfd_gettime(fd),
        lambda abi: [Itimerspec.sizeof_for(abi)],
        TIMER,
        lambda abi: [TIMER.to_bytes_for(abi)],
    ),
    Case(
        "epoll_ctl",
        lambda task, fd: fd.epoll_ctl(EPOLL_CTL.ADD, fd, EVENT),
        lambda b, fd: b.epoll_ctl(fd, EPOLL_CTL.ADD, fd, EVENT),
        lambda abi: [EVENT.to_bytes_for(abi)],
    ),
    Case(
        "epoll_wait",
        lambda task, fd: fd.epoll_wait(5, 0),
        lambda b, fd: b.epoll_wait(fd, 5, 0),
        lambda abi: [5 * EpollEvent.sizeof_for(abi)],
        EVENTS,
        lambda abi: [EVENTS.to_bytes_for(abi).ljust(5 * EpollEvent.sizeof_for(abi), b"\0")],
        value=2,
    ),
    Case(
        "setrlimit",
        lambda task, fd: task.setrlimit(RLIMIT.CORE, LIMIT),
        lambda b, fd: b.setrlimit(RLIMIT.CORE, LIMIT),
        lambda abi: [LIMIT.to_bytes_for(abi)],
    ),
    Case(
        "getrlimit",
        lambda task, fd: task.getrlimit(RLIMIT.CORE),
        lambda b, fd: b.getrlimit(RLIMIT.CORE),
        lambda abi: [Rlimit.sizeof_for(abi)],
        LIMIT,
        lambda abi: [LIMIT.to_bytes_for(abi)],
    ),
    Case(
        "prlimit",
        lambda task, fd: task.prlimit(RLIMIT.CORE, LIMIT, pid=5),
        lambda b, fd: b.prlimit(RLIMIT.CORE, LIMIT, pid=5),
        lambda abi: [LIMIT.to_bytes_for(abi), Rlimit.sizeof_for(abi)],
        OTHER_LIMIT,
        lambda abi: [OTHER_LIMIT.to_bytes_for(abi)],
    ),
    Case(
        "getrusage",
        lambda task, fd: task.getrusage(),
        lambda b, fd: b.getrusage(),
        lambda abi: [Rusage.sizeof_for(abi)],
        USAGE,
        lambda abi: [USAGE.to_bytes_for(abi)],
    ),
    Case(
        "capset",
        lambda task, fd: task.capset(CapHeader(), CAPS),
        lambda b, fd: b.capset(CapHeader(), CAPS),
        lambda abi: [CapHeader().to_bytes_for(abi), CAPS.to_bytes_for(abi)],
        outs=lambda abi: [CapHeader().to_bytes_for(abi)],
    ),
    Case(
        "capget",
        lambda task, fd: task.capget(CapHeader()),
        lambda b, fd: b.capget(CapHeader()),
        lambda abi: [CapHeader().to_bytes_for(abi), CapData.sizeof_for(abi)],
        CAPS,
        lambda abi: [CapHeader().to_bytes_for(abi), CAPS.to_bytes_for(abi)],
    ),
    Case(
        "sigaction",
        lambda task, fd: task.sigaction(SIG.USR1, ACTION),
        lambda b, fd: b.sigaction(SIG.USR1, ACTION),
        lambda abi: [ACTION.to_bytes_for(abi), Sigaction.sizeof_for(abi)],
        ACTION,
        lambda abi: [ACTION.to_bytes_for(abi)],
    ),
    Case(
        "sigprocmask",
        lambda task, fd: task.sigprocmask((HowSIG.SETMASK, SIGNALS)),
        lambda b, fd: b.sigprocmask((HowSIG.SETMASK, SIGNALS)),
        lambda abi: [SIGNALS.to_bytes_for(abi), 8],
        OTHER_SIGNALS,
        lambda abi: [OTHER_SIGNALS.to_bytes_for(abi)],
    ),
    Case(
        "signalfd",
        lambda task, fd: fd.signalfd(SIGNALS),
        lambda b, fd: b.signalfd(SIGNALS, fd=fd),
        lambda abi: [SIGNALS.to_bytes_for(abi)],
    ),
    Case(
        "ppoll",
        lambda task, fd: _found(task.ppoll([Pollfd(fd, POLL.IN)], TIME, SIGNALS)),
        lambda b, fd: b.ppoll([Pollfd(fd, POLL.IN)], TIME, SIGNALS),
        lambda abi: [_pollfd(abi, 0), TIME.to_bytes_for(abi), SIGNALS.to_bytes_for(abi)],
        [POLL.HUP],
        lambda abi: [_pollfd(abi, POLL.HUP), TIME.to_bytes_for(abi)],
        value=1,
    ),
    Case(
        "getresuid",
        lambda task, fd: task.getresuid(),
        lambda b, fd: b.getresuid(),
        lambda abi: [4, 4, 4],
        (1, 2, 3),
        lambda abi: [integer(abi, n) for n in (1, 2, 3)],
    ),
    Case(
        "setgroups",
        lambda task, fd: task.setgroups([5, 6]),
        lambda b, fd: b.setgroups([5, 6]),
        lambda abi: [integer(abi, 5) + integer(abi, 6)],
    ),
    Case(
        "sched_setaffinity",
        lambda task, fd: task.sched_setaffinity([0, 65]),
        lambda b, fd: b.sched_setaffinity([0, 65]),
        lambda abi: [CpuSet([0, 65]).to_bytes_for(abi)],
    ),
    Case(
        "bind",
        lambda task, fd: fd.bind(ADDRESS),
        lambda b, fd: b.bind(fd, ADDRESS),
        lambda abi: [ADDRESS.to_bytes_for(abi)],
    ),
    Case(
        "connect",
        lambda task, fd: fd.connect(ADDRESS),
        lambda b, fd: b.connect(fd, ADDRESS),
        lambda abi: [ADDRESS.to_bytes_for(abi)],
    ),
    Case(
        "getsockname",
        lambda task, fd: fd.getsockname(),
        lambda b, fd: b.getsockname(fd),
        room,
        ADDRESS,
        address,
    ),
    Case(
        "getpeername",
        lambda task, fd: fd.getpeername(),
        lambda b, fd: b.getpeername(fd),
        room,
        ADDRESS,
        address,
    ),
    Case(
        "getsockopt",
        lambda task, fd: fd.getsockopt(SOL.SOCKET, SO.TYPE, 10),
        lambda b, fd: b.getsockopt(fd, SOL.SOCKET, SO.TYPE, 10),
        lambda abi: [10, integer(abi, 10)],
        b"abc",
        lambda abi: [b"abc".ljust(10, b"\0"), integer(abi, 3)],
    ),
    Case(
        "setsockopt",
        lambda task, fd: fd.setsockopt(SOL.SOCKET, SO.KEEPALIVE, 1),
        lambda b, fd: b.setsockopt(fd, SOL.SOCKET, SO.KEEPALIVE, 1),
        lambda abi: [integer(abi, 1)],
    ),
    Case(
        "sendto",
        lambda task, fd: fd.sendto(b"x", MSG.NONE, ADDRESS),
        lambda b, fd: b.sendto(fd, b"x", MSG.NONE, ADDRESS),
        lambda abi: [b"x", ADDRESS.to_bytes_for(abi)],
        1,
        value=1,
    ),
]


def _pollfd(abi: ABI, found: int) -> bytes:
    return struct.pack(abi.order + "ihh", _NUMBER, POLL.IN, found)


async def _found(call: Awaitable[list[Pollfd]]) -> list[POLL]:
    return [one.revents for one in await call]


#: That of the descriptor, which is nobody's.
_NUMBER = 77


@pytest.fixture
async def process() -> AsyncGenerator[rsyscall.Process]:
    async with rsyscall.open_process() as process:
        yield process


def sent(args: Sequence[SyscallArgument]) -> list[bytes | int]:
    """The data of a call, and the room that it has for an answer."""
    found: list[bytes | int] = []
    for arg in args:
        match arg:
            case In(data) | InOut(data):
                found.append(data)
            case Out(size):
                found.append(size)
            case _:
                pass
    return found


@pytest.mark.parametrize("abi", ABIS, ids=lambda abi: abi.machine)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_call_is_that_of_the_machine(
    process: rsyscall.Process, case: Case, abi: ABI
) -> None:
    task = process.task
    fd = task.make_fd_handle(near.FileDescriptor(_NUMBER))
    inner, task.sysif = task.sysif, Door(case.value, tuple(case.outs(abi)))
    door, task.abi = task.sysif, abi
    try:
        assert await case.method(task, fd) == case.result
        ((_, args),) = door.sent
        assert sent(args) == case.data(abi)
        step = case.step(process.batch(), fd)
        assert sent(step.args) == case.data(abi)
    finally:
        task.sysif, task.abi = inner, NATIVE
        fd.forget()


async def test_a_batch_for_nobody_is_for_machines_like_ours(process: rsyscall.Process) -> None:
    batch = rsyscall.Batch()
    batch.getrusage()
    process.task.abi = ODD
    with pytest.raises(ValueError, match=r"batch: .* and the process one of odd"):
        await process.prepare(batch)

"""epoll, eventfd, timerfd, signalfd, inotify and poll, beside what the standard library sees."""

from __future__ import annotations

import errno
import os
import select
import signal
import struct
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import rsyscall
from conformance.seen import nothing_sent, open_flags, opened
from rsyscall import near
from rsyscall.fcntl import O
from rsyscall.handle import FileDescriptor, Task
from rsyscall.poll import POLL, Pollfd
from rsyscall.signal import SIG, HowSIG, Sigset
from rsyscall.sys.epoll import EPOLL, EPOLL_CTL, EpollEvent, EpollEventList, EpollFlag
from rsyscall.sys.eventfd import EFD
from rsyscall.sys.inotify import IN, InotifyEvent, InotifyEventList, InotifyFlag
from rsyscall.sys.signalfd import SFD, SignalfdSiginfo
from rsyscall.sys.timerfd import CLOCK, TFD, TFD_TIMER, Itimerspec, Timespec

CLOEXEC = os.O_CLOEXEC


@pytest.fixture
async def counter(task: Task) -> AsyncGenerator[FileDescriptor]:
    async with await task.eventfd(0, EFD.NONBLOCK) as fd:
        yield fd


def info(fd: FileDescriptor, name: str) -> str:
    """What /proc says of a descriptor."""
    link = opened(fd)
    lines = (link.parent.parent / "fdinfo" / link.name).read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(name + ":"))


def test_the_flags_are_those_of_the_standard_library() -> None:
    for epoll in EPOLL:
        if epoll is not EPOLL.WAKEUP:  # which it does not know
            assert int(epoll) == getattr(select, f"EPOLL{epoll.name}")
    for poll in POLL:
        assert int(poll) == getattr(select, f"POLL{poll.name}")
    assert EpollFlag.CLOEXEC == select.EPOLL_CLOEXEC
    for flag in EFD:
        assert int(flag) == getattr(os, f"EFD_{flag.name}", int(flag))


async def test_epoll_tells_what_is_ready_and_as_what_it_was_registered(
    task: Task, counter: FileDescriptor
) -> None:
    async with await task.epoll_create() as ep:
        assert open_flags(opened(ep)) & CLOEXEC
        await ep.epoll_ctl(EPOLL_CTL.ADD, counter, EpollEvent(2**64 - 2, EPOLL.IN))
        assert await ep.epoll_wait(8, 0) == []
        await counter.write(struct.pack("=Q", 7))
        assert await ep.epoll_wait(8, 0) == [EpollEvent(2**64 - 2, EPOLL.IN)]
        with pytest.raises(FileExistsError):
            await ep.epoll_ctl(EPOLL_CTL.ADD, counter, EpollEvent(1, EPOLL.IN))
        wanted = await task.ptr(EpollEvent(3, EPOLL.IN | EPOLL.OUT))
        await ep.epoll_ctl(EPOLL_CTL.MOD, counter, wanted)
        filled, rest = await ep.epoll_wait(await task.malloc(EpollEventList, 3 * 12), 0)
        assert await filled.read() == [EpollEvent(3, EPOLL.IN | EPOLL.OUT)]
        assert rest.size() == 24
        await ep.epoll_ctl(EPOLL_CTL.DEL, counter)
        assert await ep.epoll_wait(8, 0) == []


async def test_epoll_refuses_what_cannot_be_before_it_is_sent(
    task: Task, counter: FileDescriptor
) -> None:
    async with await task.epoll_create() as ep:
        small = await task.malloc(EpollEventList, 11)
        with nothing_sent(task):
            with pytest.raises(ValueError, match="event: missing"):
                await ep.epoll_ctl(EPOLL_CTL.ADD, counter)
            with pytest.raises(ValueError, match="events: room for 0"):
                await ep.epoll_wait(0, 0)
            with pytest.raises(ValueError, match="timeout: -2"):
                await ep.epoll_wait(1, -2)
            with pytest.raises(ValueError, match="events: 11 bytes"):
                await ep.epoll_wait(small, 0)
            with pytest.raises(ValueError, match="data: -1"):
                EpollEvent(-1, EPOLL.IN)


async def test_a_file_cannot_be_watched(task: Task, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with (
        await task.epoll_create() as ep,
        await task.open(tmp_path / "file", O.RDONLY) as file,
    ):
        with pytest.raises(PermissionError):
            await ep.epoll_ctl(EPOLL_CTL.ADD, file, EpollEvent(1, EPOLL.IN))


async def test_eventfd_counts(task: Task) -> None:
    async with await task.eventfd(3, EFD.NONBLOCK | EFD.SEMAPHORE) as fd:
        assert open_flags(opened(fd)) & (CLOEXEC | os.O_NONBLOCK) == CLOEXEC | os.O_NONBLOCK
        one = struct.pack("=Q", 1)
        assert [await fd.read(8) for _ in range(3)] == [one] * 3
        with pytest.raises(BlockingIOError):
            await fd.read(8)
    with pytest.raises(ValueError, match="initval: -1"):
        await task.eventfd(-1)


async def test_timerfd_ends_when_it_was_set_to(task: Task) -> None:
    async with await task.timerfd_create(CLOCK.MONOTONIC, TFD.NONBLOCK) as fd:
        assert info(fd, "clockid") == str(int(CLOCK.MONOTONIC))
        zero, far = Timespec(0, 0), Timespec(1000, 5)
        assert await fd.timerfd_gettime() == Itimerspec(zero, zero)
        await fd.timerfd_settime(TFD_TIMER.NONE, Itimerspec(Timespec(60, 7), far))
        left = await fd.timerfd_gettime()
        assert left.interval == Timespec(60, 7)
        assert 900 < left.value.sec <= 1000
        room = await task.malloc(Itimerspec)
        old = await fd.timerfd_settime(
            TFD_TIMER.ABSTIME, await task.ptr(Itimerspec(zero, Timespec(0, 1))), room
        )
        assert (await old.read()).interval == Timespec(60, 7)
        assert await fd.read(8) == struct.pack("=Q", 1)  # that was long ago
        assert await (await fd.timerfd_gettime(old)).read() == Itimerspec(zero, zero)
    with pytest.raises(ValueError, match="99"):
        await task.timerfd_create(99)  # type: ignore[arg-type] # so that it is refused


async def test_signalfd_tells_of_blocked_signals(apart: rsyscall.Process) -> None:
    task = apart.task
    await task.sigprocmask((HowSIG.BLOCK, [SIG.USR1, SIG.USR2]))
    async with await task.signalfd([SIG.USR1], SFD.NONBLOCK) as fd:
        assert int(info(fd, "sigmask"), 16) == 1 << (SIG.USR1 - 1)
        with pytest.raises(BlockingIOError):
            await fd.read(128)
        pid = int(apart.pid)
        os.kill(pid, signal.SIGUSR1)
        got = SignalfdSiginfo.from_bytes(await fd.read(1024))
        assert (got.signo, got.pid, got.uid) == (SIG.USR1, os.getpid(), os.getuid())
        await fd.signalfd(await task.ptr(Sigset([SIG.USR2])))
        assert int(info(fd, "sigmask"), 16) == 1 << (SIG.USR2 - 1)
        async with apart.batch() as batch:
            batch.signalfd([SIG.USR1, SIG.USR2], fd=fd)
            made = batch.signalfd([SIG.USR1])
        assert int(info(fd, "sigmask"), 16) == 1 << (SIG.USR2 - 1) | 1 << (SIG.USR1 - 1)
        await made.value.close()
        with pytest.raises(ValueError, match="65"):
            await fd.signalfd([65])


async def test_inotify_tells_what_happens(task: Task, tmp_path: Path) -> None:
    async with await task.inotify_init(InotifyFlag.NONBLOCK) as fd:
        wd = await fd.inotify_add_watch(tmp_path, IN.CREATE | IN.MOVED_FROM | IN.MOVED_TO)
        assert isinstance(wd, near.WatchDescriptor)
        (tmp_path / "näme").touch()
        (tmp_path / "näme").rename(tmp_path / "x")
        events = InotifyEventList.from_bytes(await fd.read(4096))
        assert [(event.wd, event.mask, event.name) for event in events] == [
            (wd, IN.CREATE, "näme"),
            (wd, IN.MOVED_FROM, "näme"),
            (wd, IN.MOVED_TO, "x"),
        ]
        assert events[1].cookie == events[2].cookie != 0
        await fd.inotify_rm_watch(wd)
        assert InotifyEventList.from_bytes(await fd.read(4096)) == [InotifyEvent(wd, IN.IGNORED)]
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            await fd.inotify_rm_watch(wd)


async def test_poll_finds_what_select_poll_finds(task: Task, counter: FileDescriptor) -> None:
    pipe = await task.pipe()
    async with pipe.read as reader, pipe.write as writer:
        await writer.write(b"x")
        fds = [Pollfd(counter, POLL.IN), Pollfd(reader, POLL.IN), Pollfd(writer, POLL.OUT)]
        wanted = [POLL.NONE, POLL.IN, POLL.OUT]
        assert [one.revents for one in await task.poll(fds, 0)] == wanted
        assert [one.revents for one in await task.ppoll(fds, None)] == wanted
        mask = [SIG.USR1]
        assert [one.revents for one in await task.ppoll(fds, Timespec(5, 0), mask)] == wanted
        await counter.write(struct.pack("=Q", 1))
        found = (await task.poll(fds, -1))[0]
        assert found == Pollfd(counter, POLL.IN, POLL.IN)
        with pytest.raises(ValueError, match="timeout: -2"):
            await task.poll(fds, -2)


def test_the_structures_are_what_they_were_made_of() -> None:
    assert sys.byteorder == "little"
    for value in (
        EpollEvent(5, EPOLL.IN | EPOLL.ET),
        EpollEventList([EpollEvent(5, EPOLL.IN), EpollEvent(6, EPOLL.HUP)]),
        Itimerspec(Timespec(1, 2), Timespec(3, 4)),
        SignalfdSiginfo(SIG.CHLD, 1, 2, 3, 4, -5),
        InotifyEventList([InotifyEvent(near.WatchDescriptor(1), IN.OPEN, 0, "abc")]),
    ):
        assert type(value).from_bytes(value.to_bytes()) == value

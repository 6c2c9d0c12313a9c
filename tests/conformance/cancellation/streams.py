"""Rows of asynchronous descriptors, and what is made of them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

import rsyscall
from conformance.cancellation import Case, row
from conformance.cancellation.calls import ONE, count, counter
from rsyscall.epoller import AsyncFileDescriptor, AsyncReadBuffer, Epoller
from rsyscall.fcntl import F, O
from rsyscall.inotify_watch import Inotify
from rsyscall.monitor import AsyncSignalfd
from rsyscall.signal import SIG, Sigset
from rsyscall.streams import RemoteListener, RemoteReceiveStream, RemoteSendStream, RemoteStream
from rsyscall.sys.epoll import EPOLL
from rsyscall.sys.inotify import IN
from rsyscall.sys.socket import AF, SOCK
from rsyscall.sys.un import SockaddrUn

Pair = tuple[AsyncFileDescriptor, AsyncFileDescriptor]
#: More than a pipe or a socket holds.
LARGE = bytes(range(256)) * 1200


@contextlib.asynccontextmanager
async def pipe(process: rsyscall.Process) -> AsyncGenerator[Pair]:
    """A reading and a writing end."""
    made = await process.pipe(O.NONBLOCK)
    async with (
        AsyncFileDescriptor(process.epoller, made.read) as read,
        AsyncFileDescriptor(process.epoller, made.write) as write,
    ):
        yield read, write


@contextlib.asynccontextmanager
async def sockets(process: rsyscall.Process) -> AsyncGenerator[Pair]:
    made = await process.socketpair(AF.UNIX, SOCK.STREAM | SOCK.NONBLOCK)
    async with (
        AsyncFileDescriptor(process.epoller, made.first) as first,
        AsyncFileDescriptor(process.epoller, made.second) as second,
    ):
        yield first, second


@contextlib.asynccontextmanager
async def listening(
    process: rsyscall.Process, directory: Path
) -> AsyncGenerator[tuple[AsyncFileDescriptor, Path]]:
    path = directory / "listening"
    path.unlink(missing_ok=True)
    sock = await process.socket(AF.UNIX, SOCK.STREAM | SOCK.NONBLOCK)
    await sock.bind(SockaddrUn(path))
    await sock.listen(1)
    async with AsyncFileDescriptor(process.epoller, sock) as afd:
        yield afd, path


def later(act: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
    """Do it when all wait."""

    async def meanwhile() -> None:
        await wait_all_tasks_blocked()
        await act()

    return meanwhile


async def drain(fd: AsyncFileDescriptor) -> bytes:
    """All that is there."""
    found = b""
    try:
        while data := await fd.handle.read(65536):
            found += data
    except BlockingIOError:
        pass
    return found


@row(
    "`Process.make_afd`, `AsyncFileDescriptor.make`, `make_new_afd`",
    "nothing has happened, or O_NONBLOCK is set",
)
async def making(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    made = await process.pipe()
    async with made.read, made.write:

        async def judge(cancelled: bool, afd: Any) -> None:
            if not cancelled:
                assert await made.read.fcntl(F.GETFL) & O.NONBLOCK
                assert afd.handle is made.read

        yield Case(lambda: process.make_afd(made.read, set_nonblock=True), judge)


@row("`AsyncFileDescriptor.read`, `read_some_bytes`, `recv`", "nothing was read")
async def reading(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with pipe(process) as (read, write):

        async def judge(cancelled: bool, got: Any) -> None:
            assert await drain(read) == (b"data" if cancelled else b"")
            assert cancelled or got == b"data"

        meanwhile = later(lambda: write.handle.write(b"data"))
        yield Case(read.read_some_bytes, judge, meanwhile)


@row("`AsyncFileDescriptor.write`, `send`", "nothing was written")
async def writing(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with pipe(process) as (read, write):
        with contextlib.suppress(BlockingIOError):
            while True:
                await write.handle.write(bytes(65536))

        async def make_room() -> None:
            assert len(await read.handle.read(8192)) == 8192

        async def judge(cancelled: bool, written: Any) -> None:
            assert (await drain(read)).endswith(bytes(4) if cancelled else b"data"[:written])

        yield Case(lambda: write.write(b"data"), judge, later(make_room))


@row(
    "`write_all`, `write_all_bytes`, `send_all`, `send_all_bytes`; `RemoteSendStream.send_all`",
    "a leading part has been written, of a length that is not told",
)
async def writing_all(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with sockets(process) as (first, second):
        got = b""

        async def take() -> None:
            nonlocal got
            got += await drain(second)

        async def judge(cancelled: bool, _: Any) -> None:
            await take()
            assert LARGE.startswith(got) if cancelled else got == LARGE

        stream = RemoteSendStream(first)

        async def take_all() -> None:
            for _ in range(20):
                await wait_all_tasks_blocked()
                await take()

        yield Case(lambda: stream.send_all(LARGE), judge, take_all)


@row("`AsyncFileDescriptor.accept`, `accept_addr`; `RemoteListener.accept`", "none was taken")
async def accepting(process: rsyscall.Process, directory: Path) -> AsyncGenerator[Case]:
    async with listening(process, directory) as (server, path):
        with socket.socket(socket.AF_UNIX) as client:

            async def connect() -> None:
                client.connect(str(path))

            async def judge(cancelled: bool, stream: Any) -> None:
                if cancelled:
                    stream = await RemoteListener(server).accept()
                await stream.aclose()

            yield Case(RemoteListener(server).accept, judge, later(connect))


@row("`AsyncFileDescriptor.connect`", "it is connected, or goes on connecting, or not")
async def connecting(process: rsyscall.Process, directory: Path) -> AsyncGenerator[Case]:
    async with listening(process, directory) as (_, path):
        made = await process.socket(AF.UNIX, SOCK.STREAM | SOCK.NONBLOCK)
        async with AsyncFileDescriptor(process.epoller, made) as client:

            async def judge(cancelled: bool, _: Any) -> None:
                if cancelled:
                    with contextlib.suppress(OSError):
                        await client.connect(SockaddrUn(path))
                assert await made.getpeername() == SockaddrUn(path)

            yield Case(lambda: client.connect(SockaddrUn(path)), judge)


@row(
    "`AsyncFileDescriptor.wait_for`, `wait_for_rdhup`, `wait_writable`;"
    " `RemoteSendStream.wait_send_all_might_not_block`",
    "nothing has happened",
)
async def waiting(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with sockets(process) as (first, second):

        async def judge(cancelled: bool, _: Any) -> None:
            await first.wait_for_rdhup()

        yield Case(first.wait_for_rdhup, judge, later(second.close))


@row("`AsyncFileDescriptor.close`; `aclose` of streams and listeners", "it is closed")
async def closing_afd(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with sockets(process) as (first, second):
        with trio.move_on_after(0):
            await first.read_some_bytes()

        async def judge(cancelled: bool, _: Any) -> None:
            assert not first.handle.valid
            assert await second.read_some_bytes() == b""

        yield Case(first.close, judge)


@row("`RemoteReceiveStream.receive_some`", "nothing has been received")
async def receiving(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with pipe(process) as (read, write):
        stream = RemoteReceiveStream(read)

        async def judge(cancelled: bool, got: Any) -> None:
            assert await drain(read) == (b"data" if cancelled else b"")
            assert cancelled or got == b"data"

        yield Case(stream.receive_some, judge, later(lambda: write.handle.write(b"data")))


@row("`RemoteStream.send_eof`", "nothing has happened")
async def ending(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with sockets(process) as (first, second):

        async def judge(cancelled: bool, _: Any) -> None:
            if cancelled:
                await first.write_all_bytes(b"data")
                assert await second.read_some_bytes() == b"data"
            else:
                assert await second.read_some_bytes() == b""

        yield Case(RemoteStream(first).send_eof, judge)


@row("methods of `AsyncReadBuffer`", "nothing was taken; what has come is kept")
async def buffered(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with pipe(process) as (read, write):
        buffer = AsyncReadBuffer(read)
        await write.write_all_bytes(b"li")
        await buffer.read_length(2, remove=False)

        async def judge(cancelled: bool, got: Any) -> None:
            if cancelled:
                got = await buffer.read_line()
            assert got == b"line"

        yield Case(buffer.read_line, judge, later(lambda: write.handle.write(b"ne\n")))


@row("`Epoller.make_root`", "nothing was made")
async def making_root(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async def judge(cancelled: bool, root: Any) -> None:
        if not cancelled:
            await root.close()

    yield Case(lambda: Epoller.make_root(process.task), judge)


@row("`Epoller.register`", "it is not watched")
async def registering(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    epoller = Epoller(process.task)
    async with counter(process) as fd:

        async def judge(cancelled: bool, watched: Any) -> None:
            if cancelled:
                watched = await epoller.register(fd, EPOLL.IN)
            await fd.write(ONE)
            await watched.wait_for(EPOLL.IN)
            assert await count(fd) == 1
            await watched.delete()

        yield Case(lambda: epoller.register(fd, EPOLL.IN), judge)


@row("`EpolledFileDescriptor.wait_for`, `modify`", "nothing has happened")
async def waiting_for_events(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    epoller = Epoller(process.task)
    async with counter(process) as fd:
        watched = await epoller.register(fd, EPOLL.IN)

        async def judge(cancelled: bool, _: Any) -> None:
            await watched.wait_for(EPOLL.IN)
            assert await count(fd) == 1
            await watched.delete()

        yield Case(lambda: watched.wait_for(EPOLL.IN), judge, later(lambda: fd.write(ONE)))


@row("`EpolledFileDescriptor.delete`", "it is still watched, or not any more")
async def deleting(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    epoller = Epoller(process.task)
    async with counter(process) as fd:
        watched = await epoller.register(fd, EPOLL.IN)

        async def judge(cancelled: bool, _: Any) -> None:
            await watched.delete()
            assert watched.removed

        yield Case(watched.delete, judge)


@row("`Epoller.close`", "it is closed")
async def closing_root(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    epoller = await Epoller.make_root(process.task)
    async with counter(process) as fd:
        watched = await epoller.register(fd, EPOLL.IN)

        async def judge(cancelled: bool, _: Any) -> None:
            assert watched.removed

        yield Case(epoller.close, judge)


@row("`AsyncSignalfd.make`", "nothing has happened", inside=False)
async def making_signalfd(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async def judge(cancelled: bool, signals: Any) -> None:
        if not cancelled:
            await signals.close()
        assert "SigBlk:\t0000000000000000" in Path(f"/proc/{int(process.pid)}/status").read_text()

    make = AsyncSignalfd.make
    yield Case(lambda: make(process.task, process.epoller, Sigset([SIG.USR1])), judge)


@row("`AsyncSignalfd.next_signal.wait`", "no signal was taken, or others have it", inside=False)
async def waiting_for_signals(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with await AsyncSignalfd.make(
        process.task, process.epoller, Sigset([SIG.USR1])
    ) as signals:

        async def kill() -> None:
            os.kill(int(process.pid), signal.SIGUSR1)

        async def judge(cancelled: bool, got: Any) -> None:
            if cancelled:
                got = await signals.next_signal.wait()
            assert got.signo == SIG.USR1

        yield Case(signals.next_signal.wait, judge, later(kill))


@row("`AsyncSignalfd.close`", "it is closed", inside=False)
async def closing_signalfd(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    signals = await AsyncSignalfd.make(process.task, process.epoller, Sigset([SIG.USR1]))

    async def judge(cancelled: bool, _: Any) -> None:
        assert not signals.fd.valid
        assert "SigBlk:\t0000000000000000" in Path(f"/proc/{int(process.pid)}/status").read_text()

    yield Case(signals.close, judge)


@row("`Inotify.make`, `Inotify.add`", "nothing was made; it is not watched")
async def making_inotify(process: rsyscall.Process, directory: Path) -> AsyncGenerator[Case]:
    async with await Inotify.make(process) as inotify:

        async def judge(cancelled: bool, watch: Any) -> None:
            if cancelled:
                watch = await inotify.add(directory, IN.CREATE)
            assert int(watch.wd) == 1

        yield Case(lambda: inotify.add(directory, IN.CREATE), judge)


@row("`Watch.wait`", "no event was taken")
async def watching(process: rsyscall.Process, directory: Path) -> AsyncGenerator[Case]:
    async with await Inotify.make(process) as inotify:
        watch = await inotify.add(directory, IN.CREATE)

        async def create() -> None:
            (directory / "created").touch()

        async def judge(cancelled: bool, got: Any) -> None:
            if cancelled:
                got = await watch.wait()
            assert [event.name for event in got] == ["created"]
            (directory / "created").unlink()

        yield Case(watch.wait, judge, later(create))


@row("`Watch.wait_until_event`", "no event was taken but earlier ones, of other kinds")
async def watching_for(process: rsyscall.Process, directory: Path) -> AsyncGenerator[Case]:
    async with await Inotify.make(process) as inotify:
        watch = await inotify.add(directory, IN.CREATE | IN.DELETE)

        async def create() -> None:
            (directory / "created").touch()
            (directory / "created").unlink()

        async def judge(cancelled: bool, got: Any) -> None:
            if cancelled:
                got = await watch.wait_until_event(IN.DELETE)
            assert (got.mask, got.name) == (IN.DELETE, "created")

        yield Case(lambda: watch.wait_until_event(IN.DELETE), judge, later(create))

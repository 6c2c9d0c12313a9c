"""One end of a ring, for a peer that may write anything into it."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import struct
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import trio
import trio.lowlevel

from e2e.servers import RawClient, event, wait_for
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall_protocol import (
    NEED_DATA,
    Bell,
    Connection,
    Error,
    Event,
    Fds,
    Feature,
    Hello,
    Limits,
    Result,
    Ring,
    Role,
    SideChannel,
    Size,
    decode,
)

DATA, ROOM = 1, 2
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
BELL = SideChannel.BELL
_TAIL, _HEAD, _PARKED = Size.RING_TAIL // 4, Size.RING_HEAD // 4, Size.RING_PARKED // 4
_lock = threading.Lock()


def fence() -> None:
    """No later load before an earlier store: to take a lock is that on any machine."""
    with _lock:
        pass


class Half:
    """The memory that one side writes."""

    def __init__(self, fd: int, size: int, *, writable: bool) -> None:
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self.size = size
        self._memory = mmap.mmap(fd, Size.RING_HEADER + size, mmap.MAP_SHARED, access)
        self.words = memoryview(self._memory).cast("I")
        self.data = memoryview(self._memory)[Size.RING_HEADER :]

    @property
    def tail(self) -> int:
        return self.words[_TAIL]

    @tail.setter
    def tail(self, value: int) -> None:
        self.words[_TAIL] = value % 2**32

    @property
    def head(self) -> int:
        return self.words[_HEAD]

    @head.setter
    def head(self, value: int) -> None:
        self.words[_HEAD] = value % 2**32

    @property
    def parked(self) -> int:
        return self.words[_PARKED]

    @parked.setter
    def parked(self, value: int) -> None:
        self.words[_PARKED] = value % 2**32

    def close(self) -> None:
        self.words.release()
        self.data.release()
        self._memory.close()


class RawRing:
    """Our half and theirs, with the socket beside it. What the rules say is up to the caller."""

    def __init__(self, mine: int, theirs: int, size: int, sock: socket.socket) -> None:
        self.mine = Half(mine, size, writable=True)
        self.theirs = Half(theirs, size, writable=False)
        self.size = size
        self.sock = sock
        self.rung = 0
        self._taken = bytearray()

    def close(self) -> None:
        self.mine.close()
        self.theirs.close()

    @property
    def room(self) -> int:
        return self.size - (self.mine.tail - self.theirs.head) % 2**32

    @property
    def available(self) -> int:
        return (self.theirs.tail - self.mine.head) % 2**32

    def publish(self, data: bytes) -> None:
        """Write it, and wake nobody."""
        assert len(data) <= self.room, "the test writes more than there is room for"
        at = self.mine.tail % self.size
        first = min(len(data), self.size - at)
        self.mine.data[at : at + first] = data[:first]
        self.mine.data[: len(data) - first] = data[first:]
        self.mine.tail += len(data)

    def wake(self, what: int = DATA) -> bool:
        """Ring if the other side sleeps, as the rules say; whether it did."""
        fence()
        parked = self.theirs.parked
        if not parked & what or parked == self.rung:
            return False
        self.rung = parked
        self.bell()
        return True

    def bell(self) -> None:
        self.sock.send(BELL)

    def send(self, data: bytes) -> None:
        """All of it, in pieces as there is room."""
        while data:
            wait_for(lambda: self.room > 0, "room in the ring")
            n = min(self.room, len(data))
            self.publish(data[:n])
            self.wake()
            data = data[n:]

    def take(self, n: int) -> bytes:
        """Bytes that are there."""
        assert n <= self.available
        at = self.mine.head % self.size
        data = bytes(self.theirs.data[at : at + n])
        data += bytes(self.theirs.data[: n - len(data)])
        self.mine.head += n
        self.wake(ROOM)
        return data

    def poll(self) -> Event | None:
        """The next frame, if all of it is there."""
        self._taken += self.take(self.available)
        if len(self._taken) < Size.HEADER:
            return None
        tag, length = struct.unpack_from(">BI", self._taken)
        assert tag == 0xCE
        if len(self._taken) < Size.HEADER + length:
            return None
        body = bytes(self._taken[Size.HEADER : Size.HEADER + length])
        del self._taken[: Size.HEADER + length]
        return decode(body, Limits())

    def receive(self) -> Event:
        """The next frame, for which trio waits too."""
        frames: list[Event] = []

        def come() -> bool:
            frame = self.poll()
            if frame is not None:
                frames.append(frame)
            return frame is not None

        wait_for(come, "a frame in the ring")
        return frames[0]


def make_half(size: int, seals: int = SEALS, flags: int = 0) -> int:
    """A memfd for one half."""
    fd = os.memfd_create("test ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    os.ftruncate(fd, Size.RING_HEADER + size)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


# ---- a client that the test plays, for the real server ----

HELLO = event(Hello(features=Feature.RING | Feature.BATCH))


class Moved:
    """A client that has moved into a ring, and may write anything there."""

    def __init__(self, client: RawClient, *, size: int = 4096, spin: int = 0) -> None:
        self.client = client
        client.greet(HELLO)
        client.send(event(Ring(1, size, spin)))
        data, fds, _, _ = socket.recv_fds(client.sock, 4096, 2)
        result = decode(data[Size.HEADER :], Limits())
        assert isinstance(result, Result)
        assert result.value == size
        self.ring = RawRing(fds[0], fds[1], size, client.sock)
        for fd in fds:
            os.close(fd)

    def __enter__(self) -> Moved:
        return self

    def __exit__(self, *_: object) -> None:
        self.ring.close()

    def fds_frame(self, number: int, count: int, fds: Sequence[int]) -> None:
        """Descriptors beside the ring."""
        self.client.send(event(Fds(number, count)), fds)

    def result(self) -> Result:
        answer = self.ring.receive()
        assert isinstance(answer, Result), answer
        return answer

    def last_words(self) -> Error:
        """The ERROR with which the server ends the connection, behind any bells."""
        while isinstance(answer := self.client.receive(), Bell | Fds):
            pass
        assert isinstance(answer, Error), answer
        assert self.client.receive() is None
        return answer


# ---- a server that the test plays, for the real client ----


class Played:
    """The server's end of a connection before it moves, and the ring after."""

    ring: RawRing
    nursery: trio.Nursery  # of the client's tasks

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.connection = Connection(Role.SERVER)

    async def hear(self) -> Event:
        """The next message over the socket."""
        while True:
            heard = self.connection.next_event()
            if heard is None:
                raise EOFError("the client has gone")
            if heard is not NEED_DATA:
                return heard
            await trio.lowlevel.wait_readable(self.sock)
            self.connection.receive(self.sock.recv(2**16))

    def say(self, what: Event, fds: Sequence[int] = ()) -> None:
        """Anything, over the socket."""
        socket.send_fds(self.sock, [event(what)], fds)

    async def greet(self) -> Ring:
        """Say HELLO, and hear what memory the client would like."""
        hello = await self.hear()
        assert isinstance(hello, Hello)
        features = Feature.RING | Feature.BATCH
        data, _ = self.connection.send(
            Hello(
                features=features,
                limits=self.connection.limits,
                info={"arch": os.uname().machine, "pid": 1},
            )
        )
        self.sock.send(data)
        request = await self.hear()
        assert isinstance(request, Ring)
        return request

    async def move(self) -> None:
        """Greet, and give the client such memory as it should have."""
        request = await self.greet()
        theirs, ours = make_half(request.size), make_half(request.size)
        self.ring = RawRing(ours, theirs, request.size, self.sock)
        self.say(Result(request.id, request.size, (), (theirs, ours)), (theirs, ours))
        os.close(theirs)
        os.close(ours)

    async def request(self) -> Event:
        """The next frame in the ring, while trio goes on."""
        while (frame := self.ring.poll()) is None:
            await trio.lowlevel.checkpoint()
        return frame


@asynccontextmanager
async def played(
    limits: Limits | None = None, *, size: int = 4096
) -> AsyncGenerator[tuple[RemoteSyscallInterface, Played]]:
    """A client that has moved into a ring, and the server's end of it.

    Its calls are to be made by tasks of server.nursery, which has ended with the block.
    """
    ours, theirs = socket.socketpair()
    server = Played(theirs)
    sysif = RemoteSyscallInterface(ours, limits=limits)
    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.move)
            await sysif.start(ring=True, ring_size=size)
        try:
            async with trio.open_nursery() as nursery:
                server.nursery = nursery
                try:
                    yield sysif, server
                except BaseException:
                    sysif.close()  # or the calls under way would never end
                    raise
        finally:
            await sysif.close_interface()
            server.ring.close()


def last_words(sock: socket.socket) -> Error:
    """The client's, behind any bells; nothing but the end of its stream follows."""
    sock.settimeout(20)
    heard = bytearray()
    with contextlib.suppress(ConnectionResetError):  # it has not read all that we said
        while part := sock.recv(4096):
            heard += part
    said: list[object] = []
    while heard:
        tag, length = struct.unpack_from(">BI", heard)
        assert tag == 0xCE
        said.append(decode(bytes(heard[Size.HEADER : Size.HEADER + length]), Limits()))
        del heard[: Size.HEADER + length]
    *bells, error = said
    assert all(bell == Bell() for bell in bells), bells
    assert isinstance(error, Error)
    return error

"""Clients that write into their half of a ring whatever they like, against the real server."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from pathlib import Path

import pytest

from e2e.servers import HELLO as PLAIN_HELLO
from e2e.servers import Server, StubServer, event, every_server, message, wait_for
from frames import frame
from ring.raw import BELL, HELLO, Moved, RawRing
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import (
    Bell,
    Bye,
    Call,
    CallFlag,
    Error,
    ErrorCode,
    FdArg,
    Fds,
    Feature,
    Hello,
    In,
    Out,
    Read,
    Ret,
    Ring,
    Size,
    Write,
)

AT_FDCWD = 2**64 - 100
GETPPID = event(Call(2, SYS.getppid))


@every_server
@pytest.mark.parametrize("size", [4096, 65536])
@pytest.mark.parametrize("spin", [0, 1000])
def test_frames_of_every_length_pass_at_every_offset(
    server: type[Server], size: int, spin: int
) -> None:
    rng = random.Random(size)
    with server() as client, Moved(client, size=size, spin=spin) as moved:
        offsets = set[int]()
        for id_ in range(2, 300):
            data = rng.randbytes(rng.choice([0, 1, 7, 100, 1000, 3000]))
            offsets.add(moved.ring.mine.tail % size)
            moved.ring.send(event(Call(id_, SYS.getppid, (1, In(data)))))
            assert moved.result().id == id_
        assert len(offsets) > 200
        data = rng.randbytes(300_000)
        moved.ring.send(event(Call(1000, SYS.memfd_create, (In(b"x\0"), 0))))
        fd = moved.result().value
        moved.ring.send(event(Call(1001, SYS.pwrite64, (fd, In(data), len(data), 0))))
        assert moved.result().value == len(data)
        moved.ring.send(event(Call(1002, SYS.pread64, (fd, Ret(len(data)), len(data), 0))))
        assert moved.result().outs == (data,)
        moved.ring.send(event(Call(1003, SYS.close, (fd,))) + event(Bye()))
        assert moved.result().value == 0
        assert moved.ring.receive() == Bye()


@every_server
@pytest.mark.parametrize("count", [4097, 2**31, 2**32 - 1, 8192, 2**32 - 4096])
def test_an_impossible_count_of_bytes_written(server: type[Server], count: int) -> None:
    with server() as client, Moved(client) as moved:
        moved.ring.mine.tail = count
        moved.ring.bell()
        assert moved.last_words().code == ErrorCode.RING


@every_server
@pytest.mark.parametrize("count", [1, 2**31, 2**32 - 4097, 4096])
def test_an_impossible_count_of_bytes_read(server: type[Server], count: int) -> None:
    with server() as client, Moved(client) as moved:
        moved.ring.mine.head = count
        moved.ring.send(GETPPID)
        assert moved.last_words().code == ErrorCode.RING


@pytest.mark.parametrize("turn", range(10))
def test_nothing_follows_the_last_words(turn: int) -> None:
    """The ring may be found broken just before a request is made: then it is made no more.

    When that is cannot be chosen, so the ring is broken and mended again and again meanwhile.
    """
    with StubServer() as client, Moved(client) as moved:
        ring = moved.ring
        ring.send(event(Call(2, SYS.uname, (Out(8192),))))
        wait_for(lambda: ring.available == ring.size, "a ring that is full")
        over = threading.Event()

        def flicker() -> None:
            while not over.is_set():
                ring.mine.head = 2**31 + turn
                for _ in range(10):
                    ring.mine.head = 0

        thread = threading.Thread(target=flicker)
        thread.start()
        # Of a kind that might block, before which the server sends what it can.
        calls = (Call(3 + i, SYS.write, (2**64 - 1, In(b"x"), 1)) for i in range(100))
        ring.publish(b"".join(map(event, calls)))
        with contextlib.suppress(OSError):  # it may have gone already
            for _ in range(20):
                ring.bell()
        over.set()
        thread.join()
        ring.mine.head = 2**31
        with contextlib.suppress(OSError):
            ring.bell()
        assert moved.last_words().code == ErrorCode.RING


WORDS = [0, 1, 63, 64, 4095, 4096, 4097, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 4096]


def scribble(ring: RawRing, rng: random.Random) -> None:
    """Something wrong, or not: any of the words, or the data."""
    mine = ring.mine
    value = rng.choice([*WORDS, rng.getrandbits(32)])
    match rng.randrange(6):
        case 0:
            mine.tail += rng.choice([value, rng.randrange(64)])
        case 1:
            mine.head += rng.choice([value, rng.randrange(64)])
        case 2:
            mine.parked = value
        case 3:
            at = rng.randrange(ring.size)
            part = rng.randbytes(rng.randrange(1, 64))[: ring.size - at]
            mine.data[at : at + len(part)] = part
        case 4:
            word = rng.randrange(Size.RING_HEADER // 4)
            mine.words[word] = value
        case _:
            mine.head = ring.theirs.tail


@every_server
@pytest.mark.parametrize("seed", range(12))
def test_a_scribbling_client_ends_only_itself(server: type[Server], seed: int) -> None:
    rng = random.Random(seed)
    for turn in range(5):
        with server() as client, Moved(client, spin=rng.choice([0, 50])) as moved:
            for id_ in range(2, 40):
                requests = [
                    event(Call(id_, SYS.getppid)),
                    event(Call(id_, SYS.uname, (Out(390),))),
                    event(Call(id_, SYS.getpid, (In(rng.randbytes(rng.randrange(2000))),))),
                    event(Read(id_, 4096, rng.randrange(5000))),
                ]
                data = rng.choice(requests)
                if len(data) <= moved.ring.room <= moved.ring.size:
                    moved.ring.publish(data)
                scribble(moved.ring, rng)
                try:
                    client.send(BELL)
                except OSError:  # it has said what it has to say, and gone
                    break
            if turn % 2:  # else it sees the end as it comes
                client.sock.close()
                continue
            client.half_close()
            said = client.receive()
            while isinstance(said, Bell | Fds):
                said = client.receive()
            assert said is None or isinstance(said, Error)


@every_server
def test_errors_say_where_in_the_ring(server: type[Server]) -> None:
    with server() as client, Moved(client) as moved:
        moved.ring.send(GETPPID)
        moved.result()
        moved.ring.send(message(99))
        error = moved.last_words()
        assert (error.code, error.offset) == (ErrorCode.UNKNOWN_TYPE, len(GETPPID))


@every_server
@pytest.mark.parametrize("length", [1, 4, 5, 6])
def test_a_frame_that_is_cut_off(server: type[Server], length: int) -> None:
    with server() as client, Moved(client) as moved:
        moved.ring.send(GETPPID + GETPPID[:length])
        client.half_close()
        assert moved.result().value == os.getpid() or server is not StubServer
        error = moved.last_words()
        assert (error.code, error.offset) == (ErrorCode.TRUNCATED, len(GETPPID))


@every_server
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xc1" + bytes(9), ErrorCode.MALFORMED),
        (frame(b""), ErrorCode.MALFORMED),
        (b"\xce\xff\xff\xff\xff", ErrorCode.OVERSIZE),
        (event(Bell()), ErrorCode.STATE),
        (event(Fds(0, 1)), ErrorCode.STATE),
        (event(Ring(5, 4096, 0)), ErrorCode.STATE),
        (PLAIN_HELLO, ErrorCode.STATE),
        (event(Read(1, 0, 0)), ErrorCode.ID),
    ],
)
def test_frames_that_do_not_belong_there(
    server: type[Server], data: bytes, code: ErrorCode
) -> None:
    with server() as client, Moved(client) as moved:
        moved.ring.send(data)
        assert moved.last_words().code == code


@every_server
@pytest.mark.parametrize("size", [0, 1, 64, 4095, 4097, 6144, 2**20 + 1, 2**21, 2**32 - 1])
def test_sizes_that_no_ring_has(server: type[Server], size: int) -> None:
    with server() as client:
        client.greet(HELLO)
        client.send(event(Ring(1, size, 0)))
        assert client.last_words().code == ErrorCode.FIELD


@every_server
def test_a_ring_that_was_not_agreed_upon(server: type[Server]) -> None:
    with server() as client:
        client.greet(event(Hello(features=Feature.NONE)))
        client.send(event(Ring(1, 4096, 0)))
        assert client.last_words().code == ErrorCode.STATE


@every_server
@pytest.mark.parametrize("behind", [GETPPID, GETPPID[:3], BELL])
def test_what_follows_before_the_answer(server: type[Server], behind: bytes) -> None:
    with server() as client:
        client.greet(HELLO)
        client.send(event(Ring(1, 4096, 0)) + behind)
        assert client.last_words().code == ErrorCode.STATE


@every_server
def test_what_was_published_is_done_though_the_client_has_closed(
    server: type[Server], tmp_path: Path
) -> None:
    with server() as client, Moved(client) as moved:
        for i in range(20):
            path = bytes(tmp_path / str(i)) + b"\0"
            moved.ring.publish(event(Call(2 + i, SYS.mkdirat, (AT_FDCWD, In(path), 0o700))))
        client.sock.close()
    assert len(list(tmp_path.iterdir())) == 20


@every_server
def test_replies_that_nobody_takes(server: type[Server]) -> None:
    with server() as client, Moved(client) as moved:
        moved.ring.send(event(Read(2, 2**40, 0)) + event(Write(3, 2**40, b"")))
        moved.ring.send(event(Call(2000, SYS.uname, (Out(100_000),))))
        moved.ring.send(event(Bye()))


@every_server
def test_a_flood_of_bells(server: type[Server]) -> None:
    with server() as client, Moved(client) as moved:
        for _ in range(200):
            client.send(BELL * 100)
        moved.ring.send(GETPPID)
        assert moved.result().id == 2


# ---- descriptors ----

CLOSE_ON_EXEC = event(Call(2, SYS.fcntl, (FdArg(0), 1), CallFlag.NONE, (None,)))


def test_descriptors_pass() -> None:
    pipe = os.pipe()
    with StubServer() as client, Moved(client) as moved:
        for i in range(300):
            moved.fds_frame(i, 2, pipe)
            moved.ring.send(
                event(Call(2 + i, SYS.write, (FdArg(1), In(b"abc"), 3), fds=(None, None)))
            )
            assert moved.result().value == 3
            assert os.read(pipe[0], 10) == b"abc"
    for fd in pipe:
        os.close(fd)


@every_server
@pytest.mark.parametrize(
    ("beside", "count"),
    [
        (b"", 0),  # none at all
        (BELL, 0),
        (event(Fds(0, 1)), 0),
        (event(Fds(0, 0)), 0),
        (event(Fds(0, 2)), 1),
        (event(Fds(0, 2)), 2),  # more than the frame announced
        (event(Fds(1, 1)), 1),
        (event(Fds(0, 1))[:-1], 1),
        (BELL, 1),
        (event(Fds(0, 1)) + event(Fds(1, 1)), 1),
        (b"\xce", 1),
        (b"\xc1", 0),
        (b"\xce\xff\xff\xff\xff", 0),
        (message(9, 0), 0),
        (message(10, 0, 1, 2), 1),
        (GETPPID, 0),
        (b"\xce\0\0\1\x2c" + bytes(300), 1),
    ],
)
def test_descriptors_that_are_not_those_announced(
    server: type[Server], beside: bytes, count: int
) -> None:
    pipe = os.pipe()
    with server() as client, Moved(client) as moved:
        client.send(beside, (pipe * 2)[:count])
        moved.ring.send(CLOSE_ON_EXEC)
        assert moved.last_words().code == ErrorCode.FDS
    for fd in pipe:
        os.close(fd)


@every_server
def test_descriptors_that_nothing_needs(server: type[Server]) -> None:
    pipe = os.pipe()
    with server() as client, Moved(client) as moved:
        for i in range(3):
            moved.fds_frame(i, 1, pipe[:1])
        assert moved.last_words().code == ErrorCode.FDS
    for fd in pipe:
        os.close(fd)


@every_server
def test_descriptors_that_the_client_does_not_take(server: type[Server]) -> None:
    """It sends 500, which is more than the socket holds. They come as they are taken."""
    with server() as client, Moved(client, size=65536) as moved:
        for i in range(500):
            moved.ring.send(event(Call(2 + i, SYS.dup, (0,), CallFlag.RETURN_FD)))
        taken = 0
        while taken < 500:
            data, fds, _, _ = socket.recv_fds(client.sock, 4096, 1)
            taken += len(fds)
            for fd in fds:
                os.close(fd)
            assert data
        for i in range(500):
            assert moved.result().id == 2 + i

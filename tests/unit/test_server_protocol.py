"""The real server where the protocol touches the machine: descriptors, full sockets, the end."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsyscall.sys.syscall import SYS
from rsyscall_protocol import (
    Call,
    CallFlag,
    Connection,
    Error,
    ErrorCode,
    Event,
    FdArg,
    Fds,
    Hello,
    In,
    InOut,
    Limits,
    Out,
    Read,
    Result,
    Ret,
    Ring,
    Role,
    Size,
    Struct,
    Write,
    decode,
    encode,
)
from rsyscall_protocol._codec import reservation
from wire import SECONDS, SENT_BY, Peer, Stub, Thread

NOWHERE = 2**31 - 1
ENOSYS = -38
F_DUPFD_CLOEXEC, AT_FDCWD, O_CLOEXEC = 1030, -100, 0o2000000


@pytest.fixture(params=[Stub, Thread])
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    kind: type[Peer] = request.param
    with kind() as server:
        yield server


def greet(peer: Peer, limits: Limits | None = None) -> Connection:
    """Exchange HELLOs."""
    client = Connection(Role.CLIENT, limits)
    peer.send(client.send(Hello(limits=client.limits))[0])
    hear(peer, client)
    return client


def hear(peer: Peer, client: Connection) -> Event:
    """The next message of the server's, with the descriptors that came with it."""
    while True:
        event = client.next_event()
        if isinstance(event, Event):
            return event
        data, fds, _, _ = socket.recv_fds(peer.socket, 2**16, Limits().fds)
        assert data, "the server has ended"
        client.receive(data, fds)


def ask(peer: Peer, client: Connection, request: Call | Read | Write | Ring) -> Result:
    peer.send(*client.send(request))
    result = hear(peer, client)
    assert isinstance(result, Result)
    return result


# ---- descriptors ----


def test_a_descriptor_sent_with_a_call_is_its_argument_and_then_gone(peer: Peer) -> None:
    client = greet(peer)
    ours, theirs = os.pipe()
    with open(ours, "rb") as pipe:
        with open(theirs, "wb") as end:
            write = Call(1, SYS.write, (FdArg(0), In(b"hello"), 5), fds=(end.fileno(),))
            assert ask(peer, client, write).value == 5
        assert pipe.read() == b"hello"  # to its end: nobody has the other one any more


def test_a_new_descriptor_comes_back_if_asked_for(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"contents")
    client = greet(peer)
    path = In(bytes(tmp_path / "file") + b"\0")
    opening = Call(1, SYS.openat, (AT_FDCWD, path, O_CLOEXEC), CallFlag.RETURN_FD)
    result = ask(peer, client, opening)
    (fd,) = result.fds
    with open(fd, "rb") as file:
        assert file.read() == b"contents"


def test_only_a_new_descriptor_comes_back(peer: Peer) -> None:
    client = greet(peer)
    back = CallFlag.RETURN_FD
    for id_, call in enumerate(
        [
            Call(1, SYS.getpid, (), back),  # a number, but no descriptor
            Call(2, SYS.openat, (AT_FDCWD, In(b"/no/such/file\0"), 0), back),
            Call(3, NOWHERE, (), back),
        ],
        start=1,
    ):
        assert ask(peer, client, call).fds == (), id_


def test_descriptors_are_bound_to_their_frames_whatever_lies_between(peer: Peer) -> None:
    client = greet(peer)
    inodes: list[int] = []
    for i in range(1, 40):
        files = [os.memfd_create("test") for _ in range(i % 4)]
        inodes += [os.fstat(file).st_ino for file in files]
        if files:
            args = (FdArg(len(files) - 1), F_DUPFD_CLOEXEC, 0)
            request = Call(i, SYS.fcntl, args, CallFlag.RETURN_FD, tuple(files))
        else:
            request = Call(i, NOWHERE)
        peer.send(*client.send(request))
        for file in files:
            os.close(file)
    for i in range(1, 40):
        result = hear(peer, client)
        assert isinstance(result, Result)
        assert (result.id, len(result.fds)) == (i, i % 4 > 0)
        if result.fds:
            inode = os.fstat(result.fds[0]).st_ino
            os.close(result.fds[0])
            assert inodes[i % 4 - 1] == inode  # the last of the frame's
            del inodes[: i % 4]
    assert inodes == []


# ---- sizes ----

LARGEST = Limits().frame - Size.REPLY_BASE - Size.REPLY_OUT


@pytest.mark.parametrize(
    "request_",
    [
        Read(2**64 - 1, 0, 0),
        Write(2**64 - 1, 0, b""),
        Call(2**64 - 1, NOWHERE),
        Call(2**64 - 1, NOWHERE, (Out(LARGEST),)),
        Call(2**64 - 1, NOWHERE, (Out(1), Ret(1), InOut(b"x"), Struct(b"x", (), ((0, 1),)))),
        Call(2**64 - 1, NOWHERE, (Out(0),) * 1024),
    ],
)
def test_a_reply_fits_in_what_was_reserved_for_it(request_: Call | Read | Write) -> None:
    with Stub() as peer:
        client = greet(peer)
        peer.send(*client.send(request_))
        body = peer.receive()
        assert len(body) + Size.HEADER <= reservation(request_)
        assert isinstance(decode(body, Limits()), Result)


def test_data_is_read_and_written_by_address(peer: Peer) -> None:
    client = greet(peer)
    page = 4096
    private_anonymous, read_write = 0x22, 3
    mmap = Call(1, SYS.mmap, (0, 2 * page, read_write, private_anonymous, -1, 0))
    address = ask(peer, client, mmap).value
    assert ask(peer, client, Call(2, SYS.munmap, (address + page, page))).value == 0
    assert ask(peer, client, Write(3, address + page - 3, b"abc")).value == 3
    result = ask(peer, client, Read(4, address + page - 2, 2))
    assert (result.value, result.outs) == (2, (b"bc",))
    # What lies behind is not there, and that is an answer.
    assert ask(peer, client, Read(5, address + page, 1)).value == -14
    result = ask(peer, client, Read(6, address + page - 1, 2))
    assert (result.value, result.outs) == (1, (b"c",))


# ---- full sockets ----

REPLY = 8000


def test_a_client_that_keeps_to_its_window_can_send_first_and_read_later(peer: Peer) -> None:
    """Replies of more than the socket holds: the server goes on reading all the same."""
    client = greet(peer)
    count = 0
    while client.has_room(request := Call(count + 1, NOWHERE, (Out(REPLY),))):
        peer.send(*client.send(request))
        count += 1
    assert count * REPLY > 4 * peer.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    for i in range(count):
        assert hear(peer, client) == Result(i + 1, ENOSYS, (bytes(REPLY),))


@pytest.mark.parametrize("limits", [Limits(window=16384), Limits(outstanding=3)])
def test_a_client_that_exceeds_what_was_agreed_upon_is_refused(peer: Peer, limits: Limits) -> None:
    greet(peer, limits)
    careless = Connection(Role.CLIENT)
    server = Connection(Role.SERVER)
    server.receive(careless.send(Hello())[0])
    server.next_event()
    careless.receive(server.send(Hello())[0])
    careless.next_event()
    # More than the socket can take off the server's hands.
    count = 2 * peer.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // REPLY
    peer.send(b"".join(careless.send(Call(i + 1, NOWHERE, (Out(REPLY),)))[0] for i in range(count)))
    peer.settle()  # or our reading would make room after all
    said = [decode(body, Limits(), SENT_BY[Role.SERVER]) for body in iter(peer.receive, b"")]
    *answered, last = said
    assert [r.id for r in answered if isinstance(r, Result)] == [*range(1, len(said))]
    assert isinstance(last, Error)
    assert last.code is ErrorCode.WINDOW


# ---- a ring, as far as the socket shows it ----


def halves_mapped() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:rsyscall ring")


def test_a_ring_is_two_sealed_halves_of_its_size_and_gone_with_the_server() -> None:
    before = halves_mapped()
    with Thread() as peer:
        result = ask(peer, greet(peer), Ring(1, 8192, 0))
        assert result.value == 8192
        shrink_grow_seal, future_write = 7, 16
        wanted = [shrink_grow_seal, shrink_grow_seal | future_write]
        for fd, seals in zip(result.fds, wanted, strict=True):
            assert os.fstat(fd).st_size == Size.RING_HEADER + 8192
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == seals
            os.close(fd)
        assert halves_mapped() == before + 2
    assert halves_mapped() == before


BESIDE: dict[str, Event] = {
    "a second RING": Ring(2, 4096, 0),
    "a CALL": Call(2, NOWHERE),
    "an FDS without descriptors": Fds(0, 1),
    "an FDS that is not due": Fds(1, 0),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_does_not_belong_beside_a_ring_is_refused(peer: Peer, name: str) -> None:
    for fd in ask(peer, greet(peer), Ring(1, 4096, 0)).fds:
        os.close(fd)
    body = encode(BESIDE[name])
    peer.send(b"\xce" + len(body).to_bytes(4, "big") + body)
    said = decode(peer.receive(), Limits(), SENT_BY[Role.SERVER])
    assert isinstance(said, Error)
    assert (said.code, said.offset) == (ErrorCode.FDS, 0)
    peer.end()
    assert peer.receive() == b""


# ---- the end ----


def test_what_was_asked_before_the_end_of_the_stream_is_answered(peer: Peer) -> None:
    client = greet(peer)
    for i in range(1, 101):
        peer.send(*client.send(Call(i, NOWHERE, (Out(REPLY),))))
    peer.end()
    for i in range(1, 101):
        assert hear(peer, client) == Result(i, ENOSYS, (bytes(REPLY),))
    assert peer.socket.recv(1) == b""  # and no BYE


def test_the_server_ends_with_its_client(peer: Peer) -> None:
    greet(peer)
    peer.socket.close()
    peer.join()


def test_the_reason_is_readable_though_not_all_was_read(peer: Peer) -> None:
    client = greet(peer)
    peer.send(b"\0" + bytes(100_000))
    heard = hear(peer, client)
    assert isinstance(heard, Error)
    assert heard.code is ErrorCode.MALFORMED
    peer.socket.settimeout(SECONDS)
    assert peer.socket.recv(1) == b""

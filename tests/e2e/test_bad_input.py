"""Clients that break the rules: each is told which rule and where, and harms nobody else."""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.servers import (
    HELLO,
    RawClient,
    Server,
    StubServer,
    children_of,
    connect,
    event,
    every_server,
    ext,
    listening_stub,
    memory,
    message,
    open_fds,
    wait_for,
)
from frames import frame, unread
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import (
    Bye,
    Call,
    CallFlag,
    Error,
    ErrorCode,
    Hello,
    Limits,
    Out,
    Read,
    Request,
    Result,
    Size,
    Write,
)
from rsyscall_protocol._msgpack import pack

LIMITS = Limits()
HUGE = b"\xff\xff\xff\xff"
GETPID = event(Call(1, SYS.getpid))


@dataclass(frozen=True)
class Bad:
    """What is sent, with how many descriptors each time, and what the answer must be."""

    name: str
    code: ErrorCode
    text: str
    sends: tuple[tuple[bytes, int], ...]
    at: int  # where the frame that is wrong begins, behind the HELLO if there is one
    eof: bool  # whether the end of the stream follows

    def send(self, client: RawClient) -> None:
        with open("/dev/null") as null:
            for i, (data, nfds) in enumerate(self.sends):
                if i > 0:  # the kernel would join it with what is not read yet
                    wait_for(lambda: unread(client.sock) == 0, "the server to read")
                client.send(data, [null.fileno()] * nfds)
        if self.eof:
            client.half_close()


def bad(
    name: str,
    code: ErrorCode,
    text: str,
    *sends: bytes | tuple[bytes, int],
    at: int = 0,
    eof: bool = False,
) -> Bad:
    pairs = tuple((send, 0) if isinstance(send, bytes) else send for send in sends)
    return Bad(name, code, text, pairs, at, eof)


def every_case(table: list[Bad]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in table])


def nested(depth: int) -> object:
    return [nested(depth - 1)] if depth > 1 else []


def hello(
    magic: object = "rsyscall",
    low: object = 1,
    high: object = 1,
    features: object = 0,
    options: object = None,
) -> bytes:
    return message(1, magic, low, high, features, {} if options is None else options)


def call(*args: object, nfds: object = 0, id_: object = 1, nr: object = 39) -> bytes:
    return message(2, id_, nfds, 0, nr, list(args))


def struct_arg(*parts: object) -> object:
    return ext(4, pack(list(parts)))


def claiming(tag: int) -> bytes:
    """A CALL whose arguments are, or begin with, something that claims to have 2^32-1 parts."""
    return frame(b"\x96\x02\x01\x00\x00\x27" + bytes([tag]) + HUGE)


E = ErrorCode
BEFORE_HELLO = [
    bad("http", E.MAGIC, "not the rsyscall protocol", b"GET / HTTP/1.1\r\n\r\n"),
    bad("tls", E.MAGIC, "not the rsyscall protocol", b"\x16\x03\x01\x02\x00\x01"),
    bad("other-magic", E.MAGIC, "not the rsyscall protocol", hello(magic="rsyscall2")),
    bad("no-magic", E.MAGIC, "not the rsyscall protocol", message(1)),
    bad("magic-of-other-type", E.MAGIC, "not the rsyscall protocol", hello(magic=b"rsyscall")),
    bad("later-versions", E.VERSION, "no version in common", hello(low=2, high=9)),
    bad("earlier-versions", E.VERSION, "no version in common", hello(low=0, high=0)),
    bad("no-range", E.FIELD, "no range of versions", hello(low=2, high=1)),
    bad("version-too-large", E.FIELD, "no range of versions", hello(high=2**32)),
    bad("features", E.FIELD, "features", hello(features=-1)),
    bad("options", E.FIELD, "options is not a map", hello(options=[])),
    bad("option-key", E.FIELD, "HELLO: a key is not a string", hello(options={1: 2})),
    bad("limits", E.FIELD, "limits is not a map", hello(options={"limits": 7})),
    bad("limit-key", E.FIELD, "HELLO: a key is not a string", hello(options={"limits": {1: 2}})),
    bad("limit-value", E.FIELD, "a limit is", hello(options={"limits": {"frame": "1"}})),
    bad("limit-too-small", E.FIELD, "a limit is", hello(options={"limits": {"frame": 4095}})),
    bad("short", E.ARITY, "six fields", message(1, "rsyscall", 1, 1, 0)),
    bad("long", E.ARITY, "six fields", message(1, "rsyscall", 1, 1, 0, {}, 0)),
    bad("call-first", E.STATE, "may not be sent now", GETPID),
    bad("bye-first", E.STATE, "may not be sent now", event(Bye())),
    bad("unknown-first", E.UNKNOWN_TYPE, "unknown type", message(99)),
    bad("no-message", E.FIELD, "not an array", frame(pack(5))),
    bad("empty-array", E.ARITY, "without a type", message()),
    bad("empty", E.MALFORMED, "not well-formed", frame(b"")),
    bad("never-used-tag", E.MALFORMED, "not well-formed", frame(b"\x91\xc1")),
    bad("deep", E.DEPTH, "nested too deeply", frame(pack(nested(9)))),
    bad("trailing", E.TRAILING, "follow the message", frame(HELLO[5:] + b"\0")),
    bad("large", E.OVERSIZE, "larger than the limit", b"\xce" + struct.pack(">I", 4097)),
    bad("huge", E.OVERSIZE, "larger than the limit", b"\xce" + HUGE),
    bad("half", E.TRUNCATED, "ended inside a frame", HELLO[:-1], eof=True),
    bad("half-header", E.TRUNCATED, "ended inside a frame", HELLO[:3], eof=True),
    bad("fd", E.FDS, "before HELLO", (HELLO, 1)),
    bad("fds", E.FDS, "before HELLO", (HELLO, 253)),
]
FD0, FD1 = ext(6, b"\0"), ext(6, b"\1")
AFTER_HELLO = [
    bad("no-length", E.MALFORMED, "begin with its length", b"GET / HTTP/1.1\r\n\r\n"),
    bad("large", E.OVERSIZE, "larger than the limit", b"\xce" + struct.pack(">I", 2**20 + 1)),
    bad("huge", E.OVERSIZE, "larger than the limit", b"\xce" + HUGE),
    bad("half", E.TRUNCATED, "ended inside a frame", GETPID[:-1], eof=True),
    bad("half-header", E.TRUNCATED, "ended inside a frame", GETPID[:1], eof=True),
    bad("half-second", E.TRUNCATED, "inside a frame", GETPID + GETPID[:-1], at=12, eof=True),
    bad("trailing", E.TRAILING, "follow the message", frame(GETPID[5:] + b"\0")),
    bad("empty", E.MALFORMED, "not well-formed", frame(b"")),
    bad("deep", E.DEPTH, "nested too deeply", call(nested(7))),
    bad("very-deep", E.DEPTH, "nested too deeply", frame(b"\x91" * 100_000 + b"\0")),
    bad("unknown-type", E.UNKNOWN_TYPE, "unknown type", message(99)),
    bad("type-zero", E.UNKNOWN_TYPE, "unknown type", message(0)),
    bad("type-huge", E.UNKNOWN_TYPE, "unknown type", message(2**64 - 1)),
    bad("type-text", E.FIELD, "type is no number", message("CALL")),
    bad("call-short", E.ARITY, "number of fields", message(2, 1, 0, 0, 39)),
    bad("call-long", E.ARITY, "number of fields", message(2, 1, 0, 0, 39, [], 0)),
    bad("read-short", E.ARITY, "number of fields", message(4, 1, 0)),
    bad("bye-long", E.ARITY, "number of fields", message(7, 0)),
    bad("second-hello", E.STATE, "may not be sent now", HELLO),
    bad("result", E.STATE, "may not be sent now", event(Result(1, 0))),
    bad("second", E.STATE, "may not be sent now", GETPID + HELLO, at=12),
    bad("id-negative", E.FIELD, "id of a request", call(id_=-1)),
    bad("id-zero", E.ID, "not larger", call(id_=0)),
    bad("id-again", E.ID, "not larger", GETPID + GETPID, at=12),
    bad("id-smaller", E.ID, "not larger", call(id_=2**64 - 1) + GETPID, at=20),
    bad("id-read", E.ID, "not larger", GETPID + event(Read(1, 0, 0)), at=12),
    bad("nr-negative", E.FIELD, "number of the system call", call(nr=-1)),
    bad("nr-large", E.FIELD, "number of the system call", call(nr=2**31)),
    bad("flags", E.FIELD, "unknown flags", message(2, 1, 0, 2, 39, [])),
    bad("args-no-array", E.FIELD, "not an array", message(2, 1, 0, 0, 39, {})),
    bad("args-many", E.FIELD, "more arguments", call(*[0] * 1025)),
    bad("arg-text", E.FIELD, "neither an integer nor an ext", call("x")),
    bad("arg-nil", E.FIELD, "neither an integer nor an ext", call(None)),
    bad("arg-float", E.FIELD, "neither an integer nor an ext", call(1.5)),
    bad("arg-type", E.FIELD, "argument of unknown type", call(ext(99, b""))),
    bad(
        "arg-timestamp",
        E.MALFORMED,
        "not well-formed",
        frame(b"\x96\x02\x01\0\0\x27\x91\xd6\xff\0\0\0\0"),
    ),
    bad("out-size", E.FIELD, "four bytes", call(ext(2, b"\0\0\1"))),
    bad("out-huge", E.OVERSIZE, "reply may be larger", call(ext(2, HUGE))),
    bad("outs-huge", E.OVERSIZE, "reply may be larger", call(*[ext(5, HUGE)] * 1024)),
    bad("read-huge", E.OVERSIZE, "reply may be larger", event(Read(1, 0, 2**32 - 1))),
    bad("read-address", E.FIELD, "address", message(4, 1, -1, 1)),
    bad("write-text", E.FIELD, "no bytes", message(5, 1, 0, "text")),
    bad("struct-empty", E.MALFORMED, "STRUCT is not well-formed", call(ext(4, b""))),
    bad("struct-deep", E.DEPTH, "STRUCT is not well-formed", call(struct_arg(b"", [[0]], []))),
    bad("struct-parts", E.ARITY, "three parts", call(struct_arg(b"", []))),
    bad("struct-text", E.FIELD, "without bytes", call(struct_arg("x", [], []))),
    bad("struct-odd", E.FIELD, "pairs of integers", call(struct_arg(bytes(8), [0], []))),
    bad("struct-outside", E.FIELD, "outside", call(struct_arg(bytes(8), [1, 1], []), 0)),
    bad("struct-tiny", E.FIELD, "outside", call(struct_arg(bytes(7), [0, 1], []), 0)),
    bad("struct-backward", E.FIELD, "no later", call(0, struct_arg(bytes(8), [0, 0], []))),
    bad("struct-itself", E.FIELD, "no later", call(struct_arg(bytes(8), [0, 0], []))),
    bad("struct-beyond", E.FIELD, "no later", call(struct_arg(bytes(8), [0, 2], []), 0)),
    bad("struct-to-int", E.FIELD, "not data", call(struct_arg(bytes(8), [0, 1], []), 0)),
    bad("struct-out", E.FIELD, "output lies outside", call(struct_arg(bytes(8), [], [1, 8]))),
    bad("struct-wrap", E.FIELD, "outside", call(struct_arg(bytes(8), [], [1, 2**64 - 1]))),
    bad(
        "struct-chain",
        E.DEPTH,
        "lead too deep",
        call(*[struct_arg(bytes(8), [0, n], []) for n in (1, 2, 3)], ext(1, b"")),
    ),
    bad("fd-index", E.FIELD, "names none", call(FD0)),
    bad("fds-many", E.TOO_MANY_FDS, "more file descriptors", call(nfds=254)),
    bad("fds-huge", E.TOO_MANY_FDS, "more file descriptors", call(nfds=2**32 - 1)),
    bad("fd-missing", E.FDS, "announced", call(FD0, nfds=1)),
    bad("fd-one-of-two", E.FDS, "announced", (call(FD0, FD1, nfds=2), 1)),
    bad("fd-two-for-one", E.FDS, "announced", (call(FD0, nfds=1), 2)),
    bad("fd-left-over", E.FDS, "frame announced", (GETPID, 1)),
    bad("fd-with-bye", E.FDS, "no frame announced", (event(Bye()), 253)),
    bad("fd-late", E.FDS, "announced", call(FD0, nfds=1)[:-1], (call(FD0, nfds=1)[-1:], 1)),
    bad("fd-lots", E.FDS, "no frame announced", *[(GETPID[n : n + 1], 100) for n in range(3)]),
    bad("claims-str", E.MALFORMED, "not well-formed", claiming(0xDB)),
    bad("claims-bin", E.MALFORMED, "not well-formed", claiming(0xC6)),
    bad("claims-ext", E.MALFORMED, "not well-formed", claiming(0xC9)),
    bad("claims-array", E.MALFORMED, "not well-formed", claiming(0xDD)),
    bad("claims-map", E.MALFORMED, "not well-formed", claiming(0xDF)),
    bad("claims-fields", E.MALFORMED, "not well-formed", frame(b"\xdd" + HUGE + b"\x02")),
]


def check(answer: Error, case: Bad, greeting: int) -> None:
    assert (answer.code, case.text in answer.text) == (case.code, True), answer
    assert answer.offset == greeting + case.at


@every_server
@every_case(BEFORE_HELLO)
def test_before_hello(server: type[Server], case: Bad) -> None:
    with server() as client:
        case.send(client)
        check(client.last_words(), case, 0)


@every_server
@every_case(AFTER_HELLO)
def test_after_hello(server: type[Server], case: Bad) -> None:
    with server() as client:
        client.greet()
        case.send(client)
        if case.at:
            assert client.result().value >= 0  # what came before it was done
        check(client.last_words(), case, len(HELLO))


@every_server
def test_says_nothing_more_to_one_who_gives_up(server: type[Server]) -> None:
    with server() as client:
        client.greet()
        client.send(event(Error(ErrorCode.INTERNAL, 0, "no more of this")))
        assert client.receive() is None


@every_server
def test_unknown_options_are_ignored(server: type[Server]) -> None:
    options: dict[str, object] = {
        "color": ["red", {"1": None}],
        "limits": {"frame": 2**64 - 1, "sound": -1},
    }
    with server() as client:
        assert client.greet(hello(high=2**32 - 1, features=2**64 - 1, options=options)).limits == (
            LIMITS
        )


@every_server
def test_a_byte_at_a_time(server: type[Server]) -> None:
    with server() as client, open("/dev/null") as null:
        client.send(HELLO[:1])
        for byte in HELLO[1:]:
            client.send(bytes([byte]))
        assert isinstance(client.receive(), Hello)
        duplicate = call(FD0, nfds=1, nr=int(SYS.dup))
        client.send(duplicate[:1], [null.fileno()])
        for byte in duplicate[1:]:
            client.send(bytes([byte]))
        copy = client.result().value
        assert copy > 2
        client.send(call(copy, id_=2, nr=int(SYS.close)))
        assert client.result().value == 0
        for byte in event(Bye()):
            client.send(bytes([byte]))
        assert isinstance(client.receive(), Bye)
        assert client.receive() is None


@every_server
def test_everything_at_once(server: type[Server]) -> None:
    calls = b"".join(event(Call(n, SYS.getpid)) for n in range(1, 501))
    with server() as client:
        client.send(HELLO + calls + event(Bye()))
        greeting = client.receive()
        assert isinstance(greeting, Hello)
        results = [client.result() for _ in range(500)]
        assert [result.id for result in results] == list(range(1, 501))
        assert {result.value for result in results} == {greeting.info["pid"]}
        assert isinstance(client.receive(), Bye)
        assert client.receive() is None


@every_server
def test_half_close(server: type[Server]) -> None:
    """What was asked before the end of the stream is answered."""
    with server() as client:
        client.greet()
        client.send(GETPID)
        client.half_close()
        assert client.result().value > 0
        assert client.receive() is None


@every_server
def test_too_many_requests(server: type[Server]) -> None:
    """One who does not read its answers gets those that fit, and then is told why no more."""
    request = len(event(Call(256, SYS.getpid, (0,) * 6 + (Out(4000),))))
    with server() as client:
        client.greet(event(Hello(limits=Limits(outstanding=1, window=8192))))
        start = len(event(Hello(limits=Limits(outstanding=1, window=8192))))
        # From 256 on the ids, and so the requests, are all of one size.
        client.send(
            b"".join(event(Call(n, SYS.getpid, (0,) * 6 + (Out(4000),))) for n in range(256, 1256))
        )
        answered = 0
        while not isinstance(answer := client.receive(), Error):
            assert isinstance(answer, Result)
            assert answer.outs == (bytes(4000),)
            answered += 1
        assert (answer.code, answer.offset) == (ErrorCode.WINDOW, start + answered * request)
        assert 0 < answered < 1000
        assert client.receive() is None


@every_server
def test_bad_addresses(server: type[Server]) -> None:
    """The kernel's answer to them, and then everything is as before."""
    nowhere = 0x7FFF_FFFF_F000
    with server() as client:
        client.greet()
        requests: list[Request] = [
            Read(1, 0, 100),
            Read(2, nowhere, Limits().frame - Size.REPLY_BASE - Size.REPLY_OUT),
            Read(3, 2**64 - 1, 1),
            Write(4, 0, b"x"),
            Write(5, nowhere, bytes(Limits().frame - 64)),
            Call(6, SYS.newfstatat, (-100, 8, 0, 0)),
            Call(7, SYS.uname, (2**64 - 8,)),
            Call(8, SYS.clock_gettime, (0, nowhere)),
        ]
        for request in requests:
            client.send(event(request))
            assert client.result() == Result(request.id, -errno.EFAULT)
        client.send(event(Call(9, SYS.getpid)))
        assert client.result().value > 0


def test_half_a_page_too_far() -> None:
    """A READ that runs into a hole brings what lies before it."""
    with StubServer() as client:
        client.greet()
        client.send(event(Call(1, SYS.mmap, (0, 8192, 3, 0x22, -1, 0))))
        start = client.result().value
        client.send(event(Call(2, SYS.munmap, (start + 4096, 4096))))
        assert client.result().value == 0
        client.send(event(Read(3, start + 4000, 200)))
        assert client.result() == Result(3, 96, (bytes(96),))
        client.send(event(Write(4, start + 4090, b"x" * 200)))
        assert client.result() == Result(4, 6)


@pytest.mark.parametrize(
    ("data", "answered"),
    [
        pytest.param(b"\xce" + struct.pack(">I", LIMITS.frame) + b"\x96", False, id="frame"),
        pytest.param(b"\xce" + HUGE, True, id="huge-frame"),
        pytest.param(claiming(0xC6), True, id="bytes"),
        pytest.param(claiming(0xDD), True, id="array"),
        pytest.param(claiming(0xDF), True, id="map"),
        pytest.param(call(ext(2, HUGE)), True, id="output"),
        pytest.param(call(*[ext(2, HUGE)] * 1024), True, id="outputs"),
        pytest.param(event(Read(1, 0, 2**32 - 1)), True, id="read"),
        pytest.param(frame(b"\x96\x02" + (b"\xdf" + HUGE) * 100), True, id="maps"),
    ],
)
def test_claims_take_no_memory(data: bytes, answered: bool) -> None:
    server = StubServer()
    with server as client:
        client.greet()
        assert server.pid is not None
        before = memory(server.pid, "VmRSS")
        client.send(data)
        if answered:
            assert isinstance(client.receive(), Error)  # and it hears us out for a second
        else:
            wait_for(lambda: unread(client.sock) == 0, "the stub to read")
        assert memory(server.pid, "VmHWM") - before <= 128, "KiB more: all that it has tables for"


def test_a_listening_stub_survives_them(tmp_path: Path) -> None:
    """Fifty bad clients, some at the same time, and every descriptor and process is gone."""
    address = tmp_path / "s"
    cases = [(case, False) for case in BEFORE_HELLO[-25:]]
    cases += [(case, True) for case in AFTER_HELLO[-25:]]
    with listening_stub(address) as stub, connect(address) as witness:
        pid = witness.greet().info["pid"]
        wait_for(lambda: len(open_fds(stub.pid)) == 5, "stdio, socket and signalfd")
        before = open_fds(stub.pid)
        for case, greeted in cases:
            with connect(address) as client:
                if greeted:
                    client.greet()
                case.send(client)
                while client.receive() is not None:
                    pass
        wait_for(lambda: children_of(stub.pid) == [pid], "the bad clients' processes to be reaped")
        assert open_fds(stub.pid) == before
        witness.send(GETPID)
        assert witness.result().value == pid


def test_received_descriptors_are_closed() -> None:
    """Those that a call did not keep, and those of a frame that was never complete."""
    with StubServer() as client:
        pid = int(client.greet().info["pid"])
        before = open_fds(pid)
        with open("/dev/null") as null:
            for id_ in range(1, 21):
                client.send(call(*[FD0] * 3, nfds=100, id_=id_), [null.fileno()] * 100)
                client.result()
            client.send(GETPID[:1], [null.fileno()] * 100)
        wait_for(lambda: len(open_fds(pid)) == len(before) + 100, "the stub to read")
        client.half_close()
        assert client.last_words().code is ErrorCode.TRUNCATED
        wait_for(lambda: open_fds(pid).items() <= before.items(), "them to be closed")


@every_server
def test_a_returned_descriptor_nobody_takes(server: type[Server]) -> None:
    """Sent to one that closes without reading: it stays open nowhere."""
    with server() as client:
        client.greet()
        name = f"rsyscall-test-{os.getpid()}"
        memfd = message(
            2,
            1,
            0,
            int(CallFlag.RETURN_FD),
            int(SYS.memfd_create),
            [
                ext(1, name.encode() + b"\0"),
                0,
            ],
        )
        client.send(memfd)
        wait_for(lambda: client.sock.recv(1, 2 | 0x40) != b"", "the reply")
    assert not [link for link in open_fds(os.getpid()).values() if name in link]

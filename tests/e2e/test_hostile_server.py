"""Servers that break the rules: the client says which, at once, and keeps nothing of theirs."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

import rsyscall
from e2e.servers import DEADLINE, RawClient, event, message, open_fds
from frames import frame
from rsyscall.near.sysif import Out, ProtocolHangup, Ret, SyscallHangup, SyscallSendHangup
from rsyscall.sys.syscall import SYS
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall_protocol import Bye, Call, Error, ErrorCode, Feature, Hello, Limits, Read, Result

ARCH = os.uname().machine
INFO: dict[str, int | str] = {"arch": ARCH, "page_size": 4096, "pid": 7}
GREETING = event(Hello(features=Feature.NONE, info=INFO))
SMALL = Limits(frame=4096, window=8192)


def greeting(**changes: object) -> bytes:
    limits = Limits().as_dict()
    fields: dict[str, object] = {
        "type": 1,
        "magic": "rsyscall",
        "min": 1,
        "max": 1,
        "features": 0,
        "options": {"limits": limits, "arch": ARCH, "page_size": 4096, "pid": 7},
    }
    return message(*(fields | changes).values())


@dataclass(frozen=True)
class Bad:
    """What the server sends, with how many descriptors each time, and what the client must say."""

    name: str
    code: ErrorCode
    text: str
    sends: tuple[tuple[bytes, int], ...]
    eof: bool

    def play(self, server: RawClient) -> Error | None:
        """Send it, and return the client's last word."""
        with open("/dev/null") as null:
            for data, nfds in self.sends:
                server.send(data, [null.fileno()] * nfds)
        if self.eof:
            server.half_close()
        answer = server.receive()
        assert answer is None or isinstance(answer, Error), answer
        assert server.receive() is None
        return answer


def bad(
    name: str, code: ErrorCode, text: str, *sends: bytes | tuple[bytes, int], eof: bool = False
) -> Bad:
    pairs = tuple((send, 0) if isinstance(send, bytes) else send for send in sends)
    return Bad(name, code, text, pairs, eof)


def every_case(table: list[Bad]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in table])


def result(*fields: object, id_: object = 1) -> bytes:
    return message(3, id_, *fields)


E = ErrorCode
HUGE = b"\xff\xff\xff\xff"
GREETINGS = [
    bad("http", E.MAGIC, "not the rsyscall protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    bad("magic", E.MAGIC, "not the rsyscall protocol", greeting(magic="rsyscal1")),
    bad("version", E.VERSION, "not offered", greeting(min=2, max=2)),
    bad("no-choice", E.FIELD, "chose no version", greeting(min=1, max=2)),
    bad("arity", E.ARITY, "six fields", message(1, "rsyscall", 1, 1, 0)),
    bad("options", E.FIELD, "options is not a map", greeting(options=[])),
    bad("limits", E.FIELD, "limit frame is too small", greeting(options={"limits": {"frame": 1}})),
    bad("result", E.STATE, "may not be sent now", result(0, 0, [])),
    bad("bye", E.STATE, "may not be sent now", event(Bye())),
    bad("call", E.STATE, "may not be sent now", event(Call(1, 39))),
    bad("deep", E.DEPTH, "nested too deeply", frame(b"\x91" * 2000 + b"\0")),
    bad("trailing", E.TRAILING, "follow the message", frame(GREETING[5:] + b"\0")),
    bad("huge", E.OVERSIZE, "larger than the limit", b"\xce" + HUGE),
    bad("half", E.TRUNCATED, "ended inside a frame", GREETING[:-1], eof=True),
    bad("fds", E.FDS, "before HELLO", (GREETING, 253)),
]
#: While two calls wait: 1, which asks for nothing back, and 2, with outputs and a descriptor.
RESULTS = [
    bad("no-length", E.MALFORMED, "begin with its length", b"HTTP/1.1 200 OK\r\n\r\n"),
    bad("empty", E.MALFORMED, "not well-formed", frame(b"")),
    bad("deep", E.DEPTH, "nested too deeply", frame(b"\x91" * 1000 + b"\0")),
    bad("very-deep", E.DEPTH, "nested too deeply", frame(b"\x91" * 100_000 + b"\0")),
    bad("trailing", E.TRAILING, "follow the message", frame(event(Result(1, 0))[5:] + b"\0")),
    bad("large", E.OVERSIZE, "larger than the limit", b"\xce" + struct.pack(">I", 2**20 + 1)),
    bad("huge", E.OVERSIZE, "larger than the limit", b"\xce" + HUGE),
    bad("half", E.TRUNCATED, "ended inside a frame", event(Result(1, 0))[:-1], eof=True),
    bad("unknown-type", E.UNKNOWN_TYPE, "unknown type", message(99)),
    bad("arity", E.ARITY, "number of fields", message(3, 1, 0, 0)),
    bad("second-hello", E.STATE, "HELLO: may not be sent now", GREETING),
    bad("call", E.STATE, "CALL: may not be sent now", event(Call(1, 39))),
    bad("bye", E.STATE, "BYE: may not be sent now", event(Bye())),
    bad("id-unknown", E.ID, "no open request", event(Result(3, 0))),
    bad("id-zero", E.ID, "no open request", event(Result(0, 0))),
    bad("id-text", E.FIELD, "id of a result", result(0, 0, [], id_="1")),
    bad("value-large", E.FIELD, "value is out of range", result(0, 2**63, [])),
    bad("value-float", E.FIELD, "value is out of range", result(0, 1.0, [])),
    bad("value-true", E.FIELD, "value is out of range", result(0, True, [])),
    bad("outs-no-array", E.FIELD, "strings of bytes", result(0, 0, {})),
    bad("outs-text", E.FIELD, "strings of bytes", result(0, 0, ["x"])),
    bad("outs-surplus", E.FIELD, "as many outputs", event(Result(1, 0, (b"",)))),
    bad("outs-missing", E.FIELD, "as many outputs", event(Result(2, 0, (bytes(8),)))),
    bad("out-short", E.FIELD, "another size", event(Result(2, 0, (bytes(7), b"")))),
    bad("out-long", E.FIELD, "another size", event(Result(2, 4, (bytes(9), bytes(4))))),
    bad("ret-long", E.FIELD, "another size", event(Result(2, 5, (bytes(8), bytes(5))))),
    bad("ret-of-failure", E.FIELD, "another size", event(Result(2, -1, (bytes(8), b"x")))),
    bad("claims-bin", E.MALFORMED, "not well-formed", frame(b"\x95\x03\1\0\0\xc6" + HUGE)),
    bad("claims-array", E.MALFORMED, "not well-formed", frame(b"\x95\x03\1\0\0\xdd" + HUGE)),
    bad("claims-map", E.MALFORMED, "not well-formed", frame(b"\x95\x03\1\0\0\xdf" + HUGE)),
    bad("fd-unasked", E.FIELD, "not asked for", (result(1, 0, []), 1)),
    bad("fd-two", E.FIELD, "not asked for", (result(2, 0, [bytes(8), b""], id_=2), 2)),
    bad("fd-of-failure", E.FIELD, "not asked for", (result(1, -1, [bytes(8), b""], id_=2), 1)),
    bad("fd-missing", E.FDS, "without the file", result(1, 0, [bytes(8), b""], id_=2)),
    bad("fd-surplus", E.FDS, "with 3 file desc", (result(1, 0, [bytes(8), b""], id_=2), 3)),
    bad("fd-unannounced", E.FDS, "no frame announced", (event(Result(1, 0)), 1)),
    bad("fds-unannounced", E.FDS, "no frame announced", (event(Result(1, 0)), 253)),
    bad("fds-announced", E.TOO_MANY_FDS, "more file descriptors", result(254, 0, [])),
    bad("fds-huge", E.TOO_MANY_FDS, "more file descriptors", result(2**32 - 1, 0, [])),
    bad("fds-inside", E.FDS, "no frame announced", (GREETING[:1], 50), (GREETING[1:2], 50)),
]


@contextlib.asynccontextmanager
async def against(
    script: Callable[[RawClient], object], limits: Limits | None = None
) -> AsyncGenerator[RemoteSyscallInterface]:
    """A client of a server that follows the script. After it, no descriptor is left over."""
    before = open_fds(os.getpid())
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with RawClient(theirs) as server:
            assert isinstance(server.receive(), Hello)
            script(server)

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, serve)
            sysif = RemoteSyscallInterface(ours, limits=limits)
            try:
                yield sysif
            finally:
                await sysif.close_interface()
    assert open_fds(os.getpid()) == before


async def outcome(sysif: RemoteSyscallInterface, number: SYS, *args: Out | Ret) -> ProtocolHangup:
    with pytest.raises(ProtocolHangup) as caught:
        await sysif.call(number, args, return_fd=bool(args))
    return caught.value


def check(exc: ProtocolHangup, case: Bad, offset: int) -> None:
    assert (exc.code, exc.offset) == (case.code, offset), exc
    assert case.text in str(exc)


@every_case(GREETINGS)
async def test_greeting(case: Bad) -> None:
    words: list[Error | None] = []
    async with against(lambda server: words.append(case.play(server))) as sysif:
        with pytest.raises(ProtocolHangup) as caught:
            await sysif.start()
        check(caught.value, case, 0)
        with pytest.raises(SyscallSendHangup):
            await sysif.syscall(SYS.getpid)
    assert [word and word.code for word in words] == [case.code]


@every_case(RESULTS)
async def test_result(case: Bad) -> None:
    """Both calls that wait learn it, and no other can be made."""
    words: list[Error | None] = []

    def script(server: RawClient) -> None:
        server.send(GREETING)
        assert {type(server.receive()), type(server.receive())} == {Call}
        words.append(case.play(server))

    caught: list[ProtocolHangup] = []

    async def wait(*args: Out | Ret) -> None:
        caught.append(await outcome(sysif, SYS.getpid, *args))

    async with against(script) as sysif:
        await sysif.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(wait, Out(8), Ret(4))
        with pytest.raises(SyscallSendHangup):
            await sysif.syscall(SYS.getpid)
    for exc in caught:
        check(exc, case, len(GREETING))
    assert len(caught) == 2
    assert [word and word.code for word in words] == [case.code]


async def test_result_twice() -> None:
    def script(server: RawClient) -> None:
        server.send(GREETING)
        assert isinstance(server.receive(), Call)
        server.send(event(Result(1, 5)) * 2)
        assert isinstance(server.receive(), Error)

    async with against(script) as sysif:
        await sysif.start()
        assert await sysif.syscall(SYS.getpid) == 5
        with pytest.raises(SyscallSendHangup, match="RESULT: of no open request"):
            await sysif.syscall(SYS.getpid)


@pytest.mark.parametrize("value", [-14, 3, 5])
async def test_read_of_another_length(value: int) -> None:
    """A READ of 4 bytes whose result and bytes do not agree."""

    def script(server: RawClient) -> None:
        server.send(GREETING)
        assert server.receive() == Read(1, 4096, 4)
        server.send(event(Result(1, value, (bytes(5),))))
        assert isinstance(server.receive(), Error)

    async with against(script) as sysif:
        await sysif.start()
        with pytest.raises(ProtocolHangup, match="not the bytes") as caught:
            await sysif.read_memory(4096, 4)
        assert caught.value.code is ErrorCode.FIELD


@pytest.mark.parametrize("code", [int(ErrorCode.PEER), 4_000_000_000])
async def test_refused(code: int) -> None:
    """What the server said, of a kind that we do not know, too; but nothing a terminal obeys."""

    def script(server: RawClient) -> None:
        server.send(message(6, code, 17, "no \x1b[2Jservice"))
        assert server.receive() is None

    async with against(script) as sysif:
        with pytest.raises(ProtocolHangup, match="service") as caught:
            await sysif.start()
        known = code == ErrorCode.PEER
        assert caught.value.code is (ErrorCode.PEER if known else ErrorCode.INTERNAL)
        assert caught.value.offset == 17
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("greets", [False, True])
async def test_end_of_stream(greets: bool) -> None:
    def script(server: RawClient) -> None:
        if greets:
            server.send(GREETING)
            assert isinstance(server.receive(), Call)

    async with against(script) as sysif:
        if greets:
            await sysif.start()
        use = sysif.syscall(SYS.getpid) if greets else sysif.start()
        with pytest.raises(SyscallHangup, match="closed the connection") as caught:
            await use
        assert not isinstance(caught.value, ProtocolHangup)


async def test_limits_larger_than_asked() -> None:
    def script(server: RawClient) -> None:
        server.send(GREETING)
        assert isinstance(server.receive(), Error)

    async with against(script, SMALL) as sysif:
        with pytest.raises(ProtocolHangup, match="larger limits") as caught:
            await sysif.start()
        assert caught.value.code is ErrorCode.FIELD


async def test_another_architecture() -> None:
    options = {"limits": Limits().as_dict(), "arch": "pdp11", "pid": 7}

    def script(server: RawClient) -> None:
        server.send(greeting(options=options))
        assert server.receive() is None

    async with against(script) as sysif:
        with pytest.raises(SyscallHangup, match="pdp11"):
            await sysif.start()


async def test_descriptors_of_an_unfinished_frame() -> None:
    """They are closed with the connection, though their frame never came to its end."""
    stalled = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def script(server: RawClient) -> None:
        server.send(GREETING)
        assert isinstance(server.receive(), Call)
        with open("/dev/null") as null:
            server.send(event(Result(1, 5)) + b"\xce", [null.fileno()] * 9)
        trio.from_thread.run_sync(stalled.set, trio_token=token)
        assert server.receive() == Bye()
        assert server.receive() is None

    async with against(script) as sysif:
        await sysif.start()
        before = len(open_fds(os.getpid()))
        assert await sysif.syscall(SYS.getpid) == 5
        await stalled.wait()
        assert len(open_fds(os.getpid())) >= before + 9


async def test_more_descriptors_than_the_client_may_have() -> None:
    """The kernel drops those that do not fit; the others are closed and the error says so."""

    def script(server: RawClient) -> None:
        server.send(GREETING)
        assert isinstance(server.receive(), Call)
        with open("/dev/null") as null:
            server.send(result(253, 0, []), [null.fileno()] * 253)
        answer = server.receive()
        assert isinstance(answer, Error)
        assert answer.code is ErrorCode.FDS

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with against(script) as sysif:
        await sysif.start()
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(open_fds(os.getpid())) + 60, hard))
        try:
            exc = await outcome(sysif, SYS.getpid)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (exc.code, "truncated" in str(exc)) == (ErrorCode.FDS, True)


async def test_connect(tmp_path: Path) -> None:
    """The same through the front door."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve() -> None:
            with RawClient(listener.accept()[0]) as server:
                assert isinstance(server.receive(), Hello)
                server.send(b"SSH-2.0-OpenSSH_9.2\r\n")
                assert isinstance(server.receive(), Error)

        before = open_fds(os.getpid())
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, serve)
                with pytest.raises(ProtocolHangup, match="not the rsyscall protocol"):
                    async with rsyscall.connect(f"unix:{tmp_path}/s"):
                        pytest.fail("connected")
        assert open_fds(os.getpid()) == before

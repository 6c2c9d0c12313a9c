"""Both implementations against the test vectors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from rsyscall_protocol import (
    NEED_DATA,
    ArgumentType,
    Connection,
    Error,
    ErrorCode,
    Feature,
    Hello,
    Limits,
    MessageType,
    RemoteProtocolError,
    Role,
    State,
    decode,
    encode,
)
from rsyscall_protocol._msgpack import scan
from wire import (
    SENT_BY,
    VECTORS,
    Peer,
    Stub,
    Thread,
    Vector,
    check_request,
    load,
    message,
    recode,
    unhex,
)

FORMS, STREAMS = load("forms"), load("streams")
BODIES = [*load("bodies"), *load("batches")]
SENT_BESIDE = frozenset({MessageType.BELL, MessageType.FDS, MessageType.ERROR})


def each(vectors: list[Vector]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in vectors])


def test_files_are_what_the_script_writes() -> None:
    script = VECTORS / "make_vectors.py"
    subprocess.run([sys.executable, "-B", script, "--check"], check=True)


FILES = "bodies", "batches", "streams"


def test_every_message_argument_and_error_occurs() -> None:
    text = "".join((VECTORS / f"{name}.json").read_text() for name in FILES)
    words = [*MessageType.__members__, *ArgumentType.__members__]
    # The rest depends on the peer's speed, or on the machine.
    words += sorted(ErrorCode.__members__.keys() - {"WINDOW", "PEER", "INTERNAL"})
    assert [word for word in words if f'"{word}"' not in text] == []


@each(FORMS)
def test_form_in_c(vector: Vector) -> None:
    expected = unhex(vector["shortest"]) if "shortest" in vector else ErrorCode[vector["error"]]
    assert recode(unhex(vector["bytes"])) == expected


@each(FORMS)
def test_form_in_python(vector: Vector) -> None:
    if "error" not in vector:
        scan(unhex(vector["bytes"]), Limits().depth)
        return
    with pytest.raises(RemoteProtocolError) as caught:
        scan(unhex(vector["bytes"]), Limits().depth)
    assert caught.value.code.name == vector["error"]


@each(BODIES)
def test_body_in_python(vector: Vector) -> None:
    limits = Limits(**vector.get("limits", {}))
    body, side = unhex(vector["body"]), vector["from"]
    allowed = SENT_BESIDE if side == "beside" else SENT_BY[Role(side)]
    if "message" in vector:
        expected = message(vector["message"])
        assert decode(body, limits, allowed) == expected
        assert decode(encode(expected), limits, allowed) == expected
        return
    with pytest.raises(RemoteProtocolError) as caught:
        decode(body, limits, allowed)
    assert caught.value.code.name == vector["error"]


@each([v for v in BODIES if v["from"] == "client" and "limits" not in v])
def test_body_in_c(vector: Vector) -> None:
    expected = None if "message" in vector else ErrorCode[vector["error"]]
    assert check_request(unhex(vector["body"])) == expected


class Descriptor:
    """Stands for a file descriptor."""


@each(STREAMS)
def test_stream_in_python(vector: Vector) -> None:
    connection = Connection(Role(vector["role"]))
    came: list[object] = []
    claimed: list[object] = []
    for step in vector["steps"]:
        match step:
            case {"in": data}:
                lot = [Descriptor() for _ in range(step.get("fds", 0))]
                came += lot
                connection.receive(unhex(data), lot)
            case {"end": True}:
                connection.receive(b"")
            case {"out": form}:
                sent, _ = connection.send(message(form))
                assert sent[0] == 0xCE
                assert len(sent) == 5 + int.from_bytes(sent[1:5], "big")
            case {"event": form}:
                event = connection.next_event()
                # Those of a frame are the first that have not been claimed by one before.
                assert event == message(form, came[len(claimed) :])
                claimed += getattr(event, "fds", ())
            case {"error": code, "offset": offset}:
                with pytest.raises(RemoteProtocolError) as caught:
                    connection.next_event()
                assert (caught.value.code.name, caught.value.offset) == (code, offset)
                assert connection.state is State.FAILED
            case {"closed": True}:
                assert connection.next_event() is None
            case _:
                raise ValueError(f"no step: {step}")
    assert connection.next_event() in (NEED_DATA, None)
    assert came == claimed + connection.take_unclaimed()


def expect(peer: Peer, form: Vector) -> None:
    """The server says this, apart from who it is."""
    said = decode(peer.receive(), Limits(), SENT_BY[Role.SERVER])
    expected = message(form)
    if isinstance(said, Hello):
        assert said.info.keys() == {"arch", "page_size", "pid", "child"}
        said = Hello(said.version_min, said.version_max, said.features, said.limits)
        if isinstance(peer, Thread):  # it has no threads of its own to make
            assert isinstance(expected, Hello)
            expected = replace(expected, features=expected.features & ~Feature.CANCEL)
    assert said == expected


def expect_error(peer: Peer, code: str, offset: int) -> None:
    said = decode(peer.receive(), Limits())
    assert isinstance(said, Error)
    assert (said.code.name, said.offset) == (code, offset)
    assert said.text


@pytest.mark.parametrize("server", [Stub, Thread])
@each([v for v in STREAMS if v["role"] == "server" and '"unmerged"' not in json.dumps(v)])
def test_stream_against_a_server(vector: Vector, server: type[Peer]) -> None:
    ours, theirs = os.pipe()
    with open(ours, "rb") as pipe, server() as peer:
        with open(theirs, "wb") as end:
            for step in vector["steps"]:
                match step:
                    case {"in": data}:
                        peer.send(unhex(data), [end.fileno()] * step.get("fds", 0))
                    case {"end": True}:
                        peer.end()
                    case {"out": form}:
                        expect(peer, form)
                    case {"error": code, "offset": offset}:
                        expect_error(peer, code, offset)
                    case _:
                        pass  # what the server has understood shows in what it says
        peer.end()
        assert peer.receive() == b""
        # Whoever waits for the end of a pipe waits for everybody who has its other end.
        assert pipe.read() == b""

# pyright: basic
"""The words in which connections are written down."""

from __future__ import annotations

from typing import Any

from bodies import BYE, Vector, call, compact, hello, meant_call, meant_hello, pack

NOWHERE = 2**31 - 1  # no system call, anywhere
ENOSYS = -38


def frame(fields: object) -> bytes:
    """A message in its frame."""
    body = pack(fields)
    return b"\xce" + len(body).to_bytes(4, "big") + body


def took(*parts: bytes, fds: int = 0) -> Vector:
    """One read."""
    return {"in": compact(b"".join(parts)), **({"fds": fds} if fds else {})}


def event(message: Vector) -> Vector:
    """What has arrived."""
    return {"event": message}


def out(message: Vector) -> Vector:
    """What is said."""
    return {"out": message}


def error(code: str, offset: int = 0) -> Vector:
    """How it fails."""
    return {"error": code, "offset": offset}


def result(id: int = 1, value: int = ENOSYS, outs: Any = (), nfds: int = 0) -> Vector:
    """A RESULT."""
    return {"type": "RESULT", "id": id, "nfds": nfds, "value": value, "outs": list(outs)}


HELLO_FRAME = frame(hello())
BYE_FRAME = frame([BYE])
HELLO_TAKEN = [took(HELLO_FRAME), event(meant_hello()), out(meant_hello())]
AT = len(HELLO_FRAME)  # where the stream goes on
GOODBYE = [took(BYE_FRAME), event({"type": "BYE"}), out({"type": "BYE"})]
END = {"end": True}
CLOSED = {"closed": True}


def nothing(*args: object, id: int = 1, **more: Any) -> bytes:
    """The frame of a CALL that no kernel knows."""
    return frame(call(*args, id=id, nr=NOWHERE, **more))


def meant(*args: object, **more: Any) -> Vector:
    """What that means."""
    return event(meant_call(*args, nr=NOWHERE, **more))

# pyright: basic
"""What a client must make of what a server sends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bodies import ERROR, RESULT, SMALLEST, Vector, hello, meant_call, meant_hello, meant_struct
from connection import (
    AT,
    BYE_FRAME,
    CLOSED,
    END,
    HELLO_FRAME,
    error,
    event,
    frame,
    out,
    result,
    took,
)


def client_result(name: str, sent: Vector, fields: object, *after: Vector) -> tuple[str, Any]:
    """One request and the answer to it."""
    return name, [
        out(meant_hello()),
        took(HELLO_FRAME),
        event(meant_hello()),
        out(sent),
        took(frame(fields)),
        *after,
    ]


def clients() -> Iterator[tuple[str, list[Vector]]]:
    """What a client must make of what a server sends."""
    start = [out(meant_hello()), took(HELLO_FRAME), event(meant_hello())]
    yield (
        "client: HELLO and BYE",
        [
            *start,
            out({"type": "BYE"}),
            took(BYE_FRAME),
            event({"type": "BYE"}),
            END,
            CLOSED,
        ],
    )
    described = hello(options={"limits": {"data": 9}, "arch": "x86_64", "pid": 7, "x": None})
    yield (
        "client: a server that says who it is",
        [
            out(meant_hello()),
            took(frame(described)),
            event({**meant_hello({"data": 9}), "info": {"arch": "x86_64", "pid": 7}}),
        ],
    )
    yield "client: a server that ends", [*start, END, CLOSED]
    yield (
        "client: a server that ends within a frame",
        [
            *start,
            took(b"\xce"),
            END,
            error("TRUNCATED", AT),
        ],
    )
    refusal = {"type": "ERROR", "code": 16, "offset": 0, "text": "not served"}
    yield (
        "client: a server that refuses",
        [
            took(frame([ERROR, 16, 0, "not served"])),
            event(refusal),
            CLOSED,
        ],
    )
    asked = meant_hello(SMALLEST)
    for name, answer, code in [
        ("another protocol", b"SSH-2.0-x\r\n", "MAGIC"),
        ("two versions", frame(hello(min=0)), "FIELD"),
        ("a version that was not offered", frame(hello(min=2, max=2)), "VERSION"),
        ("features that were not offered", frame(hello(features=1)), "FIELD"),
        (
            "a limit larger than asked",
            frame(hello(options={"limits": SMALLEST | {"data": 7}})),
            "FIELD",
        ),
        ("limits that are not named", frame(hello()), "FIELD"),
        ("a RESULT first", frame([RESULT, 1, 0, 0, []]), "STATE"),
        ("a frame that is too large for a HELLO", b"\xce\0\0\x10\1", "OVERSIZE"),
    ]:
        yield f"client: the server answers with {name}", [out(asked), took(answer), error(code)]
    yield (
        "client: a file descriptor with HELLO",
        [
            out(meant_hello()),
            took(HELLO_FRAME, fds=1),
            error("FDS"),
        ],
    )
    yield (
        "client: results out of order",
        [
            *start,
            out(meant_call(id=1)),
            out(meant_call(id=2)),
            took(frame([RESULT, 2, 0, 7, []]), frame([RESULT, 1, 0, 8, []])),
            event(result(2, 7)),
            event(result(1, 8)),
        ],
    )
    yield (
        "client: a result that crosses BYE",
        [
            *start,
            out(meant_call()),
            out({"type": "BYE"}),
            took(frame([RESULT, 1, 0, 7, []]), BYE_FRAME),
            event(result(value=7)),
            event({"type": "BYE"}),
        ],
    )
    yield (
        "client: a result after the server's BYE",
        [
            *start,
            out({"type": "BYE"}),
            took(BYE_FRAME, frame([RESULT, 1, 0, 7, []])),
            event({"type": "BYE"}),
            error("STATE", AT + len(BYE_FRAME)),
        ],
    )
    yield from client_results()


def client_results() -> Iterator[tuple[str, list[Vector]]]:
    """What a RESULT must look like."""
    wrong = error("FIELD", AT)
    read: Vector = {"type": "READ", "id": 1, "address": 0, "length": 2}
    write: Vector = {"type": "WRITE", "id": 1, "address": 0, "data": "7878"}
    outs = meant_call({"OUT": 2}, {"RET": 2}, {"INOUT": "61"}, meant_struct(b"ab", [], [[0, 1]]))
    back = meant_call(flags=1)

    def answer(name: str, sent: Vector, value: int, given: list[bytes], *, ok: bool) -> Any:
        after = event(result(value=value, outs=[data.hex() for data in given])) if ok else wrong
        fields = [RESULT, 1, 0, value, given]
        return client_result(f"client: {name}", sent, fields, after)

    yield answer("READ of all", read, 2, [b"xy"], ok=True)
    yield answer("READ of less", read, 1, [b"x"], ok=True)
    yield answer("READ that failed", read, -14, [], ok=True)
    yield answer("READ of more", read, 3, [b"xyz"], ok=False)
    yield answer("READ of another size than it says", read, 2, [b"x"], ok=False)
    yield answer("READ without bytes", read, 2, [], ok=False)
    yield answer("READ that failed, with bytes", read, -14, [b""], ok=False)
    yield answer("WRITE", write, 2, [], ok=True)
    yield answer("WRITE with an output", write, 2, [b""], ok=False)
    yield answer("outputs", outs, 1, [b"ab", b"c", b"d", b"e"], ok=True)
    yield answer("outputs of a call that failed", outs, -22, [b"ab", b"", b"d", b"e"], ok=True)
    yield answer("a RET that is full", outs, 100, [b"ab", b"cc", b"d", b"e"], ok=True)
    yield answer("an output missing", outs, 1, [b"ab", b"c", b"d"], ok=False)
    yield answer("an output too many", outs, 1, [b"ab", b"c", b"d", b"e", b""], ok=False)
    yield answer("an OUT that is short", outs, 1, [b"a", b"c", b"d", b"e"], ok=False)
    yield answer("a RET that is long", outs, 1, [b"ab", b"cc", b"d", b"e"], ok=False)
    yield answer("a RET of a call that failed", outs, -22, [b"ab", b"c", b"d", b"e"], ok=False)
    yield answer("an INOUT that is long", outs, 1, [b"ab", b"c", b"dd", b"e"], ok=False)
    yield answer("a STRUCT that is short", outs, 1, [b"ab", b"c", b"d", b""], ok=False)
    unknown = [RESULT, 2, 0, 0, []]
    yield client_result("client: a RESULT of no request", back, unknown, error("ID", AT))
    good = result(value=5, nfds=1)
    for name, sent, value, fds, after in [
        ("a file descriptor comes back", back, 5, 1, event(good)),
        ("no file descriptor comes back", back, 5, 0, None),
        ("a file descriptor that was not asked for", meant_call(), 5, 1, wrong),
        ("a file descriptor and an error", back, -2, 1, wrong),
    ]:
        name, steps = client_result(f"client: {name}", sent, [RESULT, 1, fds, value, []])
        steps[-1] = took(frame([RESULT, 1, fds, value, []]), fds=fds)
        yield name, [*steps, after or event(result(value=value))]
    missing = [RESULT, 1, 1, 5, []]
    yield client_result(
        "client: a file descriptor that did not come", back, missing, error("FDS", AT)
    )

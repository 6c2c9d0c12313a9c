# pyright: basic
"""What a server must make of what a client sends."""

from __future__ import annotations

from collections.abc import Iterator

from bodies import (
    BYE,
    ERROR,
    FD,
    IN,
    INOUT,
    OUT,
    READ,
    RESULT,
    RET,
    SMALLEST,
    Vector,
    ext,
    hello,
    meant_hello,
    meant_struct,
    pack,
    size,
    struct,
)
from connection import (
    AT,
    BYE_FRAME,
    CLOSED,
    END,
    GOODBYE,
    HELLO_FRAME,
    HELLO_TAKEN,
    NOWHERE,
    error,
    event,
    frame,
    meant,
    nothing,
    out,
    result,
    took,
)


def servers() -> Iterator[tuple[str, list[Vector]]]:
    """What a server must make of what a client sends."""
    yield "a client that ends before it has said anything", [END, CLOSED]
    yield "HELLO and the end", [*HELLO_TAKEN, END, CLOSED]
    yield "HELLO and BYE", [*HELLO_TAKEN, *GOODBYE]
    yield (
        "HELLO byte by byte",
        [
            *[took(HELLO_FRAME[i : i + 1]) for i in range(AT)],
            event(meant_hello()),
            out(meant_hello()),
            *GOODBYE,
        ],
    )
    low = meant_hello(SMALLEST)
    yield (
        "HELLO with the smallest limits",
        [took(frame(hello(options={"limits": SMALLEST}))), event(low), out(low), *GOODBYE],
    )
    wide = frame(hello(min=0, max=9, features=255))
    meant_wide = meant_hello(version_min=0, version_max=9, features=255)
    yield (
        "HELLO with more versions and features than the server knows",
        [took(wide), event(meant_wide), out(meant_hello(features=7)), *GOODBYE],
    )
    yield "no version in common", [took(frame(hello(min=2, max=9))), error("VERSION")]
    yield "older versions only", [took(frame(hello(min=0, max=0))), error("VERSION")]
    yield "another protocol", [took(b"GET / HTTP/1.1\r\n\r\n"), error("MAGIC")]
    yield "one byte of another protocol", [took(b"\0"), error("MAGIC")]
    yield "a HELLO of the largest size", list(padded(4096))
    yield "a HELLO one byte too large", [took(b"\xce\0\0\x10\1"), error("OVERSIZE")]
    yield "a HELLO of 4 GiB", [took(b"\xce\xff\xff\xff\xff"), error("OVERSIZE")]
    yield "a CALL before HELLO", [took(nothing()), error("STATE")]
    yield "a wrong CALL before HELLO", [took(frame([2])), error("STATE")]
    yield "an ERROR before HELLO", [took(frame([ERROR, 1, 0, ""])), error("STATE")]
    yield "an unknown message before HELLO", [took(frame([19])), error("UNKNOWN_TYPE")]
    yield "a second HELLO", [*HELLO_TAKEN, took(HELLO_FRAME), error("STATE", AT)]
    yield (
        "a RESULT from a client",
        [
            *HELLO_TAKEN,
            took(frame([RESULT, 1, 0, 0, []])),
            error("STATE", AT),
        ],
    )
    yield "a HELLO that ends too soon", [took(HELLO_FRAME[:-1]), END, error("TRUNCATED")]
    yield (
        "half a header, and the end",
        [
            *HELLO_TAKEN,
            took(b"\xce\0\0"),
            END,
            error("TRUNCATED", AT),
        ],
    )
    yield "a frame without its length", [*HELLO_TAKEN, took(b"\x92"), error("MALFORMED", AT)]
    yield (
        "a frame with a short form of its length",
        [
            *HELLO_TAKEN,
            took(b"\xcd\0\2", pack([BYE])),
            error("MALFORMED", AT),
        ],
    )
    yield "a frame of nothing", [*HELLO_TAKEN, took(b"\xce\0\0\0\0"), error("MALFORMED", AT)]
    yield (
        "a frame one byte too large",
        [
            *HELLO_TAKEN,
            took(b"\xce\0\x10\0\1"),
            error("OVERSIZE", AT),
        ],
    )
    yield (
        "the client's ERROR",
        [
            *HELLO_TAKEN,
            took(frame([ERROR, 10, 5, "why"])),
            event({"type": "ERROR", "code": 10, "offset": 5, "text": "why"}),
            CLOSED,
        ],
    )
    yield (
        "the client's ERROR is wrong",
        [
            *HELLO_TAKEN,
            took(frame([ERROR, 10, 5, None])),
            error("FIELD", AT),
        ],
    )
    yield from server_calls()
    yield from server_fds()


def padded(length: int) -> Iterator[Vector]:
    """A HELLO with a body of so many bytes."""
    room = length - len(pack(hello(options={"x": b"\0" * 256}))) + 256
    yield took(frame(hello(options={"x": b"\0" * room})))
    yield event(meant_hello())
    yield out(meant_hello())
    yield from GOODBYE


def server_calls() -> Iterator[tuple[str, list[Vector]]]:
    """Requests and their results."""
    yield "a CALL", [*HELLO_TAKEN, took(nothing()), meant(), out(result()), *GOODBYE]
    several = [nothing(id=3), nothing(id=4), nothing(id=2**64 - 1)]
    yield (
        "several in one read",
        [
            *HELLO_TAKEN,
            took(*several),
            *[step for id in (3, 4, 2**64 - 1) for step in (meant(id=id), out(result(id)))],
            *GOODBYE,
        ],
    )
    whole = nothing(1, 2, 3)
    yield (
        "a CALL in pieces",
        [
            *HELLO_TAKEN,
            took(whole[:3]),
            took(whole[3:5]),
            took(whole[5:9]),
            took(whole[9:]),
            meant(1, 2, 3),
            out(result()),
            *GOODBYE,
        ],
    )
    args = [
        ext(OUT, size(3)),
        ext(RET, size(5)),
        ext(INOUT, b"abc"),
        ext(IN, b"in"),
        struct(b"0123456789", [0, 7], [8, 2, 9, 1, 9, 0]),
        struct(b"\0" * 8, [0, 6]),
        struct(b"\0" * 8, [0, 7], [0, 0]),
        ext(INOUT, b""),
    ]
    read = [
        {"OUT": 3},
        {"RET": 5},
        {"INOUT": "616263"},
        {"IN": "696e"},
        meant_struct(b"0123456789", [[0, 7]], [[8, 2], [9, 1], [9, 0]]),
        meant_struct(b"\0" * 8, [[0, 6]]),
        meant_struct(b"\0" * 8, [[0, 7]], [[0, 0]]),
        {"INOUT": ""},
    ]
    outs = ["000000", "", "616263", "383939", "", ""]
    yield (
        "every kind of argument",
        [
            *HELLO_TAKEN,
            took(nothing(*args)),
            meant(*read),
            out(result(outs=outs)),
            *GOODBYE,
        ],
    )
    yield (
        "READ of nothing",
        [
            *HELLO_TAKEN,
            took(frame([READ, 1, 0, 0])),
            event({"type": "READ", "id": 1, "address": 0, "length": 0}),
            out(result(value=0, outs=[""])),
            *GOODBYE,
        ],
    )
    efault = -14
    yield (
        "READ and WRITE of what is not there",
        [
            *HELLO_TAKEN,
            took(frame([READ, 1, 0, 8]), frame([5, 2, 0, b"x"])),
            event({"type": "READ", "id": 1, "address": 0, "length": 8}),
            out(result(value=efault)),
            event({"type": "WRITE", "id": 2, "address": 0, "data": "78"}),
            out(result(2, value=efault)),
            *GOODBYE,
        ],
    )
    yield (
        "an answer after the client has ended its stream",
        [
            *HELLO_TAKEN,
            took(nothing()),
            END,
            meant(),
            out(result()),
            CLOSED,
        ],
    )
    yield "id 0", [*HELLO_TAKEN, took(nothing(id=0)), error("ID", AT)]
    yield (
        "an id again",
        [
            *HELLO_TAKEN,
            took(nothing(id=5), nothing(id=5)),
            meant(id=5),
            out(result(5)),
            error("ID", AT + len(nothing(id=5))),
        ],
    )
    yield (
        "a smaller id",
        [
            *HELLO_TAKEN,
            took(nothing(id=5), nothing(id=4)),
            meant(id=5),
            out(result(5)),
            error("ID", AT + len(nothing(id=5))),
        ],
    )
    yield (
        "the error's place in the stream",
        [
            *HELLO_TAKEN,
            took(nothing(id=7), frame([2, 8, 0, 0, NOWHERE, [None]])),
            meant(id=7),
            out(result(7)),
            error("FIELD", AT + len(nothing(id=7))),
        ],
    )
    for name, least, over, code in [
        ("frame", 4096, b"\xce\0\0\x10\1", "OVERSIZE"),
        ("data", 6, nothing(*[0] * 7), "FIELD"),
        ("depth", 6, nothing([[[[[]]]]]), "DEPTH"),
        ("fds", 0, nothing(nfds=1), "TOO_MANY_FDS"),
        ("window", 8192, frame([READ, 1, 0, 8192 - 44]), "OVERSIZE"),
    ]:
        first = frame(hello(options={"limits": {name: least}}))
        agreed = meant_hello({name: least})
        yield (
            f"the limit {name} that was agreed upon",
            [
                took(first),
                event(agreed),
                out(agreed),
                took(over),
                error(code, len(first)),
            ],
        )


def server_fds() -> Iterator[tuple[str, list[Vector]]]:
    """File descriptors that come with requests."""
    one, plain = nothing(ext(FD, b"\0"), nfds=1), nothing(id=2)
    got = [meant({"FD": 0}, nfds=1), out(result())]
    yield "a file descriptor", [*HELLO_TAKEN, took(one, fds=1), *got, *GOODBYE]
    most = nothing(ext(FD, b"\xfc"), nfds=253)
    yield (
        "as many file descriptors as there may be",
        [
            *HELLO_TAKEN,
            took(most, fds=253),
            meant({"FD": 252}, nfds=253),
            out(result()),
            *GOODBYE,
        ],
    )
    yield (
        "a file descriptor with the first byte of a frame in pieces",
        [
            *HELLO_TAKEN,
            took(one[:1], fds=1),
            took(one[1:7]),
            took(one[7:]),
            *got,
            *GOODBYE,
        ],
    )
    second = nothing(ext(FD, b"\0"), nfds=1, id=3)
    yield (
        "an earlier frame in the read that brings a file descriptor",
        [
            *HELLO_TAKEN,
            took(plain),
            took(second, fds=1),
            meant(id=2),
            out(result(2)),
            meant({"FD": 0}, nfds=1, id=3),
            out(result(3)),
            *GOODBYE,
        ],
    )
    yield (
        "half a frame, and the file descriptor of the next one",
        [
            *HELLO_TAKEN,
            took(plain[:9]),
            took(plain[9:]),
            took(second, fds=1),
            meant(id=2),
            out(result(2)),
            meant({"FD": 0}, nfds=1, id=3),
            out(result(3)),
            *GOODBYE,
        ],
    )
    for name, data, fds in [
        ("a file descriptor that was not announced", nothing(), 1),
        ("a file descriptor that did not come", one, 0),
        ("one file descriptor too many", one, 2),
        ("one file descriptor too few", nothing(nfds=2), 1),
        ("a file descriptor with BYE", BYE_FRAME, 1),
        ("a file descriptor with a READ", frame([READ, 1, 0, 0]), 1),
    ]:
        yield name, [*HELLO_TAKEN, took(data, fds=fds), error("FDS", AT)]
    yield (
        "a file descriptor in the middle of a frame",
        [
            *HELLO_TAKEN,
            took(one[:4]),
            {**took(one[4:], fds=1), "unmerged": True},
            error("FDS", AT),
        ],
    )
    yield (
        "a file descriptor of a frame that never ends",
        [
            *HELLO_TAKEN,
            took(one[:-1], fds=1),
            END,
            error("TRUNCATED", AT),
        ],
    )
    yield "a file descriptor with HELLO", [took(HELLO_FRAME, fds=1), error("FDS")]
    yield "a file descriptor with half a HELLO", [took(HELLO_FRAME[:3], fds=1), error("FDS")]
    yield (
        "a wrong id is worse than a missing file descriptor",
        [
            *HELLO_TAKEN,
            took(nothing(nfds=1, id=0)),
            error("ID", AT),
        ],
    )

# pyright: basic
"""Bodies of frames: which message each one is, or what it is refused for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack  # pyright: ignore[reportMissingTypeStubs] - it has none

HELLO, CALL, RESULT, READ, WRITE, ERROR, BYE, RING, BELL, FDS = range(1, 11)
BATCH, BATCHED, PREPARE, RUN, UNPREPARE, CANCEL, STALL, WATCH = range(11, 19)
IN, OUT, INOUT, STRUCT, RET, FD, REF, PARAM = range(1, 9)
UINT32, UINT64, INT64 = 2**32, 2**64, 2**63
DEFAULTS = {
    "frame": 2**20,
    "depth": 8,
    "data": 1024,
    "fds": 253,
    "outstanding": 1024,
    "window": 2**21,
    "steps": 1024,
    "programs": 64,
    "program_bytes": 2**18,
}
SMALLEST = {
    "frame": 4096,
    "depth": 6,
    "data": 6,
    "fds": 0,
    "outstanding": 1,
    "window": 8192,
    "steps": 1,
    "programs": 0,
    "program_bytes": 0,
}
REPLY_BASE, REPLY_OUT = 40, 5

Vector = dict[str, Any]


def pack(value: object) -> bytes:
    """One value as msgpack."""
    packed: bytes = msgpack.packb(value)  # pyright: ignore
    return packed


def ext(type_: int, payload: bytes) -> Any:
    """An argument."""
    return msgpack.ExtType(type_, payload)


def size(n: int) -> bytes:
    """The payload of an OUT or RET."""
    return n.to_bytes(4, "big")


def struct(data: bytes, relocations: object = (), outs: object = ()) -> Any:
    """A STRUCT."""
    return ext(STRUCT, pack([data, relocations, outs]))


def call(
    *args: object, id: object = 1, nfds: object = 0, flags: object = 0, nr: object = 39
) -> Any:
    """The fields of a CALL."""
    return [CALL, id, nfds, flags, nr, list(args)]


def hello(**changed: object) -> Any:
    """The fields of a HELLO."""
    fields = {"magic": "rsyscall", "min": 1, "max": 1, "features": 0, "options": {}, **changed}
    return [HELLO, *fields.values()]


def compact(body: bytes) -> Any:
    """Bytes as README.md describes them: long runs of one byte are not written out."""
    parts: list[Any] = []
    plain = bytearray()
    at = 0
    while at < len(body):
        end = at
        while end < len(body) and body[end] == body[at]:
            end += 1
        if end - at >= 64:
            if plain:
                parts.append(plain.hex())
                plain = bytearray()
            parts.append({"repeat": body[at : at + 1].hex(), "times": end - at})
        else:
            plain += body[at:end]
        at = end
    if plain or not parts:
        parts.append(plain.hex())
    return parts[0] if len(parts) == 1 and isinstance(parts[0], str) else parts


# What the messages below mean, as README.md writes it.


def meant_hello(limits: dict[str, int] | None = None, **changed: object) -> Vector:
    """A HELLO."""
    plain = {"version_min": 1, "version_max": 1, "features": 0, **changed}
    return {"type": "HELLO", **plain, "limits": {**DEFAULTS, **(limits or {})}, "info": {}}


def meant_call(*args: object, nfds: int = 0, flags: int = 0, nr: int = 39, id: int = 1) -> Vector:
    """A CALL."""
    return {"type": "CALL", "id": id, "nfds": nfds, "flags": flags, "nr": nr, "args": list(args)}


def meant_struct(data: bytes, relocations: Any = (), outs: Any = ()) -> Vector:
    """A STRUCT."""
    return {"STRUCT": compact(data), "relocations": list(relocations), "outs": list(outs)}


def hellos() -> Iterator[tuple[str, object, object]]:
    """Name, fields, and the message or the error."""
    yield "HELLO", hello(), meant_hello()
    yield (
        "HELLO with a range of versions and all features",
        hello(min=0, max=UINT32 - 1, features=UINT64 - 1),
        meant_hello(version_min=0, version_max=UINT32 - 1, features=UINT64 - 1),
    )
    yield "HELLO: smallest limits", hello(options={"limits": SMALLEST}), meant_hello(SMALLEST)
    huge = dict.fromkeys(DEFAULTS, UINT64 - 1)
    yield "HELLO: limits beyond the largest", hello(options={"limits": huge}), meant_hello()
    yield (
        "HELLO: one limit named",
        hello(options={"limits": {"data": 7}}),
        meant_hello({"data": 7}),
    )
    unknown = {"new": [None, True, 1.5, {"x": b""}], "limits": {"new": None, "depth": 7}}
    yield "HELLO: unknown options", hello(options=unknown), meant_hello({"depth": 7})
    yield (
        "HELLO: options that say who is there",
        hello(options={"arch": "x86_64", "page_size": 4096, "pid": 7}),
        {**meant_hello(), "info": {"arch": "x86_64", "page_size": 4096, "pid": 7}},
    )
    for name, least in SMALLEST.items():
        fields = hello(options={"limits": {name: least - 1}})
        yield f"HELLO: limit {name} one too small", fields, "FIELD"
    wrong: dict[str, dict[str, object]] = {
        "a smallest version above the largest": {"min": 2},
        "a version that is negative": {"min": -1},
        "a version that is too large": {"max": UINT32},
        "a version that is a string": {"max": "1"},
        "a version that is true": {"min": True},
        "features that are negative": {"features": -1},
        "features that are a float": {"features": 0.0},
        "options that are an array": {"options": []},
        "a key of options that is bytes": {"options": {b"limits": {}}},
        "a key of options that is an array": {"options": {(): 1}},
        "limits that are an array": {"options": {"limits": []}},
        "a name of a limit that is an integer": {"options": {"limits": {1: 1}}},
        "a limit that is negative": {"options": {"limits": {"frame": -1}}},
        "a limit that is a string": {"options": {"limits": {"frame": "1"}}},
    }
    for name, changed in wrong.items():
        yield f"HELLO: {name}", hello(**changed), "FIELD"
    yield "HELLO without a magic", [HELLO], "MAGIC"
    yield "HELLO: another magic", hello(magic="rsyscalL"), "MAGIC"
    yield "HELLO: a magic with a suffix", hello(magic="rsyscall2"), "MAGIC"
    yield "HELLO: a magic that is bytes", hello(magic=b"rsyscall"), "MAGIC"
    yield "HELLO: another magic, and a field too many", [*hello(magic=1), 0], "MAGIC"
    yield "HELLO with a field too few", hello()[:-1], "ARITY"
    yield "HELLO with a field too many", [*hello(), 0], "ARITY"
    deep: Any = {"new": [[[[[[]]]]]]}
    yield "HELLO: unknown options at the default depth", hello(options=deep), meant_hello()
    yield "HELLO: unknown options one too deep", hello(options={"new": [deep["new"]]}), "DEPTH"
    timestamp = {"new": ext(0, b"")}
    yield "HELLO: an unknown option with an ext", hello(options=timestamp), meant_hello()


def calls() -> Iterator[tuple[str, object, object]]:
    """Name, fields, and the message or the error."""
    yield "CALL without arguments", call(), meant_call()
    yield (
        "CALL: all numbers at their largest",
        call(id=UINT64 - 1, nfds=253, flags=1, nr=2**31 - 1),
        meant_call(id=UINT64 - 1, nfds=253, flags=1, nr=2**31 - 1),
    )
    integers = [0, 127, UINT32, UINT64 - 1, -1, -INT64]
    yield "CALL: integers", call(*integers), meant_call(*integers)
    yield "CALL: IN", call(ext(IN, b"/tmp\0")), meant_call({"IN": "2f746d7000"})
    yield "CALL: IN of nothing", call(ext(IN, b"")), meant_call({"IN": ""})
    yield "CALL: OUT", call(ext(OUT, size(390))), meant_call({"OUT": 390})
    yield "CALL: OUT of nothing", call(ext(OUT, size(0))), meant_call({"OUT": 0})
    yield "CALL: RET", call(0, ext(RET, size(100)), 100), meant_call(0, {"RET": 100}, 100)
    yield "CALL: INOUT", call(ext(INOUT, b"\1\2\3")), meant_call({"INOUT": "010203"})
    yield "CALL: FD", call(ext(FD, b"\0"), nfds=1), meant_call({"FD": 0}, nfds=1)
    yield "CALL: FD, the last", call(ext(FD, b"\x01"), nfds=2), meant_call({"FD": 1}, nfds=2)
    yield "CALL: more than six entries", call(*range(9)), meant_call(*range(9))
    yield "CALL: STRUCT of nothing", call(struct(b"")), meant_call(meant_struct(b""))
    iovec = b"\0" * 8 + size(5)[::-1] + b"\0" * 4
    yield (
        "CALL: STRUCT with a relocation",
        call(1, struct(iovec, [0, 6]), 1, 0, 0, 0, ext(IN, b"hello")),
        meant_call(1, meant_struct(iovec, [[0, 6]]), 1, 0, 0, 0, {"IN": "68656c6c6f"}),
    )
    yield (
        "CALL: relocations at both ends, to one entry, overlapping",
        call(struct(b"\0" * 12, [0, 1, 4, 1, 4, 2]), ext(OUT, size(1)), ext(RET, size(1))),
        meant_call(meant_struct(b"\0" * 12, [[0, 1], [4, 1], [4, 2]]), {"OUT": 1}, {"RET": 1}),
    )
    yield (
        "CALL: STRUCT with outputs",
        call(struct(b"abcdefgh", [], [4, 4, 0, 2, 8, 0, 0, 8])),
        meant_call(meant_struct(b"abcdefgh", [], [[4, 4], [0, 2], [8, 0], [0, 8]])),
    )
    chain = [struct(b"\0" * 8, [0, 1]), struct(b"\0" * 8, [0, 2]), ext(INOUT, b"")]
    meant = [meant_struct(b"\0" * 8, [[0, 1]]), meant_struct(b"\0" * 8, [[0, 2]]), {"INOUT": ""}]
    yield "CALL: relocations as deep as they may lead", call(*chain), meant_call(*meant)
    deeper = [struct(b"\0" * 8, [0, i + 1]) for i in range(3)]
    yield "CALL: relocations one too deep", call(*deeper, ext(IN, b"")), "DEPTH"
    wide = [struct(b"\0" * 8, [0, 1]), struct(b"\0" * 8)]
    yield (
        "CALL: a STRUCT pointed at",
        call(*wide),
        meant_call(meant_struct(b"\0" * 8, [[0, 1]]), meant_struct(b"\0" * 8)),
    )
    yield "CALL: as many entries as there may be", call(*[0] * 1024), meant_call(*[0] * 1024)
    yield "CALL: one entry too many", call(*[0] * 1025), "FIELD"
    yield "CALL: one file descriptor too many", call(nfds=254), "TOO_MANY_FDS"
    yield from wrong_calls()
    room = 2**20 - REPLY_BASE - REPLY_OUT
    yield "CALL: the largest reply", call(ext(OUT, size(room))), meant_call({"OUT": room})
    yield "CALL: a reply one too large", call(ext(OUT, size(room + 1))), "OVERSIZE"
    yield "CALL: an OUT of 4 GiB", call(ext(OUT, size(UINT32 - 1))), "OVERSIZE"
    two = [ext(RET, size(1000)), struct(b"\0" * 8, [], [0, 8, 0, 8])]
    left = room - 1000 - 16 - 2 * REPLY_OUT
    meant_two = [{"RET": 1000}, meant_struct(b"\0" * 8, [], [[0, 8], [0, 8]])]
    yield (
        "CALL: outputs that add up to the largest reply",
        call(*two, ext(OUT, size(left))),
        meant_call(*meant_two, {"OUT": left}),
    )
    yield (
        "CALL: outputs that add up to one too many",
        call(*two, ext(OUT, size(left + 1))),
        "OVERSIZE",
    )


def wrong_calls() -> Iterator[tuple[str, object, object]]:
    """Name, fields and the error."""
    pointer = struct(b"\0" * 8, [0, 1])
    refused: dict[str, Any] = {
        "an id that is negative": call(id=-1),
        "an id that is a string": call(id="1"),
        "a negative number of file descriptors": call(nfds=-1),
        "more file descriptors than an integer of 32 bits": call(nfds=UINT32),
        "an unknown flag": call(flags=2),
        "a negative flag": call(flags=-1),
        "a call's number that is negative": call(nr=-1),
        "a call's number that is too large": call(nr=2**31),
        "a call's number that is a string": call(nr="getpid"),
        "arguments that are a map": [*call()[:5], {}],
        "arguments that are bytes": [*call()[:5], b""],
        "an argument that is nil": call(None),
        "an argument that is true": call(True),
        "an argument that is a float": call(1.0),
        "an argument that is a string": call("x"),
        "an argument that is bytes": call(b"x"),
        "an argument that is an array": call([]),
        "an argument that is a map": call({}),
        "an argument of type 0": call(ext(0, b"")),
        "an argument of an unknown type": call(ext(9, b"")),
        "an argument of the largest type": call(ext(127, b"")),
        "OUT with a short size": call(ext(OUT, b"\0\0\0")),
        "OUT with a long size": call(ext(OUT, b"\0\0\0\0\0")),
        "RET without a size": call(ext(RET, b"")),
        "FD without file descriptors": call(ext(FD, b"\0")),
        "FD past the last": call(ext(FD, b"\2"), nfds=2),
        "FD without an index": call(ext(FD, b""), nfds=1),
        "FD with an index of two bytes": call(ext(FD, b"\0\0"), nfds=1),
        "STRUCT with a string for data": call(ext(STRUCT, pack(["", [], []]))),
        "STRUCT with an array for data": call(ext(STRUCT, pack([[], [], []]))),
        "STRUCT with a map for relocations": call(ext(STRUCT, pack([b"", {}, []]))),
        "STRUCT with an integer for outputs": call(ext(STRUCT, pack([b"", [], 0]))),
        "half a relocation": call(struct(b"\0" * 8, [0]), 0),
        "half an output": call(struct(b"\0" * 8, [], [0])),
        "a relocation at a negative offset": call(struct(b"\0" * 8, [-1, 1]), ext(IN, b"")),
        "a relocation at an offset that is bytes": call(struct(b"\0" * 8, [b"", 1]), ext(IN, b"")),
        "a relocation past the end": call(struct(b"\0" * 8, [1, 1]), ext(IN, b"")),
        "a relocation far past the end": call(struct(b"\0" * 8, [UINT64 - 1, 1]), ext(IN, b"")),
        "a relocation in too little data": call(struct(b"\0" * 7, [0, 1]), ext(IN, b"")),
        "a relocation to itself": call(struct(b"\0" * 8, [0, 0])),
        "a relocation backwards": call(ext(IN, b""), struct(b"\0" * 8, [0, 0])),
        "a relocation past the last entry": call(struct(b"\0" * 8, [0, 2]), ext(IN, b"")),
        "a relocation to an integer": call(pointer, 0),
        "a relocation to a file descriptor": call(pointer, ext(FD, b"\0"), nfds=1),
        "an output past the end": call(struct(b"\0" * 8, [], [1, 8])),
        "an output that begins past the end": call(struct(b"\0" * 8, [], [9, 0])),
        "an output whose end overflows": call(struct(b"\0" * 8, [], [8, UINT64 - 1])),
    }
    for name, fields in refused.items():
        yield f"CALL: {name}", fields, "FIELD"
    yield "CALL: STRUCT that is an integer", call(ext(STRUCT, b"\0")), "ARITY"
    yield "CALL: STRUCT with two parts", call(ext(STRUCT, pack([b"", []]))), "ARITY"
    yield "CALL: STRUCT with four parts", call(ext(STRUCT, pack([b"", [], [], []]))), "ARITY"
    yield "CALL: STRUCT without a payload", call(ext(STRUCT, b"")), "MALFORMED"
    yield "CALL: STRUCT cut short", call(ext(STRUCT, pack([b"", [], []])[:-1])), "MALFORMED"
    yield "CALL: STRUCT and more", call(ext(STRUCT, pack([b"", [], []]) + b"\0")), "TRAILING"
    yield "CALL: STRUCT too deep", call(ext(STRUCT, pack([b"", [[]], []]))), "DEPTH"
    yield "CALL with a field too few", call()[:-1], "ARITY"
    yield "CALL with a field too many", [*call(), 0], "ARITY"
    yield "CALL: the first of two wrong fields", call(None, id=-1, nfds=254), "FIELD"
    yield "CALL: the second of two wrong fields", call(None, nfds=254), "TOO_MANY_FDS"


def others() -> Iterator[tuple[str, object, object]]:
    """READ, WRITE, ERROR and BYE, and what is no message at all."""
    largest = 2**20 - REPLY_BASE - REPLY_OUT
    read: dict[str, Any] = {"type": "READ", "id": 1, "address": 4096, "length": 10}
    yield "READ", [READ, 1, 4096, 10], read
    yield "READ of nothing", [READ, 1, 0, 0], {**read, "address": 0, "length": 0}
    yield "READ of the most", [READ, 1, 4096, largest], {**read, "length": largest}
    yield "READ of one byte too many", [READ, 1, 4096, largest + 1], "OVERSIZE"
    yield "READ of 4 GiB", [READ, 1, 4096, UINT32 - 1], "OVERSIZE"
    yield "READ at the end", [READ, 1, UINT64 - 1, 10], {**read, "address": UINT64 - 1}
    yield "READ: a length of 33 bits", [READ, 1, 4096, UINT32], "FIELD"
    yield "READ: a negative address", [READ, 1, -1, 10], "FIELD"
    yield "READ: an id that is nil", [READ, None, 0, 10], "FIELD"
    yield "READ with a field too few", [READ, 1, 4096], "ARITY"
    yield "READ with a field too many", [READ, 1, 4096, 10, 0], "ARITY"
    write = {"type": "WRITE", "id": 1, "address": 4096, "data": "0001"}
    yield "WRITE", [WRITE, 1, 4096, b"\0\1"], write
    yield "WRITE of nothing", [WRITE, 1, 4096, b""], {**write, "data": ""}
    yield "WRITE: a string", [WRITE, 1, 4096, "x"], "FIELD"
    yield "WRITE: a negative id", [WRITE, -1, 4096, b""], "FIELD"
    yield "WRITE: an address of 64 bits and a sign", [WRITE, 1, -INT64, b""], "FIELD"
    yield "WRITE with a field too few", [WRITE, 1, 4096], "ARITY"
    error = {"type": "ERROR", "code": 9, "offset": 7, "text": "why"}
    yield "ERROR", [ERROR, 9, 7, "why"], error
    yield "ERROR: an unknown code", [ERROR, UINT32 - 1, 7, "why"], {**error, "code": 17}
    yield "ERROR: a long text", [ERROR, 9, 7, "x" * 300], {**error, "text": "x" * 255}
    yield "ERROR: a code of 33 bits", [ERROR, UINT32, 7, "why"], "FIELD"
    yield "ERROR: a negative offset", [ERROR, 9, -1, "why"], "FIELD"
    yield "ERROR: a text of bytes", [ERROR, 9, 7, b"why"], "FIELD"
    yield "ERROR with a field too few", [ERROR, 9, 7], "ARITY"
    yield "BYE", [BYE], {"type": "BYE"}
    yield "BYE with a field", [BYE, 0], "ARITY"
    yield "an empty array", [], "ARITY"
    yield "a map", {0: 7}, "FIELD"
    yield "an integer", 7, "FIELD"
    yield "a message of type 0", [0], "UNKNOWN_TYPE"
    yield "a message of type 19", [19], "UNKNOWN_TYPE"
    yield "a message of the largest type", [UINT64 - 1], "UNKNOWN_TYPE"
    yield "a message of a negative type", [-1], "FIELD"
    yield "a message whose type is a string", ["BYE"], "FIELD"
    yield "a message whose type is true", [True], "FIELD"
    yield "a message of unknown type with an array for a key", [19, {(): 0}], "UNKNOWN_TYPE"


def results() -> Iterator[tuple[str, object, object]]:
    """What a server sends besides HELLO, ERROR and BYE."""
    result = {"type": "RESULT", "id": 1, "nfds": 0, "value": 0, "outs": []}
    yield "RESULT", [RESULT, 1, 0, 0, []], result
    yield "RESULT: an errno", [RESULT, 1, 0, -2, []], {**result, "value": -2}
    yield "RESULT: a file descriptor", [RESULT, 1, 1, 3, []], {**result, "nfds": 1, "value": 3}
    yield "RESULT: outputs", [RESULT, 1, 0, 0, [b"a", b""]], {**result, "outs": ["61", ""]}
    for value in (-INT64, INT64 - 1):
        yield f"RESULT: {value}", [RESULT, 1, 0, value, []], {**result, "value": value}
    yield "RESULT: a value of 64 bits without a sign", [RESULT, 1, 0, INT64, []], "FIELD"
    yield "RESULT: a value that is nil", [RESULT, 1, 0, None, []], "FIELD"
    yield "RESULT: an output that is a string", [RESULT, 1, 0, 0, ["a"]], "FIELD"
    yield "RESULT: outputs that are bytes", [RESULT, 1, 0, 0, b""], "FIELD"
    yield "RESULT: a negative id", [RESULT, -1, 0, 0, []], "FIELD"
    yield "RESULT: too many file descriptors", [RESULT, 1, 254, 0, []], "TOO_MANY_FDS"
    yield "RESULT with a field too few", [RESULT, 1, 0, 0], "ARITY"


def vectors() -> list[Vector]:
    """All of them."""
    found: list[Vector] = []

    def add(side: str, name: str, body: bytes, meaning: Any, **more: object) -> None:
        key = "error" if isinstance(meaning, str) else "message"
        found.append({"name": name, "from": side, "body": compact(body), **more, key: meaning})

    for rows in hellos(), calls(), others():
        for name, fields, meaning in rows:
            add("client", name, pack(fields), meaning)
    for name, fields, meaning in results():
        add("server", name, pack(fields), meaning)
    add("client", "RESULT from a client", pack([RESULT, 1, 0, 0, []]), "STATE")
    add("client", "RESULT from a client, with nothing right", pack([RESULT, None]), "STATE")
    add("server", "CALL from a server", pack(call()), "STATE")
    # What no dictionary can hold.
    start = pack(hello())[:-1]
    limits = pack("limits")
    small, large = pack({"data": 7}), pack({"data": 8, "fds": 9})
    add(
        "client",
        "HELLO: limits twice: the later ones count",
        start + b"\x82" + limits + large + limits + small,
        meant_hello({"data": 7}),
    )
    add(
        "client",
        "HELLO: limits twice, the first of them wrong",
        start + b"\x82" + limits + pack({"data": 0}) + limits + small,
        "FIELD",
    )
    add(
        "client",
        "HELLO: a limit twice",
        start + b"\x81" + limits + b"\x82" + pack("data") + b"\x07" + pack("data") + b"\x08",
        meant_hello({"data": 8}),
    )
    long_call = (
        "dc0006 cc02 d30000000000000001 cd0000 ce00000000 cf0000000000000027 dd00000001 d2ffffffff"
    )
    add("client", "CALL: everything in a long form", bytes.fromhex(long_call), meant_call(-1))
    add("client", "CALL and another byte", pack(call()) + b"\0", "TRAILING")
    add("client", "CALL cut short", pack(call())[:-1], "MALFORMED")
    add(
        "client",
        "CALL with a timestamp",
        pack(call())[:-1] + bytes.fromhex("91d6ff00000000"),
        "MALFORMED",
    )
    add("client", "a body of nothing", b"", "MALFORMED")
    add("client", "the form before the type", bytes.fromhex("9210c1"), "MALFORMED")
    add("client", "the depth before the type", b"\x92\x10" + b"\x91" * 8 + b"\x00", "DEPTH")
    limited: dict[str, tuple[int, object, object]] = {
        "data": (6, call(*[0] * 6), meant_call(*[0] * 6)),
        "fds": (2, call(nfds=2), meant_call(nfds=2)),
        "frame": (
            4096,
            [READ, 1, 0, 4096 - 45],
            {"type": "READ", "id": 1, "address": 0, "length": 4096 - 45},
        ),
        "window": (
            8192,
            [READ, 1, 0, 8192 - 45],
            {"type": "READ", "id": 1, "address": 0, "length": 8192 - 45},
        ),
    }
    beyond: dict[str, tuple[object, str]] = {
        "data": (call(*[0] * 7), "FIELD"),
        "fds": (call(nfds=3), "TOO_MANY_FDS"),
        "frame": ([READ, 1, 0, 4096 - 44], "OVERSIZE"),
        "window": ([READ, 1, 0, 8192 - 44], "OVERSIZE"),
    }
    for name, (limit, fields, meaning) in limited.items():
        over, error = beyond[name]
        add("client", f"at a lower limit {name}", pack(fields), meaning, limits={name: limit})
        add("client", f"one past a lower limit {name}", pack(over), error, limits={name: limit})
    add(
        "client",
        "a file descriptor back, and none may come",
        pack(call(flags=1)),
        "TOO_MANY_FDS",
        limits={"fds": 0},
    )
    nested: Any = [[[[]]]]
    add("client", "at a lower depth", pack(call(nested)), "FIELD", limits={"depth": 6})
    add("client", "one past a lower depth", pack(call([nested])), "DEPTH", limits={"depth": 6})
    return found

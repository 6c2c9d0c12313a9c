# pyright: basic
"""Connections with batches, and those that ask for a ring and get none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from batches import (
    WHOLE,
    batch,
    meant_batch,
    meant_prepare,
    meant_run,
    meant_step,
    param,
    prepare,
    ref,
    run,
)
from bodies import (
    BATCHED,
    CANCEL,
    FD,
    IN,
    INOUT,
    OUT,
    RESULT,
    RET,
    RING,
    STALL,
    UNPREPARE,
    WATCH,
    Vector,
    ext,
    hello,
    meant_hello,
    meant_struct,
    pack,
    size,
    struct,
)
from client_streams import client_result
from connection import (
    AT,
    ENOSYS,
    GOODBYE,
    HELLO_TAKEN,
    NOWHERE,
    error,
    event,
    frame,
    nothing,
    out,
    result,
    took,
)

ENOMEM, EINVAL = -12, -22
NOT_STARTED, DONE, FAILED, _, UNDONE, UNDO_FAILED = range(6)
GOOD = [NOWHERE, [], ENOSYS]  # its error is what it must return
BAD = [NOWHERE, []]
MEANT_GOOD, MEANT_BAD = meant_step(nr=NOWHERE, ok=ENOSYS), meant_step(nr=NOWHERE)
MINUS_38 = (ENOSYS + 2**64).to_bytes(8, "little")


def greeting(limits: dict[str, int] | None = None, features: int = 2) -> list[Vector]:
    """HELLOs that grant batches, and these limits."""
    options = {"limits": limits} if limits else {}
    meaning = meant_hello(limits, features=features)
    return [took(frame(hello(features=features, options=options))), event(meaning), out(meaning)]


def batched(values: int, statuses: list[int], stopped: int, outs: Any = (), id: int = 1) -> Vector:
    """A BATCHED of so many values, all of them -38."""
    return {
        "type": "BATCHED",
        "id": id,
        "outs": list(outs),
        "values": (MINUS_38 * values).hex(),
        "statuses": bytes(statuses).hex(),
        "stopped": stopped,
    }


def one(name: str, fields: Any, meaning: Vector, reply: Vector) -> tuple[str, list[Vector]]:
    """A batch and the answer to it."""
    return name, [*greeting(), took(frame(fields)), event(meaning), out(reply), *GOODBYE]


def batches() -> Iterator[tuple[str, list[Vector]]]:
    """Steps, and what becomes of them."""
    yield one("a BATCH of nothing", batch(), meant_batch(), batched(0, [], 0))
    yield one(
        "a BATCH, every way to succeed",
        batch(GOOD, [NOWHERE, [], [2, 38]], [NOWHERE, [1, 2], ENOSYS, 1]),
        meant_batch(
            MEANT_GOOD,
            meant_step(nr=NOWHERE, ok=[2, 38]),
            meant_step(1, 2, nr=NOWHERE, ok=ENOSYS, flags=1),
        ),
        batched(3, [DONE] * 3, 3),
    )
    for name, ok in {"nil": None, "another number": 0, "other errors": [2], "none": []}.items():
        yield one(
            f"a BATCH that fails, its ok being {name}",
            batch([NOWHERE, [], ok], GOOD),
            meant_batch(meant_step(nr=NOWHERE, ok=ok), MEANT_GOOD),
            batched(1, [FAILED, NOT_STARTED], 0),
        )
    yield one(
        "a BATCH that goes on after a failure, and then stops",
        batch(GOOD, [NOWHERE, [], None, 1], BAD, GOOD, GOOD),
        meant_batch(MEANT_GOOD, meant_step(nr=NOWHERE, flags=1), MEANT_BAD, MEANT_GOOD, MEANT_GOOD),
        batched(3, [DONE, FAILED, FAILED, NOT_STARTED, NOT_STARTED], 2),
    )
    undo, meant_undo = [NOWHERE, [ref(0)]], {"nr": NOWHERE, "args": [{"REF": [0, WHOLE, 8]}]}
    undone = [NOWHERE, [], ENOSYS, 0, undo]
    meant_undone = meant_step(nr=NOWHERE, ok=ENOSYS, undo=meant_undo)
    left, meant_left = (
        [NOWHERE, [], 0, 1, undo],
        meant_step(nr=NOWHERE, ok=0, flags=1, undo=meant_undo),
    )
    yield one(
        "a BATCH whose undo fails, too",
        batch(undone, GOOD, left, undone, [NOWHERE, [], None, 0, undo], undone),
        meant_batch(
            meant_undone,
            MEANT_GOOD,
            meant_left,
            meant_undone,
            meant_step(nr=NOWHERE, undo=meant_undo),
            meant_undone,
        ),
        batched(5, [UNDO_FAILED, DONE, FAILED, UNDO_FAILED, FAILED, NOT_STARTED], 4),
    )
    yield one(
        "a BATCH that comes to its end is not undone",
        batch(undone, left),
        meant_batch(meant_undone, meant_left),
        batched(2, [DONE, FAILED], 2),
    )
    yield one(
        "a BATCH with outputs: those of steps that were started",
        batch(
            [NOWHERE, [ext(OUT, size(2)), ext(RET, size(9))], ENOSYS],
            [NOWHERE, [ext(INOUT, b"a")], None],
            [NOWHERE, [ext(OUT, size(1))], ENOSYS],
        ),
        meant_batch(
            meant_step({"OUT": 2}, {"RET": 9}, nr=NOWHERE, ok=ENOSYS),
            meant_step({"INOUT": "61"}, nr=NOWHERE),
            meant_step({"OUT": 1}, nr=NOWHERE, ok=ENOSYS),
        ),
        batched(2, [DONE, FAILED, NOT_STARTED], 1, ["0000", "", "61"]),
    )
    # What a REF stands for shows where a relocation writes it and the STRUCT comes back.
    target = b"\1" * 12

    def show(*reference: int) -> list[Any]:
        return [NOWHERE, [struct(target, [2, 1], [0, 12]), ref(*reference)], ENOSYS]

    def meant_show(*reference: int) -> Vector:
        shown = meant_struct(target, [[2, 1]], [[0, 12]])
        return meant_step(shown, {"REF": list(reference)}, nr=NOWHERE, ok=ENOSYS)

    references = [(0, WHOLE, 8), (0, WHOLE, 4), (0, 1, 8), (0, 1, 4), (0, 5, 8)]
    data = bytes([9, 1, 2, 3, 4, 0xFE, 0xFF, 0xFF, 0xFF])
    shown = [
        MINUS_38,
        MINUS_38[:4] + target[:4],
        bytes([1, 2, 3, 4, 0, 0, 0, 0]),
        bytes([1, 2, 3, 4, 1, 1, 1, 1]),
        bytes([0xFE]) + b"\xff" * 7,
    ]
    outs = [data, *(b"\1\1" + number + b"\1\1" for number in shown)]
    yield one(
        "a BATCH with REFs",
        batch([NOWHERE, [ext(INOUT, data)], ENOSYS], *[show(*r) for r in references]),
        meant_batch(
            meant_step({"INOUT": data.hex()}, nr=NOWHERE, ok=ENOSYS),
            *[meant_show(*r) for r in references],
        ),
        batched(6, [DONE] * 6, 6, [o.hex() for o in outs]),
    )
    yield one(
        "a BRIEF BATCH that succeeds",
        batch(GOOD, GOOD, flags=1),
        meant_batch(MEANT_GOOD, MEANT_GOOD, flags=1),
        batched(1, [], 2),
    )
    yield one(
        "a BRIEF BATCH that fails",
        batch(GOOD, BAD, GOOD, flags=1),
        meant_batch(MEANT_GOOD, MEANT_BAD, MEANT_GOOD, flags=1),
        batched(1, [DONE, FAILED, NOT_STARTED], 1),
    )
    goes_on = meant_step(nr=NOWHERE, flags=1)
    yield one(
        "a BRIEF BATCH that goes on after a failure",
        batch([NOWHERE, [], None, 1], GOOD, flags=1),
        meant_batch(goes_on, MEANT_GOOD, flags=1),
        batched(1, [FAILED, DONE], 2),
    )
    brief = batch(flags=1)
    yield one("a BRIEF BATCH of nothing", brief, meant_batch(flags=1), batched(0, [], 0))
    given = [NOWHERE, [ext(FD, b"\0")], ENOSYS]
    meant_given = meant_step({"FD": 0}, nr=NOWHERE, ok=ENOSYS)
    reply = out(batched(2, [DONE] * 2, 2))
    sent, start = frame(batch(given, given, nfds=1)), greeting()
    understood = event(meant_batch(meant_given, meant_given, nfds=1))
    yield "a BATCH with a file descriptor", [*start, took(sent, fds=1), understood, reply, *GOODBYE]
    yield "a BATCH whose file descriptor did not come", [*start, took(sent), error("FDS", AT)]


def programs() -> Iterator[tuple[str, list[Vector]]]:
    """Batches that are prepared."""
    start = greeting()
    # One frame in each read: an answer may depend on the one before.
    shows = [NOWHERE, [struct(bytes(8), [0, 1], [0, 8]), param(0), param(1)], ENOSYS]
    meant_shows = meant_step(
        meant_struct(bytes(8), [[0, 1]], [[0, 8]]),
        {"PARAM": 0},
        {"PARAM": 1},
        nr=NOWHERE,
        ok=ENOSYS,
    )
    back = [NOWHERE, [ext(OUT, size(4))], ENOSYS], [NOWHERE, [ref(0, 0)], ENOSYS]
    meant_back = (
        meant_step({"OUT": 4}, nr=NOWHERE, ok=ENOSYS),
        meant_step({"REF": [0, 0, 8]}, nr=NOWHERE, ok=ENOSYS),
    )
    yield (
        "programs: prepared, run and forgotten",
        [
            *start,
            took(frame(prepare(shows, parameters=2, id=1))),
            event(meant_prepare(meant_shows, parameters=2, id=1)),
            out(result(1, 0)),
            took(frame(prepare(*back, id=2, flags=1))),
            event(meant_prepare(*meant_back, id=2, flags=1)),
            out(result(2, 1)),
            took(frame(run(-2, ext(IN, b"x"), id=3))),
            event(meant_run(-2, {"IN": "78"}, id=3)),
            out(batched(1, [DONE], 1, ["feffffffffffffff"], id=3)),
            took(frame(batch(BAD, id=4))),  # of another kind, in between
            event(meant_batch(MEANT_BAD, id=4)),
            out(batched(1, [FAILED], 0, id=4)),
            took(frame(run(id=5, program=1))),
            event(meant_run(id=5, program=1)),
            out(batched(1, [], 2, ["00000000"], id=5)),
            took(frame([UNPREPARE, 6, 0])),
            event({"type": "UNPREPARE", "id": 6, "program": 0}),
            out(result(6, 0)),
            took(frame([UNPREPARE, 7, 0])),
            event({"type": "UNPREPARE", "id": 7, "program": 0}),
            out(result(7, EINVAL)),
            took(frame(run(id=8, program=1))),  # which has moved
            event(meant_run(id=8, program=1)),
            out(batched(1, [], 2, ["00000000"], id=8)),
            took(frame(run(1, 2, id=9))),
            {"error": "FIELD", "offset": AT + sent(shows, back)},
        ],
    )
    kept = [took(frame(prepare(shows, parameters=2))), out(result(1, 0))]
    kept.insert(1, event(meant_prepare(meant_shows, parameters=2)))
    at = AT + len(frame(prepare(shows, parameters=2)))
    for name, args in {"too few": [1], "too many": [1, 2, 3]}.items():
        wrong = took(frame(run(*args, id=2)))
        yield f"programs: {name} arguments", [*start, *kept, wrong, error("FIELD", at)]
    given = run(ext(FD, b"\0"), 0, id=2, nfds=1)
    yield (
        "programs: a file descriptor for an argument",
        [
            *start,
            took(frame(prepare([NOWHERE, [param(0), param(1)], ENOSYS], parameters=2))),
            event(
                meant_prepare(
                    meant_step({"PARAM": 0}, {"PARAM": 1}, nr=NOWHERE, ok=ENOSYS), parameters=2
                )
            ),
            out(result(1, 0)),
            took(frame(given), fds=1),
            event(meant_run({"FD": 0}, 0, id=2, nfds=1)),
            out(batched(1, [DONE], 1, id=2)),
            *GOODBYE,
        ],
    )
    yield "programs: one that never was", [*start, took(frame(run())), error("FIELD", AT)]
    yield (
        "programs: an id, wrong, of one that never was",
        [
            *start,
            took(frame(run(id=0))),
            error("ID", AT),
        ],
    )
    yield from limits()


def sent(shows: Any, back: Any) -> int:
    """How many bytes the frames above have before the last one."""
    fields: list[Any] = [prepare(shows, parameters=2, id=1), prepare(*back, id=2, flags=1)]
    fields += [run(-2, ext(IN, b"x"), id=3), batch(BAD, id=4), run(id=5, program=1)]
    fields += [[UNPREPARE, 6, 0], [UNPREPARE, 7, 0], run(id=8, program=1)]
    return sum(len(frame(message)) for message in fields)


def limits() -> Iterator[tuple[str, list[Vector]]]:
    """Each at the limit and one past it."""
    empty = [
        took(frame(prepare(id=1))),
        event(meant_prepare(id=1)),
        out(result(1, 0)),
        took(frame(prepare(id=2))),
        event(meant_prepare(id=2)),
        out(result(2, ENOMEM)),
    ]
    again = [
        took(frame([UNPREPARE, 3, 0])),
        event({"type": "UNPREPARE", "id": 3, "program": 0}),
        out(result(3, 0)),
        took(frame(prepare(id=4))),
        event(meant_prepare(id=4)),
        out(result(4, 0)),
    ]
    yield "the limit programs", [*greeting({"programs": 1}), *empty, *again, *GOODBYE]
    none = [*empty[3:]]
    yield "the limit programs of none", [*greeting({"programs": 0}), *none, *GOODBYE]
    steps = len(pack(GOOD))
    for name, length, answer in [
        ("the limit program_bytes", 2 * steps, 0),
        ("one past the limit program_bytes", 2 * steps - 1, ENOMEM),
    ]:
        yield (
            name,
            [
                *greeting({"program_bytes": length}),
                took(frame(prepare(GOOD, id=1))),
                event(meant_prepare(MEANT_GOOD, id=1)),
                out(result(1, 0)),
                took(frame(prepare(GOOD, id=2))),
                event(meant_prepare(MEANT_GOOD, id=2)),
                out(result(2, 1 if answer == 0 else answer)),
                *GOODBYE,
            ],
        )
    few = greeting({"steps": 2})
    at = len(frame(hello(features=2, options={"limits": {"steps": 2}})))
    yield (
        "the limit steps",
        [
            *few,
            took(frame(batch(GOOD, GOOD))),
            event(meant_batch(MEANT_GOOD, MEANT_GOOD)),
            out(batched(2, [DONE] * 2, 2)),
            *GOODBYE,
        ],
    )
    over = frame(batch(GOOD, GOOD, GOOD))
    yield "one past the limit steps", [*few, took(over), error("FIELD", at)]


def refused() -> Iterator[tuple[str, list[Vector]]]:
    """What may not be sent, or not now."""
    for name, fields in {
        "BATCH": batch(),
        "PREPARE": prepare(),
        "RUN": run(),
        "UNPREPARE": [UNPREPARE, 1, 0],
        "CANCEL": [CANCEL, 1],
        "WATCH": [WATCH, 1, 0],
        "RING": [RING, 1, 4096, 0],
    }.items():
        other = greeting(features=2 if name == "RING" else 1)
        for why, start in {"any feature": HELLO_TAKEN, "its feature": other}.items():
            yield f"{name} without {why}", [*start, took(frame(fields)), error("STATE", AT)]
    yield (
        "a client that sends STALL",
        [*greeting(features=7), took(frame([STALL, 1])), error("STATE", AT)],
    )
    start = greeting(features=3)
    ring = frame([RING, 1, 4096, 0])
    for name, fields in {
        "another size": [RING, 1, 4097, 0],
        "too small a size": [RING, 1, 2048, 0],
        "too large a size": [RING, 1, 2**21, 0],
    }.items():
        yield f"RING with {name}", [*start, took(frame(fields)), error("FIELD", AT)]
    yield "RING with id 0", [*start, took(frame([RING, 0, 4096, 0])), error("ID", AT)]
    yield "RING and something more", [*start, took(ring, nothing(id=2)), error("STATE", AT)]
    yield "RING and a part of something", [*start, took(ring, b"\xce"), error("STATE", AT)]
    yield "RING twice", [*start, took(ring, frame([RING, 2, 4096, 0])), error("STATE", AT)]
    yield "RING with a file descriptor", [*start, took(ring, fds=1), error("FDS", AT)]


def stalls() -> Iterator[tuple[str, list[Vector]]]:
    """What a client must make of a STALL."""
    said = frame([STALL, 11])
    for features, after in [(3, error("STATE", AT)), (7, event({"type": "STALL", "errno": 11}))]:
        meaning = meant_hello(features=features)
        start = [out(meaning), took(frame(hello(features=features))), event(meaning)]
        yield f"client: STALL with the features {features}", [*start, took(said), after]


def clients() -> Iterator[tuple[str, list[Vector]]]:
    """What a client must make of a BATCHED, or of the answer to a RING."""
    yield from stalls()
    two = meant_batch(meant_step({"OUT": 2}, {"RET": 2}), meant_step({"INOUT": "61"}))
    brief = {**two, "flags": 1}
    ring = {"type": "RING", "id": 1, "size": 4096, "spin": 0}
    kept = meant_prepare(meant_step())
    values = bytes(16)

    def answer(name: str, asked: Vector, fields: list[Any], reply: Vector | None) -> Any:
        after = error("FIELD", AT) if reply is None else event(reply)
        name, steps = client_result(f"client: {name}", asked, fields, after)
        features = meant_hello(features=3)
        steps[:3] = [out(features), took(frame(hello(features=3))), event(features)]
        fds = fields[2] if fields[0] == RESULT else 0
        steps[4] = took(frame(fields), fds=fds)
        return name, steps

    def said(outs: list[bytes], values: bytes, statuses: bytes, stopped: int) -> Vector:
        return {
            "type": "BATCHED",
            "id": 1,
            "outs": [data.hex() for data in outs],
            "values": values.hex(),
            "statuses": statuses.hex(),
            "stopped": stopped,
        }

    outs = [b"ab", b"c", b"d"]
    for name, asked, parts in [
        ("BATCHED", two, (outs, values, b"\1\1", 2)),
        ("BATCHED, stopped at the first step", two, ([b"ab", b""], values[:8], b"\2\0", 0)),
        ("BATCHED, undone", two, (outs, values, b"\4\2", 1)),
        ("BATCHED, brief", brief, (outs, values[:8], b"", 2)),
        ("BATCHED, brief and failed", brief, (outs, values[:8], b"\1\2", 1)),
        ("BATCHED, brief with all statuses", brief, (outs, values[:8], b"\1\2", 2)),
    ]:
        yield answer(name, asked, [BATCHED, 1, *parts], said(*parts))
    for name, asked, parts in [
        ("an output too few", two, (outs[:2], values, b"\1\1", 2)),
        ("an output too many", two, ([*outs, b""], values, b"\1\1", 2)),
        ("an output of a step that was not started", two, (outs, values[:8], b"\2\0", 0)),
        ("an OUT that is short", two, ([b"a", b"", b"d"], values, b"\1\1", 2)),
        ("a RET that is long", two, ([b"ab", b"abc", b"d"], values, b"\1\1", 2)),
        ("a value too few", two, (outs, values[:8], b"\1\1", 2)),
        ("half a value", two, (outs, values[:12], b"\1\1", 2)),
        ("values of steps that were not started", two, ([b"ab", b""], values, b"\2\0", 0)),
        ("no statuses", two, (outs, values, b"", 2)),
        ("a status too few", two, (outs, values, b"\1", 2)),
        ("a status too many", two, (outs, values, b"\1\1\1", 2)),
        ("an unknown status", two, (outs, values, b"\1\6", 2)),
        ("a status of a step that was not started", two, ([b"ab", b""], values[:8], b"\2\1", 0)),
        ("more steps than there are", two, (outs, values, b"\1\1", 3)),
        ("all values, and brief", brief, (outs, values, b"", 2)),
        ("no statuses, and failed", brief, (outs, values[:8], b"", 1)),
    ]:
        yield answer(f"BATCHED with {name}", asked, [BATCHED, 1, *parts], None)
    yield answer("RESULT for a BATCH", two, [RESULT, 1, 0, 0, []], None)
    yield answer("BATCHED for a PREPARE", kept, [BATCHED, 1, [], b"", b"\0", 0], None)
    for value in (0, 2**32 - 1, ENOMEM):
        fields = [RESULT, 1, 0, value, []]
        yield answer(f"PREPARE that returns {value}", kept, fields, result(value=value))
    yield answer("PREPARE that returns 33 bits", kept, [RESULT, 1, 0, 2**32, []], None)
    yield answer("PREPARE with an output", kept, [RESULT, 1, 0, 0, [b""]], None)
    # What follows on the ring cannot be shown here.
    for name, value, fds in [("a ring", 4096, 2), ("shared memory", 4096, 0), ("none", -12, 0)]:
        good = result(value=value, nfds=fds)
        yield answer(f"RING: {name}", ring, [RESULT, 1, fds, value, []], good)
    for name, value, fds, data in [
        ("one half", 4096, 1, []),
        ("three halves", 4096, 3, []),
        ("another size", 8192, 2, []),
        ("file descriptors, and an error", -12, 2, []),
        ("an output", 4096, 2, [b""]),
    ]:
        yield answer(f"RING: {name}", ring, [RESULT, 1, fds, value, data], None)


def servers() -> Iterator[tuple[str, list[Vector]]]:
    """What a server must make of what a client sends."""
    yield from batches()
    yield from programs()
    yield from refused()

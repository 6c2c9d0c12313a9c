# pyright: basic
"""Bodies of the messages that need a feature: batches and rings, and what goes beside a ring."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bodies import (
    BATCH,
    BATCHED,
    BELL,
    CANCEL,
    ERROR,
    FD,
    FDS,
    IN,
    INOUT,
    INT64,
    OUT,
    PARAM,
    PREPARE,
    REF,
    RESULT,
    RET,
    RING,
    RUN,
    UINT32,
    UINT64,
    UNPREPARE,
    WATCH,
    Vector,
    call,
    compact,
    ext,
    meant_struct,
    pack,
    size,
    struct,
)

WHOLE = UINT32 - 1  # the offset of a REF that means the result
BATCH_BASE, BATCH_STEP, REPLY_OUT = 64, 9, 5


def ref(step: int, offset: int = WHOLE, width: int = 8) -> Any:
    """A REF."""
    return ext(REF, size(step) + size(offset) + size(width))


def param(index: int) -> Any:
    """A PARAM."""
    return ext(PARAM, bytes([index]))


def batch(*steps: object, id: object = 1, nfds: object = 0, flags: object = 0) -> Any:
    """The fields of a BATCH."""
    return [BATCH, id, nfds, flags, list(steps)]


def prepare(*steps: object, id: object = 1, parameters: object = 0, flags: object = 0) -> Any:
    """The fields of a PREPARE."""
    return [PREPARE, id, parameters, flags, list(steps)]


def run(*args: object, id: object = 1, nfds: object = 0, program: object = 0) -> Any:
    """The fields of a RUN."""
    return [RUN, id, nfds, program, list(args)]


def meant_step(
    *args: object, nr: int = 39, ok: Any = None, flags: int = 0, undo: Vector | None = None
) -> Vector:
    """A step."""
    return {"nr": nr, "args": list(args), "ok": ok, "flags": flags, "undo": undo}


def meant_batch(*steps: Vector, nfds: int = 0, flags: int = 0, id: int = 1) -> Vector:
    """A BATCH."""
    return {"type": "BATCH", "id": id, "nfds": nfds, "flags": flags, "steps": list(steps)}


def meant_prepare(*steps: Vector, parameters: int = 0, flags: int = 0, id: int = 1) -> Vector:
    """A PREPARE."""
    fields = {"id": id, "parameters": parameters, "flags": flags, "steps": list(steps)}
    return {"type": "PREPARE", **fields}


def meant_run(*args: object, nfds: int = 0, program: int = 0, id: int = 1) -> Vector:
    """A RUN."""
    return {"type": "RUN", "id": id, "nfds": nfds, "program": program, "args": list(args)}


def batches() -> Iterator[tuple[str, object, object]]:
    """Name, fields, and the message or the error."""
    yield "BATCH of nothing", batch(), meant_batch()
    yield (
        "BATCH: all numbers at their largest",
        batch([2**31 - 1, [], INT64 - 1, 1], id=2**64 - 1, nfds=253, flags=1),
        meant_batch(
            meant_step(nr=2**31 - 1, ok=INT64 - 1, flags=1), id=2**64 - 1, nfds=253, flags=1
        ),
    )
    for name, parts, meaning in [
        ("of two parts", [39, []], meant_step()),
        ("with nil for its ok", [39, [], None], meant_step()),
        ("that must return a number", [39, [], 7], meant_step(ok=7)),
        ("that must fail", [39, [], -2], meant_step(ok=-2)),
        ("that must return the smallest number", [39, [], -INT64], meant_step(ok=-INT64)),
        ("that may fail", [39, [], [2, 0, 4095]], meant_step(ok=[2, 0, 4095])),
        ("that may fail for no reason", [39, [], []], meant_step(ok=[])),
        ("that may be left", [39, [], None, 1], meant_step(flags=1)),
        ("with an undo", [39, [], None, 0, [3, [7]]], meant_step(undo={"nr": 3, "args": [7]})),
        (
            "that its undo refers to",
            [39, [], None, 0, [3, [ref(0)]]],
            meant_step(undo={"nr": 3, "args": [{"REF": [0, WHOLE, 8]}]}),
        ),
        (
            "whose undo has data",
            [39, [], None, 0, [3, [struct(bytes(8), [0, 1]), ext(IN, b"x")]]],
            meant_step(
                undo={"nr": 3, "args": [meant_struct(bytes(8), [[0, 1]]), {"IN": "78"}]},
            ),
        ),
    ]:
        yield f"BATCH: a step {name}", batch(parts), meant_batch(meaning)
    for name, first, meaning, reference in [
        ("a result", [39, []], meant_step(), [0, WHOLE, 8]),
        ("a result, as four bytes", [39, []], meant_step(), [0, WHOLE, 4]),
        ("an OUT", [39, [0, ext(OUT, size(8))]], meant_step(0, {"OUT": 8}), [0, 4, 4]),
        ("an INOUT", [39, [ext(INOUT, bytes(4))]], meant_step({"INOUT": "00000000"}), [0, 0, 8]),
    ]:
        yield (
            f"BATCH: a REF to {name}",
            batch(first, [3, [ref(*reference)]]),
            meant_batch(meaning, meant_step({"REF": reference}, nr=3)),
        )
    yield (
        "BATCH: a relocation to a REF",
        batch([39, []], [39, [struct(bytes(8), [0, 1]), ref(0)]]),
        meant_batch(
            meant_step(),
            meant_step(meant_struct(bytes(8), [[0, 1]]), {"REF": [0, WHOLE, 8]}),
        ),
    )
    plain, meant = [39, []], meant_step()
    room = 2**20 - BATCH_BASE - 2 * BATCH_STEP - REPLY_OUT
    large, larger = ([39, [ext(OUT, size(n))]] for n in (room, room + 1))
    yield (
        "BATCH: the largest reply",
        batch(plain, large),
        meant_batch(meant, meant_step({"OUT": room})),
    )
    yield "BATCH: a reply one too large", batch(plain, larger), "OVERSIZE"
    most = [plain] * 1024
    yield "BATCH: as many steps as there may be", batch(*most), meant_batch(*[meant] * 1024)
    yield "BATCH: one step too many", batch(*most, plain), "FIELD"
    yield "BATCH: one file descriptor too many", batch(nfds=254), "TOO_MANY_FDS"
    yield "BATCH with a field too few", batch()[:-1], "ARITY"
    yield "BATCH with a field too many", [*batch(), 0], "ARITY"
    amiss: dict[str, Any] = {
        "of one part": [39],
        "of six parts": [39, [], None, 0, [3, []], 0],
        "whose undo is nil": [39, [], None, 0, None],
        "whose undo has one part": [39, [], None, 0, [3]],
        "whose undo has an ok": [39, [], None, 0, [3, [], None]],
    }
    for name, parts in amiss.items():
        yield f"BATCH: a step {name}", batch(parts), "ARITY"
    yield from wrong_steps()


def wrong_steps() -> Iterator[tuple[str, object, object]]:
    """Name, fields and the error."""
    out = [39, [ext(OUT, size(8))]]
    refused: dict[str, Any] = {
        "an id that is negative": batch(id=-1),
        "an unknown flag": batch(flags=2),
        "steps that are bytes": [*batch()[:4], b""],
        "a step that is an integer": batch(39),
        "a step with a negative number": batch([-1, []]),
        "a step with arguments that are nil": batch([39, None]),
        "a step with too many arguments": batch([39, [0] * 1025]),
        "an ok of 64 bits without a sign": batch([39, [], INT64]),
        "an ok that is true": batch([39, [], True]),
        "an ok that is a string": batch([39, [], "x"]),
        "an ok with an error that is none": batch([39, [], [4096]]),
        "an ok with a negative error": batch([39, [], [-2]]),
        "an ok with an array": batch([39, [], [[]]]),
        "an unknown flag of a step": batch([39, [], None, 2]),
        "a flag of a step that is nil": batch([39, [], None, None]),
        "an undo with a negative number": batch([39, [], None, 0, [-1, []]]),
        "an undo with an OUT": batch([39, [], None, 0, [3, [ext(OUT, size(1))]]]),
        "an undo with a STRUCT that comes back": batch(
            [39, [], None, 0, [3, [struct(b"x", [], [0, 1])]]]
        ),
        "an undo that refers to a later step": batch([39, [], None, 0, [3, [ref(1)]]], [39, []]),
        "a REF to its own step": batch([39, [ref(0)]]),
        "a REF to a later step": batch([39, [ref(1)]], [39, []]),
        "a REF of a width of 2": batch(out, [3, [ref(0, 0, 2)]]),
        "a REF with a short payload": batch(out, [3, [ext(REF, bytes(11))]]),
        "a REF with a long payload": batch(out, [3, [ext(REF, bytes(13))]]),
        "a REF past the end of an OUT": batch(out, [3, [ref(0, 5)]]),
        "a REF far past the end of an OUT": batch(out, [3, [ref(0, WHOLE - 1)]]),
        "a REF into an OUT that is too small": batch([39, [ext(OUT, size(3))]], [3, [ref(0, 0)]]),
        "a REF into no output": batch([39, [ext(IN, bytes(8))]], [3, [ref(0, 0)]]),
        "a REF into a RET": batch([39, [ext(RET, size(8))]], [3, [ref(0, 0)]]),
        "a REF into a STRUCT": batch([39, [struct(bytes(8), [], [0, 8])]], [3, [ref(0, 0)]]),
        "a REF into the second output": batch(
            [39, [ext(RET, size(0)), ext(OUT, size(8))]], [3, [ref(0, 0)]]
        ),
        "a PARAM": batch([39, [param(0)]]),
        "FD without file descriptors": batch([39, [ext(FD, b"\0")]]),
        "a relocation to an integer": batch([39, [struct(bytes(8), [0, 1]), 0]]),
    }
    for name, fields in refused.items():
        yield f"BATCH: {name}", fields, "FIELD"
    deeper: list[Any] = [struct(bytes(8), [0, i + 1]) for i in range(3)]
    yield "BATCH: relocations one too deep", batch([39, [*deeper, ext(IN, b"")]]), "DEPTH"
    yield (
        "BATCH: relocations to a REF, one too deep",
        batch([39, []], [39, [*deeper, ref(0)]]),
        "DEPTH",
    )
    yield "BATCH: the first of two wrong steps", batch([39], 7), "ARITY"
    yield "CALL: a REF", call(ref(0)), "FIELD"
    yield "CALL: a PARAM", call(param(0)), "FIELD"


def programs() -> Iterator[tuple[str, object, object]]:
    """PREPARE, RUN, UNPREPARE, CANCEL and WATCH."""
    yield "PREPARE of nothing", prepare(), meant_prepare()
    yield (
        "PREPARE with parameters",
        prepare([39, [param(0), param(254)], None, 0, [3, [param(1)]]], parameters=255, flags=1),
        meant_prepare(
            meant_step({"PARAM": 0}, {"PARAM": 254}, undo={"nr": 3, "args": [{"PARAM": 1}]}),
            parameters=255,
            flags=1,
        ),
    )
    yield (
        "PREPARE: a relocation to a PARAM",
        prepare([39, [struct(bytes(8), [0, 1]), param(0)]], parameters=1),
        meant_prepare(
            meant_step(meant_struct(bytes(8), [[0, 1]]), {"PARAM": 0}),
            parameters=1,
        ),
    )
    refused: dict[str, Any] = {
        "256 parameters": prepare(parameters=256),
        "negative parameters": prepare(parameters=-1),
        "a PARAM past the last": prepare([39, [param(1)]], parameters=1),
        "a PARAM of two bytes": prepare([39, [ext(PARAM, b"\0\0")]], parameters=1),
        "an FD": prepare([39, [ext(FD, b"\0")]], parameters=1),
        "an unknown flag": prepare(flags=2),
        "steps that are a map": [*prepare()[:4], {}],
    }
    for name, fields in refused.items():
        yield f"PREPARE: {name}", fields, "FIELD"
    room = 2**20 - BATCH_BASE - BATCH_STEP - REPLY_OUT
    large, larger = ([39, [ext(RET, size(n))]] for n in (room, room + 1))
    meant = meant_prepare(meant_step({"RET": room}))
    yield "PREPARE: the largest reply of a RUN", prepare(large), meant
    yield "PREPARE: a reply one too large", prepare(larger), "OVERSIZE"
    yield "PREPARE with a field too few", prepare()[:-1], "ARITY"
    yield (
        "RUN",
        run(-1, 2**64 - 1, ext(IN, b"x"), ext(FD, b"\1"), nfds=2, program=UINT32 - 1),
        meant_run(-1, 2**64 - 1, {"IN": "78"}, {"FD": 1}, nfds=2, program=UINT32 - 1),
    )
    for name, fields in {
        "an OUT": run(ext(OUT, size(1))),
        "an INOUT": run(ext(INOUT, b"x")),
        "a STRUCT": run(struct(b"x")),
        "a REF": run(ref(0)),
        "a PARAM": run(param(0)),
        "FD without file descriptors": run(ext(FD, b"\0")),
        "a program of 33 bits": run(program=UINT32),
        "arguments that are nil": [*run()[:4], None],
    }.items():
        yield f"RUN: {name}", fields, "FIELD"
    yield "RUN: one file descriptor too many", run(nfds=254), "TOO_MANY_FDS"
    yield "RUN with a field too many", [*run(), 0], "ARITY"
    yield "UNPREPARE", [UNPREPARE, 1, 7], {"type": "UNPREPARE", "id": 1, "program": 7}
    yield "UNPREPARE: a negative program", [UNPREPARE, 1, -1], "FIELD"
    yield "UNPREPARE: a program of 33 bits", [UNPREPARE, 1, UINT32], "FIELD"
    yield "UNPREPARE with a field too many", [UNPREPARE, 1, 7, 0], "ARITY"
    yield "CANCEL", [CANCEL, 1], {"type": "CANCEL", "id": 1}
    yield "CANCEL of any id", [CANCEL, UINT64 - 1], {"type": "CANCEL", "id": UINT64 - 1}
    yield "CANCEL of a negative id", [CANCEL, -1], "FIELD"
    yield "CANCEL of no integer", [CANCEL, b""], "FIELD"
    yield "CANCEL without an id", [CANCEL], "ARITY"
    yield "CANCEL with a field too many", [CANCEL, 1, 0], "ARITY"
    yield "WATCH", [WATCH, 1, 2**31 - 1], {"type": "WATCH", "id": 1, "fd": 2**31 - 1}
    yield "WATCH of a negative descriptor", [WATCH, 1, -1], "FIELD"
    yield "WATCH of a descriptor of 32 bits", [WATCH, 1, 2**31], "FIELD"
    yield "WATCH with a field too many", [WATCH, 1, 7, 0], "ARITY"


def rings() -> Iterator[tuple[str, object, object]]:
    """RING."""
    for length in (4096, 2**20):
        meaning = {"type": "RING", "id": 1, "size": length, "spin": UINT32 - 1}
        yield f"RING of {length} bytes", [RING, 1, length, UINT32 - 1], meaning
    for length in (-4096, 0, 2048, 4095, 4097, 12288, 2**21, 2**32 + 4096):
        yield f"RING of {length} bytes", [RING, 1, length, 0], "FIELD"
    yield "RING: a size that is nil", [RING, 1, None, 0], "FIELD"
    yield "RING: a negative time to spin", [RING, 1, 4096, -1], "FIELD"
    yield "RING: a time to spin of 33 bits", [RING, 1, 4096, UINT32], "FIELD"
    yield "RING with a field too few", [RING, 1, 4096], "ARITY"


def replies() -> Iterator[tuple[str, object, object]]:
    """BATCHED."""
    meaning: Vector = {"type": "BATCHED", "id": 1, "outs": [], "values": "", "statuses": ""}
    full = {**meaning, "outs": ["61", ""], "values": "00" * 8, "statuses": "0205", "stopped": 1024}
    yield "BATCHED of nothing", [BATCHED, 1, [], b"", b"", 0], {**meaning, "stopped": 0}
    yield "BATCHED", [BATCHED, 1, [b"a", b""], bytes(8), b"\2\5", 1024], full
    wrong: dict[str, list[Any]] = {
        "an id that is nil": [None, [], b"", b"", 0],
        "outputs that are bytes": [1, b"", b"", b"", 0],
        "an output that is a string": [1, ["a"], b"", b"", 0],
        "values that are an array": [1, [], [0], b"", 0],
        "statuses that are a string": [1, [], b"", "", 0],
        "stopped past the most steps": [1, [], b"", b"", 1025],
        "stopped that is negative": [1, [], b"", b"", -1],
    }
    for name, fields in wrong.items():
        yield f"BATCHED: {name}", [BATCHED, *fields], "FIELD"
    yield "BATCHED with a field too few", [BATCHED, 1, [], b"", b""], "ARITY"


def beside() -> Iterator[tuple[str, object, object]]:
    """What goes over the socket beside a ring."""
    yield "BELL", [BELL], {"type": "BELL"}
    yield "BELL with a field", [BELL, 0], "ARITY"
    yield "FDS", [FDS, UINT32 - 1, 253], {"type": "FDS", "number": UINT32 - 1, "count": 253}
    yield "FDS: a negative number", [FDS, -1, 1], "FIELD"
    yield "FDS: a number of 33 bits", [FDS, UINT32, 1], "FIELD"
    yield "FDS: a count past the limit", [FDS, 0, 254], "FIELD"
    yield "FDS with a field too few", [FDS, 0], "ARITY"
    error = {"type": "ERROR", "code": 18, "offset": 0, "text": "why"}
    yield "ERROR beside a ring", [ERROR, 18, 0, "why"], error
    yield "RESULT beside a ring", [RESULT, 1, 0, 0, []], "STATE"
    yield "CALL beside a ring", call(), "STATE"


def vectors() -> list[Vector]:
    """All of them."""
    found: list[Vector] = []

    def add(side: str, name: str, fields: object, meaning: Any, **more: object) -> None:
        key = "error" if isinstance(meaning, str) else "message"
        body = compact(pack(fields))
        found.append({"name": name, "from": side, "body": body, **more, key: meaning})

    for side, rows in {
        "client": [*batches(), *programs(), *rings()],
        "server": [*replies()],
        "beside": [*beside()],
    }.items():
        for name, fields, meaning in rows:
            add(side, name, fields, meaning)
    for name, fields in {
        "BATCHED": [BATCHED, 1, [], b"", b"", 0],
        "BELL": [BELL],
        "FDS": [FDS, 0, 1],
    }.items():
        add("client", f"{name} from a client", fields, "STATE")
    add("server", "BATCH from a server", batch(), "STATE")
    step, meant = [39, []], meant_step()
    at = meant_batch(meant, meant)
    add("client", "at a lower limit steps", batch(step, step), at, limits={"steps": 2})
    add(
        "client",
        "one past a lower limit steps",
        batch(step, step, step),
        "FIELD",
        limits={"steps": 2},
    )
    for parameters, meaning in [(6, meant_prepare(parameters=6)), (7, "FIELD")]:
        name = f"{parameters} parameters, with a limit of 6 entries"
        add("client", name, prepare(parameters=parameters), meaning, limits={"data": 6})
    back = {"type": "FDS", "number": 0, "count": 2}
    add("beside", "FDS at a lower limit", [FDS, 0, 2], back, limits={"fds": 2})
    add("beside", "FDS one past a lower limit", [FDS, 0, 3], "FIELD", limits={"fds": 2})
    return found

"""Hypothesis strategies for what crosses the wire."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from rsyscall_protocol import (
    RESULT,
    Argument,
    Batch,
    Batched,
    BatchFlag,
    Bell,
    Bye,
    Call,
    CallFlag,
    Error,
    ErrorCode,
    Event,
    FdArg,
    Fds,
    Feature,
    Hello,
    In,
    InOut,
    Limits,
    Out,
    Param,
    Prepare,
    Read,
    Ref,
    Request,
    Result,
    Ret,
    Ring,
    Run,
    Step,
    StepFlag,
    Struct,
    Unprepare,
    Watch,
    Write,
)
from rsyscall_protocol._arguments import out_sizes
from rsyscall_protocol._constants import LIMITS

uint32s = st.integers(0, 2**32 - 1)
uint64s = st.integers(0, 2**64 - 1)
data = st.binary(max_size=40)

limits = st.builds(
    Limits, **{name: st.integers(low, high) for name, (_, low, high) in LIMITS.items()}
)


@st.composite
def structs(draw: st.DrawFn, targets: Sequence[int]) -> Struct:
    """A STRUCT that may point at the entries named."""
    content = draw(st.binary(min_size=8, max_size=40) if targets else data)
    inside = st.integers(0, max(len(content) - 8, 0))
    pairs = st.tuples(inside, st.sampled_from(targets)) if targets else st.nothing()
    relocations = draw(st.lists(pairs, max_size=3)) if targets else []
    starts = draw(st.lists(st.integers(0, len(content)), max_size=3))
    outs = [(start, draw(st.integers(0, len(content) - start))) for start in starts]
    return Struct(content, tuple(relocations), tuple(outs))


@st.composite
def references(draw: st.DrawFn, earlier: Sequence[Step]) -> Ref:
    """A REF to one of these steps."""
    index = draw(st.integers(0, len(earlier) - 1))
    outs = [arg for arg in earlier[index].args if out_sizes([arg])]
    first = outs[0] if outs and isinstance(outs[0], Out | InOut) else Out(0)
    length = out_sizes([first])[0][0]
    offset = draw(st.just(RESULT) if length < 4 else st.integers(0, length - 4) | st.just(RESULT))
    return Ref(index, offset, draw(st.sampled_from([4, 8])))


@st.composite
def arguments(
    draw: st.DrawFn,
    nfds: int,
    *,
    earlier: Sequence[Step] = (),
    parameters: int = 0,
    outputs: bool = True,
) -> tuple[Argument, ...]:
    """A flat list as it may be sent: from the last entry to the first, as relocations point.

    earlier: the steps of a batch that it may refer to. parameters: how many a prepared batch has.
    """
    plain: list[st.SearchStrategy[Any]] = [
        st.integers(-(2**63), 2**64 - 1),
        st.builds(In, data),
    ]
    if outputs:
        sizes = st.integers(0, 300)
        plain += [st.builds(Out, sizes), st.builds(Ret, sizes), st.builds(InOut, data)]
    if nfds:
        plain.append(st.builds(FdArg, st.integers(0, nfds - 1)))
    if earlier:
        plain.append(references(earlier))
    if parameters:
        plain.append(st.builds(Param, st.integers(0, parameters - 1)))
    count = draw(st.integers(0, 9))
    args: dict[int, Argument] = {}
    depth: dict[int, int] = {}
    for i in reversed(range(count)):
        targets = [k for k, d in depth.items() if 1 <= d < 3]
        arg: Argument = draw(st.one_of(*plain, structs(targets)))
        if isinstance(arg, Struct) and not outputs:
            arg = replace(arg, outs=())
        args[i] = arg
        depth[i] = 0 if isinstance(arg, int | FdArg) else 1
        if isinstance(arg, Struct):
            for _, target in arg.relocations:
                assert isinstance(target, int)
                depth[i] = max(depth[i], depth[target] + 1)
    return tuple(args[i] for i in range(count))


@st.composite
def calls(draw: st.DrawFn, ids: st.SearchStrategy[int] = uint64s, *, most_fds: int = 3) -> Call:
    """A CALL, with None for each file descriptor."""
    nfds = draw(st.integers(0, most_fds))
    flags = draw(st.sampled_from([CallFlag.NONE, CallFlag.RETURN_FD]))
    nr = draw(st.integers(0, 2**31 - 1))
    return Call(draw(ids), nr, draw(arguments(nfds)), flags, (None,) * nfds)


@st.composite
def steps(draw: st.DrawFn, nfds: int = 0, parameters: int = 0) -> tuple[Step, ...]:
    """What a batch may consist of."""
    numbers = st.integers(0, 2**31 - 1)
    errors = st.lists(st.integers(0, 4095), max_size=3)
    oks = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), errors.map(lambda e: tuple(e)))
    found: list[Step] = []
    for _ in range(draw(st.integers(0, 4))):
        args = draw(arguments(nfds, earlier=found, parameters=parameters))
        flags = draw(st.sampled_from(StepFlag))
        step = Step(draw(numbers), args, draw(oks), flags)
        if draw(st.booleans()):
            undo = arguments(nfds, earlier=[*found, step], parameters=parameters, outputs=False)
            step = replace(step, undo=(draw(numbers), draw(undo)))
        found.append(step)
    return tuple(found)


@st.composite
def batches(draw: st.DrawFn, ids: st.SearchStrategy[int] = uint64s) -> Batch:
    """A BATCH, with None for each file descriptor."""
    nfds = draw(st.integers(0, 2))
    flags = draw(st.sampled_from([BatchFlag.NONE, BatchFlag.BRIEF]))
    return Batch(draw(ids), draw(steps(nfds)), flags, (None,) * nfds)


@st.composite
def prepares(draw: st.DrawFn, ids: st.SearchStrategy[int] = uint64s) -> Prepare:
    """A PREPARE."""
    parameters = draw(st.integers(0, 3))
    flags = draw(st.sampled_from([BatchFlag.NONE, BatchFlag.BRIEF]))
    return Prepare(draw(ids), draw(steps(parameters=parameters)), parameters, flags)


@st.composite
def runs(draw: st.DrawFn, ids: st.SearchStrategy[int] = uint64s) -> Run:
    """A RUN, with None for each file descriptor, of whatever program."""
    nfds = draw(st.integers(0, 2))
    kinds: list[st.SearchStrategy[Any]] = [st.integers(-(2**63), 2**64 - 1), st.builds(In, data)]
    if nfds:
        kinds.append(st.builds(FdArg, st.integers(0, nfds - 1)))
    args = draw(st.lists(st.one_of(kinds), max_size=4))
    return Run(draw(ids), draw(uint32s), tuple(args), (None,) * nfds)


def requests(ids: st.SearchStrategy[int] = uint64s) -> st.SearchStrategy[Request]:
    """A request that needs nothing to have been before."""
    return st.one_of(
        calls(ids),
        st.builds(Read, ids, uint64s, st.integers(0, 300)),
        st.builds(Write, ids, uint64s, data),
        batches(ids),
        prepares(ids),
    )


def all_requests(ids: st.SearchStrategy[int] = uint64s) -> st.SearchStrategy[Request]:
    """Any."""
    return st.one_of(
        requests(ids),
        runs(ids),
        st.builds(Unprepare, ids, uint32s),
        st.builds(Watch, ids, st.integers(0, 2**31 - 1)),
        st.builds(Ring, ids, st.sampled_from([4096, 2**16, 2**20]), uint32s),
    )


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@st.composite
def hellos(draw: st.DrawFn) -> Hello:
    """A HELLO of either side."""
    low, high = sorted([draw(uint32s), draw(uint32s)])
    keys = texts.filter(lambda key: key != "limits")
    info = draw(st.dictionaries(keys, uint64s | texts, max_size=3))
    return Hello(low, high, Feature(draw(uint64s)), draw(limits), info)


errors = st.builds(Error, st.sampled_from(ErrorCode), uint64s, texts)
results = st.builds(
    Result,
    uint64s,
    st.integers(-(2**63), 2**63 - 1),
    st.lists(data, max_size=3).map(tuple),
    st.sampled_from([(), (None,)]),
)
batcheds = st.builds(
    Batched, uint64s, st.lists(data, max_size=3).map(tuple), data, data, st.integers(0, 1024)
)
beside = st.builds(Bell) | st.builds(Fds, uint32s, st.integers(0, 253))
events: st.SearchStrategy[Event] = st.one_of(
    hellos(), all_requests(), results, batcheds, beside, errors, st.builds(Bye)
)


# ---- bytes that are nearly right ----


@st.composite
def loose(draw: st.DrawFn, depth: int = 4) -> bytes:
    """A msgpack value, each part of it in any form that can hold it."""
    kinds = ["nil", "number", "float", "str", "bin", "ext", *["array", "map"] * (depth > 0)]
    kind = draw(st.sampled_from(kinds))
    if kind == "nil":
        return draw(st.sampled_from([b"\xc0", b"\xc2", b"\xc3"]))
    if kind == "float":
        return b"\xcb" + struct.pack(">d", draw(st.floats()))
    if kind == "number":
        exponent = draw(st.integers(0, 3))
        tag = draw(st.sampled_from([0xCC, 0xD0])) + exponent
        return bytes([tag]) + draw(st.binary(min_size=1 << exponent, max_size=1 << exponent))
    width = draw(st.sampled_from([1, 2, 4]))
    index = {1: 0, 2: 1, 4: 2}[width]
    if kind in ("str", "bin", "ext"):
        payload = draw(data)
        first = {"str": 0xD9, "bin": 0xC4, "ext": 0xC7}[kind] + index
        type_ = bytes([draw(st.integers(0, 127))]) if kind == "ext" else b""
        return bytes([first]) + len(payload).to_bytes(width, "big") + type_ + payload
    items = draw(st.lists(loose(depth - 1), max_size=4))
    if kind == "map":
        items = items[: len(items) // 2 * 2]
    count = len(items) // 2 if kind == "map" else len(items)
    width = max(width, 2)
    first = (0xDE if kind == "map" else 0xDC) + (width == 4)
    return bytes([first]) + count.to_bytes(width, "big") + b"".join(items)


@st.composite
def careless_calls(draw: st.DrawFn) -> Call:
    """A CALL whose parts are in shape but may not fit together.

    Small, so that often only one thing is wrong with it.
    """
    count, nfds = draw(st.integers(1, 4)), draw(st.integers(0, 2))
    near = st.integers(0, 2)
    pairs = st.tuples(st.tuples(st.sampled_from([0, 0, 0, 1, 2]), st.integers(0, count)))
    content = st.sampled_from([bytes(7), bytes(8), bytes(9)])
    kinds: list[st.SearchStrategy[Argument]] = [
        st.just(0),
        st.builds(In, content),
        st.builds(FdArg, near),
        st.builds(Struct, content, pairs, st.just(())),
        st.builds(Struct, st.just(bytes(2)), st.just(()), st.tuples(st.tuples(near, near))),
    ]
    args = draw(st.lists(st.one_of(kinds), min_size=count, max_size=count))
    flags = CallFlag(draw(st.sampled_from([0, 1, 0, 1, 2])))
    return Call(1, 39, tuple(args), flags, (None,) * nfds)


@st.composite
def careless_batches(draw: st.DrawFn) -> Batch | Prepare | Run:
    """A BATCH, PREPARE or RUN whose parts are in shape but may not fit together."""
    nfds, parameters = draw(st.integers(0, 1)), draw(st.integers(0, 1))
    near = st.integers(0, 2)
    offsets = st.sampled_from([RESULT, RESULT, 0, 4, 5])
    kinds: list[st.SearchStrategy[Argument]] = [
        st.just(0),
        st.builds(Ref, near, offsets, st.sampled_from([8, 4, 8, 4, 2])),
        st.builds(Param, st.integers(0, 1)),
        st.builds(FdArg, st.integers(0, 1)),
        st.builds(Out, st.sampled_from([8, 3])),
        st.builds(Ret, st.just(8)),
        st.builds(Struct, st.just(bytes(8)), st.tuples(st.tuples(st.just(0), near)), st.just(())),
        st.builds(In, st.just(b"x")),
    ]
    args = st.lists(st.one_of(kinds), max_size=3).map(tuple)
    oks = st.sampled_from([None, 0, 2**63 - 1, 2**63, -(2**63), (), (4095,), (4096,), (-1,)])
    numbers = st.sampled_from([39, 39, 39, 2**31])
    flags = st.sampled_from([0, 1, 0, 1, 2])
    undos = st.none() | st.tuples(numbers, args)
    found = draw(
        st.lists(
            st.builds(Step, numbers, args, oks, flags.map(StepFlag), undos),
            max_size=3,
        ).map(tuple)
    )
    kind = draw(st.sampled_from([Batch, Prepare, Run]))
    if kind is Run:
        return Run(1, 0, draw(args), (None,) * nfds)
    if kind is Prepare:
        return Prepare(1, found, parameters, BatchFlag(draw(flags)))
    return Batch(1, found, BatchFlag(draw(flags)), (None,) * nfds)


@st.composite
def mutated(draw: st.DrawFn, bodies: st.SearchStrategy[bytes]) -> bytes:
    """Bytes with a few changes."""
    body = bytearray(draw(bodies))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        match draw(st.sampled_from(["change", "insert", "delete", "cut"])):
            case "change" if at < len(body):
                body[at] = draw(st.integers(0, 255))
            case "insert":
                body[at:at] = draw(st.binary(min_size=1, max_size=5))
            case "delete":
                del body[at : at + draw(st.integers(1, 5))]
            case _:
                del body[at:]
    return bytes(body)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | texts | data,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)

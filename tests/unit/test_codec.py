"""The two codecs, against each other and against msgpack-python."""

from __future__ import annotations

import tracemalloc
from typing import Any, cast

import msgpack  # pyright: ignore[reportMissingTypeStubs] - it has none
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rsyscall_protocol import (
    Batch,
    Call,
    Error,
    ErrorCode,
    Event,
    Hello,
    Limits,
    MessageType,
    Prepare,
    RemoteProtocolError,
    Role,
    Run,
    decode,
    encode,
)
from rsyscall_protocol._codec import check_request as check_request_locally
from rsyscall_protocol._msgpack import scan
from strategies import (
    all_requests,
    batches,
    careless_batches,
    careless_calls,
    events,
    limits,
    loose,
    mutated,
    prepares,
    runs,
    values,
)
from wire import SENT_BY, check_request, recode

MSGPACK = cast("Any", msgpack)
FROM_CLIENT = SENT_BY[Role.CLIENT]

many = settings(deadline=None, max_examples=300)


def pack(value: object) -> bytes:
    packed: bytes = MSGPACK.packb(value)
    return packed


def as_pairs(pairs: object) -> object:
    return "map", pairs


def unpack(body: bytes) -> object:
    """By msgpack-python, with whatever can be a key, and all that can be there twice."""
    return MSGPACK.unpackb(
        body,
        strict_map_key=False,
        unicode_errors="surrogateescape",
        object_pairs_hook=as_pairs,
    )


def refusal(body: bytes) -> ErrorCode | None:
    """What the Python side has against a client's body."""
    try:
        decode(body, Limits(), FROM_CLIENT)
    except RemoteProtocolError as exc:
        return exc.code
    return None


def malformation(body: bytes) -> ErrorCode | None:
    try:
        scan(body, Limits().depth)
    except RemoteProtocolError as exc:
        return exc.code
    return None


@many
@given(events)
def test_what_is_encoded_is_decoded(event: Event) -> None:
    decoded = decode(encode(event), Limits())
    if isinstance(event, Error):  # cut to its largest size, at a whole character
        assert isinstance(decoded, Error)
        assert (decoded.code, decoded.offset) == (event.code, event.offset)
        assert event.text.startswith(decoded.text)
        assert len(decoded.text.encode()) > 250 or decoded.text == event.text
    else:
        assert decoded == event


@settings(deadline=None)
@given(limits)
def test_limits_survive_a_hello(wanted: Limits) -> None:
    hello = decode(encode(Hello(limits=wanted)), Limits())
    assert isinstance(hello, Hello)
    assert hello.limits == wanted


# A message in shape, with anything in its fields.
LIKELY: list[object] = ["rsyscall", 0, 1, b"", [], {}]
shapes = st.tuples(st.integers(0, 17), st.lists(values | st.sampled_from(LIKELY), max_size=6)).map(
    lambda shape: pack([shape[0], *shape[1]])
)


@many
@given(st.one_of(all_requests().map(encode), events.map(encode)))
def test_the_server_takes_what_is_encoded(body: bytes) -> None:
    assert check_request(body) == refusal(body)


@many
@given(st.one_of(shapes, loose(), st.binary(max_size=40)))
@example(b"\x91\xdd\xff\xff\xff\xff" + b"\x91" * 9)
@example(b"\x92\x10\x81\x90\x00")
def test_both_sides_refuse_anything_for_the_same_reason(body: bytes) -> None:
    assert check_request(body) == refusal(body)


@settings(deadline=None, max_examples=800)
@given(mutated(st.one_of(all_requests(), all_requests(), events).map(encode)))
def test_both_sides_refuse_a_changed_request_for_the_same_reason(body: bytes) -> None:
    assert check_request(body) == refusal(body)


@settings(deadline=None, max_examples=500)
@given(mutated(st.one_of(batches(), prepares(), runs()).map(encode)))
def test_both_sides_refuse_a_changed_batch_for_the_same_reason(body: bytes) -> None:
    assert check_request(body) == refusal(body)


@settings(deadline=None, max_examples=1200)
@given(st.one_of(careless_calls(), careless_batches()))
def test_both_sides_refuse_what_does_not_fit_for_the_same_reason(
    call: Call | Batch | Prepare | Run,
) -> None:
    body = encode(call)
    code = check_request(body)
    assert code == refusal(body)
    if code is None:
        check_request_locally(call, Limits())
    else:  # and the sender would have been told before
        with pytest.raises(RemoteProtocolError) as caught:
            check_request_locally(call, Limits())
        assert caught.value.code is code


@many
@given(values)
def test_the_servers_codec_reads_and_writes_what_msgpack_does(value: object) -> None:
    packed = pack(value)
    written = recode(packed)
    if malformation(packed) is ErrorCode.DEPTH:
        assert written is ErrorCode.DEPTH
    else:
        assert written == packed  # msgpack writes the shortest form


@many
@given(loose())
def test_the_servers_codec_shortens_without_a_change_of_meaning(body: bytes) -> None:
    written = recode(body)
    assert isinstance(written, bytes)
    assert len(written) <= len(body)
    # Not by ==: a NaN is not itself.
    assert repr(unpack(written)) == repr(unpack(body))
    assert recode(written) == written


@many
@given(st.one_of(mutated(loose()), st.binary(max_size=30)))
@example(b"\xd6\xff\x00\x00\x00\x00")
@example(b"\x91" * 9 + b"\xc1")
def test_form_is_judged_alike_by_both_sides_and_by_msgpack(body: bytes) -> None:
    code = malformation(body)
    written = recode(body)
    assert (written if isinstance(written, ErrorCode) else None) == code
    if code is None:
        unpack(body)  # which raises if it is not one value
    elif code is ErrorCode.TRAILING:
        with pytest.raises(MSGPACK.exceptions.ExtraData):
            unpack(body)


def test_memory_is_not_claimed_by_counts() -> None:
    """Nested arrays that each claim to hold as many items as there are bytes."""
    size = Limits().frame
    nested = b"\x96\x02" + (b"\xdd" + (size - 6000).to_bytes(4, "big")) * 900
    body = nested + b"\xc0" * (size - len(nested))
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError) as caught:
            decode(body, Limits())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code is ErrorCode.DEPTH
    assert peak < 32 * size


def test_a_large_array_is_refused_for_what_it_is() -> None:
    """Not for what the guard against such arrays makes of it."""
    body = pack([MessageType.CALL, 1, 0, 0, 39, [0] * 5000])
    assert refusal(body) is check_request(body) is ErrorCode.FIELD
    body = pack([MessageType.BYE, *[0] * 5000])
    assert refusal(body) is check_request(body) is ErrorCode.ARITY

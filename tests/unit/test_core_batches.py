"""Batches encoded by the compiled core, against the protocol's own codec."""

from __future__ import annotations

import dataclasses
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rsyscall
from rsyscall._core import Frame, encode_run, path_in, path_to_bytes
from rsyscall.batch._encode import wire_steps
from rsyscall.near.sysif import FdArg, In, InOut, Out, Ret, SyscallArgument
from rsyscall_protocol import Batch, BatchFlag, Limits, Run, Size
from rsyscall_protocol._codec import decode
from rsyscall_protocol._pending import Program

_NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.sampled_from([0, 1, 127, 128, -1, 2**32, 2**63])
_DATA = st.binary(max_size=300)
_SIZES = st.integers(0, 5000)
_PLAIN: st.SearchStrategy[SyscallArgument] = st.one_of(
    _NUMBERS,
    st.builds(In, _DATA),
    st.builds(InOut, _DATA),
    st.builds(Out, _SIZES),
    st.builds(Ret, _SIZES),
)


@st.composite
def batches(draw: st.DrawFn) -> rsyscall.Batch:
    batch = rsyscall.Batch(brief=draw(st.booleans()))
    for i in range(draw(st.integers(0, 8))):
        arguments = _PLAIN
        if i:
            arguments = arguments | st.sampled_from(list(batch.steps))
        args = draw(st.lists(arguments, max_size=6))
        batch.syscall(
            draw(st.integers(0, 2**31 - 1)),
            *args,
            on_error=draw(st.sampled_from(["stop", "continue"])),
        )
    return batch


def encoded(batch: rsyscall.Batch) -> Frame:
    frame = batch.encode()
    assert isinstance(frame, Frame)
    return frame


@given(batches(), st.integers(1, 2**64 - 1))
def test_a_batch_is_what_the_codec_makes_of_it(batch: rsyscall.Batch, id_: int) -> None:
    frame = encoded(batch)
    data = frame.data(id_)
    assert len(data) == len(frame)
    assert data[: Size.HEADER] == b"\xce" + (len(data) - Size.HEADER).to_bytes(4, "big")
    flags = BatchFlag.BRIEF if batch.brief else BatchFlag.NONE
    request = Batch(id_, wire_steps(batch), flags)
    assert decode(bytes(data[Size.HEADER :]), Limits()) == request
    program = Program(request)
    assert (frame.reserved, frame.outs) == (program.reserved, program.outs)
    assert (frame.steps, frame.brief) == (len(request.steps), batch.brief)


@given(st.lists(st.integers(-1, 20), max_size=6), st.integers(0, 16))
def test_descriptors_that_travel_with_a_batch(indexes: list[int], count: int) -> None:
    batch = rsyscall.Batch()
    batch.syscall(1, *map(FdArg, indexes))
    frame = batch.encode(count)
    if not all(0 <= index < count for index in indexes):
        assert not isinstance(frame, Frame)
        return
    assert isinstance(frame, Frame)
    request = Batch(7, wire_steps(batch), fds=(None,) * count)
    assert decode(bytes(frame.data(7)[Size.HEADER :]), Limits()) == request


@given(st.lists(_NUMBERS | _DATA, max_size=20), st.integers(0, 2**32 - 1))
def test_a_run_is_what_the_codec_makes_of_it(args: list[int | bytes], number: int) -> None:
    frame = encode_run(number, args, [], 64, False)
    assert isinstance(frame, Frame)
    given = tuple([In(arg) if isinstance(arg, bytes) else arg for arg in args])
    assert decode(bytes(frame.data(7)[Size.HEADER :]), Limits()) == Run(7, number, given)


Add = Callable[[rsyscall.Batch], object]
WRONG: Any = bytearray(b"of the wrong type")


NOT_SIMPLE: list[Add] = [
    lambda b: b.syscall(1, b.syscall(2), ok=3),
    lambda b: b.syscall(1, undo=(2,)),
    lambda b: b.syscall(1, 2**64),
    lambda b: b.syscall(1, -(2**63) - 1),
    lambda b: b.syscall(1, 1, 2, 3, 4, 5, 6, 7),
    lambda b: b.syscall(1, WRONG),
    lambda b: b.syscall(1, rsyscall.Batch().syscall(1)),
    lambda b: b.syscall(1, on_error=WRONG),
    lambda b: b.syscall(-1),
    lambda b: b.syscall(1, In(WRONG)),
    lambda b: b.syscall(1, FdArg(0)),
    lambda b: b.syscall(1, FdArg(WRONG)),
]


@pytest.mark.parametrize("add", NOT_SIMPLE)
def test_what_is_not_that_simple_is_left_to_others(add: Add) -> None:
    batch = rsyscall.Batch()
    add(batch)
    assert not isinstance(batch.encode(), Frame)


def test_steps_are_made_by_batches_only() -> None:
    for cls in (rsyscall.Step, Frame):
        with pytest.raises(TypeError):
            cls()


def test_options_that_do_not_exist_are_refused() -> None:
    batch: Any = rsyscall.Batch()
    with pytest.raises(TypeError, match="nonsense"):
        batch.getpid(nonsense=1)


def test_a_step_that_is_its_own_argument_is_found_by_the_collector() -> None:
    batch = rsyscall.Batch()
    step = batch.syscall(1)
    values: Any = [step]
    step.args = (values,)
    batch.steps.clear()
    del batch, step, values
    assert gc.collect() > 0


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        *[(In, "data", b"x"), (Out, "size", 3), (Ret, "size", 3), (InOut, "data", b"x")],
        (FdArg, "index", 3),
    ],
)
def test_arguments_are_made_as_ever(cls: Any, name: str, value: object) -> None:
    made = cls(value)
    assert made == cls(**{name: value})
    assert getattr(made, name) == value
    assert dataclasses.replace(made) == made
    for args, kwargs in (((), {}), ((value, value), {}), ((value,), {name: value})):
        with pytest.raises(TypeError):
            cls(*args, **kwargs)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, name, value)


@pytest.mark.parametrize("path", ["a", "ä", "\udcff", b"a", b"\xff", Path("a"), ""])
def test_paths_are_those_of_the_standard_library(path: str | bytes | Path) -> None:
    assert path_to_bytes(path, "path") == os.fsencode(path) + b"\0"
    assert path_in(path, "path") == In(os.fsencode(path) + b"\0")


@pytest.mark.parametrize("path", ["a\0b", b"a\0", Path("\0")])
def test_a_path_with_a_nul_is_refused(path: str | bytes | Path) -> None:
    makers: list[Callable[..., object]] = [path_to_bytes, path_in]
    for make in makers:
        with pytest.raises(ValueError, match="which: embedded null byte in"):
            make(path, "which")


def test_what_is_no_path() -> None:
    with pytest.raises(TypeError):
        path_to_bytes(WRONG, "path")
    assert path_in(5, "path") == 5
    with pytest.raises(UnicodeEncodeError):
        path_to_bytes("\ud800", "path")

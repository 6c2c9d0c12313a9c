"""Records, against the dataclasses that they stand for."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsyscall import near
from rsyscall_protocol._record import record


@record
class Ours:
    """A record."""

    first: int
    second: object = ()

    def __int__(self) -> int:
        return self.first


@dataclasses.dataclass(frozen=True, slots=True)
class Theirs:
    """A dataclass with the same fields."""

    first: int
    second: object = ()

    def __int__(self) -> int:
        return self.first


VALUES = st.tuples(st.integers(), st.integers() | st.text() | st.lists(st.integers()))


def outcome(call: Callable[[], object]) -> object:
    """What it returns, or the type of its error."""
    try:
        return call()
    except Exception as exc:
        return type(exc)


@given(VALUES, VALUES)
def test_they_are_compared_hashed_and_shown_as_dataclasses_are(
    one: tuple[int, object], two: tuple[int, object]
) -> None:
    assert (Ours(*one) == Ours(*two)) == (Theirs(*one) == Theirs(*two))
    assert (Ours(*one) != Ours(*two)) == (Theirs(*one) != Theirs(*two))
    assert outcome(lambda: hash(Ours(*one))) == outcome(lambda: hash(Theirs(*one)))
    assert repr(Ours(*one)) == repr(Theirs(*one)).replace("Theirs", "Ours")
    assert int(Ours(*one)) == int(Theirs(*one))
    ours: object = Ours(*one)
    assert ours != Theirs(*one)


@pytest.mark.parametrize("cls", [Ours, Theirs])
def test_they_cannot_be_changed(cls: Any) -> None:
    value = cls(1, second=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.first = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        del value.first
    # Python 3.11's dataclasses with slots raise a TypeError for what is no field.
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
        value.third = 3
    assert (value.first, value.second) == (1, 2)
    assert not hasattr(value, "__dict__")


@pytest.mark.parametrize("cls", [Ours, Theirs])
def test_they_are_made_taken_apart_and_copied_alike(cls: Any) -> None:
    assert cls(1) == cls(1, ()) == cls(first=1)
    for args in ((), (1, 2, 3)):
        with pytest.raises(TypeError):
            cls(*args)
    with pytest.raises(TypeError):
        cls(1, third=3)
    assert cls.__match_args__ == ("first", "second")
    value = cls(1, [2])
    assert dataclasses.replace(value, first=3) == cls(3, [2])
    with pytest.raises(TypeError):
        dataclasses.replace(value, third=3)
    assert [field.name for field in dataclasses.fields(value)] == ["first", "second"]
    assert copy.deepcopy(value) == value
    assert pickle.loads(pickle.dumps(value)) == value


def test_near_values_are_records() -> None:
    assert near.Pid(3) == near.Pid(3)
    pgid: object = near.Pgid(3)
    assert pgid != near.Pid(3)
    assert repr(near.FileDescriptor(3)) == "FileDescriptor(number=3)"
    with pytest.raises(dataclasses.FrozenInstanceError, match=r"Pid.id cannot be changed"):
        near.Pid(3).id = 4  # type: ignore[misc] # pyright: ignore - what is refused

"""Strings for execve(2), read back as the kernel would."""

from __future__ import annotations

import ctypes
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsyscall._core import environment, lay_strings
from rsyscall.child.strings import Strings

STRINGS = st.lists(st.binary(max_size=20).map(lambda data: data.replace(b"\0", b"") + b"\0"))


def pointed_at(address: int) -> list[bytes]:
    """What an array of pointers with a NULL at its end leads to."""
    found: list[bytes] = []
    while pointer := ctypes.c_uint64.from_address(address + 8 * len(found)).value:
        found.append(ctypes.string_at(pointer) + b"\0")
    return found


@given(STRINGS, STRINGS)
def test_both_arrays_lead_to_their_strings(args: list[bytes], variables: list[bytes]) -> None:
    size = len(lay_strings(args + variables, len(args), 0))
    memory = ctypes.create_string_buffer(size)
    data = lay_strings(args + variables, len(args), ctypes.addressof(memory))
    ctypes.memmove(memory, data, size)
    assert pointed_at(ctypes.addressof(memory)) == args
    assert pointed_at(ctypes.addressof(memory) + 8 * (len(args) + 1)) == variables


def test_sizes_are_known_before() -> None:
    for argv, env in ((["a", "b"], {"C": "d"}), (["a"], {}), ([], {"C": "d"}), ([], None)):
        strings = Strings(argv, env)
        data = strings.at(0x1000)
        assert len(data) == strings.size
        assert int.from_bytes(data[strings.envp - 8 : strings.envp], "little") == 0


def test_our_environment_is_that_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {b"%b=%b\0" % item for item in os.environb.items()} <= set(environment())
    monkeypatch.setenv("RSYSCALL_TEST", "x=y")
    assert b"RSYSCALL_TEST=x=y\0" in environment()
    monkeypatch.delenv("RSYSCALL_TEST")
    assert not any(item.startswith(b"RSYSCALL_TEST=") for item in environment())


def test_what_are_no_bytes_is_refused() -> None:
    with pytest.raises(TypeError, match="strings"):
        lay_strings([b"a\0", "b"], 1, 0)  # type: ignore[list-item] # that is what is tested

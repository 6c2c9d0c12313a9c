"""What is mapped here as well, found and copied: against a list that is searched from the front."""

from __future__ import annotations

import ctypes

from hypothesis import given
from hypothesis import strategies as st

from rsyscall._core import CHUNK, Here

_STARTS = st.lists(st.integers(0, 19), unique=True)


@given(_STARTS, _STARTS, st.integers(0, 2**64), st.integers(0, 40))
def test_what_is_here_is_what_was_added_and_not_removed(
    starts: list[int], removed: list[int], near: int, length: int
) -> None:
    # Every second one is as long as it can be, and all are somewhere else here.
    memory = ctypes.create_string_buffer(bytes(range(200)) * 2, 400)
    base, here, model = ctypes.addressof(memory), Here(), dict[int, int]()
    for start in starts:
        model[start * 20] = 20 if start % 2 else 13
        here.add(start * 20, model[start * 20], base + (19 - start) * 20)
    for start in removed:
        here.remove(start * 20)
        model.pop(start * 20, None)
    for address in (near % 420, near):
        expected = None
        for start, size in model.items():
            if length and start <= address and address + length <= start + size:
                expected = 380 - start + address - start
        found = here.find(address, length)
        assert found == (None if expected is None else base + expected)
        buffer = bytearray(length)
        data = here.read(address, length)
        assert here.fill(address, buffer) == (expected is not None)
        if expected is None:
            assert data is None
            assert not here.write(address, bytes(length))
            continue
        assert data == bytes(buffer) == memory.raw[expected : expected + length]
        assert here.write(address, b"\xff" * length)
        assert memory.raw[expected : expected + length] == b"\xff" * length
    here.clear()
    assert here.find(0, 1) is None


def test_what_is_no_place_or_no_room_is_left_to_who_asked() -> None:
    memory = ctypes.create_string_buffer(CHUNK + 1)
    here = Here()
    here.add(0, CHUNK + 1, ctypes.addressof(memory))
    assert here.read(-1, 1) is None
    assert here.read(2**64, 1) is None
    assert here.read(0, -1) is None
    assert not here.fill(0, memoryview(b"not to be written"))
    assert not here.fill(0, memoryview(bytearray(10))[::2])
    # More than others are to wait for is copied in pieces.
    assert here.read(1, CHUNK) == bytes(CHUNK)
    assert here.read(0, CHUNK + 1) is None
    assert not here.write(0, bytes(CHUNK + 1))

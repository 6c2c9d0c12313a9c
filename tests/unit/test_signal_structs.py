"""Signal structures, against those that C has."""

from __future__ import annotations

import ctypes
import signal
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsyscall import near
from rsyscall.signal import SA, SIG, HowSIG, Sigaction, Sighandler, Siginfo, Sigset, sigaction_call
from rsyscall.signal import signal_number as named

SIGNALS = st.sets(st.integers(1, 64))


class CSigaction(ctypes.Structure):
    """The kernel's, on x86_64."""

    _fields_ = [
        ("handler", ctypes.c_ulong),
        ("flags", ctypes.c_ulong),
        ("restorer", ctypes.c_ulong),
        ("mask", ctypes.c_uint64),
    ]


class CSiginfo(ctypes.Structure):
    _fields_ = [
        ("signo", ctypes.c_int),
        ("errno", ctypes.c_int),
        ("code", ctypes.c_int),
        ("pad", ctypes.c_int),
        ("pid", ctypes.c_int),
        ("uid", ctypes.c_uint),
        ("status", ctypes.c_int),
    ]


def test_the_signals_are_those_of_the_standard_library() -> None:
    for sig in signal.Signals:
        if sig.name not in ("SIGRTMIN", "SIGRTMAX", "SIGCLD", "SIGPOLL"):
            assert int(SIG[sig.name.removeprefix("SIG")]) == int(sig)
    assert SIG["IOT"] is SIG["ABRT"]
    assert len(SIG) == 32
    assert {how.name: how.value for how in HowSIG} == {
        how.name.removeprefix("SIG_"): how.value for how in signal.Sigmasks
    }
    assert [int(handler) for handler in (Sighandler.DFL, Sighandler.IGN)] == [
        signal.SIG_DFL,
        signal.SIG_IGN,
    ]


@given(SIGNALS)
def test_a_sigset_in_memory_has_a_bit_for_each_signal(signals: set[int]) -> None:
    ours = Sigset(signals)
    assert ours == signals
    mask = sum(1 << (sig - 1) for sig in signals)
    assert ours.to_bytes() == struct.pack("=Q", mask)
    assert Sigset.from_bytes(ours.to_bytes() + b"more") == signals
    assert len(ours.to_bytes()) == Sigset.sizeof() == 8


def test_a_sigset_is_read_as_the_kernel_writes_it_in_proc() -> None:
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if "SigIgn" in line
    ]
    ours = Sigset.from_bytes(int(line.split()[1], 16).to_bytes(8, "little"))
    for sig in signal.Signals:
        assert (sig in ours) == (signal.getsignal(sig) is signal.SIG_IGN), sig


@pytest.mark.parametrize("number", [0, -1, 65, 2**40])
def test_what_is_no_signal_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"signals: .*{number}.* is no signal"):
        Sigset([number])
    later = Sigset()
    later.add(number)
    with pytest.raises(ValueError, match="is no signal"):
        later.to_bytes()
    with pytest.raises(ValueError, match=r"signum: .* is no signal"):
        sigaction_call(number)


def test_signals_have_their_names_and_sets_are_shown_with_them() -> None:
    assert named(9) is SIG.KILL
    assert named(40) == 40
    assert repr(Sigset([SIG.TERM, 40, 1])) == "Sigset({HUP, TERM, 40})"
    assert all(isinstance(sig, SIG) for sig in Sigset([1, 2]))


@given(
    st.sampled_from(list(Sighandler)) | st.integers(2, 2**64 - 1).map(near.Address),
    st.sampled_from([flag for flag in SA if flag is not SA.RESTORER]),
    SIGNALS,
    st.none() | st.integers(0, 2**64 - 1).map(near.Address),
)
def test_a_sigaction_is_the_kernels(
    handler: Sighandler | near.Address,
    flags: SA,
    mask: set[int],
    restorer: near.Address | None,
) -> None:
    ours = Sigaction(handler, flags, mask, restorer)
    theirs = CSigaction.from_buffer_copy(ours.to_bytes())
    assert len(ours.to_bytes()) == Sigaction.sizeof() == ctypes.sizeof(CSigaction)
    assert theirs.handler == int(handler)
    assert theirs.flags == int(flags) | (0x04000000 if restorer is not None else 0)
    assert theirs.restorer == (0 if restorer is None else int(restorer))
    assert theirs.mask == sum(1 << (sig - 1) for sig in mask)
    again = Sigaction.from_bytes(bytes(theirs))
    assert again == ours
    assert repr(again) == repr(ours)


@given(
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 64),
)
def test_a_siginfo_is_cs(code: int, pid: int, uid: int, status: int, signo: int) -> None:
    ours = Siginfo(code, pid, uid, status, signo)
    theirs = CSiginfo.from_buffer_copy(ours.to_bytes())
    found = (theirs.code, theirs.pid, theirs.uid, theirs.status, theirs.signo)
    assert found == (code, pid, uid, status, signo)
    assert Siginfo.from_bytes(bytes(ours.to_bytes())) == ours
    assert Siginfo.sizeof() == len(ours.to_bytes()) == 128


def test_too_few_bytes_are_refused() -> None:
    for cls in (Sigset, Siginfo, Sigaction):
        with pytest.raises(ValueError, match=f"data: {cls.sizeof() - 1} bytes, .* has"):
            cls.from_bytes(bytes(cls.sizeof() - 1))

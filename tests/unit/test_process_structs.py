"""Structures about processes, against those that C has, and states of children against waitid."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsyscall.command import Command
from rsyscall.sched import CLONE, CpuSet
from rsyscall.signal import SIG
from rsyscall.sys.capability import CAP, CapData, CapHeader, from_uint32s, to_uint32s
from rsyscall.sys.resource import RLIM_INFINITY, RLIMIT, RUSAGE, Rlimit, Rusage
from rsyscall.sys.wait import (
    CLD,
    CalledProcessError,
    ChildState,
    IdType,
    Siginfo,
    UncleanExit,
    W,
)

CAPS = st.sets(st.sampled_from(list(CAP)))
U64 = st.integers(0, 2**64 - 1)


@given(st.sets(st.integers(0, 1023)))
def test_a_cpu_set_is_an_array_of_words(cpus: set[int]) -> None:
    ours = CpuSet(cpus)
    words = struct.unpack("=16Q", ours.to_bytes())
    assert {64 * i + bit for i in range(16) for bit in range(64) if words[i] >> bit & 1} == cpus
    assert CpuSet.from_bytes(ours.to_bytes()) == ours == cpus
    assert len(ours.to_bytes()) == CpuSet.sizeof() == 128


def test_a_cpu_set_has_no_negative_cpus_and_grows_as_a_mask() -> None:
    with pytest.raises(ValueError, match="cpus: -1 is not from 0"):
        CpuSet([-1])
    many = CpuSet([3, 5000])
    with pytest.raises(ValueError, match="cpus: 5000 is not from 0 to 1023"):
        many.to_bytes()
    assert CpuSet.from_bytes(many.to_mask()) == {3, 5000}
    assert repr(many) == "CpuSet([3, 5000])"


def test_clone_flags_that_the_standard_library_knows() -> None:
    known = {"NEWNS", "NEWUSER", "NEWPID", "FILES", "FS", "VM", "SIGHAND", "THREAD", "NEWTIME"}
    for name in known:
        if hasattr(os, f"CLONE_{name}"):  # Python 3.12
            assert int(CLONE[name]) == getattr(os, f"CLONE_{name}")
    assert int(CLONE.INTO_CGROUP) == 1 << 33
    assert int(CLONE.CLEAR_SIGHAND) == 1 << 32
    assert int(CLONE.NEWTIME) == 0x80
    assert int(CLONE.PIDFD) == 0x1000


@given(U64, U64)
def test_an_rlimit_is_two_words(cur: int, most: int) -> None:
    ours = Rlimit(cur, most)
    assert ours.to_bytes() == struct.pack("=QQ", cur, most)
    assert Rlimit.from_bytes(ours.to_bytes()) == ours
    assert (ours.cur, ours.max) == (cur, most)


def test_limits_are_those_of_the_standard_library() -> None:
    for limit in RLIMIT:
        if hasattr(resource, f"RLIMIT_{limit.name}"):
            assert limit == getattr(resource, f"RLIMIT_{limit.name}"), limit
    assert RLIM_INFINITY == 2**64 - 1
    assert resource.RUSAGE_SELF == RUSAGE.SELF
    assert resource.RUSAGE_CHILDREN == RUSAGE.CHILDREN
    with pytest.raises(ValueError, match="max: -1 is not from 0"):
        Rlimit(0, -1)


RUSAGE_FIELDS = (
    *("utime", "utime_us", "stime", "stime_us", "maxrss", "ixrss", "idrss", "isrss", "minflt"),
    *("majflt", "nswap", "inblock", "oublock", "msgsnd", "msgrcv", "nsignals", "nvcsw", "nivcsw"),
)


class CRusage(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in RUSAGE_FIELDS]


@given(st.lists(st.integers(0, 2**40), min_size=18, max_size=18), st.integers(0, 999_999))
def test_an_rusage_is_cs(fields: list[int], microseconds: int) -> None:
    fields[1] = fields[3] = microseconds
    theirs = CRusage(*fields)
    ours = Rusage.from_bytes(bytes(theirs))
    for name in ("maxrss", "minflt", "majflt", "inblock", "oublock", "nvcsw", "nivcsw"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.utime == pytest.approx(theirs.utime + microseconds / 1e6, abs=1e-3)
    assert ours.stime == pytest.approx(theirs.stime + microseconds / 1e6, abs=1e-3)
    assert len(ours.to_bytes()) == ctypes.sizeof(CRusage) == Rusage.sizeof()


@given(st.integers(0, 2**30), st.integers(0, 999_999), st.integers(0, 2**40))
def test_an_rusage_is_read_back_as_it_was(sec: int, usec: int, faults: int) -> None:
    ours = Rusage(sec + usec / 1e6, sec, faults, 2, 3, 4, 5, 6, faults)
    assert Rusage.from_bytes(ours.to_bytes()) == ours


@given(CAPS, CAPS, CAPS)
def test_capabilities_are_two_words_each(
    effective: set[CAP], permitted: set[CAP], inheritable: set[CAP]
) -> None:
    ours = CapData(effective, permitted, inheritable)
    words = struct.unpack("=6I", ours.to_bytes())
    for i, caps in enumerate((effective, permitted, inheritable)):
        assert words[i] | words[i + 3] << 32 == sum(1 << int(cap) for cap in caps)
        assert from_uint32s(*to_uint32s(caps)) == caps
    assert CapData.from_bytes(ours.to_bytes()) == ours
    assert len(ours.to_bytes()) == CapData.sizeof()


def test_a_capability_header_says_its_version() -> None:
    assert CapHeader(7).to_bytes() == struct.pack("=Ii", 0x20080522, 7)
    assert CapHeader.from_bytes(CapHeader(7).to_bytes()) == CapHeader(7) != CapHeader()
    with pytest.raises(ValueError, match="version 0x1 is not 0x20080522"):
        CapHeader.from_bytes(struct.pack("=Ii", 1, 7))
    with pytest.raises(ValueError, match="99 is not a valid CAP"):
        CapData([99])  # type: ignore[list-item] # pyright: ignore - what is refused


def test_too_few_bytes_are_refused() -> None:
    for cls in (Rlimit, Rusage, CapHeader, CapData):
        with pytest.raises(ValueError, match=f"data: {cls.sizeof() - 1} bytes, .* has"):
            cls.from_bytes(bytes(cls.sizeof() - 1))


def state_of(pid: int, options: int) -> tuple[ChildState, os.waitid_result]:
    """What becomes of a child, by the standard library, and by us from the same numbers."""
    result = os.waitid(os.P_PID, pid, options)
    assert result is not None
    siginfo = Siginfo(result.si_code, result.si_pid, result.si_uid, result.si_status)
    return ChildState.make_from_siginfo(siginfo), result


def spawn(line: str) -> int:
    return os.posix_spawn("/bin/sh", ["sh", "-c", line], {})


@pytest.mark.parametrize("status", [0, 1, 255])
def test_a_child_that_exits(status: int) -> None:
    pid = spawn(f"exit {status}")
    state, _ = state_of(pid, os.WEXITED)
    assert state == ChildState(CLD.EXITED, pid, os.getuid(), status, None)
    assert state.died()
    assert state.clean() == (status == 0)
    assert state.state(W.EXITED | W.STOPPED)
    assert not state.state(W.STOPPED | W.CONTINUED)
    assert str(state) == f"pid {pid} exited with status {status}"
    with pytest.raises(ValueError, match="no signal has killed it"):
        state.killed_with()
    if status:
        command = Command("/bin/false", ["false"])
        with pytest.raises(CalledProcessError, match=rf"^/bin/false: pid {pid} exited") as caught:
            state.check(command)
        assert (caught.value.state, caught.value.command) == (state, command)
        with pytest.raises(UncleanExit, match=r"^the child: pid"):
            state.check()
    else:
        state.check()


def test_a_child_that_is_stopped_continued_and_killed() -> None:
    pid = spawn("kill -STOP $$; kill -TERM $$")
    state, _ = state_of(pid, os.WSTOPPED)
    assert (state.code, state.sig, state.exit_status) == (CLD.STOPPED, SIG.STOP, None)
    assert not state.died()
    assert not state.clean()
    assert state.state(W.STOPPED)
    assert not state.state(W.EXITED | W.CONTINUED)
    state.check()
    assert str(state) == f"pid {pid} was stopped by SIGSTOP"
    os.kill(pid, signal.SIGCONT)
    state, _ = state_of(pid, os.WEXITED)
    assert (state.code, state.sig) == (CLD.KILLED, SIG.TERM)
    assert state.died()
    assert state.killed_with() is SIG.TERM
    assert str(state) == f"pid {pid} was killed by SIGTERM"
    with pytest.raises(CalledProcessError, match="was killed by SIGTERM"):
        state.check()


def test_a_child_that_goes_on() -> None:
    state = ChildState.make(CLD.CONTINUED, 5, 0, SIG.CONT)
    assert state.state(W.CONTINUED)
    assert not state.state(W.EXITED | W.STOPPED)
    assert str(state) == "pid 5 goes on"
    assert ChildState.make(CLD.DUMPED, 5, 0, 40).core_dumped()
    assert ChildState.make(CLD.DUMPED, 5, 0, 40).killed_with() == 40
    assert str(ChildState.make(CLD.DUMPED, 5, 0, 40)).endswith(
        "killed by signal 40 and dumped core"
    )


def test_a_child_whose_end_nobody_has_seen() -> None:
    state = ChildState.make(CLD.UNKNOWN, 5, 0, 0)
    assert state.died()
    assert not state.clean()
    assert state.sig is state.exit_status is None
    assert str(state) == "pid 5 has ended, and its status is unknown"
    with pytest.raises(UncleanExit):
        state.check()
    with pytest.raises(ValueError, match="no signal has killed it"):
        state.killed_with()


def test_nothing_is_no_state() -> None:
    assert ChildState.parse(bytes(128)) is None
    state = ChildState.make(CLD.KILLED, 5, 6, SIG.HUP)
    assert ChildState.parse(Siginfo(CLD.KILLED, 5, 6, SIG.HUP).to_bytes()) == state
    with pytest.raises(ValueError, match="does not tell of a child"):
        ChildState.make_from_siginfo(Siginfo.from_bytes(bytes(128)))


def test_the_options_are_those_of_the_standard_library() -> None:
    for name in ("EXITED", "STOPPED", "CONTINUED", "NOHANG", "NOWAIT"):
        assert int(W[name]) == getattr(os, f"W{name}")
    for code in set(CLD) - {CLD.UNKNOWN}:
        assert int(code) == getattr(os, f"CLD_{code.name}")
    for kind in IdType:
        assert int(kind) == getattr(os, f"P_{kind.name}")
    assert (int(W.ALL), int(W.CLONE), int(W.NOTHREAD)) == (0x40000000, 0x80000000, 0x20000000)

"""Structures as other machines have them, against ctypes and what is known of those machines."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rsyscall
from rsyscall import near
from rsyscall.abi import ABI, NATIVE, Layout
from rsyscall.netinet.in_ import SockaddrIn, SockaddrIn6
from rsyscall.sched import CpuSet
from rsyscall.signal import SA, SIG, Sigaction, Sighandler, Siginfo, Sigset
from rsyscall.struct import FixedSize, Int32, Int64, Serializable, Struct, StructList, bits
from rsyscall.sys.capability import CAP, CapData, CapHeader
from rsyscall.sys.epoll import EPOLL, EpollEvent, EpollEventList
from rsyscall.sys.inotify import IN, InotifyEvent, InotifyEventList
from rsyscall.sys.resource import Rlimit, Rusage
from rsyscall.sys.signalfd import SignalfdSiginfo
from rsyscall.sys.socket import SockaddrStorage
from rsyscall.sys.stat import S_IF, Mode, Stat, TypeMode
from rsyscall.sys.un import SockaddrUn
from rsyscall.time import Itimerspec, Timespec

#: There is no such machine.
ODD = ABI("odd", "big", 4, 8)
AARCH64 = ABI("aarch64", "little")
X86_64 = ABI("x86_64", "little")
I386 = ABI("i686", "little", 4, 4)

STAT = Stat(
    dev=1,
    ino=2,
    mode=TypeMode(S_IF.REG, Mode(0o640)),
    nlink=3,
    uid=4,
    gid=5,
    rdev=6,
    size=7,
    blksize=8,
    blocks=9,
    atime=Timespec(10, 11),
    mtime=Timespec(-12, 13),
    ctime=Timespec(14, 15),
)
VALUES: list[Serializable] = [
    STAT,
    Rlimit(1, 2**64 - 1),
    Rusage(1.25, 2.5, 3, 4, 5, 6, 7, 8, 9),
    Itimerspec(Timespec(1, 2), Timespec(3, 4)),
    EpollEvent(2**64 - 2, EPOLL.IN | EPOLL.ET),
    EpollEventList([EpollEvent(1, EPOLL.OUT), EpollEvent(2, EPOLL.HUP)]),
    InotifyEventList([InotifyEvent(near.WatchDescriptor(3), IN.CREATE, 4, "name")]),
    Siginfo(1, 2, 3, -4),
    SignalfdSiginfo(SIG.INT, -1, 2, 3, 4, -5),
    Sigset([SIG.HUP, SIG.CHLD, 64]),
    Sigaction(near.Address(0x1000), SA.SIGINFO, [SIG.INT, 40], near.Address(0x2000)),
    Sigaction(Sighandler.IGN),
    CapHeader(7),
    CapData([CAP.CHOWN], [CAP.SYS_ADMIN, CAP.BPF], []),
    CpuSet([0, 31, 32, 63, 64, 1000]),
    SockaddrIn(80, "127.0.0.1"),
    SockaddrIn6(80, "::1", 2, 3),
    SockaddrUn("/run/socket"),
    SockaddrStorage(16, bytes(range(126))),
    Int32(-5),
    Int64(2**40),
]

_TYPES = {
    "i8": ctypes.c_int8,
    "u8": ctypes.c_uint8,
    "i16": ctypes.c_int16,
    "u16": ctypes.c_uint16,
    "i32": ctypes.c_int32,
    "u32": ctypes.c_uint32,
    "i64": ctypes.c_int64,
    "u64": ctypes.c_uint64,
}
_WORDS = {
    4: {"long": ctypes.c_int32, "ulong": ctypes.c_uint32, "pointer": ctypes.c_uint32},
    8: {"long": ctypes.c_int64, "ulong": ctypes.c_uint64, "pointer": ctypes.c_uint64},
}
_BASES = {"little": ctypes.LittleEndianStructure, "big": ctypes.BigEndianStructure}


@given(st.data(), st.sampled_from(["little", "big"]), st.sampled_from([4, 8]), st.booleans())
def test_layouts_are_those_of_ctypes(
    data: st.DataObject, order: str, long: int, packed: bool
) -> None:
    kinds = data.draw(st.lists(st.sampled_from([*_TYPES, *_WORDS[4]]), min_size=1, max_size=12))
    types = [{**_TYPES, **_WORDS[long]}[kind] for kind in kinds]
    values = [
        data.draw(st.integers(-(2 ** (8 * ctypes.sizeof(kind) - 1)), -1))
        if kind(-1).value < 0
        else data.draw(st.integers(0, 2 ** (8 * ctypes.sizeof(kind)) - 1))
        for kind in types
    ]
    namespace: dict[str, object] = {"_pack_": 1} if packed else {}
    namespace["_fields_"] = [(f"f{i}", kind) for i, kind in enumerate(types)]
    theirs: Any = type("theirs", (_BASES[order],), namespace)
    prefix = "packed " if packed else ""
    layout = Layout("it", prefix + ", ".join(f"{kind} f{i}" for i, kind in enumerate(kinds)))
    abi = ABI("none", order, long)
    assert layout.size(abi) == ctypes.sizeof(theirs)
    made = theirs(*values)
    assert layout.pack(abi, *values) == bytes(made)
    assert layout.unpack(abi, bytes(made)) == tuple(values)


@pytest.mark.parametrize("abi", [ODD, AARCH64, X86_64, I386], ids=lambda abi: abi.machine)
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_is_written_for_a_machine_is_read_for_it(value: Serializable, abi: ABI) -> None:
    data = value.to_bytes_for(abi)
    assert type(value).from_bytes_for(data, abi) == value
    if isinstance(value, FixedSize) and not isinstance(value, SockaddrUn):
        assert len(data) == value.sizeof_for(abi)
    if abi is ODD and len(data) > 1:
        assert data != value.to_bytes()


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_without_a_machine_it_is_ours(value: Serializable) -> None:
    assert value.to_bytes() == value.to_bytes_for(NATIVE)
    assert type(value).from_bytes(value.to_bytes()) == value


#: As their kernels have them.
SIZES: list[tuple[type[FixedSize], dict[str, int]]] = [
    (Stat, {"x86_64": 144, "aarch64": 128}),
    (EpollEvent, {"x86_64": 12, "aarch64": 16, "i686": 12}),
    (Rusage, {"x86_64": 144, "aarch64": 144, "i686": 72}),
    (Siginfo, {"x86_64": 128, "aarch64": 128, "i686": 128}),
    (Sigaction, {"x86_64": 32, "aarch64": 32, "i686": 20}),
    (SignalfdSiginfo, {"x86_64": 128, "aarch64": 128, "i686": 128}),
    (CapData, {"x86_64": 24, "aarch64": 24, "i686": 24}),
    (Itimerspec, {"x86_64": 32, "aarch64": 32, "i686": 32}),
]


@pytest.mark.parametrize(("cls", "sizes"), SIZES)
def test_known_sizes(cls: type[FixedSize], sizes: dict[str, int]) -> None:
    known = {abi.machine: abi for abi in (X86_64, AARCH64, I386)}
    assert {machine: cls.sizeof_for(known[machine]) for machine in sizes} == sizes


def test_words_of_a_set() -> None:
    big = ABI("none", "big", 8)
    assert Sigset([SIG.HUP, 64]).to_bytes_for(big) == bytes([0x80, 0, 0, 0, 0, 0, 0, 1])
    assert Sigset([SIG.HUP, 64]).to_bytes_for(ODD) == bytes([0, 0, 0, 1, 0x80, 0, 0, 0])


def test_ours_is_what_python_says_of_this_machine() -> None:
    assert NATIVE.machine == os.uname().machine
    assert NATIVE.byteorder == sys.byteorder
    assert NATIVE.long == ctypes.sizeof(ctypes.c_long)
    assert NATIVE.align64 == ctypes.alignment(ctypes.c_uint64)


def test_what_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="size: 4294967296 does not fit into a long of struct st"):
        replace(STAT, size=2**32).to_bytes_for(ODD)
    with pytest.raises(ValueError, match="value: -2147483649 does not fit into a i32 of int32_t"):
        Int32(-(2**31) - 1).to_bytes()
    with pytest.raises(ValueError, match="data: 3 bytes, int32_t has 4"):
        Int32.from_bytes(bytes(3))
    with pytest.raises(ValueError, match="byteorder: 'middle'"):
        ABI("none", "middle")


async def test_memory_of_a_task_has_the_abi_of_the_task() -> None:
    async with rsyscall.open_process() as process:
        process.task.abi = ODD
        for value in VALUES:
            pointer = await process.ptr(value)
            raw = await process.task.sysif.read_memory(pointer.near, pointer.size())
            assert raw.startswith(value.to_bytes_for(ODD))
            assert await pointer.read() == value
            if isinstance(value, FixedSize):
                room = await process.malloc(type(value))
                assert room.size() == type(value).sizeof_for(ODD)
        array = StructList(Rusage, [Rusage(*range(9)), Rusage(*range(1, 10))])
        all_of_them = await process.ptr(array)
        assert all_of_them.size() == 2 * Rusage.sizeof_for(ODD)
        assert await all_of_them.read() == array


async def test_a_structure_that_knows_no_machines_is_the_same_on_all() -> None:
    class Pair(Struct):
        def to_bytes(self) -> bytes:
            return b"ab"

        @classmethod
        def from_bytes(cls, data: bytes) -> Pair:
            assert data == b"ab"
            return cls()

        @classmethod
        def sizeof(cls) -> int:
            return 2

    async with rsyscall.open_process() as process:
        process.task.abi = ODD
        assert isinstance(await (await process.ptr(Pair())).read(), Pair)
        assert (await process.malloc(Pair)).size() == 2


@given(st.sets(st.integers(0, 200)))
def test_bits(found: set[int]) -> None:
    n = sum(1 << at for at in found)
    assert list(bits(n, one_indexed=False)) == sorted(found)
    assert list(bits(n)) == [at + 1 for at in sorted(found)]
    with pytest.raises(ValueError, match="n: -1 is negative"):
        bits(-1)


@pytest.mark.parametrize(
    ("value", "sec", "nsec"),
    [
        (1.5, 1, 500_000_000),
        (-0.25, -1, 750_000_000),
        (0.9999999999, 1, 0),
        (Decimal("3.1"), 3, 10**8),
    ],
)
def test_seconds_as_a_structure(value: float | Decimal, sec: int, nsec: int) -> None:
    made = Timespec.from_float(value)
    assert made == Timespec(sec, nsec)
    assert Timespec.from_float(made) is made
    assert Timespec.from_bytes(made.to_bytes()) == made

"""Seeds for the fuzzers: what our own encoder makes, and what it would not."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from frames import frame
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import (
    Batch,
    Batched,
    BatchFlag,
    Bell,
    Bye,
    Call,
    CallFlag,
    Cancel,
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
    Stall,
    Step,
    StepFlag,
    Struct,
    Unprepare,
    Watch,
    Write,
    encode,
)
from rsyscall_protocol._msgpack import ExtType, pack

DATA, FDS, TRUNCATED, OTHER_CONTROL, AGAIN, INTERRUPTED, RESET = range(7)
PUBLISH, READ_ALL, SET_TAIL, SET_HEAD, SET_PARKED, SPOIL = range(7, 13)
GREETED, IN_PROCESS, SLOW, BROKEN, REFUSED, IDLE, SHARED, NO_RING = (1 << n for n in range(8))

VECTOR = Struct(bytes(32), ((0, 6), (16, 7)), ((8, 8), (24, 8)))
MESSAGE = Struct(bytes(56), ((16, 6),), ((48, 4),))

#: Every kind of ok, of flag and of undo; references to results and into outputs.
STEPS = (
    Step(SYS.memfd_create, (In(b"x\0"), 1), undo=(SYS.close, (Ref(0),))),
    Step(SYS.getsockopt, (3, 1, 17, Out(12), InOut(b"\x0c\0\0\0"))),
    Step(SYS.kill, (Ref(1, 0), 0), ok=(1, 3), flags=StepFlag.CONTINUE),
    Step(SYS.ppoll, (Struct(bytes(8), ((0, 3),)), 1, 0, Ref(0, width=4)), ok=1),
    Step(SYS.close, (Ref(0),), ok=-9, undo=(SYS.getpid, ())),
)

EVENTS: list[Event] = [
    Hello(),
    Hello(1, 3, Feature(7), Limits(frame=4096, depth=6, data=6, fds=0, outstanding=1, window=8192)),
    Hello(info={"arch": "x86_64", "page_size": 4096, "pid": 7, "more": "text" * 50}),
    Call(1, SYS.getpid),
    Call(2, SYS.openat, (-100, In(b"/etc/hostname\0"), 0x80000, 0), CallFlag.RETURN_FD),
    Call(3, SYS.read, (5, Ret(100), 100)),
    Call(4, SYS.uname, (Out(390),)),
    Call(5, SYS.getsockopt, (3, 1, 17, Out(12), InOut(b"\x0c\0\0\0"))),
    Call(6, SYS.writev, (1, VECTOR, 2, 0, 0, 0, In(b"one"), In(b"two"))),
    Call(7, SYS.recvmsg, (3, MESSAGE, 0, 0, 0, 0, Struct(bytes(16), ((0, 7),)), Out(64))),
    Call(8, SYS.dup3, (FdArg(0), FdArg(1), 0), CallFlag.RETURN_FD, (None,) * 2),
    Call(9, SYS.close, (2**64 - 1,)),
    Call(10, SYS.close_range, (3, 0xFFFFFFFF, 4)),
    Call(11, SYS.memfd_create, (In(b"x\0"), 1), CallFlag.RETURN_FD),
    Call(12, SYS.memfd_create, (In(b"y\0"), 1)),
    Call(13, 2**31 - 1, (-1, -(2**63), 2**64 - 1, 0, 0, 0, Out(0), In(b""))),
    Read(20, 4096, 100),
    Read(21, 0, 0),
    Write(22, 4096, b"data"),
    Batch(30, STEPS),
    Batch(31, STEPS[1:2], BatchFlag.BRIEF),
    Batch(32, (Step(SYS.dup, (FdArg(0),)), Step(SYS.getpid, (), 7)), fds=(None,)),
    Batch(33, ()),
    Prepare(34, (*STEPS, Step(SYS.write, (Param(0), Param(1), Param(2)))), 3, BatchFlag.BRIEF),
    Prepare(35, STEPS[:1]),
    Run(36, 0, (1, In(b"text"), 4)),
    Run(37, 1),
    Unprepare(38, 0),
    Run(39, 1),
    Unprepare(40, 0),
    Watch(41, 5),
    Watch(42, 6),
    Cancel(42),
    Write(2**64 - 1, 2**64 - 1, b""),
    Error(ErrorCode.INTERNAL, 12, "why"),
    Ring(50, 4096, 20),
    Result(1, -14),
    Batched(1, (b"out",), bytes(8), b"\1", 1),
    Bell(),
    Fds(0, 1),
    Cancel(36),
    Stall(1),
    Bye(),
]

ODD: list[bytes] = [
    b"",
    b"\xc1",
    b"\x91" * 20,
    b"\xdd\xff\xff\xff\xff\x02",
    b"\x96\x02\x01\x00\x00\x27\xdd\xff\xff\xff\xff",
    b"\x96\x02\x01\x00\x00\x27\xc6\xff\xff\xff\xff",
    pack([2, 1, 0, 0, 39, [ExtType(4, b"\x93\xc4\x00\x91\x90\x90")]]),
    pack([2, 1, 0, 0, 39, [1.5, None, True, "text", b"bytes", {0: 1}, [0]]]),
    pack([1, "rsyscall", 1, 1, 0, {"limits": {"frame": 2**64 - 1}, "x": {"y": [{"z": 1}]}}]),
    pack([2, 1, 0, 0, 39, [ExtType(4, pack([bytes(8), [1, 1], []])), ExtType(1, b"")]]),
    pack([2, 1, 0, 0, 39, [ExtType(4, pack([bytes(8), [], [1, 8]]))]]),
    pack([11, 1, 0, 0, [[39, [ExtType(7, bytes(12))]]]]),
    pack([11, 1, 0, 0, [[39, [], 0, 0, [39, [ExtType(2, bytes(4))]]], [39]]]),
    pack([13, 1, 255, 0, [[39, [ExtType(8, b"\xff")]]]]),
    pack([99]),
    pack({1: 2}),
]


def bodies() -> Iterator[bytes]:
    yield from (encode(event) for event in EVENTS)
    yield from ODD


def piece(data: bytes, event: int = DATA, fds: int = 0) -> bytes:
    """What one read brings, as fuzz_session.c takes it."""
    counted = event in (FDS, TRUNCATED)
    return struct.pack("<HB", len(data), event) + bytes([fds] if counted else []) + data


def sessions() -> Iterator[bytes]:
    requests = [event for event in EVENTS if isinstance(event, Request)]
    pieces = [
        piece(frame(encode(request)), FDS, len(request.fds))
        if isinstance(request, Call | Batch | Run) and request.fds
        else piece(frame(encode(request)))
        for request in requests
    ]
    stream = frame(encode(Hello())) + frame(encode(Call(1, SYS.getpid))) + frame(encode(Bye()))
    end = piece(frame(encode(Bye())))
    for flags in 0, IN_PROCESS, SLOW, BROKEN, IDLE:
        yield bytes([flags | GREETED]) + b"".join(pieces) + end
        yield bytes([flags | GREETED]) + b"".join(pieces)
        yield bytes([flags]) + piece(stream)
        yield bytes([flags]) + b"".join(piece(bytes([byte])) for byte in stream)
    yield bytes([REFUSED]) + piece(stream)
    call, duplicate = (
        frame(encode(requests[0])),
        frame(encode(Call(1, SYS.dup, (FdArg(0),), fds=(1,)))),
    )
    small = Hello(limits=Limits(frame=4096, outstanding=1, window=8192))
    many = [frame(encode(Call(n, SYS.uname, (Out(4000),)))) for n in range(1, 9)]
    yield bytes([SLOW]) + piece(frame(encode(small)) + b"".join(many))
    yield bytes([GREETED]) + piece(duplicate[:1], FDS, 1) + piece(duplicate[1:], FDS, 1) + end
    yield bytes([GREETED]) + piece(call + duplicate[:3], FDS, 1) + piece(duplicate[3:] + call)
    yield (
        bytes([GREETED])
        + piece(call[:5], FDS, 253)
        + piece(call[5:7], FDS, 253)
        + piece(call, FDS, 9)
    )
    for event in TRUNCATED, OTHER_CONTROL, AGAIN, INTERRUPTED, RESET:
        yield bytes([GREETED]) + piece(call[:4], event, 3) + piece(call[4:])
    yield from (bytes([GREETED]) + piece(frame(body)) for body in bodies() if body)
    yield from rings(b"".join(frame(encode(request)) for request in requests))


def rings(stream: bytes) -> Iterator[bytes]:
    """Sessions that go on in shared memory with these requests, and what the client does there."""
    ring = piece(frame(encode(Ring(50, 4096, 20))))
    asked = [frame(encode(Call(n, SYS.memfd_create, (In(b"x\0"), 1)))) for n in range(51, 60)]
    back = frame(encode(Call(60, SYS.memfd_create, (In(b"x\0"), 1), CallFlag.RETURN_FD)))
    given = frame(encode(Call(61, SYS.dup, (FdArg(0),), fds=(None,))))
    batch = frame(encode(Batch(62, STEPS)))
    large = frame(encode(Call(63, SYS.uname, (In(bytes(6000)), Out(9000)))))
    bye = piece(frame(encode(Bye())), PUBLISH)
    read, bell = piece(b"", READ_ALL), piece(frame(encode(Bell())))
    packet = piece(frame(encode(Fds(0, 1))), FDS, 1)
    most = piece(large[:4096], PUBLISH) + piece(large[4096:], PUBLISH) + read * 4

    def number(event: int, n: int) -> bytes:
        return piece(b"", event) + struct.pack("<I", n)

    good = [
        b"".join(piece(call, PUBLISH) for call in asked) + read + bye + read,
        piece(b"".join(asked), PUBLISH) + bye + read,
        piece(back, PUBLISH) + packet + piece(given, PUBLISH) + read + bye + read,
        number(SET_PARKED, 3) + piece(batch, PUBLISH) + bell + read + number(SET_PARKED, 4) + most,
        most + bye + read * 2,
    ]
    bad = [
        piece(given, PUBLISH),
        packet + packet + packet,
        piece(frame(encode(Fds(1, 1))), FDS, 1),
        number(SET_TAIL, 2**32 - 1),
        number(SET_HEAD, 9000) + piece(asked[0], PUBLISH),
        piece(asked[0], PUBLISH) + piece(b"", SPOIL) + b"\xff",
        piece(frame(encode(Error(ErrorCode.RING, 0, "nonsense")))),
        piece(stream[:4096], PUBLISH),
    ]
    for flags in 0, SHARED, SLOW, BROKEN, IDLE, SHARED | IN_PROCESS:
        yield from (bytes([GREETED | flags]) + ring + rest for rest in (*good, *bad))
    yield from (bytes([GREETED | NO_RING, n]) + ring + ring + good[0] for n in range(1, 8))
    yield bytes([GREETED]) + piece(frame(encode(Ring(50, 4096, 20))) + asked[0])


def write(directory: Path, seeds: Iterator[bytes]) -> int:
    """One file each; returns how many."""
    directory.mkdir()
    count = 0
    for count, seed in enumerate(seeds, 1):
        (directory / f"{count:03}").write_bytes(seed)
    return count

"""What is said through /dev/fuse: there and back, and what is refused."""

from __future__ import annotations

import copy
import errno
import itertools
import os
import pickle
import re
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsyscall.abi import ABI
from rsyscall.fcntl import O
from rsyscall.linux import fuse
from rsyscall.linux.dirent import DT
from rsyscall.linux.fuse import (
    FOPEN,
    FUSE_ATTR,
    FUSE_GETATTR,
    FUSE_INIT,
    FUSE_OPCODE,
    FUSE_OPEN,
    FUSE_READ,
    FUSE_RELEASE,
    FuseIn,
    FuseInHeader,
    FuseInList,
    FuseOtherOp,
    FuseOut,
    FuseOutHeader,
    fuse_in_parse_split,
)
from rsyscall.struct import Portable, Struct
from rsyscall.sys.stat import S_IF, Mode, TypeMode
from rsyscall.time import Timespec

BIG = ABI("s390x", "big")
U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
NANOSECONDS = st.integers(0, 999_999_999)
TIMES = st.builds(Timespec, st.integers(-(2**63), 2**63 - 1), NANOSECONDS)
VALID = st.builds(Timespec, U64, NANOSECONDS)
NAMES = (
    st.binary(min_size=1, max_size=40)
    .map(lambda name: name.replace(b"\0", b"x").replace(b"/", b"y"))
    .map(os.fsdecode)
)
FLAGS = U32.map(O)
# The first says whether there is a second number.
INIT_FLAGS = st.one_of(
    st.integers(0, 2**30 - 1), U64.map(lambda bits: bits | FUSE_INIT.INIT_EXT)
).map(FUSE_INIT)
MODES = st.builds(
    TypeMode, st.sampled_from(sorted(set(S_IF) - {S_IF.MT})), st.integers(0, 0o7777).map(Mode)
)
ATTRS = st.builds(
    fuse.FuseAttr,
    *(U64, U64, U64, TIMES, TIMES, TIMES, MODES, U32, U32, U32, U32, U32, U32.map(FUSE_ATTR)),
)
ENTRIES = st.builds(fuse.FuseEntryOut, U64, U64, VALID, VALID, ATTRS)
DIRENTS = st.builds(fuse.FuseDirent, U64, U64, st.sampled_from(DT), NAMES)
READ_INS = st.builds(fuse.FuseReadIn, U64, U64, U32, U32.map(FUSE_READ), FLAGS, U64)
OPEN_INS = st.builds(fuse.FuseOpenIn, FLAGS, U32.map(FUSE_OPEN))
RELEASE_INS = st.builds(fuse.FuseReleaseIn, U64, FLAGS, U32.map(FUSE_RELEASE), U64)
OPEN_OUTS = st.builds(fuse.FuseOpenOut, U64, U32.map(FOPEN))

IN_STRUCTS: dict[type[FuseIn], st.SearchStrategy[Any]] = {
    fuse.FuseInitOp: st.builds(fuse.FuseInitIn, U32, U32, U32, INIT_FLAGS),
    fuse.FuseLookupOp: NAMES,
    fuse.FuseOpenOp: OPEN_INS,
    fuse.FuseOpendirOp: OPEN_INS,
    fuse.FuseReadOp: READ_INS,
    fuse.FuseReaddirOp: READ_INS,
    fuse.FuseReaddirplusOp: READ_INS,
    fuse.FuseGetattrOp: st.builds(fuse.FuseGetattrIn, U32.map(FUSE_GETATTR), U64),
    fuse.FuseFlushOp: st.builds(fuse.FuseFlushIn, U64, U64),
    fuse.FuseReleaseOp: RELEASE_INS,
    fuse.FuseReleasedirOp: RELEASE_INS,
    fuse.FuseGetxattrOp: st.builds(fuse.FuseGetxattrIn, NAMES, U32),
}
OUT_STRUCTS: dict[type[FuseOut], st.SearchStrategy[Any]] = {
    fuse.FuseInitResponse: st.builds(
        fuse.FuseInitOut, U32, U32, U32, INIT_FLAGS, U16, U16, U32, U32, U16, U16
    ),
    fuse.FuseLookupResponse: ENTRIES,
    fuse.FuseOpenResponse: OPEN_OUTS,
    fuse.FuseOpendirResponse: OPEN_OUTS,
    fuse.FuseReadResponse: st.binary(),
    fuse.FuseReaddirResponse: st.lists(DIRENTS, max_size=5),
    fuse.FuseReaddirplusResponse: st.lists(
        st.builds(fuse.FuseDirentplus, ENTRIES, DIRENTS), max_size=5
    ),
    fuse.FuseGetattrResponse: st.builds(fuse.FuseAttrOut, VALID, ATTRS),
    fuse.FuseReadlinkResponse: NAMES,
    fuse.FuseGetxattrResponse: st.builds(fuse.FuseGetxattrOut, NAMES),
    fuse.FuseOtherResponse: st.binary(),
}
IN_HEADERS = st.builds(FuseInHeader, U64, U64, U32, U32, U32)
SUCCESSES = st.builds(FuseOutHeader, st.just(0), U64)
ERRORS = st.builds(FuseOutHeader, st.integers(-511, -1), U64)
#: What has no class of its own.
OTHERS = set(FUSE_OPCODE) - {cls.opcode for cls in IN_STRUCTS} - {FUSE_OPCODE.READLINK}


@st.composite
def others(draw: st.DrawFn) -> FuseOtherOp:
    data = draw(st.binary())
    extensions = draw(st.integers(0, len(data) // 8))
    hdr = FuseInHeader(*draw(st.tuples(U64, U64, U32, U32, U32)), extensions)
    opcodes = st.sampled_from(sorted(OTHERS)) | st.integers(53, 2**32 - 1).map(FUSE_OPCODE)
    if extensions:
        opcodes |= st.sampled_from(FUSE_OPCODE)
    return FuseOtherOp(hdr, draw(opcodes), data)


REQUESTS: st.SearchStrategy[FuseIn] = st.one_of(
    st.builds(fuse.FuseReadlinkOp, IN_HEADERS),
    others(),
    *[st.builds(cls, IN_HEADERS, msg) for cls, msg in IN_STRUCTS.items()],
)
BARE = [
    fuse.FuseErrorResponse,
    fuse.FuseFlushResponse,
    fuse.FuseReleaseResponse,
    fuse.FuseReleasedirResponse,
]
REPLIES: st.SearchStrategy[FuseOut] = st.one_of(
    *[st.builds(cls, SUCCESSES | ERRORS) for cls in BARE],
    *[st.builds(cls, SUCCESSES, msg) for cls, msg in OUT_STRUCTS.items()],
)


@given(REQUESTS, st.binary())
def test_requests_are_read_back_as_they_were(request: FuseIn, more: bytes) -> None:
    data = request.to_bytes()
    assert FuseIn.from_bytes(data) == type(request).from_bytes(data) == request
    assert fuse_in_parse_split(data + more) == (request, more)
    assert int.from_bytes(data[:4], sys.byteorder) == len(data)
    big = request.to_bytes_for(BIG)
    assert FuseIn.from_bytes_for(big, BIG) == request
    assert int.from_bytes(big[:4]) == len(big)
    if isinstance(request, Struct):
        assert len(data) == request.sizeof()
    if not isinstance(request, FuseOtherOp):
        assert request.from_header(request.hdr, request.msg_to_bytes()) == request


@given(st.lists(REQUESTS, max_size=4), st.data())
def test_a_list_of_requests(requests: list[FuseIn], draw: st.DataObject) -> None:
    data = FuseInList(requests).to_bytes()
    assert FuseInList.from_bytes(data) == requests
    ends = list(itertools.accumulate([len(one.to_bytes()) for one in requests], initial=0))
    cut = draw.draw(st.integers(0, len(data)))
    if cut in ends:
        assert FuseInList.from_bytes(data[:cut]) == requests[: ends.index(cut)]
    else:
        with pytest.raises(ValueError, match=r"^data: "):
            FuseInList.from_bytes(data[:cut])


@given(REPLIES)
def test_replies_are_read_back_as_they_were(reply: FuseOut) -> None:
    data = reply.to_bytes()
    assert type(reply).from_bytes(data) == reply
    assert type(reply).from_bytes_for(reply.to_bytes_for(BIG), BIG) == reply
    assert int.from_bytes(data[:4], sys.byteorder) == len(data)
    if isinstance(reply, Struct):
        assert len(data) == reply.sizeof()
    assert type(reply).from_header(reply.hdr, reply.msg_to_bytes()) == reply
    unknown = FuseOut.from_bytes(data)
    if reply.hdr.error:
        assert unknown == fuse.FuseErrorResponse(reply.hdr)
    else:
        assert unknown == fuse.FuseOtherResponse(reply.hdr, reply.msg_to_bytes())
    for wrong in (data[:-1], data + b"x"):
        with pytest.raises(ValueError, match=rf"^data: {len(wrong)} bytes, "):
            FuseOut.from_bytes(wrong)


@given(st.one_of(*OUT_STRUCTS.values(), *IN_STRUCTS.values()))
def test_structures_are_read_back_as_they_were(value: Any) -> None:
    if not isinstance(value, Portable):
        return
    data = value.to_bytes()
    assert type(value).from_bytes(data) == value
    if isinstance(value, Struct):
        assert len(data) == value.sizeof()
        assert type(value).from_bytes(data + b"more") == value
        with pytest.raises(ValueError, match=rf"^data: .* bytes, struct .* has {len(data)}$"):
            type(value).from_bytes(data[:-1])


def test_an_attr_out_is_read_from_what_has_no_header() -> None:
    attr = fuse.FuseAttrOut.from_bytes(bytes(fuse.FuseAttrOut.sizeof()))
    assert fuse.FuseAttrOut.from_header(attr.to_bytes()) == attr


@given(st.one_of(DIRENTS, st.builds(fuse.FuseDirentplus, ENTRIES, DIRENTS)))
def test_an_entry_of_a_directory_has_steps_of_eight_bytes(
    entry: fuse.FuseDirent | fuse.FuseDirentplus,
) -> None:
    data = entry.to_bytes()
    assert len(data) % 8 == 0
    assert type(entry).from_bytes(data + b"more") == (entry, len(data))
    with pytest.raises(ValueError, match=r"^data: "):
        type(entry).from_bytes(data[:-1])


@given(REQUESTS | REPLIES, st.data())
def test_what_is_damaged_is_refused_or_something_else(
    message: FuseIn | FuseOut, draw: st.DataObject
) -> None:
    """Never is there another error, and what is accepted can be said again."""
    data = bytearray(message.to_bytes())
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    cls = FuseIn if isinstance(message, FuseIn) else type(message)
    try:
        found: FuseIn | FuseOut = cls.from_bytes(bytes(data))
    except ValueError as exc:
        assert re.match(r"(data|hdr): ", str(exc))  # noqa: PT017 - there may be none
    else:
        assert type(found).from_bytes(found.to_bytes()) == found


HDR = FuseInHeader(7, 1, 0, 0, 1)


def request(opcode: int, data: bytes, *, extensions: int = 0) -> bytes:
    """As the kernel would send it."""
    head = struct.pack("=IIQQIIIHH", 40 + len(data), opcode, 7, 1, 0, 0, 1, extensions, 0)
    return head + data


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "data: 0 bytes, struct fuse_in_header has 40"),
        (bytes(39), "data: 39 bytes, struct fuse_in_header has 40"),
        (bytes(40), "data: len 0 of struct fuse_in_header, which has 40 itself"),
        (request(5, b"")[:4] + bytes(3), "data: 7 bytes, struct fuse_in_header has 40"),
        (request(5, b"xy")[:-1], "data: 41 bytes, this request, by its header, has 42"),
        (request(5, b"") + b"x", "data: 41 bytes, the request, by its header, has 40"),
        (request(5, b"x"), "data: 1 bytes, what follows the header of READLINK has 0"),
        (request(14, bytes(7)), "data: 7 bytes, struct fuse_open_in has 8"),
        (request(14, bytes(9)), "data: 9 bytes, struct fuse_open_in has 8"),
        (request(26, bytes(15)), "data: 15 bytes, struct fuse_init_in has 64"),
        (request(26, bytes(63)), "data: 63 bytes, struct fuse_init_in has 64"),
        (request(1, b""), "data: the name does not end with its first NUL"),
        (request(1, b"a"), "data: the name does not end with its first NUL"),
        (request(1, b"a\0b\0"), "data: the name does not end with its first NUL"),
        (request(22, bytes(7)), "data: 7 bytes, struct fuse_getxattr_in has 8"),
        (request(22, bytes(8)), "data: the name of the attribute does not end with its first NUL"),
        (
            request(8, bytes(15), extensions=2),
            "data: 15 bytes behind the header, the extensions alone have 16",
        ),
    ],
)
def test_what_is_no_request_is_refused(data: bytes, error: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
        FuseIn.from_bytes(data)


def test_another_request_than_was_meant() -> None:
    with pytest.raises(ValueError, match=r"^data: READLINK is a FuseReadlinkOp, not a FuseOpenOp$"):
        fuse.FuseOpenOp.from_bytes(request(5, b""))
    with pytest.raises(TypeError, match="which opcode"):
        FuseOtherOp.from_header(HDR, b"")


def test_init_of_kernels_of_any_age() -> None:
    old = fuse.FuseInitOp(HDR, fuse.FuseInitIn(7, 35, 4096, FUSE_INIT.ASYNC_READ))
    new = struct.pack("=5I", 7, 45, 4096, 1 | 1 << 30, 2)
    first = FuseIn.from_bytes(request(26, new[:4] + struct.pack("=3I", 35, 4096, 1)))
    assert first == old
    for more in (0, 64):
        found = FuseIn.from_bytes(request(26, new + bytes(44 + more)))
        assert isinstance(found, fuse.FuseInitOp)
        assert found.msg.minor == 45
        every = FUSE_INIT.ASYNC_READ | FUSE_INIT.INIT_EXT | FUSE_INIT.HAS_INODE_DAX
        assert found.msg.flags == every
    with pytest.raises(ValueError, match=r"^flags: .* has more than 32 bits, and not INIT_EXT$"):
        fuse.FuseInitIn(7, 38, 0, FUSE_INIT.SECURITY_CTX).to_bytes()


def test_a_request_with_extensions_is_left_as_it_is() -> None:
    data = request(14, bytes(16), extensions=1)
    found = FuseIn.from_bytes(data)
    assert found == FuseOtherOp(FuseInHeader(7, 1, 0, 0, 1, 1), FUSE_OPCODE.OPEN, bytes(16))
    assert found.to_bytes() == data


def test_an_opcode_that_is_not_known() -> None:
    found, rest = fuse_in_parse_split(request(1000, b"what") + b"more")
    assert isinstance(found, FuseOtherOp)
    assert (found.opcode, found.opcode.name, found.data) == (1000, "UNKNOWN_1000", b"what")
    assert rest == b"more"
    assert found.expects_reply
    assert found.error(errno.ENOSYS).to_bytes() == struct.pack("=IiQ", 16, -errno.ENOSYS, 7)
    assert found.respond(b"so").to_bytes() == struct.pack("=IiQ", 18, 0, 7) + b"so"
    assert found.respond(b"so", errno.EIO).to_bytes() == struct.pack("=IiQ", 16, -errno.EIO, 7)
    assert copy.deepcopy(found) == pickle.loads(pickle.dumps(found)) == found
    for wrong in (-1, 2**32):
        with pytest.raises(ValueError, match="is not a valid FUSE_OPCODE"):
            FUSE_OPCODE(wrong)


def test_what_is_not_answered() -> None:
    silent = {one for one in FUSE_OPCODE if not FuseOtherOp(HDR, one, b"").expects_reply}
    assert {one.name for one in silent} == {"FORGET", "BATCH_FORGET", "INTERRUPT", "NOTIFY_REPLY"}


LOOKUP = fuse.FuseLookupOp(HDR, "name")
ENTRY = fuse.FuseEntryOut.from_bytes(bytes(fuse.FuseEntryOut.sizeof()))


def test_an_error_is_an_errno_of_either_sign_and_nothing_else() -> None:
    sent = struct.pack("=IiQ", 16, -errno.ENOENT, 7)
    for error in (errno.ENOENT, -errno.ENOENT):
        assert LOOKUP.error(error).to_bytes() == sent
        assert LOOKUP.respond(ENTRY, error=error).to_bytes() == sent
        assert fuse.FuseFlushOp(HDR, fuse.FuseFlushIn(1, 2)).respond(error).to_bytes() == sent
    for wrong in (512, -512):
        with pytest.raises(ValueError, match=f"^error: {wrong} is no errno"):
            LOOKUP.error(wrong)
    for wrong in (1, -512):
        with pytest.raises(ValueError, match=f"^error: {wrong} is not from -511 to 0$"):
            fuse.FuseErrorResponse(FuseOutHeader(wrong, 7)).to_bytes()
        with pytest.raises(ValueError, match=f"^data: error {wrong} of struct fuse_out_header is"):
            FuseOut.from_bytes(struct.pack("=IiQ", 16, wrong, 7))
    with pytest.raises(ValueError, match=r"^hdr: an error, ENOENT: that is a FuseErrorResponse$"):
        fuse.FuseLookupResponse.from_bytes(sent)


READ = fuse.FuseReadIn(1, 0, 100, FUSE_READ.NONE, O.RDONLY)


def test_no_more_is_answered_than_was_asked_for() -> None:
    read = fuse.FuseReadOp(HDR, READ)
    assert read.respond(bytes(100)).msg == bytes(100)
    with pytest.raises(ValueError, match=r"^msg: 101 bytes, 100 were asked for$"):
        read.respond(bytes(101))
    assert len(read.respond(bytes(101), errno.EIO).to_bytes()) == 16


def test_entries_that_find_room() -> None:
    entries = [fuse.FuseDirent(n, n, DT.REG, "x" * n) for n in (8, 16, 24)]  # of 32, 40, 48 bytes
    readdir = fuse.FuseReaddirOp(HDR, READ)
    assert readdir.respond(entries).msg == entries[:2]
    assert readdir.respond(entries[2:]).msg == entries[2:]
    assert readdir.respond([]).to_bytes() == readdir.error(0).to_bytes()
    assert readdir.respond(entries, errno.EIO).to_bytes() == readdir.error(errno.EIO).to_bytes()
    with pytest.raises(ValueError, match=r"^msg: the first entry has 104 bytes, the room is 100$"):
        readdir.respond([fuse.FuseDirent(1, 1, DT.REG, "x" * 80)])
    more = [fuse.FuseDirentplus(ENTRY, entry) for entry in entries]  # 128 bytes more, each
    for size, n in ((160, 1), (327, 1), (328, 2), (1000, 3)):
        msg = fuse.FuseReadIn(1, 0, size, FUSE_READ.NONE, O.RDONLY)
        assert fuse.FuseReaddirplusOp(HDR, msg).respond(more).msg == more[:n]


@pytest.mark.parametrize("name", ["", "a/b", "a\0b"])
def test_what_is_no_name_in_a_directory(name: str) -> None:
    with pytest.raises(ValueError, match=r"^name: .* is no name in a directory$"):
        fuse.FuseDirent(1, 1, DT.REG, name).to_bytes()
    data = struct.pack("=QQII", 1, 1, len(name), 8) + os.fsencode(name)
    with pytest.raises(ValueError, match=r"^data: .* is no name in a directory$"):
        fuse.FuseDirent.from_bytes(data + bytes(-len(data) % 8))


def test_types_that_are_not_known() -> None:
    data = struct.pack("=QQII", 1, 1, 1, 14) + b"x".ljust(8, b"\0")
    assert fuse.FuseDirent.from_bytes(data)[0].type is DT.UNKNOWN
    attr = struct.pack("=6Q10I", *[0] * 9, 0o070644, *[0] * 6)
    with pytest.raises(ValueError, match=r"^data: mode 0o70644 of struct fuse_attr has no type"):
        fuse.FuseAttr.from_bytes(attr)


def test_an_extended_attribute() -> None:
    def asked(size: int) -> fuse.FuseGetxattrOp:
        return fuse.FuseGetxattrOp(HDR, fuse.FuseGetxattrIn("user.name", size))

    assert asked(0).respond("value").to_bytes()[16:] == struct.pack("=II", 5, 0)
    assert asked(5).respond("value").to_bytes()[16:] == b"value"
    assert asked(9).respond(os.fsdecode(b"\0\xff")).to_bytes()[16:] == b"\0\xff"
    assert asked(4).respond("value").to_bytes() == asked(4).error(errno.ERANGE).to_bytes()
    assert asked(0).respond("value", errno.EIO).to_bytes() == asked(4).error(errno.EIO).to_bytes()


def test_the_target_of_a_link_has_no_nul() -> None:
    readlink = fuse.FuseReadlinkOp(HDR)
    assert readlink.respond(Path("/a/b")).to_bytes()[16:] == b"/a/b"
    with pytest.raises(ValueError, match=r"^msg: .* has a NUL in it$"):
        readlink.respond("a\0b").to_bytes()
    with pytest.raises(ValueError, match=r"^data: the target of the link has a NUL in it$"):
        fuse.FuseReadlinkResponse.from_bytes(struct.pack("=IiQ", 17, 0, 7) + b"\0")


def test_what_does_not_fit_is_named() -> None:
    for make, error in (
        (lambda: fuse.FuseOpenOut(-1, FOPEN.NONE), "fh: -1"),
        (lambda: fuse.FuseInitOut(7, 38, 0, FUSE_INIT.NONE, 2**16, 0, 0, 0), "max_background: 65"),
        (lambda: fuse.FuseAttrOut(Timespec(-1, 0), ENTRY.attr), "attr_valid: -1"),
        (lambda: fuse.FuseGetxattrIn("a", 2**32), "size: 4294967296"),
        (lambda: fuse.FuseLookupOp(FuseInHeader(-1, 1, 0, 0, 0), "a"), "unique: -1"),
        (lambda: fuse.FuseLookupOp(FuseInHeader(1, 1, 0, 0, 0, 1), "a"), "data: 2 bytes behind"),
        (lambda: fuse.FuseErrorResponse(FuseOutHeader(0, 2**64)), "unique: 18446744073709551616"),
    ):
        with pytest.raises(ValueError, match=f"^{error}"):
            make().to_bytes()
    for name in (fuse.FuseLookupOp(HDR, "a\0b"), fuse.FuseGetxattrIn("a\0b")):
        with pytest.raises(ValueError, match=r"^(name|data): embedded null byte"):
            name.to_bytes()

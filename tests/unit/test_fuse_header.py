"""Numbers and structures of FUSE against the kernel's header, as the C compiler has them."""

from __future__ import annotations

import enum
import subprocess
from pathlib import Path

import pytest

from rsyscall.fcntl import O
from rsyscall.linux import fuse
from rsyscall.linux.dirent import DT
from rsyscall.struct import Portable
from rsyscall.sys.stat import S_IF, Mode, TypeMode
from rsyscall.time import Timespec

PREFIXES: dict[type[enum.IntEnum | enum.IntFlag], str] = {
    fuse.FUSE_INIT: "FUSE_",
    fuse.FUSE_ATTR: "FUSE_ATTR_",
    fuse.FUSE_GETATTR: "FUSE_GETATTR_",
    fuse.FUSE_OPEN: "FUSE_OPEN_",
    fuse.FUSE_READ: "FUSE_READ_",
    fuse.FUSE_WRITE: "FUSE_WRITE_",
    fuse.FUSE_RELEASE: "FUSE_RELEASE_",
    fuse.FOPEN: "FOPEN_",
    fuse.FUSE_OPCODE: "FUSE_",
}
#: What is newer than Debian 12, with the minor version that has it.
NEWER = {"FUSE_STATX": 39}


def test_the_numbers_are_those_of_the_header(tmp_path: Path) -> None:
    lines = ["#include <linux/fuse.h>"]
    for cls, prefix in PREFIXES.items():
        for name, one in cls.__members__.items():
            if name != "NONE":
                check = f'_Static_assert({prefix}{name} == {int(one)}ull, "{name}");'
                minor = NEWER.get(prefix + name, 0)
                lines += [f"#if FUSE_KERNEL_MINOR_VERSION >= {minor}", check, "#endif"]
    for name in ("FUSE_KERNEL_VERSION", "FUSE_ROOT_ID", "FUSE_MIN_READ_BUFFER"):
        lines.append(f'_Static_assert({name} == {getattr(fuse, name)}, "{name}");')
    minor = fuse.FUSE_KERNEL_MINOR_VERSION
    lines.append(f'_Static_assert(FUSE_KERNEL_MINOR_VERSION >= {minor}, "minor");')
    source = tmp_path / "check.c"
    source.write_text("\n".join(lines) + "\n")
    subprocess.run(["gcc", "-std=c11", "-fsyntax-only", source], check=True)


BEFORE_1970 = Timespec(-2, 0x11121314)
VALID = Timespec(2**63 + 3, 0x21222324)
OTHER_VALID = Timespec(2**63 + 4, 0x31323334)
ATTR = fuse.FuseAttr(
    ino=0x0102030405060708,
    size=0x1112131415161718,
    blocks=0x2122232425262728,
    atime=BEFORE_1970,
    mtime=Timespec(-3, 0x41424344),
    ctime=Timespec(0x5152535455565758, 0x61626364),
    mode=TypeMode(S_IF.REG, Mode(0o644)),
    nlink=0x71727374,
    uid=0x81828384,
    gid=0x91929394,
    rdev=0xA1A2A3A4,
    blksize=0xB1B2B3B4,
    flags=fuse.FUSE_ATTR.DAX,
)
C_ATTR = (
    "{.ino = 0x0102030405060708, .size = 0x1112131415161718, .blocks = 0x2122232425262728,"
    ".atime = -2ull, .mtime = -3ull, .ctime = 0x5152535455565758, .atimensec = 0x11121314,"
    ".mtimensec = 0x41424344, .ctimensec = 0x61626364, .mode = 0100644, .nlink = 0x71727374,"
    ".uid = 0x81828384, .gid = 0x91929394, .rdev = 0xA1A2A3A4, .blksize = 0xB1B2B3B4,"
    ".flags = FUSE_ATTR_DAX}"
)
ENTRY = fuse.FuseEntryOut(0x0102030405060708, 0x1112131415161718, VALID, OTHER_VALID, ATTR)
C_ENTRY = (
    "{.nodeid = 0x0102030405060708, .generation = 0x1112131415161718,"
    ".entry_valid = (1ull << 63) + 3, .entry_valid_nsec = 0x21222324,"
    f".attr_valid = (1ull << 63) + 4, .attr_valid_nsec = 0x31323334, .attr = {C_ATTR}}}"
)
DIRENT = fuse.FuseDirent(0x0102030405060708, 0x1112131415161718, DT.LNK, "a name")
C_DIRENT = "{.ino = 0x0102030405060708, .off = 0x1112131415161718, .type = 10, .namelen = 6}"
C_IN = (
    ".unique = 0x0102030405060708, .nodeid = 0x1112131415161718, .uid = 0x21222324,"
    ".gid = 0x31323334, .pid = 0x41424344, .total_extlen = 1"
)
IN = fuse.FuseInHeader(
    0x0102030405060708, 0x1112131415161718, 0x21222324, 0x31323334, 0x41424344, 1
)
FLAGS = fuse.FUSE_INIT.ASYNC_READ | fuse.FUSE_INIT.INIT_EXT | fuse.FUSE_INIT.HAS_INODE_DAX
C_FLAGS = ".flags = FUSE_ASYNC_READ | FUSE_INIT_EXT, .flags2 = FUSE_HAS_INODE_DAX >> 32"

#: Each structure: in C, as bytes of ours, and what follows it in those.
STRUCTURES: dict[str, tuple[str, Portable | bytes, bytes]] = {
    "attr": (C_ATTR, ATTR, b""),
    "entry_out": (C_ENTRY, ENTRY, b""),
    "attr_out": (
        f"{{.attr_valid = (1ull << 63) + 3, .attr_valid_nsec = 0x21222324, .attr = {C_ATTR}}}",
        fuse.FuseAttrOut(VALID, ATTR),
        b"",
    ),
    "open_out": (
        "{.fh = 0x0102030405060708, .open_flags = FOPEN_DIRECT_IO}",
        fuse.FuseOpenOut(0x0102030405060708, fuse.FOPEN.DIRECT_IO),
        b"",
    ),
    "init_out": (
        "{.major = 7, .minor = 38, .max_readahead = 0x01020304, .max_background = 0x0506,"
        ".congestion_threshold = 0x0708, .max_write = 0x11121314, .time_gran = 0x21222324,"
        f".max_pages = 0x3132, .map_alignment = 0x4142, {C_FLAGS}}}",
        fuse.FuseInitOut(
            *(7, 38, 0x01020304, FLAGS, 0x0506, 0x0708, 0x11121314, 0x21222324, 0x3132, 0x4142)
        ),
        b"",
    ),
    "init_in": (
        f"{{.major = 7, .minor = 38, .max_readahead = 0x01020304, {C_FLAGS}}}",
        fuse.FuseInitIn(7, 38, 0x01020304, FLAGS),
        b"",
    ),
    "open_in": (
        "{.flags = O_RDWR | O_APPEND, .open_flags = FUSE_OPEN_KILL_SUIDGID}",
        fuse.FuseOpenIn(O.RDWR | O.APPEND, fuse.FUSE_OPEN.KILL_SUIDGID),
        b"",
    ),
    "read_in": (
        "{.fh = 0x0102030405060708, .offset = 0x1112131415161718, .size = 0x21222324,"
        ".read_flags = FUSE_READ_LOCKOWNER, .lock_owner = 0x3132333435363738, .flags = O_RDWR}",
        fuse.FuseReadIn(
            *(0x0102030405060708, 0x1112131415161718, 0x21222324),
            *(fuse.FUSE_READ.LOCKOWNER, O.RDWR, 0x3132333435363738),
        ),
        b"",
    ),
    "getattr_in": (
        "{.getattr_flags = FUSE_GETATTR_FH, .fh = 0x0102030405060708}",
        fuse.FuseGetattrIn(fuse.FUSE_GETATTR.FH, 0x0102030405060708),
        b"",
    ),
    "flush_in": (
        "{.fh = 0x0102030405060708, .lock_owner = 0x1112131415161718}",
        fuse.FuseFlushIn(0x0102030405060708, 0x1112131415161718),
        b"",
    ),
    "release_in": (
        "{.fh = 0x0102030405060708, .flags = O_RDWR, .release_flags = FUSE_RELEASE_FLUSH,"
        ".lock_owner = 0x1112131415161718}",
        fuse.FuseReleaseIn(0x0102030405060708, O.RDWR, fuse.FUSE_RELEASE.FLUSH, 0x1112131415161718),
        b"",
    ),
    "getxattr_in": ("{.size = 0x01020304}", fuse.FuseGetxattrIn("abc", 0x01020304), b"abc\0"),
    "getxattr_out": ("{.size = 5}", fuse.FuseGetxattrOut("value", only_size=True), b""),
    "dirent": (C_DIRENT, DIRENT.to_bytes(), b"a name\0\0"),
    "direntplus": (
        f"{{.entry_out = {C_ENTRY}, .dirent = {C_DIRENT}}}",
        fuse.FuseDirentplus(ENTRY, DIRENT).to_bytes(),
        b"a name\0\0",
    ),
    "in_header": (
        f"{{.len = 48, .opcode = FUSE_MKDIR, {C_IN}}}",
        fuse.FuseOtherOp(IN, fuse.FUSE_OPCODE.MKDIR, b"12345678"),
        b"12345678",
    ),
    "out_header": (
        "{.len = 16, .error = -2, .unique = 0x0102030405060708}",
        fuse.FuseErrorResponse(fuse.FuseOutHeader(-2, 0x0102030405060708)),
        b"",
    ),
}


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Each of them as a C program has it in its memory."""
    directory = tmp_path_factory.mktemp("fuse")
    shown = [
        f"struct fuse_{name} {name} = {value}; show(&{name}, sizeof {name});"
        for name, (value, _, _) in STRUCTURES.items()
    ]
    source = directory / "show.c"
    source.write_text(
        "#include <fcntl.h>\n#include <stdio.h>\n#include <linux/fuse.h>\n"
        "static void show(const void *data, size_t size) {\n"
        '  for (size_t i = 0; i < size; i++) printf("%02x", ((const unsigned char *)data)[i]);\n'
        '  puts("");\n}\n'
        "int main(void) {\n" + "\n".join(shown) + "\n}\n"
    )
    program = directory / "show"
    subprocess.run(["gcc", "-std=gnu11", "-o", program, source], check=True)
    done = subprocess.run([program], check=True, capture_output=True, text=True)
    return dict(zip(STRUCTURES, map(bytes.fromhex, done.stdout.split()), strict=True))


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_is_cs(name: str, in_c: dict[str, bytes]) -> None:
    _, ours, rest = STRUCTURES[name]
    data = ours if isinstance(ours, bytes) else ours.to_bytes()
    assert data.hex(" ") == (in_c[name] + rest).hex(" ")

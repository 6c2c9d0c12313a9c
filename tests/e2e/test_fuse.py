"""File systems that are served from here, and what other programs find in them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

import rsyscall
from conformance.ways import WAYS
from e2e.servers import missing
from rsyscall.epoller import AsyncFileDescriptor
from rsyscall.fcntl import O
from rsyscall.linux import fuse
from rsyscall.linux.dirent import DT
from rsyscall.linux.fuse import FUSE_INIT, FUSE_OPCODE, FuseIn, FuseOut
from rsyscall.sched import CLONE
from rsyscall.sys.mount import MS, UMOUNT
from rsyscall.sys.stat import S_IF, Mode, TypeMode
from rsyscall.sys.syscall import SYS
from rsyscall.time import Timespec

SOON = 30
MAX_WRITE = 65536
ROOM = MAX_WRITE + 4096
DEVICE = Path("/dev/fuse")
HAS_DEVICE = DEVICE.exists()
HELLO = b"hello, world\n" * 1000
VALUE = "value" * 40
MODIFIED = Timespec(-86400, 5)  # on the last day of 1969
TYPES = {bytes: S_IF.REG, str: S_IF.LNK, dict: S_IF.DIR}
#: Files are bytes, links are strings, and directories have nodes by their names.
NODES: dict[int, bytes | str | dict[str, int]] = {
    1: {"hello": 2, "link": 3, "many": 4, "denied": 5, "stuck": 6, "xattrs": 7},
    2: HELLO,
    3: "hello",
    4: {f"entry {n:04}": 1000 + n for n in range(1000)},
    5: b"",
    6: b"never seen",
    7: b"",
    **{1000 + n: bytes(n) for n in range(1000)},
}


@dataclass
class Double:
    """A file system that is in a table.

    flags: what it takes of what the kernel offers. memory: whether it has requests and replies in
    memory of the process.
    """

    flags: FUSE_INIT = FUSE_INIT.NONE
    memory: bool = False
    asked: list[str] = field(default_factory=list[str])
    #: Of what reads the file that is stuck.
    waiting: int | None = None
    is_stuck: trio.Event = field(default_factory=trio.Event)
    serving: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def serve(self, process: rsyscall.Process, dev: AsyncFileDescriptor) -> None:
        """Answer until it is unmounted. If it ends in any way, nobody waits for it any more."""
        async with dev:
            with self.serving:
                try:
                    await (self._serve_memory(process, dev) if self.memory else self._serve(dev))
                except OSError as exc:
                    if exc.errno != errno.ENODEV:
                        raise

    async def _serve(self, dev: AsyncFileDescriptor) -> None:
        while True:
            data = await dev.read_some_bytes(ROOM)
            (request,) = fuse.FuseInList.from_bytes(data)
            # What was read is said again; but of INIT, which kernels make longer.
            assert isinstance(request, fuse.FuseInitOp) or request.to_bytes() == data
            reply = self.answer(request)
            if reply is not None:
                await dev.write_all_bytes(reply)

    async def _serve_memory(self, process: rsyscall.Process, dev: AsyncFileDescriptor) -> None:
        room = await process.malloc(fuse.FuseInList, ROOM)
        while True:
            filled, rest = await dev.read(room)
            (request,) = await filled.read()
            reply = self.answer(request)
            if reply is not None:
                await dev.write_all(await process.ptr(reply))
            room = filled + rest

    def attr(self, node: int) -> fuse.FuseAttr:
        what = NODES[node]
        none, kind = Timespec(0, 0), TypeMode(TYPES[type(what)], Mode(0o755))
        return fuse.FuseAttr(node, len(what), 0, none, MODIFIED, none, kind, 3, 0, 0, 0, 4096)

    def entry(self, node: int) -> fuse.FuseEntryOut:
        return fuse.FuseEntryOut(node, 0, Timespec(1, 0), Timespec(1, 0), self.attr(node))

    def entries(self, node: int) -> list[fuse.FuseDirent]:
        directory = NODES[node]
        assert isinstance(directory, dict)
        named = {".": node, "..": 1, **directory}.items()
        kinds = {S_IF.REG: DT.REG, S_IF.LNK: DT.LNK, S_IF.DIR: DT.DIR}
        return [
            fuse.FuseDirent(node, i, kinds[self.attr(node).mode.type], name)
            for i, (name, node) in enumerate(named, 1)
        ]

    def answer(self, request: FuseIn) -> FuseOut | None:
        self.asked.append(request.opcode.name)
        what = NODES.get(request.hdr.nodeid)
        match request:
            case fuse.FuseInitOp(msg=msg):
                minor = min(msg.minor, fuse.FUSE_KERNEL_MINOR_VERSION)
                assert msg.major == fuse.FUSE_KERNEL_VERSION
                assert self.flags in msg.flags
                return request.respond(
                    fuse.FuseInitOut(7, minor, msg.max_readahead, self.flags, 0, 0, MAX_WRITE, 1)
                )
            case fuse.FuseLookupOp(name=name) if isinstance(what, dict) and name in what:
                return request.respond(self.entry(what[name]))
            case fuse.FuseLookupOp():
                return request.error(errno.ENOENT)
            case fuse.FuseGetattrOp():
                attr = self.attr(request.hdr.nodeid)
                return request.respond(fuse.FuseAttrOut(Timespec(1, 0), attr))
            case fuse.FuseOpenOp() if request.hdr.nodeid == 5:
                return request.error(errno.EACCES)
            case fuse.FuseOpenOp() | fuse.FuseOpendirOp():
                return request.respond(fuse.FuseOpenOut(request.hdr.nodeid, fuse.FOPEN.NONE))
            case fuse.FuseReadOp() if request.hdr.nodeid == 6:
                self.waiting = request.hdr.unique
                self.is_stuck.set()
                return None
            case fuse.FuseReadOp(msg=msg) if isinstance(what, bytes):
                return request.respond(what[msg.offset :][: msg.size])
            case fuse.FuseReaddirOp(msg=msg):
                return request.respond(self.entries(msg.fh)[msg.offset :])
            case fuse.FuseReaddirplusOp(msg=msg):
                entries = self.entries(msg.fh)[msg.offset :]
                return request.respond(
                    [fuse.FuseDirentplus(self.entry(one.ino), one) for one in entries]
                )
            case fuse.FuseReadlinkOp() if isinstance(what, str):
                return request.respond(what)
            case fuse.FuseFlushOp() | fuse.FuseReleaseOp() | fuse.FuseReleasedirOp():
                return request.respond()
            case fuse.FuseGetxattrOp(msg=msg):
                if msg.data == "user.name":
                    return request.respond(VALUE)
                return request.error(errno.ENODATA)
            case fuse.FuseOtherOp(opcode=FUSE_OPCODE.INTERRUPT, data=data):
                assert int.from_bytes(data, sys.byteorder) == self.waiting
                hdr = fuse.FuseOutHeader(-errno.EINTR, int.from_bytes(data, sys.byteorder))
                return fuse.FuseErrorResponse(hdr)
            case _:
                return request.error(errno.ENOSYS) if request.expects_reply else None


async def prepare_device(process: rsyscall.Process, directory: Path) -> Path:
    """Where the device is: it is made in a mount namespace of the process's own if there is none.

    A machine in a container often has none.
    """
    path = DEVICE
    if not HAS_DEVICE:
        if os.geteuid() != 0:
            missing("/dev/fuse")
        await process.unshare(CLONE.NEWNS)
        await process.mount("", "/", "", MS.REC | MS.PRIVATE, "")
        await process.mount("dev", directory, "tmpfs", MS.NONE, "mode=755")
        path = directory / "fuse"
        name = await process.ptr(path)
        with name.borrow(process.task) as address:
            mode, number = stat.S_IFCHR | 0o600, os.makedev(10, 229)
            await process.task.sysif.syscall(SYS.mknodat, -100, address, mode, number)
    return path


@contextlib.asynccontextmanager
async def mounted(way: str, directory: Path, double: Double) -> AsyncGenerator[rsyscall.Process]:
    """A process that sees the file system, as directory/mounted, and that does not serve it.

    What serves must never wait for itself; and what has a copy of its device would keep others
    waiting when it has ended, so the one that uses it is made before.
    """
    point, dev = directory / "mounted", directory / "dev"
    point.mkdir()
    dev.mkdir()
    async with WAYS[way](directory) as server:
        path = await prepare_device(server, dev)
        await server.unshare_user(0, 0)
        await server.unshare(CLONE.NEWNS)
        await server.mount("", "/", "", MS.REC | MS.PRIVATE, "")
        async with await server.clone() as user:
            try:
                fd = await server.task.open(path, O.RDWR | O.NONBLOCK)
            except OSError as exc:
                if exc.errno in (errno.ENODEV, errno.ENXIO):
                    missing("FUSE in the kernel")
                if exc.errno in (errno.EACCES, errno.EPERM) and os.geteuid() != 0:
                    missing(f"access to {DEVICE}")
                raise
            options = f"fd={int(fd.near)},rootmode=40000,user_id=0,group_id=0"
            await server.mount("double", point, "fuse", MS.NOSUID | MS.NODEV, options)
            # Who waits for an answer cannot even be killed: the server, too, has to end by then.
            with trio.fail_after(SOON):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(double.serve, server, await server.make_afd(fd))
                    yield user
                    await user.task.umount(point, UMOUNT.DETACH)
                    # The server has seen that, and ends by itself.


async def run(process: rsyscall.Process, directory: Path, program: str) -> Any:
    """What another program finds: it may call `error`, and has to set `found`."""
    lines = [
        "import json, os, sys",
        "def error(call, *args):",
        "    try: return call(*args)",
        "    except OSError as exc: return exc.errno",
        "found = None",
        program,
        "print(json.dumps(found))",
    ]
    command = rsyscall.Command(sys.executable, ["python3", "-I", "-S", "-c", "\n".join(lines)])
    done = await process.run(command, cwd=directory / "mounted", capture_stdout=True)
    assert done.stdout is not None
    return json.loads(done.stdout)


LOOK = """
read = lambda path: open(path, "rb").read().decode("latin-1")
stat = os.stat("hello")
found = dict(
    top=sorted(os.listdir(".")), many=sorted(os.listdir("many")),
    types=sorted((one.name, one.is_symlink(), one.is_dir()) for one in os.scandir()),
    hello=read("hello"), through=read("link"), link=os.readlink("link"),
    part=os.pread(os.open("hello", os.O_RDONLY), 10, 5000).decode(),
    stat=[stat.st_size, stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_mtime_ns, stat.st_ino],
    sizes=sum(os.stat(f"many/entry {n:04}").st_size for n in range(1000)),
)
"""


@pytest.mark.parametrize(
    ("way", "memory", "reads"),
    [("child", False, "READDIR"), ("stub", True, "READDIRPLUS")],
)
async def test_another_program_reads_it(way: str, memory: bool, reads: str, tmp_path: Path) -> None:
    plus = FUSE_INIT.DO_READDIRPLUS | FUSE_INIT.INIT_EXT
    double = Double(plus if reads == "READDIRPLUS" else FUSE_INIT.NONE, memory)
    async with mounted(way, tmp_path, double) as process:
        found = await run(process, tmp_path, LOOK)
    top, many = NODES[1], NODES[4]
    assert isinstance(top, dict)
    assert isinstance(many, dict)
    assert found["top"] == sorted(top)
    assert found["many"] == sorted(many)
    kinds = {name: type(NODES[node]) for name, node in top.items()}
    assert found["types"] == [
        [name, kind is str, kind is dict] for name, kind in sorted(kinds.items())
    ]
    assert found["hello"].encode() == found["through"].encode() == HELLO
    assert found["link"] == "hello"
    assert found["part"].encode() == HELLO[5000:5010]
    modified = MODIFIED.to_nanos()
    assert found["stat"] == [len(HELLO), stat.S_IFREG | 0o755, 3, 0, modified, 2]
    assert found["sizes"] == sum(range(1000))
    assert {"INIT", "LOOKUP", "GETATTR", "OPEN", "READ", "RELEASE", "READLINK"} < set(double.asked)
    assert double.asked[0] == "INIT"
    assert {one for one in double.asked if "READDIR" in one} == {reads}
    assert double.asked.count(reads) > 3  # the rest is asked for until there is none


ERRORS = """
import ctypes
libc = ctypes.CDLL(None)
found = dict(
    none=error(os.stat, "no such name"), denied=error(open, "denied"),
    mkdir=error(os.mkdir, "new"), statvfs=error(os.statvfs, "."), write=error(open, "new", "w"),
    value=os.getxattr("xattrs", "user.name").decode(),
    size=libc.getxattr(b"xattrs", b"user.name", None, 0),
    short=error(os.getxattr, "xattrs", "user.other"),
)
"""


async def test_errors_are_seen_as_what_they_are(tmp_path: Path) -> None:
    double = Double()
    async with mounted("child", tmp_path, double) as process:
        found = await run(process, tmp_path, ERRORS)
    assert found == {
        "none": errno.ENOENT,
        "denied": errno.EACCES,
        "mkdir": errno.ENOSYS,
        "statvfs": errno.ENOSYS,
        "write": errno.ENOSYS,
        "value": VALUE,
        "size": len(VALUE),
        "short": errno.ENODATA,
    }
    assert {"MKDIR", "STATFS"} <= set(double.asked)


async def test_calls_from_here_read_it(tmp_path: Path) -> None:
    """Of a process that is not the one that serves."""
    async with mounted("child", tmp_path, Double()) as process:
        task, point = process.task, tmp_path / "mounted"
        async with await task.open(point / "link", O.RDONLY) as fd:
            assert await fd.pread(20, 13) == HELLO[13:33]
        with pytest.raises(PermissionError):
            await task.open(point / "denied", O.RDONLY)
        async with await task.open(point / "many", O.RDONLY) as fd:
            names = [entry.name for entry in await fd.getdents(4096)]
            assert names[:3] == [".", "..", "entry 0000"]


async def test_who_waits_is_told_when_the_server_ends(tmp_path: Path) -> None:
    double = Double()
    found: list[Any] = []

    async def read(process: rsyscall.Process) -> None:
        found.append(await run(process, tmp_path, "found = error(open('stuck').read)"))

    async with mounted("child", tmp_path, double) as process:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, process)
            await double.is_stuck.wait()
            double.serving.cancel()
        assert await run(process, tmp_path, "found = error(os.stat, 'hello')") == errno.ENOTCONN
    assert found == [errno.ENOTCONN]


async def test_who_waits_and_is_killed_has_the_server_interrupted(tmp_path: Path) -> None:
    double = Double()
    async with mounted("child", tmp_path, double) as process:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, process, tmp_path, "open('stuck').read()")
            await double.is_stuck.wait()
            nursery.cancel_scope.cancel()
        assert "INTERRUPT" in double.asked
        assert await run(process, tmp_path, "found = os.stat('hello').st_size") == len(HELLO)

"""What is defined by headers of the kernel, against those, and used."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

import rsyscall
from conformance.ways import WAYS
from rsyscall.fcntl import O
from rsyscall.handle import InvalidHandleError
from rsyscall.linux.fs import FI, FileCloneRange
from rsyscall.linux.netlink import NETLINK, SockaddrNl
from rsyscall.linux.rtnetlink import RTMGRP
from rsyscall.sys.socket import AF, SOCK


@pytest.fixture(params=["direct", "child", "stub-no-ring"])
async def process(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncGenerator[rsyscall.Process]:
    async with WAYS[request.param](tmp_path) as process:
        yield process


def test_the_numbers_are_those_of_the_headers(tmp_path: Path) -> None:
    # Groups without a mask of their own are numbered: a mask has one bit of them.
    numbered = {"IPV4_RULE", "NOP2", "DECnet_RULE", "NOP4", "IPV6_RULE", "MPLS_ROUTE"}
    checks = [f"NETLINK_{one.name} == {int(one)}" for one in NETLINK]
    checks += [f"FICLONE == {int(FI.CLONE)}u", f"FICLONERANGE == {int(FI.CLONERANGE)}u"]
    for group in RTMGRP:
        name = f"1 << (RTNLGRP_{group.name} - 1)" if group.name in numbered else None
        checks.append(f"({name or f'RTMGRP_{group.name}'}) == {int(group)}")
    checks.append(f"sizeof(struct sockaddr_nl) == {SockaddrNl.sizeof()}")
    checks.append(f"sizeof(struct file_clone_range) == {FileCloneRange.sizeof()}")
    source = tmp_path / "check.c"
    lines = ["#include <sys/socket.h>"]
    lines += [f"#include <linux/{name}.h>" for name in ("fs", "netlink", "rtnetlink")]
    lines += [f'_Static_assert({check}, "");' for check in checks]
    source.write_text("\n".join(lines) + "\n")
    subprocess.run(["gcc", "-std=c11", "-fsyntax-only", source], check=True)


async def test_a_netlink_socket(process: rsyscall.Process) -> None:
    async with await process.socket(AF.NETLINK, SOCK.RAW, NETLINK.ROUTE) as sock:
        await sock.bind(SockaddrNl(0, RTMGRP.LINK | RTMGRP.IPV4_ROUTE))
        found = await sock.getsockname()
        assert isinstance(found, SockaddrNl)
        assert found.groups == RTMGRP.LINK | RTMGRP.IPV4_ROUTE
        assert found.pid > 0
    assert SockaddrNl.from_bytes(found.to_bytes()) == found
    for pid, groups in ((-1, 0), (0, 2**32)):
        with pytest.raises(ValueError, match=r"^(pid|groups): "):
            SockaddrNl(pid, groups)


async def test_files_that_share_their_data(process: rsyscall.Process, tmp_path: Path) -> None:
    """Or cannot: that is up to the file system, which has understood what was asked for."""
    async with (
        await process.task.open(tmp_path / "one", O.RDWR | O.CREAT) as one,
        await process.task.open(tmp_path / "two", O.RDWR | O.CREAT) as two,
    ):
        await one.write(b"x" * 8192)
        what = await process.ptr(FileCloneRange(one, 4096, 4096, 0))
        error = None
        try:
            await two.ioctl(FI.CLONERANGE, what)
        except OSError as exc:
            error = exc.strerror
        shared = await two.pread(8192, 0)
        assert (error, shared) in [(None, b"x" * 4096), ("Operation not supported", b"")]
    with pytest.raises(InvalidHandleError):
        FileCloneRange(one, 0, 0, 0).to_bytes()
    with pytest.raises(ValueError, match=r"^src_length: "):
        FileCloneRange(one, 0, -1, 0)
    with pytest.raises(TypeError):
        FileCloneRange.from_bytes(bytes(32))

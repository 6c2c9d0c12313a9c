"""`rsyscall demo FILE`: map a file in another process, and read it through the mapping."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import trio

import rsyscall
import rsyscall.far
from rsyscall.cli._parser import MakeParser, UserError
from rsyscall.fcntl import O
from rsyscall.sys.mman import MAP, PROT, MemoryMapping
from rsyscall.sys.stat import S_IF

__all__ = ["add_parser"]

#: Bytes read at once, and the size from which on progress is shown.
_CHUNK = 1024 * 1024 - 4096
_LARGE = 8 * 1024 * 1024


@contextlib.contextmanager
def _progress(total: int) -> Generator[Callable[[int], None]]:
    """Something to tell how many bytes have been read; a bar if they are many and rich is there."""
    if total < _LARGE or not sys.stderr.isatty():
        yield lambda n: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn
    except ImportError:
        print("reading (a progress bar needs rsyscall[cli])...", file=sys.stderr)
        yield lambda n: None
        return
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress("reading", *columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda n: bar.advance(task, n)


async def _sha256(mapping: MemoryMapping, size: int) -> str:
    digest = hashlib.sha256()
    with _progress(size) as advance:
        for offset in range(0, size, _CHUNK):
            n = min(_CHUNK, size - offset)
            digest.update(await mapping.read(offset, n))
            advance(n)
    return digest.hexdigest()


async def _maps_line(process: rsyscall.Process, address: int) -> str:
    """The line of the process's own /proc/self/maps in which the address lies."""
    data = b""
    async with await process.task.open("/proc/self/maps", O.RDONLY) as fd:
        while part := await fd.read(65536):
            data += part
    for line in data.decode(errors="replace").splitlines():
        start, end = (int(n, 16) for n in line.split()[0].split("-"))
        if start <= address < end:
            return line
    raise UserError(f"no line for {address:#x} in the maps of {process.pid}")


async def _demo(path: Path) -> None:
    async with rsyscall.open_process() as process:
        task = process.task
        print(f"stub       {process.pid}, running {rsyscall.stub_path().name}")
        # Without waiting for what a FIFO or a device would want us to wait for.
        async with await task.open(path, O.RDONLY | O.NONBLOCK) as fd:
            stat = await fd.fstat()
            if stat.mode.type != S_IF.REG:
                raise UserError(f"{path}: not a regular file")
            if stat.size == 0:
                raise UserError(f"{path}: empty, there is nothing to map")
            length = -(-stat.size // 4096) * 4096
            mapping = await fd.mmap(length, PROT.READ, MAP.PRIVATE)
        print(f"mapped     {stat.size} bytes of {path}")
        print(f"handle     {mapping}")
        print(f"maps       {await _maps_line(process, mapping.near.address)}")
        remote = await _sha256(mapping, stat.size)
        with path.open("rb") as local_file:
            local = hashlib.file_digest(local_file, "sha256").hexdigest()
        print(f"sha256     {remote} read through the mapping in {process.pid}")
        print(f"           {local} read here")
        try:
            mapping.for_task(rsyscall.local_process.task)
        except rsyscall.far.AddressSpaceMismatchError as exc:
            print(f"elsewhere  {type(exc).__name__}: {exc}")
        await mapping.munmap()
        if local != remote:
            raise UserError("the two differ: was the file changed meanwhile?")


def _run(args: argparse.Namespace) -> int:
    trio.run(_demo, args.file)
    return 0


def add_parser(make: MakeParser) -> None:
    """Add the subcommand."""
    demo = make(
        "demo",
        help="map a file in another process and read it through the mapping",
        description="Start a stub, have it open and map FILE, and read the file back through the"
        " mapping in the stub's memory.",
    )
    demo.add_argument("file", metavar="FILE", type=Path, help="a regular file that is not empty")
    demo.set_defaults(function=_run, parser=demo)

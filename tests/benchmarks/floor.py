"""The floors: what the same work takes in C, built by the system's compiler when first wanted."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import subprocess
import tempfile
from pathlib import Path

__all__ = ["clone", "copy", "far_read", "file", "getppid", "load", "socket", "spawn"]

_SOURCE = Path(__file__).with_name("floor.c")
_ARGUMENTS: dict[str, list[type]] = {
    "getppid": [],
    "file": [ctypes.c_char_p, ctypes.c_int64],
    "socket": [ctypes.c_int, ctypes.c_char_p, ctypes.c_int64],
    "copy": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64],
    "far_read": [ctypes.c_int, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_int64],
    "clone": [],
    "spawn": [ctypes.c_char_p],
}
# Removed when the interpreter ends.
_directory = tempfile.TemporaryDirectory(prefix="rsyscall-benchmarks-")


@functools.cache
def load() -> ctypes.CDLL:
    """The library; CalledProcessError if it cannot be built."""
    library = Path(_directory.name, "floor.so")
    compiler = os.environ.get("CC", "cc")
    command: list[str | Path] = [
        compiler,
        "-O2",
        "-Wall",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
        library,
        _SOURCE,
    ]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library))
    for name, types in _ARGUMENTS.items():
        function = getattr(loaded, f"floor_{name}")
        function.argtypes = [ctypes.c_int64, *types]
        function.restype = ctypes.c_int64
    return loaded


def _call(name: str, n: int, *args: object) -> float:
    """Seconds for one of n."""
    ns: int = getattr(load(), f"floor_{name}")(n, *args)
    if ns < 0:
        raise OSError(-ns, os.strerror(-ns), f"the floor of {name}")
    return ns / n / 1e9


def getppid(n: int) -> float:
    """getppid(2)."""
    return _call("getppid", n)


def file(n: int, path: Path, size: int) -> float:
    """open, read of `size` bytes, close."""
    return _call("file", n, bytes(path), size)


def socket(n: int, fd: int, frames: bytes) -> float:
    """A blocking send and a blocking receive; frames: n of the same length."""
    return _call("socket", n, fd, frames, len(frames) // n)


def far_read(n: int, pid: int, address: int, buffer: bytearray) -> float:
    """process_vm_readv(2)."""
    return _call("far_read", n, pid, address, _memory(buffer), len(buffer))


def clone(n: int) -> float:
    """clone(2) with CLONE_VM of a child that exits at once, and waitpid."""
    return _call("clone", n)


def spawn(n: int, path: str) -> float:
    """posix_spawn(3) of a program without arguments, and waitpid."""
    return _call("spawn", n, path.encode())


def copy(n: int, buffer: bytearray, source: mmap.mmap) -> float:
    """memcpy(3), from one place to another, again and again."""
    return _call("copy", n, _memory(buffer), _memory(source), len(buffer))


def _memory(buffer: bytearray | mmap.mmap) -> object:
    """Where it is; while that is kept, it is there."""
    return (ctypes.c_char * len(buffer)).from_buffer(buffer)

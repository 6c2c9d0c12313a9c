"""Names that nobody else has: temporary directories, and symbolic links that change at once."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import string
from typing import TYPE_CHECKING

from rsyscall._checkpoint import shield
from rsyscall._errors import noted
from rsyscall.fcntl import AT, O
from rsyscall.linux.dirent import DT
from rsyscall.near.sysif import SyscallError
from rsyscall.path import Path
from rsyscall.unistd import SEEK

if TYPE_CHECKING:
    from rsyscall.handle import FileDescriptor, WrittenPointer
    from rsyscall.thread import Process

__all__ = ["TemporaryDirectory", "mkdtemp", "random_string", "update_symlink"]

_LETTERS = string.ascii_lowercase + string.digits
#: Letters of a name that is not tried a second time: nobody has it, nor guesses it.
_LENGTH = 16


def random_string(k: int = 8) -> str:
    """So many random letters and digits, which nobody can guess."""
    return "".join([secrets.choice(_LETTERS) for _ in range(k)])


async def update_symlink(
    process: Process, path: WrittenPointer[Path], target: str | os.PathLike[str]
) -> WrittenPointer[Path]:
    """Have a symbolic link lead to the target, whether it was there before or not.

    path: of the link. At no time is there none, or half of one: a new one takes its place. Returns
    the path. OSError as the calls report it, and then the link is as it was. A checkpoint; if
    cancelled, likewise. symlink(2), rename(2).
    """
    name = path.value
    new = name.with_name(f"{name.name}.{random_string()}")
    await process.task.symlink(os.fspath(target), new)
    try:
        await process.task.rename(new, path)
    except BaseException:
        with shield(), contextlib.suppress(OSError, SyscallError):
            await process.task.unlink(new)
        raise
    return path


async def mkdtemp(process: Process, prefix: str = "mkdtemp") -> TemporaryDirectory:
    """Make a directory that nobody else has, where the process keeps temporary files.

    prefix: what its name begins with; without a slash (ValueError). It is in `tmpdir` of the
    process's environment, and only the process's user may enter it. As a context manager it is
    removed at the end of the block, with all that is in it. OSError as the call reports it. A
    checkpoint; if cancelled, nothing was made. mkdir(2).
    """
    if "/" in prefix:
        raise ValueError(f"prefix: {prefix!r} contains a slash")
    path = process.environ.tmpdir / f"{prefix}.{random_string(_LENGTH)}"
    await process.task.mkdir(path, 0o700)
    return TemporaryDirectory._of(process, path)  # pyright: ignore[reportPrivateUsage] - ours


class TemporaryDirectory(Path):
    """A directory that is removed at the end of its block; see mkdtemp."""

    __slots__ = ("_process",)
    _process: Process

    @classmethod
    def _of(cls, process: Process, path: Path) -> TemporaryDirectory:
        made = cls(path)
        made._process = process
        return made

    def with_segments(self, *pathsegments: str | os.PathLike[str]) -> Path:  # type: ignore[override] # what is in it is nothing to be removed
        """A path in it, or around it."""
        return Path(*pathsegments)

    def __truediv__(self, key: str | os.PathLike[str]) -> Path:  # type: ignore[override] # likewise
        """A path in it."""
        return Path(self, key)

    async def cleanup(self) -> None:
        """Remove it and all that is in it, but no other file systems.

        What others remove meanwhile is no error; what cannot be removed is an OSError, and then the
        rest may still be there. A checkpoint; if cancelled, likewise. unlinkat(2).
        """
        process: Process | None = getattr(self, "_process", None)
        if process is None:
            raise ValueError(f"{self} was not made by mkdtemp")
        top = await process.task.open(self, O.RDONLY | O.DIRECTORY | O.NOFOLLOW)
        async with top:
            await _empty(top, (await top.fstat()).dev)
        await process.task.rmdir(self)

    async def __aenter__(self) -> Path:
        """Its path. Not a checkpoint."""
        return Path(self)

    async def __aexit__(self, *exc: object) -> None:
        """See cleanup; it is done even when cancelled."""
        with shield():
            await self.cleanup()


async def _empty(directory: FileDescriptor, device: int) -> None:
    """Remove what is in a directory: from its descriptor, so that no link leads elsewhere."""
    while entries := [entry for entry in await directory.getdents() if entry.name not in _OWN]:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.type not in (DT.DIR, DT.UNKNOWN):
                    await directory.unlinkat(entry.name)
                else:
                    await _remove(directory, entry.name, device)
        await directory.lseek(0, SEEK.SET)


_OWN = (".", "..")


async def _remove(directory: FileDescriptor, name: str, device: int) -> None:
    """A directory, most likely."""
    try:
        inner = await directory.openat(name, O.RDONLY | O.DIRECTORY | O.NOFOLLOW)
    except NotADirectoryError:
        await directory.unlinkat(name)
        return
    async with inner:
        if (await inner.fstat()).dev != device:
            raise noted(
                OSError(errno.EBUSY, os.strerror(errno.EBUSY), name),
                "another file system is mounted there",
            )
        await _empty(inner, device)
    await directory.unlinkat(name, AT.REMOVEDIR)

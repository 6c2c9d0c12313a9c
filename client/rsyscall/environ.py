"""The environment of a process, and the programs that it finds there."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rsyscall.batch import BoundBatch
from rsyscall.command import Command
from rsyscall.fcntl import AT
from rsyscall.path import Path
from rsyscall.unistd.exec import ArgList, write_arglist
from rsyscall.unistd.names import OK

if TYPE_CHECKING:
    from rsyscall.far import MountNamespace
    from rsyscall.handle import Task
    from rsyscall.handle.pointer import WrittenPointer

__all__ = ["Environment", "ExecutableNotFound", "ExecutablePathCache"]

_Found = dict[tuple[tuple[str, ...], str], "Path | str"]
#: What was found in each mount namespace, for a list of directories and a name.
_found: weakref.WeakKeyDictionary[MountNamespace, _Found] = weakref.WeakKeyDictionary()
#: What a shell takes if there is no PATH.
_DEFAULT_PATH = "/bin:/usr/bin"


class ExecutableNotFound(Exception):
    """No directory of PATH has a program of that name.

    name: of the program. paths: the directories.
    """

    def __init__(self, name: str, paths: tuple[str, ...], reason: str = "") -> None:
        """reason: what was there instead."""
        where = ":".join(paths) if paths else "no directory at all"
        super().__init__(f"{name!r} was not found in {where}{reason and f': {reason}'}")
        self.name: str = name
        self.paths: tuple[str, ...] = paths


class ExecutablePathCache:
    """Looks for programs in directories, and remembers them for all tasks of a mount namespace.

    task: through which it looks. paths: the directories, in the order of preference.
    """

    def __init__(self, task: Task, paths: tuple[str, ...]) -> None:
        """Nothing is looked at yet."""
        self.task: Task = task
        self.paths: tuple[str, ...] = paths

    async def which(self, name: str) -> Command:
        """The program of that name, which is called by it.

        One that was found before is only asked whether it is still there: a new one in a directory
        of higher preference stays unseen for as long as it is. A name with a slash is a path.
        ExecutableNotFound; ValueError for an empty name or one with a NUL. A checkpoint; if
        cancelled, nothing has happened. access(2).
        """
        if not name or "\0" in name:
            raise ValueError(f"name: {name!r} is no name of a program")
        if "/" in name:
            return Command(await self._search(name, ("",)), [name])
        found = _found.setdefault(self.task.mountns, {})
        key = self.paths, name
        if key in found:
            try:
                await self.task.access(found[key], OK.X, AT.EACCESS)
            except OSError:
                found.pop(key, None)
            else:
                return Command(found[key], [name])
        path = found[key] = await self._search(name, self.paths)
        return Command(path, [name])

    async def _search(self, name: str, paths: tuple[str, ...]) -> Path | str:
        candidates = [os.path.join(path, name) for path in paths]
        async with BoundBatch(self.task) as batch:
            checks = [
                (
                    batch.access(path, OK.X, AT.EACCESS, on_error="continue"),
                    # Only a directory has a name inside it.
                    batch.access(f"{path}/.", OK.F, on_error="continue"),
                )
                for path in candidates
            ]
        reason = ""
        for path, (executable, directory) in zip(candidates, checks, strict=True):
            if executable.result == 0 and directory.result < 0:
                # A name without a slash would be looked for in PATH, by some who execute it.
                return found if "/" in str(found := Path(path)) else path
            if executable.result == 0:
                reason = f"{path} is a directory"
            elif not os.strerror(-executable.result).startswith("No such"):
                reason = f"{path}: {os.strerror(-executable.result)}"
        raise ExecutableNotFound(name, () if paths == ("",) else paths, reason)


class Environment:
    """The environment variables of a process, for the programs that it will execute.

    sh: the shell. tmpdir: where temporary files go.
    """

    def __init__(self, task: Task, environment: Mapping[str, str]) -> None:
        """task: whose programs are looked for. environment: is copied."""
        self.task: Task = task
        self._data: dict[str, str] = dict(environment)
        self._cache: ExecutablePathCache | None = None
        self.sh: Command = Command(Path("/bin/sh"), ["sh"])

    @staticmethod
    def make_from_environ(task: Task, environment: Mapping[str, str]) -> Environment:
        """The same as the constructor."""
        return Environment(task, environment)

    @property
    def data(self) -> dict[str, str]:
        """All variables; a change of it is one of the environment."""
        return self._data

    @data.setter
    def data(self, environment: Mapping[str, str]) -> None:
        """Replace all variables by a copy of these."""
        self._data = dict(environment)

    @property
    def tmpdir(self) -> Path:
        """TMPDIR, or else /tmp."""
        return Path(self._data.get("TMPDIR") or "/tmp")

    def __getitem__(self, key: str) -> str:
        """A variable. KeyError if there is none."""
        return self._data[key]

    def __setitem__(self, key: str, value: str) -> None:
        """Change a variable, or make one."""
        self._data[key] = value

    def __delitem__(self, key: str) -> None:
        """Remove a variable. KeyError if there is none."""
        del self._data[key]

    def __contains__(self, key: object) -> bool:
        """Whether there is such a variable."""
        return key in self._data

    def get(self, key: str, default: str) -> str:
        """A variable, or the default if there is none."""
        return self._data.get(key, default)

    async def which(self, name: str) -> Command:
        """The program of that name in the directories of PATH.

        ExecutableNotFound; otherwise as ExecutablePathCache.which. A checkpoint. access(2).
        """
        path = self._data.get("PATH", _DEFAULT_PATH)
        # An empty entry, as a shell has it, is the working directory; an empty PATH is no entry.
        paths = tuple(entry or "." for entry in path.split(":")) if path else ()
        if self._cache is None or self._cache.paths != paths:
            self._cache = ExecutablePathCache(self.task, paths)
        return await self._cache.which(name)

    def inherit(self, task: Task) -> Environment:
        """A copy, for a task that has inherited it."""
        return Environment(task, self._data)

    async def as_arglist(self, task: Task) -> WrittenPointer[ArgList]:
        """All variables in the memory of a task, as execve(2) wants them.

        ValueError for a name or value with a NUL, or a name that is empty or contains `=`. A
        checkpoint; freed if cancelled.
        """
        for name in self._data:
            if not name or "=" in name:
                raise ValueError(f"environment: {name!r} cannot be the name of a variable")
        return await write_arglist(task, [f"{name}={value}" for name, value in self._data.items()])

    def __repr__(self) -> str:
        """For people: how many, since values may be secret."""
        return f"Environment({self.task}, {len(self._data)} variables)"

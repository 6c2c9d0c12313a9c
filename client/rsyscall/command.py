"""Programs to be run, with their arguments and environment."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Argument", "Command"]

Argument = str | os.PathLike[str]
_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*\Z", re.ASCII)


class Command:
    """What execve(2) is to be given. It cannot be changed; args() and env() make others.

    executable_path: which program, as it was given (a Path would make "name" of "./name").
    arguments: the first is the name that it is called by. env_updates: what its environment has
    besides that of the process, or instead.
    """

    __slots__ = ("arguments", "env_updates", "executable_path")

    executable_path: Argument
    arguments: tuple[Argument, ...]
    env_updates: Mapping[str, Argument]

    def __init__(
        self,
        executable_path: Argument,
        arguments: Iterable[Argument],
        env_updates: Mapping[str, Argument] | None = None,
    ) -> None:
        """ValueError for a NUL anywhere, or a name of a variable that is empty or contains `=`."""
        updates = dict(env_updates or {})
        if isinstance(arguments, str):
            raise ValueError(f"arguments: a list of strings, not the string {arguments!r}")
        values = tuple(arguments)
        for name, value in updates.items():
            if not name or "=" in name or "\0" in name:
                raise ValueError(f"env_updates: {name!r} cannot be the name of a variable")
            if "\0" in os.fspath(value):
                raise ValueError(f"env_updates: embedded null byte in {name}={value!r}")
        for value in (executable_path, *values):
            if "\0" in os.fspath(value):
                raise ValueError(f"arguments: embedded null byte in {value!r}")
        object.__setattr__(self, "executable_path", executable_path)
        object.__setattr__(self, "arguments", values)
        object.__setattr__(self, "env_updates", MappingProxyType(updates))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        """AttributeError: it cannot be changed."""
        raise AttributeError(f"{name}: a command cannot be changed; args() and env() make others")

    def __delattr__(self, name: str) -> NoReturn:
        """AttributeError: it cannot be changed."""
        raise AttributeError(f"{name}: a command cannot be changed")

    def __reduce__(self) -> tuple[object, ...]:
        """How it is copied and pickled: by its constructor."""
        return type(self), (self.executable_path, self.arguments, dict(self.env_updates))

    def args(self, *args: Argument) -> Self:
        """The same with further arguments."""
        return type(self)(self.executable_path, [*self.arguments, *args], self.env_updates)

    def env(
        self, env_updates: Mapping[str, Argument] | None = None, /, **updates: Argument
    ) -> Self:
        """The same with further variables in its environment, or other values of them."""
        merged = {**self.env_updates, **(env_updates or {}), **updates}
        return type(self)(self.executable_path, self.arguments, merged)

    def in_shell_form(self) -> str:
        """A line that makes a POSIX shell run the same, but for the name that it is called by."""
        path = os.fspath(self.executable_path)
        # With a slash it is not looked for in PATH, and is no builtin, keyword or assignment.
        words = [
            path if "/" in path else f"./{path}",
            *(os.fspath(arg) for arg in self.arguments[1:]),
        ]
        line = shlex.join(words)
        if not self.env_updates:
            return line
        variables = [(name, os.fspath(value)) for name, value in self.env_updates.items()]
        if all(_NAME.match(name) for name, _ in variables):
            return " ".join([*(f"{k}={shlex.quote(v)}" for k, v in variables), line])
        # Shells know no such variables, and some do not even hand them on. env(1) would take a path
        # with a = for one more.
        run = ["env", "--", *(f"{name}={value}" for name, value in variables)]
        return shlex.join([*run, *(["nice", "-n", "0"] if "=" in words[0] else []), *words])

    def _key(self) -> tuple[object, ...]:
        path = os.fspath(self.executable_path)
        return path, self.arguments, frozenset(self.env_updates.items())

    def __eq__(self, other: object) -> bool:
        """Whether it is of the same type and runs the same."""
        if not isinstance(other, Command) or type(other) is not type(self):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        """By what it runs."""
        return hash(self._key())

    def __str__(self) -> str:
        """As a shell would have it."""
        return self.in_shell_form()

    def __repr__(self) -> str:
        """For people."""
        return f"{type(self).__name__}({self.in_shell_form()!r})"

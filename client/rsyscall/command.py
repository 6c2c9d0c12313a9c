"""What is to be executed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Self

__all__ = ["Command"]


class Command:
    """A program, its arguments (the first is its own name), and changes of the environment."""

    def __init__(
        self,
        executable_path: str | os.PathLike[str],
        arguments: list[str | os.PathLike[str]],
        env_updates: Mapping[str, str | os.PathLike[str]],
    ) -> None:
        """Nothing is looked up."""
        self.executable_path = executable_path
        self.arguments = arguments
        self.env_updates = env_updates

    def _made(
        self,
        arguments: list[str | os.PathLike[str]],
        env_updates: Mapping[str, str | os.PathLike[str]],
    ) -> Self:
        return type(self)(self.executable_path, arguments, env_updates)

    def args(self, *args: str | os.PathLike[str]) -> Self:
        """The same with more arguments."""
        return self._made([*self.arguments, *args], self.env_updates)

    def env(
        self,
        env_updates: Mapping[str, str | os.PathLike[str]] | None = None,
        **updates: str | os.PathLike[str],
    ) -> Self:
        """The same with more changes of the environment."""
        return self._made(self.arguments, {**self.env_updates, **(env_updates or {}), **updates})

    def in_shell_form(self) -> str:
        """As one would type it into a shell."""
        env = [f"{key}={shlex.quote(os.fspath(value))}" for key, value in self.env_updates.items()]
        args = [shlex.quote(os.fspath(arg)) for arg in self.arguments[1:]]
        return " ".join([*env, shlex.quote(os.fspath(self.executable_path)), *args])

    def __str__(self) -> str:
        """For people."""
        return f"Command({self.in_shell_form()})"

    def __repr__(self) -> str:
        """The same as str()."""
        return str(self)

"""The arguments and the environment of a program, as the kernel wants them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from rsyscall._core import environment, lay_strings
from rsyscall.struct import path_to_bytes

__all__ = ["PathLike", "Strings", "full_environment"]

PathLike: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"

_POINTER = 8


def _variable(name: str, value: PathLike) -> bytes:
    if not name or "=" in name:
        raise ValueError(f"env: {name!r} is no name of a variable")
    return path_to_bytes(name, "env")[:-1] + b"=" + path_to_bytes(value, f"env: {name}")


class Strings:
    """Two arrays of pointers and what they point at, in one piece of memory.

    size: how many bytes that is. envp: where in it the environment's array begins; that of the
    arguments comes first.
    """

    def __init__(self, argv: Sequence[PathLike], env: Mapping[str, PathLike] | None) -> None:
        """env: None for our own. ValueError for a string with a NUL, or a name that is none."""
        args = [path_to_bytes(arg, f"argv[{i}]") for i, arg in enumerate(argv)]
        if env is None:
            variables = environment()
        else:
            variables = [_variable(name, value) for name, value in env.items()]
        self._args = len(args)
        self._strings = args + variables
        self.envp: int = _POINTER * (len(args) + 1)
        self.size: int = _POINTER * (len(self._strings) + 2) + sum(map(len, self._strings))

    def at(self, address: int) -> bytes:
        """What is to be written at an address of that memory."""
        return lay_strings(self._strings, self._args, address)


def full_environment(
    env: Mapping[str, str | os.PathLike[str]] | None,
    updates: Mapping[str, str | os.PathLike[str]] | None,
) -> Mapping[str, str | os.PathLike[str]] | None:
    """An environment with its changes; None for our own as it is."""
    return {**(os.environ if env is None else env), **updates} if updates else env

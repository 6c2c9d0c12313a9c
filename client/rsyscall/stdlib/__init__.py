"""What Python's standard library does for the interpreter, for any process."""

from __future__ import annotations

from rsyscall.stdlib.mktemp import TemporaryDirectory, mkdtemp, random_string, update_symlink

__all__ = ["TemporaryDirectory", "mkdtemp", "random_string", "update_symlink"]

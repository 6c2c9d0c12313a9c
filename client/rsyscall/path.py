"""Paths in the mount namespace of a process, which need not be ours."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Path"]


class Path(pathlib.PurePosixPath):
    """A path that makes no calls: what it leads to is another process's business.

    `/` joins. Every method of a task that takes a path takes one.
    """

    __slots__ = ()

    def with_segments(self, *pathsegments: str | os.PathLike[str]) -> Self:
        """Another path, from its parts: what all that derives a path from this one uses."""
        return type(self)(*pathsegments)

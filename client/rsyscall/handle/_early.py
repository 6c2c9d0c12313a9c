"""What a child is before anything was asked of it."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsyscall.sys.wait import ChildState

__all__ = ["Early"]


class Early(abc.ABC):
    """A child of which what it takes to make calls in it has not been made yet."""

    __slots__ = ()

    @abc.abstractmethod
    def grow(self) -> object:
        """Make it now, unless that was done before; it depends on where its parent is."""

    @abc.abstractmethod
    def release(self, state: ChildState | None) -> None:
        """Free what it had in our memory.

        state: how it has ended; None: it has exec'd.
        """

    @abc.abstractmethod
    def after_fork(self) -> None:
        """In a forked child: it is our parent's."""

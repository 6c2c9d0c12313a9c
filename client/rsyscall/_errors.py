"""Errors that are raised without a trace of who raised them.

A frame that raises what one of its own variables names is in the traceback of it: a cycle, which
keeps all that these frames know, such as handles, until Python looks for garbage.
"""

from __future__ import annotations

from typing import TypeVar

__all__ = ["noted"]

E = TypeVar("E", bound=BaseException)


def noted(exc: E, *notes: str) -> E:
    """The error, with these notes: to be raised where it is made, without a name for it."""
    for note in notes:
        exc.add_note(note)
    return exc

"""What the subcommands share: usage errors, and those that users can mend."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn, TypeAlias

__all__ = ["MakeParser", "Parser", "UserError", "messages"]


class UserError(Exception):
    """Something the user can mend; shown without a traceback."""


class Parser(argparse.ArgumentParser):
    """One whose status after a usage error can be chosen."""

    #: The exit status after a usage error.
    usage_status = 2

    def error(self, message: str) -> NoReturn:
        """Show the usage and the message, and exit."""
        self.print_usage(sys.stderr)
        self.exit(self.usage_status, f"{self.prog}: error: {message}\n")


#: What makes the parser of a subcommand: add_parser of argparse.
MakeParser: TypeAlias = Callable[..., Parser]


def messages(exc: BaseException) -> str:
    """An error and its notes, in a line."""
    notes: list[str] = getattr(exc, "__notes__", [])
    if isinstance(exc, OSError):
        name = f"{exc.filename}: " if exc.filename else ""
        return ", ".join([name + (exc.strerror or str(exc)), *notes])
    return ", ".join([str(exc), *notes])

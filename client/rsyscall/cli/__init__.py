"""The command line: `rsyscall demo FILE` and `rsyscall run [OPTIONS] -- COMMAND`."""

from __future__ import annotations

import importlib.metadata
import os
import sys

import rsyscall
from rsyscall.cli import demo, run
from rsyscall.cli._parser import Parser, UserError, messages

__all__ = ["main"]


def _parser() -> Parser:
    parser = Parser(prog="rsyscall", description="System calls as methods on process objects.")
    version = importlib.metadata.version("rsyscall")
    parser.add_argument("--version", action="version", version=f"rsyscall {version}")
    commands = parser.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")
    demo.add_parser(commands.add_parser)
    run.add_parser(commands.add_parser)
    return parser


def _flush() -> None:
    """Write what is buffered, or fail now: not once more, with a traceback, at the very end."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns the exit status: 0, or 1 with the reason on standard error; of `run` that of the
    command, or see rsyscall.cli.run.
    """
    parser = _parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        try:
            status: int = args.function(args)
        finally:
            _flush()
    except (OSError, rsyscall.SyscallError, UserError) as exc:
        print("rsyscall: " + messages(exc), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status

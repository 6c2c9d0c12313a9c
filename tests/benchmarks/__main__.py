"""All benchmarks: `PYTHONPATH=tests .venv/bin/python -m benchmarks`, see --help."""

from __future__ import annotations

import argparse
import faulthandler
from dataclasses import replace
from pathlib import Path

import trio

from benchmarks import BENCHMARKS, floor
from benchmarks.measure import FULL, TINY, Row, Scale, progress
from benchmarks.report import machine, show, write

_COMMAND = "PYTHONPATH=tests .venv/bin/python -m benchmarks"
_DOCS = Path(__file__).parents[2] / "docs"
#: For one benchmark.
_MOST_SECONDS = 300
_NOTES = """\
Everything in one line was measured in the same run, in turns (a round of each, again and again).
What is measured is the median over the rounds, of a ratio that of the ratios; beside it stand the
quartiles. The floor is the same work in C, direct is Python without us (`os`, a trio socket). The
columns of times are medians of their own, so that their quotient may differ a little."""


async def _run(names: list[str], scale: Scale) -> list[Row]:
    rows: list[Row] = []
    for i, name in enumerate(names, 1):
        progress(f"{i} of {len(names)}: {name}")
        # A call that was sent cannot be cancelled: one that is never answered would hang for ever.
        faulthandler.dump_traceback_later(_MOST_SECONDS, exit=True)
        rows += await BENCHMARKS[name](scale)
    faulthandler.cancel_dump_traceback_later()
    progress("")
    return rows


def main() -> None:
    """Measure, print, and write the page unless only a part was asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure rsyscall.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--rounds", type=int, default=FULL.rounds)
    parser.add_argument("--idle-seconds", type=float, default=FULL.idle)
    parser.add_argument("--quick", action="store_true", help="only to see that everything works")
    parser.add_argument(
        "--output", type=Path, help="where to write benchmarks.md and .svg (docs, if all are run)"
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    scale = (
        TINY
        if arguments.quick
        else replace(FULL, rounds=arguments.rounds, idle=arguments.idle_seconds)
    )
    facts = machine()
    floor.load()
    rows = trio.run(_run, arguments.names or list(BENCHMARKS), scale)
    show(rows)
    output = arguments.output
    if output is None and not arguments.names and not arguments.quick:
        output = _DOCS
    if output is not None:
        write(output, rows, facts, _COMMAND, _NOTES)


if __name__ == "__main__":
    main()

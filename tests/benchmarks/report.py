"""The results for people: a table on the terminal, a page and a plot."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import trio

from benchmarks.measure import Row

__all__ = ["machine", "show", "write"]

_COLUMNS = ("work", "floor (C)", "direct", "ours", "measured", "quartiles", "budget")
#: Of the table, where nobody says how wide the terminal is.
_WIDTH = 190
#: Longer bars are cut off; this many budgets fit.
_MOST = 2.0


def _number(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}"


def _cells(row: Row) -> tuple[str, ...]:
    spread = ""
    if row.spread is not None and row.spread[0] != row.spread[1]:
        spread = " - ".join(_number(value, row.decimals) for value in row.spread)
    budget = "recorded"
    if row.budget is not None:
        budget = f"{row.budget:g} {row.unit}, " + ("kept" if row.within else "MISSED")
    measured = f"{_number(row.measure, row.decimals)} {row.unit}"
    return row.name, row.floor, row.direct, row.ours, measured, spread, budget


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "CPU": model,
        "CPUs": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "Python": f"{platform.python_version()}, trio {trio.__version__}",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def show(rows: Sequence[Row]) -> None:
    """Print the table, with rich if it is there."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for row in rows:
            print(" | ".join(_cells(row)))
        return
    table = Table(*_COLUMNS)
    for row in rows:
        table.add_row(*_cells(row), style="red" if row.within is False else None)
    console = Console()
    console = console if console.is_terminal else Console(width=_WIDTH)
    console.print(table)


def _page(rows: Sequence[Row], facts: dict[str, str], command: str, notes: str) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    table = [line(_COLUMNS), "|" + "---|" * len(_COLUMNS), *(line(_cells(row)) for row in rows)]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "Written by one command:",
            "",
            "```sh",
            command,
            "```",
            "",
            notes,
            "",
            *(f"- {name}: {fact}" for name, fact in facts.items()),
            "",
            "![What was measured, as a part of the budget](benchmarks.svg)",
            "",
            *table,
            "",
        ]
    )


def plot(rows: Sequence[Row]) -> str:
    """An SVG: for each row with a budget, how much of it is used."""
    height, left, width, right = 24, 470, 300, 170
    budgeted = [(row, row.budget) for row in rows if row.budget is not None]
    total = (len(budgeted) + 2) * height
    at_budget = left + width / _MOST
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + right}" height="{total}"'
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{at_budget}" y="16" text-anchor="middle">the budget</text>',
    ]
    for i, (row, budget) in enumerate(budgeted):
        y = (i + 1) * height
        part = min(max(row.measure / budget, 0), _MOST)
        color = "#2a7f4f" if row.within else "#c0392b"
        label = f"{_number(row.measure, row.decimals)} of {budget:g} {row.unit}"
        bar = part * width / _MOST
        parts += [
            f'<text x="{left - 8}" y="{y + 16}" text-anchor="end">{escape(row.name)}</text>',
            f'<rect x="{left}" y="{y + 4}" width="{bar:.1f}" height="16" fill="{color}"/>',
            f'<text x="{max(left + bar, at_budget) + 6:.1f}" y="{y + 16}">{escape(label)}</text>',
        ]
    parts += [
        f'<line x1="{at_budget}" y1="{height}" x2="{at_budget}" y2="{total - height + 4}"'
        ' stroke="black"/>',
        "</svg>\n",
    ]
    return "\n".join(parts)


def write(
    directory: Path, rows: Sequence[Row], facts: dict[str, str], command: str, notes: str
) -> None:
    """benchmarks.md and benchmarks.svg."""
    (directory / "benchmarks.md").write_text(_page(rows, facts, command, notes))
    (directory / "benchmarks.svg").write_text(plot(rows))

"""Write the table anew: `PYTHONPATH=tests .venv/bin/python -m conformance.cancellation`."""

from __future__ import annotations

from pathlib import Path

from conformance.cancellation import calls, children, streams, table

#: They enter their rows when they are imported.
MODULES = (calls, streams, children)
PAGE = Path(__file__).parents[3] / "docs" / "cancellation.md"


def main() -> None:
    """In place of the one that is there."""
    lines = PAGE.read_text().splitlines()
    there = [i for i, line in enumerate(lines) if line.startswith("|")]
    lines[there[0] : there[-1] + 1] = table()
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

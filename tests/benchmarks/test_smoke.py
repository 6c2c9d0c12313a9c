"""Every benchmark works. What it measures is nobody's business here."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks import BENCHMARKS, floor
from benchmarks.measure import TINY, Row
from benchmarks.report import machine, plot, show, write


@pytest.fixture(scope="module", autouse=True)
def _floor() -> None:
    """A library stays loaded, which is no leak of the test that loads it."""
    floor.load()


@pytest.mark.parametrize("name", BENCHMARKS)
async def test_benchmark(name: str) -> None:
    if name == "instructions" and shutil.which("valgrind") is None:
        pytest.skip("valgrind is missing")
    rows = await BENCHMARKS[name](TINY)
    assert rows
    for row in rows:
        assert (row.within is None) == (row.budget is None)
        assert row.ours or row.unit in ("KiB", "ms", "instructions"), row


ROWS = [
    Row("well | within", 1.004, "x", 1, (0.5, 1.5), ours="1 us"),
    Row("missed <by far>", 9.5, "ms", 2),
    Row("only recorded", 1234.5, "instructions", decimals=0),
]


def test_budgets_are_compared_as_printed() -> None:
    assert [row.within for row in ROWS] == [True, False, None]
    assert Row("just missed", 1.006, "x", 1).within is False


def test_page_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = machine()
    write(tmp_path, ROWS, facts, "the command", "the notes")
    show(ROWS)
    page = (tmp_path / "benchmarks.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(ROWS)
    assert "well \\| within" in table[2]
    assert "1.00 x, kept" not in table[2]
    assert "1 x, kept" in table[2]
    assert "2 ms, MISSED" in table[3]
    assert "1,234 instructions" in table[4]
    assert all(f"- {name}: {fact}" in page for name, fact in facts.items())
    assert (tmp_path / "benchmarks.svg").read_text() == plot(ROWS)
    bars = ET.fromstring(plot(ROWS)).findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 1 + 2  # the background, and a bar for each budget
    assert "missed" in capsys.readouterr().out

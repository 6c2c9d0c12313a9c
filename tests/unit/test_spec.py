"""SPEC.md says what the tables say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from rsyscall_protocol import TRANSITIONS, VERSION_MAX, Role, diagram

PROTOCOL = Path(__file__).parents[2] / "protocol"
SPEC = (PROTOCOL / "SPEC.md").read_text()
DATA: dict[str, Any] = tomllib.loads((PROTOCOL / "protocol.toml").read_text())


def tables(text: str) -> dict[str, list[list[str]]]:
    """The rows of every table of a page, by the heading of its first column."""
    found: dict[str, list[list[str]]] = {}
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in block.splitlines()]
        head, line, *body = rows
        assert all(re.fullmatch("-+", cell) for cell in line)
        assert all(len(row) == len(head) for row in body), f"a ragged table: {head}"
        found.setdefault(head[0], []).extend(body)
    return found


TABLES = tables(SPEC)


def test_diagram_is_that_of_the_state_table() -> None:
    assert re.findall(r"^```mermaid\n(.*?)\n```$", SPEC, re.DOTALL | re.MULTILINE) == [diagram()]


def test_state_table_is_the_one_that_is_executed() -> None:
    def cell(row: dict[tuple[Role, Any], Any], role: Role) -> str:
        return ", ".join(f"{m.name} → {s.value}" for (r, m), s in row.items() if r is role)

    assert TABLES["state"] == [
        [f"`{state.value}`", cell(row, Role.CLIENT), cell(row, Role.SERVER)]
        for state, row in TRANSITIONS.items()
    ]


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("message", "message"),
        ("argument", "argument"),
        ("flag", "call_flag"),
        ("batch flag", "batch_flag"),
        ("step flag", "step_flag"),
        ("status", "status"),
        ("feature", "feature"),
        ("size", "size"),
        ("error", "error"),
    ],
)
def test_every_number_is_in_its_table(heading: str, section: str) -> None:
    numbers = {row[0]: int(row[1]) for row in TABLES.get(heading, [])}
    assert numbers == {f"`{name}`": row["value"] for name, row in DATA[section].items()}


def test_limits_are_in_their_table() -> None:
    assert [row[:4] for row in TABLES["limit"]] == [
        [f"`{name}`", str(row["default"]), str(row["min"]), str(row["max"])]
        for name, row in DATA["limit"].items()
    ]


def test_every_section_of_the_data_is_covered() -> None:
    flags = {"call_flag", "batch_flag", "step_flag"}
    sections = {"message", "argument", "status", "feature", "size", "error", "limit"}
    assert DATA.keys() == flags | sections | {"magic", "version"}


def test_magic_and_version() -> None:
    assert f"| magic | string | `{DATA['magic']}` |" in SPEC
    assert SPEC.startswith(f"# The rsyscall protocol, version {VERSION_MAX}\n")


def test_every_error_is_explained_where_it_belongs() -> None:
    text = re.sub(r"^\|.*\n", "", SPEC, flags=re.MULTILINE)
    in_fields = " ".join(cell for row in TABLES["field"] for cell in row)
    unmentioned = [e for e in DATA["error"] if not re.search(rf"\b{e}\b", text + in_fields)]
    assert unmentioned == ["PEER"]  # the server's own affair


def test_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", SPEC, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
    links = re.findall(r"\]\(([^)]+)\)", SPEC)
    assert "../docs/minimal_client.py" in links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors
        elif not link.startswith("https:"):
            assert (PROTOCOL / link).exists(), link

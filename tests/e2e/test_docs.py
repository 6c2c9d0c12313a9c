"""What the manual shows is what happens: each example is a program, followed by its output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.servers import missing

DOCS = Path(__file__).parents[2] / "docs"
TIMEOUT = 60


@dataclass(frozen=True)
class Example:
    page: str
    line: int
    code: str
    output: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def examples(page: Path) -> list[Example]:
    """All programs of a page, each with the block of text behind it, if one follows."""
    text = page.read_text()
    found: list[Example] = []
    for match in re.finditer(
        r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", text, re.S | re.M
    ):
        line = text.count("\n", 0, match.start()) + 2
        found.append(Example(page.name, line, match[1], match[2]))
    return found


#: Runs the rest of its arguments where there is a /dev/fuse, which a machine in a container often
#: lacks: in a mount namespace that has its own /dev.
WITH_FUSE = """
mount -t tmpfs -o mode=755 dev "$1"
for name in null zero urandom; do touch "$1/$name"; mount --bind "/dev/$name" "$1/$name"; done
mknod -m 666 "$1/fuse" c 10 229
mount --move "$1" /dev
shift
exec "$@"
"""


def with_fuse(directory: Path, command: list[str]) -> list[str]:
    """The command, so that it finds a /dev/fuse."""
    if os.access("/dev/fuse", os.R_OK | os.W_OK):
        return command
    if os.geteuid() != 0:
        missing("access to /dev/fuse")
    directory.mkdir()
    return ["unshare", "-m", "sh", "-ec", WITH_FUSE, "sh", str(directory), *command]


EXAMPLES = [example for page in sorted(DOCS.glob("*.md")) for example in examples(page)]


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_example(example: Example, tmp_path: Path) -> None:
    assert example.output is not None, "no output is shown behind the example"
    # The lines in a traceback are those of the page.
    program = tmp_path / "example.py"
    program.write_text("\n" * (example.line - 1) + example.code)
    command = [sys.executable, "-u", "-W", "error", str(program)]
    if "/dev/fuse" in example.code:
        command = with_fuse(tmp_path / "dev", command)
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == example.output


def test_every_example_was_found() -> None:
    """A fence that is indented, or has another word behind it, would not be run."""
    for page in DOCS.glob("*.md"):
        fences = re.findall(r"^\s*(?:```|~~~)\s*py", page.read_text(), re.M)
        assert len(fences) == sum(example.page == page.name for example in EXAMPLES)
    assert "batches.md" in {example.page for example in EXAMPLES}

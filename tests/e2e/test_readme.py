"""What the README shows is what happens."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
TIMEOUT = 60


def run(*command: str | Path, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command whose output goes to files: a child it left behind cannot keep us waiting."""
    with (directory / "out").open("w+") as out, (directory / "err").open("w+") as err:
        returncode = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=directory,
            timeout=TIMEOUT,
            check=False,
        ).returncode
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, returncode, out.read(), err.read())


def readme_match(pattern: str) -> re.Match[str]:
    found = re.search(pattern, README.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None, f"nothing in {README} matches {pattern}"
    return found


def test_example(tmp_path: Path) -> None:
    code = readme_match(r"^```python\n(.*?)^```$")[1]
    example = tmp_path / "example.py"
    example.write_text(code)

    done = run(sys.executable, "-W", "error", example, directory=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    pid, contents, refused, failed = done.stdout.splitlines()
    assert re.fullmatch(r"pid pid (\d+) child of pid (\d+)", pid)
    assert contents == "b'HELLO, process' b'process'"
    assert refused.startswith("refused: MemoryMapping(")
    assert failed.startswith("failed: No such file or directory in openat(")


def test_demo(tmp_path: Path) -> None:
    file = Path(readme_match(r"^```sh\n\.ci/setup && \.venv/bin/rsyscall demo (\S+)$")[1])
    rsyscall = Path(sysconfig.get_path("scripts")) / "rsyscall"

    done = run(rsyscall, "demo", file, directory=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    lines = [line for line in done.stdout.splitlines() if digest in line]
    assert len(lines) == 2, done.stdout  # read through the mapping, and read here
    assert f"mapped     {file.stat().st_size} bytes of {file}" in done.stdout.splitlines()


def test_demo_output(tmp_path: Path) -> None:
    """The output that the README shows has the form of the real one."""
    command, file, shown = readme_match(
        r"^```\n\$ \.venv/bin/(rsyscall) demo (\S+)\n(.*?)^```$"
    ).groups()

    done = run(Path(sysconfig.get_path("scripts")) / command, "demo", file, directory=tmp_path)

    assert form(done.stdout) == form(shown)


def form(output: str) -> list[str]:
    """The words of each line, without what differs from run to run and machine to machine."""
    output = re.sub(r"[0-9a-f]{64}", "DIGEST", output)
    lines = [re.sub(r"\b[0-9a-f]*[0-9][0-9a-f]*\b", "N", line) for line in output.splitlines()]
    # of the line of /proc/self/maps the file's name differs too: it has no symbolic links
    return [re.sub(r"^(maps +N-N r--p).*", r"\1", line) for line in lines]

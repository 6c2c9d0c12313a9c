"""A client that was written from SPEC.md alone, and knows nothing of rsyscall."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from rsyscall.tasks.spawn import stub_path

CLIENT = Path(__file__).parents[2] / "docs" / "minimal_client.py"
TIMEOUT = 60


def test_makes_calls_and_ends_the_stub() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", CLIENT, stub_path()],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    getpid, readlink, ended = done.stdout.splitlines()
    ours = re.fullmatch(r"stub: pid (\d+) exit status 0", ended)
    assert ours is not None
    assert getpid == f"getpid: [3, 1, 0, {ours[1]}, []]"
    path = bytes(stub_path())
    assert readlink == f"readlink: [3, 2, 0, {len(path)}, [{path!r}]]"


def test_uses_nothing_of_rsyscall() -> None:
    modules = re.findall(r"^(?:import|from) (\w+)", CLIENT.read_text(), re.MULTILINE)
    assert modules == ["socket", "subprocess", "sys", "msgpack"]

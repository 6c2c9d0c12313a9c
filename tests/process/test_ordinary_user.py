"""What needs no privileges works without them: real ids of a user who has none."""

from __future__ import annotations

import re

import trio

from e2e.test_docs import EXAMPLES
from ordinary import GID, UID, ordinary_user

#: As long as the whole may take on a busy machine, in seconds.
_SECONDS = 300


FILES = ("clone", "exec", "refusals", "spawn", "unshare")


async def test_the_user_is_an_ordinary_one() -> None:
    tell = (
        "import os; print(os.getresuid(), os.getresgid(), os.getgroups());"
        "print([l for l in open('/proc/self/status') if l.startswith('CapEff')][0])"
    )
    async with ordinary_user() as user:
        done = await user.run("-c", tell)
    assert done.stdout is not None
    ids, caps = done.stdout.decode().split("\n")[:2]
    assert ids == f"({UID}, {UID}, {UID}) ({GID}, {GID}, {GID}) []"
    assert int(caps.split()[1], 16) == 0


async def test_the_container_of_the_manual() -> None:
    (example,) = [example for example in EXAMPLES if example.page == "container.md"]
    async with ordinary_user() as user:
        program = user.directory / "example.py"
        program.write_text(example.code)
        program.chmod(0o644)
        done = await user.run("-W", "error", program)
    assert done.stdout is not None
    assert (done.returncode, done.stdout.decode()) == (0, example.output)


async def test_the_tests_of_processes() -> None:
    """Those that need no privileges, in a few ways of reaching a process."""
    async with ordinary_user() as user:
        with trio.fail_after(_SECONDS):
            done = await user.run(
                *("-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *("-c", user.checkout / "pyproject.toml", "--rootdir", user.checkout),
                *("--parents", "direct,stub", "-m", "not privileged"),
                *(
                    "-k",
                    "not killed_at_any_time and not handlers_of",
                ),  # slow, and no matter of rights
                *(user.checkout / "tests/process" / f"test_{name}.py" for name in FILES),
            )
    assert done.stdout is not None
    shown = done.stdout.decode(errors="replace")
    assert done.returncode == 0, shown
    passed = re.search(r"(\d+) passed", shown)
    assert passed is not None
    assert int(passed[1]) > 100, shown

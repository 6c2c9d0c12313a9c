"""The units, as systemd's own tools see them; test_systemd_boot.py has systemd itself use them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from e2e.servers import DEADLINE, STUB, environment, missing

UNITS = Path(__file__).parents[2] / "systemd"
#: systemd's own measure, from 0 to 10 (no protection). A drop-in can only make it less.
MOST_EXPOSURE = 8.3


def analyze(*args: str | Path, home: Path) -> str:
    """Run systemd-analyze where the units' executables are, without a trace on the machine."""
    if os.geteuid() != 0:
        missing("root")
    script = """
        mount -t tmpfs tmpfs /usr/local/bin
        install -D -m 755 -t /usr/local/bin "$1"
        install -D -m 755 -t "$HOME/.local/bin" "$1"
        shift
        exec systemd-analyze "$@"
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script, "-", STUB, *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(HOME=str(home), XDG_RUNTIME_DIR=str(home), PATH="/usr/bin:/bin"),
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def units(directory: Path) -> list[Path]:
    return [directory / "rsyscall.socket", directory / "rsyscall@.service"]


def drop_ins() -> list[str]:
    """Those that the README shows."""
    found = re.findall(r"^```ini\n(.*?)^```$", (UNITS / "README.md").read_text(), re.M | re.S)
    assert len(found) == 2
    return found


def test_verify(tmp_path: Path) -> None:
    assert analyze("verify", "--man=no", *units(UNITS), home=tmp_path) == ""


def test_verify_user(tmp_path: Path) -> None:
    assert analyze("--user", "verify", "--man=no", *units(UNITS / "user"), home=tmp_path) == ""


def with_drop_in(directory: Path, text: str) -> list[Path]:
    for path in units(UNITS):
        (directory / path.name).write_bytes(path.read_bytes())
    (directory / "rsyscall@.service.d").mkdir()
    (directory / "rsyscall@.service.d" / "override.conf").write_text(text)
    return units(directory)


@pytest.mark.parametrize("number", [0, 1])
def test_verify_drop_in(tmp_path: Path, number: int) -> None:
    text = drop_ins()[number].replace("/opt/rsyscall/bin/", "/usr/local/bin/")
    assert analyze("verify", "--man=no", *with_drop_in(tmp_path, text), home=tmp_path) == ""


def exposure(service: Path, home: Path) -> float:
    shown = analyze("security", "--offline=yes", "--no-pager", service, home=home)
    found = re.search(r"Overall exposure level for rsyscall@\w+\.service: ([0-9.]+) ", shown)
    assert found is not None, shown
    return float(found[1])


def test_security(tmp_path: Path) -> None:
    assert exposure(units(UNITS)[1], tmp_path) <= MOST_EXPOSURE


def test_what_is_common_to_system_and_user() -> None:
    """The user's pair has no comments of its own on why: the settings must not drift apart."""
    for system, user in zip(units(UNITS), units(UNITS / "user"), strict=True):
        ours = {line for line in system.read_text().splitlines() if "=" in line[:40]}
        theirs = {line for line in user.read_text().splitlines() if "=" in line[:40]}
        different = {line.split("=")[0] for line in theirs - ours}
        assert different == {"Description", "ListenStream"} or different == {"ExecStart"}

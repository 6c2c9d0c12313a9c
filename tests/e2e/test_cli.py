"""The command line, as a user meets it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pty
import select
import signal
import subprocess
import sysconfig
from pathlib import Path

import pytest

from e2e.servers import DEADLINE, children_of, environment

COMMAND = Path(sysconfig.get_path("scripts")) / "rsyscall"
#: As an interpreter is started by a shell: what it prints into a file or pipe is buffered.
ENVIRONMENT = {name: value for name, value in environment().items() if "PYTHON" not in name}
LARGE = 64 * 1024 * 1024


def run(*args: str | Path, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=directory,
        env=ENVIRONMENT,
        timeout=DEADLINE,
        check=False,
    )


def test_version() -> None:
    done = run("--version")
    version = importlib.metadata.version("rsyscall")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"rsyscall {version}\n", "")


def test_help() -> None:
    for args in ("--help",), ("demo", "--help"):
        done = run(*args)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("usage: rsyscall ")


@pytest.mark.parametrize("args", [[], ["demo"], ["nonsense"], ["demo", "a", "b"], ["demo", "-x"]])
def test_usage(args: list[str]) -> None:
    done = run(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: rsyscall ")
    assert "error: " in done.stderr


def test_demo(tmp_path: Path) -> None:
    """Of a file that ends inside a page, and by a name that is not ASCII, relative to here."""
    (tmp_path / "Täst file").write_bytes(bytes(range(256)) * 33 + b"x")
    done = run("demo", "Täst file", directory=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    digest = hashlib.sha256((tmp_path / "Täst file").read_bytes()).hexdigest()
    assert done.stdout.count(digest) == 2
    assert "mapped     8449 bytes of Täst file\n" in done.stdout
    assert "elsewhere  AddressSpaceMismatchError: " in done.stdout


def last_line(stderr: str) -> str:
    """Of the only one: no traceback in front of it."""
    (line,) = stderr.splitlines()
    return line


def test_missing(tmp_path: Path) -> None:
    done = run("demo", tmp_path / "none")
    assert done.returncode == 1
    assert last_line(done.stderr).startswith("rsyscall: ")
    assert "No such file or directory" in done.stderr
    assert str(tmp_path / "none") in done.stderr


@pytest.mark.parametrize("kind", ["directory", "fifo", "device"])
def test_not_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path if kind == "directory" else tmp_path / kind
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/null")
    done = run("demo", path)
    assert (done.returncode, last_line(done.stderr)) == (
        1,
        f"rsyscall: {path}: not a regular file",
    )


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    done = run("demo", "empty", directory=tmp_path)
    assert (done.returncode, last_line(done.stderr)) == (
        1,
        "rsyscall: empty: empty, there is nothing to map",
    )


def test_unreadable(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "secret").chmod(0)
    # Root may read it all the same, unless it has lost the right to.
    limit = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    done = subprocess.run(
        [*(limit if os.geteuid() == 0 else []), COMMAND, "demo", tmp_path / "secret"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1
    assert last_line(done.stderr).startswith("rsyscall: Permission denied, in openat(")


@pytest.mark.parametrize("output", ["full", "broken pipe", "closed"])
def test_output_that_cannot_be_written(output: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = ["sh", "-c", '"$@" >&-', "-"] if output == "closed" else []
    with open("/dev/full", "w") as full, open(writer, "w") as broken:
        done = subprocess.run(
            [*command, COMMAND, "demo", "/bin/sh"],
            stdin=subprocess.DEVNULL,
            stdout=full if output == "full" else broken,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
            timeout=DEADLINE,
            check=False,
        )
    if output == "closed":  # nobody wants to know
        assert (done.returncode, done.stderr) == (0, "")
    else:
        reason = "No space left on device" if output == "full" else "Broken pipe"
        assert (done.returncode, last_line(done.stderr)) == (1, f"rsyscall: {reason}")


class Terminal:
    """The command under a pseudo-terminal; its standard output goes to a file."""

    def __init__(self, directory: Path, *args: str | Path, **env: str) -> None:
        self.master, slave = pty.openpty()
        self.stdout = directory / "stdout"
        self.shown = b""
        with self.stdout.open("wb") as stdout:
            self.process = subprocess.Popen(
                [COMMAND, *args],
                stdin=slave,
                stdout=stdout,
                stderr=slave,
                env=ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "100", **env},
                start_new_session=True,
            )
        os.close(slave)

    def read(self) -> bool:
        """Take what it shows; False when it has ended."""
        try:
            part = os.read(self.master, 65536)
        except OSError:  # EIO: nobody has the other side open any more
            part = b""
        self.shown += part
        return part != b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *args: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_progress(tmp_path: Path) -> None:
    """A large file's bytes are counted on the terminal, and the line is gone in the end."""
    file = sparse(tmp_path / "large", LARGE)
    with Terminal(tmp_path, "demo", file) as terminal:
        while terminal.read():
            pass
        assert terminal.process.wait(DEADLINE) == 0
    digest = hashlib.sha256(bytes(LARGE)).hexdigest()
    assert terminal.stdout.read_text().count(digest) == 2
    assert b"/64.0 MiB" in terminal.shown
    assert b"\x1b[2K" in terminal.shown[-16:]


def test_no_progress_of_a_small_file(tmp_path: Path) -> None:
    with Terminal(tmp_path, "demo", "/bin/sh") as terminal:
        while terminal.read():
            pass
        assert terminal.process.wait(DEADLINE) == 0
    assert terminal.shown == b""


def test_no_progress_without_a_terminal(tmp_path: Path) -> None:
    done = run("demo", sparse(tmp_path / "large", LARGE))
    assert (done.returncode, done.stderr) == (0, "")


def test_interrupt(tmp_path: Path) -> None:
    """Ctrl-C in the middle: the status that a shell gives for it, no traceback, no stub left."""
    file = sparse(tmp_path / "huge", 1 << 40)
    with Terminal(tmp_path, "demo", file) as terminal:
        while b"TiB" not in terminal.shown:
            assert terminal.read()
        (stub,) = children_of(terminal.process.pid)
        pidfd = os.pidfd_open(stub)
        terminal.process.send_signal(signal.SIGINT)
        while terminal.read():
            pass
        assert terminal.process.wait(DEADLINE) == 130
        assert select.select([pidfd], [], [], DEADLINE)[0]
        os.close(pidfd)
    assert b"Traceback" not in terminal.shown


def test_without_rich(tmp_path: Path) -> None:
    """The package is optional: the terminal then says so and the rest works."""
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise ImportError\n")
    file = sparse(tmp_path / "large", LARGE)
    with Terminal(tmp_path, "demo", file, PYTHONPATH=str(tmp_path)) as terminal:
        while terminal.read():
            pass
        assert terminal.process.wait(DEADLINE) == 0
    assert b"needs rsyscall[cli]" in terminal.shown

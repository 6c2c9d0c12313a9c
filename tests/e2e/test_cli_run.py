"""`rsyscall run`, as a user meets it: what the command finds, and how it ends."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from e2e.servers import DEADLINE
from e2e.test_cli import COMMAND, ENVIRONMENT
from rsyscall.cli import main

SH = ["--", "/bin/bash", "-c"]


def run(*args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "env": ENVIRONMENT, **options}
    return subprocess.run(
        [COMMAND, "run", *args],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        **given,
    )


def inside(capfd: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """The same in this process: status, output, errors."""
    try:
        status: object = main(["run", *args])
    except SystemExit as exc:
        status = exc.code
    assert isinstance(status, int)
    out, err = capfd.readouterr()
    return status, out, err


def says(*args: str | Path, **options: Any) -> str:
    """What a command prints that ends well."""
    done = run(*args, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("status", [0, 255])
def test_the_status_is_that_of_the_command(status: int) -> None:
    assert run(*SH, f"exit {status}").returncode == status


@pytest.mark.parametrize("name", ["TERM", "KILL"])
def test_a_command_that_a_signal_has_killed(name: str) -> None:
    done = run(*SH, f"kill -{name} $$")
    assert (done.returncode, done.stderr) == (128 + signal.Signals[f"SIG{name}"], "")


@pytest.mark.parametrize(
    ("args", "out"),
    [
        (["echo", "a", "-x", "--", "b"], "a -x -- b\n"),
        (["--", "echo", "--", "a"], "-- a\n"),
        (["--cwd", "/", "echo", "--uid", "0"], "--uid 0\n"),
        (["--cwd=/", "--", "pwd"], "/\n"),
    ],
)
def test_where_the_command_begins(args: list[str], out: str) -> None:
    assert says(*args) == out


def test_standard_input_and_output_are_ours() -> None:
    assert says("cat", stdin=None, input="x") == "x"
    done = run(*SH, "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_no_other_descriptor_is_open(tmp_path: Path) -> None:
    with (tmp_path / "x").open("w") as file:
        out = says("ls", "/proc/self/fd", pass_fds=[file.fileno()])
    assert out.split() == ["0", "1", "2", "3"]  # the last one is that of `ls`


def test_ids() -> None:
    out = says("--uid", "33", "--gid", "34", "--groups", "35,36", "id", "-u")
    assert out == "33\n"
    assert says("--uid", "nobody", "--gid", "nogroup", "--groups=", *SH, "id -u; id -G") == (
        "65534\n65534\n"
    )


def test_environment() -> None:
    assert says("--clear-env", "--env", "A=1=2", "--env", "B=", "/usr/bin/env") == "A=1=2\nB=\n"
    out = says("--env", "HOME=/x", *SH, "echo $HOME $C", env=ENVIRONMENT | {"C": "c"})
    assert out == "/x c\n"


def test_descriptors(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("text\n")
    (tmp_path / "log").write_text("a\n")
    (tmp_path / "out").write_text("old")
    out = says(
        "--fd", f"3={tmp_path}/in", "--fd", f"5>{tmp_path}/out", "--fd", f"10>>{tmp_path}/log",
        *SH, "cat <&3; echo five >&5; echo ten >&10",
    )  # fmt: skip
    assert out == "text\n"
    assert (tmp_path / "out").read_text() == "five\n"
    assert (tmp_path / "log").read_text() == "a\nten\n"
    assert says("--fd", f"0={tmp_path}/in", "cat") == "text\n"
    says("--fd", f"4<>{tmp_path}/both", *SH, "echo x >&4")
    assert (tmp_path / "both").read_text() == "x\n"


def test_limits() -> None:
    limits = ["--rlimit", "nofile=64:128", "--rlimit", "RLIMIT_CORE=0", "--rlimit=stack=unlimited"]
    out = says(*limits, *SH, "ulimit -Sn; ulimit -Hn; ulimit -Hc; ulimit -Ss")
    assert out == "64\n128\n0\nunlimited\n"


@pytest.mark.parametrize(
    ("names", "changed"),
    [("mount", {"mnt"}), ("pid", {"pid"}), ("net,uts", {"net", "uts"}),
     ("user,ipc,cgroup", {"user", "ipc", "cgroup"}), ("user,time", {"user", "time"})],
)  # fmt: skip
def test_namespaces(names: str, changed: set[str]) -> None:
    links = "/proc/self/ns/{mnt,pid,net,user,uts,ipc,cgroup,time}"
    found = [
        link.partition(":") for link in says("--unshare", names, *SH, f"readlink {links}").split()
    ]
    ours = {name: os.readlink(f"/proc/self/ns/{name}").partition(":")[2] for name, _, _ in found}
    assert {name for name, _, inode in found if inode != ours[name]} == changed


def test_root_in_a_user_namespace() -> None:
    script = "id -u; echo $$; wc -l < /proc/net/dev"
    out = says("--unshare=user,net,pid", "--uid", "0", "--gid", "0", *SH, script)
    assert out == "0\n1\n3\n"


def test_clocks() -> None:
    day = 86400
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    out = says(
        "--unshare=user,time", "--clock", f"boottime={day}", *SH, "cut -d. -f1 /proc/uptime"
    )  # fmt: skip
    assert day <= int(out) - int(before) < day + 60


def test_a_session_and_a_terminal() -> None:
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    os.close(slave)
    tell = "ps -o pid=,sid=,tty= $$"
    pid, sid, tty = says("--session", *SH, tell).split()
    assert (sid, tty) == (pid, "?")
    pid, sid, tty = says("--tty", name, *SH, tell).split()
    assert (sid, f"/dev/{tty}") == (pid, name)
    os.close(master)


# ---- what fails ----


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["/no/such"], 127, "rsyscall run: /no/such: No such file or directory, in execve("),
        (["no-such-program"], 127, "rsyscall run: no-such-program: No such file or directory, "),
        (["/etc/passwd"], 126, "rsyscall run: /etc/passwd: Permission denied, in execve("),
        (["/"], 126, "rsyscall run: /: Permission denied, in execve("),
        (["/etc/passwd/x"], 127, "rsyscall run: /etc/passwd/x: Not a directory, in execve("),
        (["--cwd", "/no/such", "true"], 125, "while changing the directory\n"),
        (["--rlimit", "nofile=2:1", "true"], 125, "while setting resource limit "),
        (["--cgroup", "/no/such", "true"], 125, "while entering the cgroup\n"),
        (["--clock", "boottime=1", "true"], 125, "time_offsets: only a new time namespace "),
        (["--fd", "3=/no/such", "true"], 125, "while opening the file of --fd 3\n"),
        (["--tty", "/dev/null", "true"], 125, "while getting the controlling terminal\n"),
        (["--fd", "3=/", "--fd", "3=/", "true"], 125, "--fd: 3 is given twice\n"),
        (["--uid", "4294967295", "true"], 125, "uid: 4294967295 is no id\n"),
        (["--env", "A=\N{SNOWMAN}", "--env", "B=1", "/no"], 127, "No such file"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_the_step_that_failed(
    capfd: pytest.CaptureFixture[str], args: list[str], status: int, message: str
) -> None:
    *found, err = inside(capfd, *args)
    assert found == [status, ""]
    (line,) = err.splitlines(keepends=True)  # and no traceback
    assert line.startswith("rsyscall run: ")
    assert message in line


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "required: COMMAND"),
        (["--"], "required: COMMAND"),
        (["--nonsense", "true"], "--nonsense"),
        (["--unshare", "user,nonsense", "true"], "'nonsense' is none of mount, pid, net, user"),
        (["--uid", "no-such-user", "true"], "'no-such-user' is no user"),
        (["--gid", "no-such-group", "true"], "'no-such-group' is no group"),
        (["--groups", "0,x-y", "true"], "'x-y' is no group"),
        (["--env", "A", "true"], "'A' is not of the form NAME=VALUE"),
        (["--env", "=A", "true"], "'=A' is not of the form NAME=VALUE"),
        (["--fd", "x=/", "true"], "'x=/' is not of the form N=FILE"),
        (["--rlimit", "nofile", "true"], "'nofile' is not of the form NAME=SOFT[:HARD]"),
        (["--rlimit", "nofile=a", "true"], "'a' is not of the form SOFT[:HARD]"),
        (["--rlimit", "nofile=1:2:3", "true"], "'1:2:3' is not of the form SOFT[:HARD]"),
        (["--clock", "realtime=1", "true"], "'realtime=1' is not of the form CLOCK=SECONDS"),
        (["--clock", "boottime=x", "true"], "'x' is no number of seconds"),
        (["--pdeathsig", "NONE", "true"], "'NONE' is no signal"),
    ],
    ids=str,
)
def test_usage(capfd: pytest.CaptureFixture[str], args: list[str], message: str) -> None:
    *found, err = inside(capfd, *args)
    assert found == [125, ""]
    assert err.startswith("usage: rsyscall run ")
    assert message in err


def test_a_failure_from_outside() -> None:
    done = run("--cwd", "/no/such", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == (
        "rsyscall run: No such file or directory, in chdir(path='/no/such'),"
        " while changing the directory\n"
    )


def test_help(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = inside(capfd, "--help")
    assert (status, err) == (0, "")
    for option in ("--unshare", "--uid", "--gid", "--cwd", "--env", "--fd", "--pdeathsig"):
        assert option in out


# ---- signals ----


@contextlib.contextmanager
def started(*args: str) -> Generator[tuple[subprocess.Popen[str], int]]:
    """The program, and the pid of the command, which has said that it is ready."""
    with subprocess.Popen(
        [COMMAND, "run", *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        process_group=0,  # in one whose leader has no parent in the session nobody is stopped
    ) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["HUP", "INT", "TERM", "USR2"])
def test_signals_are_passed_on(name: str) -> None:
    trap = f"trap 'echo got; exit 7' {name}; echo $$; while :; do read -t 0.05 < /dev/zero; done"
    with started(*SH, trap) as (process, _):
        process.send_signal(signal.Signals[f"SIG{name}"])
        assert process.stdout is not None
        assert process.stdout.readline() == "got\n"
        assert process.wait(DEADLINE) == 7


def test_a_signal_that_kills_the_command() -> None:
    with started(*SH, "echo $$; exec sleep 1000") as (process, pid):
        process.terminate()
        assert process.wait(DEADLINE) == 128 + signal.SIGTERM
        assert not os.path.exists(f"/proc/{pid}")


def test_stopping_and_continuing() -> None:
    """Both stop, and both go on."""
    with started(*SH, "echo $$; exec sleep 1000") as (process, pid):
        for sig, wanted in ((signal.SIGTSTP, "T"), (signal.SIGCONT, "S")) * 2:
            process.send_signal(sig)
            deadline = time.monotonic() + DEADLINE
            while {state(process.pid), state(pid)} != {wanted}:
                assert time.monotonic() < deadline
                os.sched_yield()
        process.terminate()
        assert process.wait(DEADLINE) == 128 + signal.SIGTERM


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_death_signal() -> None:
    with started("--pdeathsig", "TERM", *SH, "echo $$; exec sleep 1000") as (process, pid):
        pidfd = os.pidfd_open(pid)
        process.kill()
        assert select.select([pidfd], [], [], DEADLINE)[0]
        os.close(pidfd)


@pytest.mark.parametrize("options", [[], ["--session"]], ids=str)
def test_ctrl_c_comes_once(tmp_path: Path, options: list[str]) -> None:
    """From the terminal to a command in our session, and by way of us to one in its own."""
    log = tmp_path / "log"
    wait = "while :; do read -t 0.05 < /dev/zero; done"
    script = f"trap 'echo got >> {log}' INT; trap 'exit 3' USR1; echo $$ > {log}; {wait}"
    pid, master = pty.fork()
    if pid == 0:
        os.execve(COMMAND, ["rsyscall", "run", *options, *SH, script], ENVIRONMENT)
    try:
        deadline = time.monotonic() + DEADLINE
        while not log.exists() or not log.read_text().endswith("\n"):
            assert time.monotonic() < deadline
            select.select([master], [], [], 0.01)
        os.write(master, b"\x03")
        while "got" not in log.read_text():
            assert time.monotonic() < deadline
            select.select([master], [], [], 0.01)
        os.kill(pid, signal.SIGUSR1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        assert log.read_text().count("got") == 1
    finally:
        os.close(master)

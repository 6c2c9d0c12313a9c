"""The system's units in a real systemd, as PID 1 of namespaces of its own."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest
import trio

import rsyscall
from e2e.servers import DEADLINE, STUB, children_of, connect, event, missing, wait_for
from rsyscall.fcntl import O
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import Call

ROOT = Path(__file__).parents[2]
BOOT = Path(__file__).with_name("boot.sh")


class System:
    """A booted systemd."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        #: The socket, as seen from here.
        self.address = f"/proc/{pid}/root/run/rsyscall.sock"

    def run(self, *command: str) -> str:
        """What a command says that runs inside, where the checkout is the current directory."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--cgroup"]
        done = subprocess.run(
            [*enter, "env", "--chdir=/mnt", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def instances(self) -> list[str]:
        return self.run(
            "systemctl", "list-units", "--all", "--plain", "--no-legend", "rsyscall@*"
        ).splitlines()


@contextlib.contextmanager
def booted(directory: Path) -> Generator[System]:
    log = directory / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, log.open("a") as errors:
        ready.bind(f"\0rsyscall-test-{os.getpid()}")
        ready.settimeout(DEADLINE)
        process = subprocess.Popen(
            ["unshare", "--mount", BOOT, ROOT, STUB, log],
            stdin=subprocess.PIPE,
            stderr=errors,
            env=os.environ | {"NOTIFY_SOCKET": f"@rsyscall-test-{os.getpid()}"},
        )
        try:
            try:
                while b"READY=1" not in ready.recv(4096).splitlines():
                    pass
            except TimeoutError:
                pytest.fail(f"systemd has not started: {log.read_text()}")
            (unshare,) = children_of(process.pid)
            (pid,) = children_of(unshare)
            yield System(pid)
        finally:
            process.communicate(timeout=DEADLINE)  # the end of its input is the end of it
    assert process.returncode == 0, log.read_text()


def commands_of_readme(after: str) -> str:
    text = (ROOT / "systemd" / "README.md").read_text()
    found = re.search(rf"{after}\n\n```sh\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1].replace("systemctl ", "systemctl --quiet ")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Generator[System]:
    if os.geteuid() != 0:
        missing("root")
    with booted(tmp_path_factory.mktemp("boot")) as system:
        system.run("sh", "-ec", commands_of_readme("as root:"))
        yield system


def test_is_enabled(system: System) -> None:
    assert system.run("systemctl", "is-enabled", "rsyscall.socket") == "enabled\n"
    assert system.run("systemctl", "is-active", "rsyscall.socket") == "active\n"
    assert os.stat(system.address).st_mode & 0o777 == 0o600


async def test_connect(system: System) -> None:
    """Each client has a process of its own, as the unit says it is, which ends with the client."""
    async with (
        rsyscall.connect(f"unix:{system.address}") as one,
        rsyscall.connect(f"unix:{system.address}") as other,
    ):
        assert one.pid != other.pid
        for process in one, other:
            assert await process.task.getpid() == process.pid
            assert await process.task.getuid() == 0
            async with await process.task.open("/proc/self/cgroup", O.RDONLY) as fd:
                cgroup = (await fd.read(4096)).decode()
            assert re.search(r"/system-rsyscall\.slice/rsyscall@\d+-.*\.service$", cgroup.strip())
            async with await process.task.open("/proc/self/status", O.RDONLY) as fd:
                status = (await fd.read(65536)).decode()
            assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
            # Refused by the filter, as an errno; not by the magic numbers, which are wrong.
            with pytest.raises(PermissionError):
                await process.task.sysif.syscall(SYS.reboot)
        assert len(system.instances()) == 2
    await trio.to_thread.run_sync(
        wait_for, lambda: system.instances() == [], "the processes' units to be gone"
    )


def test_many_connections(system: System) -> None:
    """By default systemd gives up on a socket after 200 connections within two seconds."""
    for _ in range(6):
        clients = [connect(system.address) for _ in range(50)]
        for client in clients:
            client.sock.close()
    with connect(system.address) as client:
        client.greet()
    assert system.show("rsyscall.socket", "Result") == "success"
    wait_for(lambda: system.instances() == [], "the processes' units to be gone")


def test_stop(system: System) -> None:
    """Connections that are there go on, and the socket is no longer there."""
    with connect(system.address) as client:
        pid = client.greet().info["pid"]
        system.run("systemctl", "stop", "rsyscall.socket")
        assert not Path(system.address).exists()
        (unit,) = [line.split()[0] for line in system.instances()]
        assert system.show(unit, "MainPID") == str(pid)
    wait_for(lambda: system.instances() == [], "the process's unit to be gone")
    system.run("systemctl", "start", "rsyscall.socket")


def test_user(system: System) -> None:
    """The pair of a user, installed as README.md says, in a user's manager."""
    environment = {"HOME": "/run/someone/home", "XDG_RUNTIME_DIR": "/run/someone"}
    options = [f"--setenv={name}={value}" for name, value in environment.items()]
    for option in "User=nobody", "Delegate=yes", "Type=notify", "RuntimeDirectory=someone":
        options += ["--property", option]
    manager = "/lib/systemd/systemd --user --unit=basic.target"
    system.run("systemd-run", "--quiet", "--unit=someone", *options, *manager.split())
    variables = [f"{name}={value}" for name, value in environment.items()]
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", *variables]
    system.run(*as_nobody, "sh", "-ec", commands_of_readme("without root:"))

    assert system.run(*as_nobody, "systemctl", "--user", "is-enabled", "rsyscall.socket") == (
        "enabled\n"
    )
    with connect(f"/proc/{system.pid}/root/run/someone/rsyscall.sock") as client:
        client.greet()
        client.send(event(Call(1, SYS.getuid)))
        assert client.result().value == 65534
    system.run("systemctl", "stop", "someone")


async def test_standard_input_may_be_the_socket(system: System) -> None:
    """As inetd has it, of a socket that systemd has accepted."""
    unit = "/etc/systemd/system/inetd"
    system.run(
        "sh",
        "-ec",
        f"""
        printf '[Socket]\\nListenStream=/run/inetd.sock\\nAccept=yes\\n' > {unit}.socket
        printf '[Service]\\nExecStart=%s\\nStandardInput=socket\\n' \\
            /mnt/.venv/bin/rsyscall-stub > {unit}@.service
        systemctl daemon-reload
        systemctl --quiet start inetd.socket
        """,
    )
    async with rsyscall.connect(f"unix:/proc/{system.pid}/root/run/inetd.sock") as process:
        assert await process.task.readlink("/proc/self/fd/0") == "/dev/null"
        async with await process.task.open("/proc/self/cgroup", O.RDONLY) as fd:
            assert b"/inetd@" in await fd.read(4096)
    system.run("systemctl", "--quiet", "stop", "inetd.socket")

"""Processes on other machines, reached by OpenSSH.

    host = await make_ssh_host(local_process, lambda ssh: ssh.args("user@host"))
    child, remote = await host.ssh(local_process)
    async with child:
        print(await remote.task.getpid())

Nothing need be installed there: what is sent is our stub, a static program of 32 KiB, which is kept
in the user's cache directory. One connection carries everything, and no port is opened. See
docs/ssh.md.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path as LocalPath
from typing import TYPE_CHECKING

from rsyscall._checkpoint import checkpoint, shield
from rsyscall.child.stdio import DEVNULL
from rsyscall.command import Command
from rsyscall.fcntl import O
from rsyscall.near.sysif import SyscallError
from rsyscall.path import Path
from rsyscall.stdlib.mktemp import TemporaryDirectory, mkdtemp
from rsyscall.sysif.direct import DirectSyscallInterface
from rsyscall.tasks._ssh_commands import (
    OptionValue,
    SSHCommand,
    SSHDCommand,
    quoted,
    with_options,
)
from rsyscall.tasks._ssh_script import Image, command_line, new_mark
from rsyscall.tasks._ssh_start import (
    Conversation,
    SSHError,
    check_here,
    converse,
    start_stub,
)
from rsyscall.tasks.spawn import stub_path
from rsyscall.thread import Process

if TYPE_CHECKING:
    from typing import Self

    from rsyscall.monitor import AsyncChildPid

__all__ = [
    "SSHCommand",
    "SSHDCommand",
    "SSHDExecutables",
    "SSHError",
    "SSHExecutables",
    "SSHHost",
    "make_local_ssh",
    "make_local_ssh_from_executables",
    "make_ssh_host",
    "ssh_bootstrap",
    "ssh_forward",
]

#: What ssh is told unless the user has told it something else: never to ask, to notice within 45 s
#: that the network is dead, and that what is run is ours, without a terminal.
_DEFAULTS = {
    "BatchMode": "yes",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "3",
    "RequestTTY": "no",
    "RemoteCommand": "none",
}


class SSHExecutables:
    """What is needed to reach other machines.

    base_ssh: the command to begin with. bootstrap_path: where, on this machine, the stub is that is
    sent there: our own, which is for machines like this one, by default.
    """

    def __init__(
        self, base_ssh: SSHCommand, bootstrap_path: str | os.PathLike[str] | None = None
    ) -> None:
        """Nothing is looked at."""
        self.base_ssh: SSHCommand = base_ssh
        self.bootstrap_path: Path = Path(stub_path() if bootstrap_path is None else bootstrap_path)

    @classmethod
    async def find(cls, process: Process) -> SSHExecutables:
        """With the ssh that a process has in its PATH.

        ExecutableNotFound; otherwise see Environment.which. A checkpoint.
        """
        found = await process.environ.which("ssh")
        return cls(SSHCommand.make(Path(found.executable_path)))

    def host(self, to_host: Callable[[SSHCommand], SSHCommand]) -> SSHHost:
        """A machine. to_host: gives a command all that leads there, and to no other."""
        return SSHHost(self, to_host)

    def image(self) -> Image:
        """The bytes of the stub. OSError, or ValueError, if there is none at bootstrap_path."""
        return Image.parse(LocalPath(self.bootstrap_path).read_bytes(), self.bootstrap_path)


class SSHHost:
    """A machine that is reached by ssh; see SSHExecutables.host.

    As a context manager, or by `close`, what was made for it here is removed: of make_local_ssh,
    its keys. Processes that were reached stay, but no further ones can be.
    """

    def __init__(
        self,
        executables: SSHExecutables,
        to_host: Callable[[SSHCommand], SSHCommand],
        directory: TemporaryDirectory | None = None,
    ) -> None:
        """directory: is removed when it is closed."""
        self.executables = executables
        self.to_host = to_host
        self._directory = directory
        self._closed = False

    def command(self) -> SSHCommand:
        """What connects to it."""
        return self.to_host(self.executables.base_ssh)

    async def ssh(self, process: Process) -> tuple[AsyncChildPid, Process]:
        """Start a process there.

        process: the parent of ssh, on this machine, from whose environment it takes what it needs
        (SSH_AUTH_SOCK, HOME). Returns ssh as a child of it, and the process: a stub in the home
        directory, with the environment of a login. It ends with ssh, and ssh with it: leaving the
        block of the child (`async with child:`) ends both.

        SSHError, which says what was being done, how ssh has ended and what it has printed;
        OSError if ssh cannot be started or the stub not be read; ProtocolHangup if the stub there
        speaks another version; MachineMismatchError if the process is on another machine. A
        checkpoint; if cancelled, ssh has been ended, and with it what it has started. ssh(1).
        """
        if self._closed:
            raise ValueError("the host was closed")
        return await _ssh(process, self.command(), self.executables.image(), "")

    async def close(self) -> None:
        """Remove what was made for it, cancelled or not; nothing the second time. A checkpoint."""
        directory, self._directory = self._directory, None
        self._closed = True
        with shield(), contextlib.suppress(FileNotFoundError, SyscallError):
            if directory is not None:
                await directory.cleanup()
        await checkpoint()

    async def __aenter__(self) -> Self:
        """Itself. Not a checkpoint."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """See close."""
        await self.close()


def _complete(command: SSHCommand, *words: str) -> SSHCommand:
    """What leads to a machine, with our defaults and what is to be run there."""
    defaults = [word for k, v in _DEFAULTS.items() for word in ("-o", f"{k}={v}")]
    arguments = list(command.arguments)
    # Of two options that are the same the first counts, and after the host there may be some, too;
    # but not if a -- says that there are none.
    at = arguments.index("--") if "--" in arguments else len(arguments)
    arguments[at:at] = defaults
    return SSHCommand(command.executable_path, [*arguments, *words], command.env_updates)


async def _ssh(
    process: Process, command: SSHCommand, image: Image, directory: str
) -> tuple[AsyncChildPid, Process]:
    mark = new_mark()
    line = command_line(image, mark, importlib.metadata.version("rsyscall"), directory)
    return await start_stub(process, _complete(command, line), image, mark)


async def ssh_bootstrap(
    parent: Process, ssh_command: SSHCommand, local_socket_path: Path, tmp_path_bytes: bytes
) -> tuple[AsyncChildPid, Process]:
    """SSHHost.ssh by a command of one's own, with a directory of one's own there.

    parent: of ssh. ssh_command: with all that leads to the machine. local_socket_path: a UNIX
    socket that ssh makes here; who connects to it is led to the socket `data` of the directory,
    for whatever the new process lets listen there. tmp_path_bytes: the directory there; it is made
    if there is none, only its user may enter it from then on, and the stub stays in it. Otherwise
    as SSHHost.ssh.
    """
    directory = os.fsdecode(tmp_path_bytes)
    if not directory or "\0" in directory or "\n" in directory:
        raise ValueError(f"tmp_path_bytes: {tmp_path_bytes!r} cannot be a directory's path")
    image = SSHExecutables(ssh_command).image()
    command = SSHCommand(
        ssh_command.executable_path,
        _complete(ssh_command).local_forward(str(local_socket_path), f"{directory}/data").arguments,
        ssh_command.env_updates,
    )
    return await _ssh(parent, command, image, directory)


async def ssh_forward(
    process: Process, ssh_command: SSHCommand, local_path: Path, remote_path: str
) -> AsyncChildPid:
    """Have connections to a UNIX socket here led to one on another machine.

    process: the parent of ssh. ssh_command: with all that leads to the machine. local_path: of the
    socket that ssh makes; nothing may be there yet. remote_path: of the one there. When this
    returns local_path can be connected to. Returns ssh, with whose end that ends. SSHError, OSError
    and MachineMismatchError as of SSHHost.ssh. A checkpoint; if cancelled, ssh has been ended.
    """
    mark = new_mark()
    command = ssh_command.ssh_options({"ExitOnForwardFailure": "yes"})
    command = command.local_forward(os.fspath(local_path), remote_path)
    line = f"exec sh -c 'echo {mark} ready; exec cat >/dev/null'"
    child, said, sock = await converse(process, _complete(command, line))
    try:
        talk = Conversation(child, said, sock, mark)
        talk.step = f"forwarding {local_path}"
        await talk.next()
    except BaseException:
        sock.close()
        await child.__aexit__()
        raise
    child.pid.on_death(sock.close)  # until then what is run there waits for its end
    return child


async def make_ssh_host(process: Process, to_host: Callable[[SSHCommand], SSHCommand]) -> SSHHost:
    """A machine that is reached by the ssh of a process.

    to_host: is given the command, and returns it with all that leads to the machine:
    `lambda ssh: ssh.args("user@host")`. ssh never asks for anything, unless `ssh.ssh_options` say
    BatchMode=no. ExecutableNotFound. A checkpoint; nothing is connected yet. ssh(1).
    """
    return (await SSHExecutables.find(process)).host(to_host)


class SSHDExecutables:
    """What is needed to be reached. ssh_keygen, sshd: the commands to begin with."""

    def __init__(self, ssh_keygen: Command, sshd: SSHDCommand) -> None:
        """Nothing is looked at."""
        self.ssh_keygen: Command = ssh_keygen
        self.sshd: SSHDCommand = sshd

    @classmethod
    async def find(cls, process: Process) -> SSHDExecutables:
        """With the programs that a process has in its PATH, or in the system's directories.

        ExecutableNotFound; otherwise see Environment.which. A checkpoint.
        """
        environ = process.environ.inherit(process.task)
        # Ordinary users have no sbin in their PATH.
        environ["PATH"] = f"{environ.get('PATH', '/bin:/usr/bin')}:/usr/local/sbin:/usr/sbin:/sbin"
        keygen = await environ.which("ssh-keygen")
        sshd = await environ.which("sshd")
        return cls(keygen, SSHDCommand.make(Path(sshd.executable_path)))


#: The user's own configuration has no say, and nothing but the one key lets anybody in.
_SSHD_OPTIONS = {
    "AuthenticationMethods": "publickey",
    "KbdInteractiveAuthentication": "no",
    "LogLevel": "ERROR",
    "PasswordAuthentication": "no",
    "PermitRootLogin": "prohibit-password",
    "PidFile": "none",
    "PrintMotd": "no",
    "StrictModes": "no",
    "UseDNS": "no",
}


async def make_local_ssh_from_executables(
    process: Process, executables: SSHExecutables, sshd_executables: SSHDExecutables
) -> SSHHost:
    """make_local_ssh, by programs of one's own."""
    check_here(process)
    directory = await mkdtemp(process, "rsyscall-ssh")
    try:
        sshd = await _prepare(process, directory, sshd_executables)
    except BaseException:
        with shield(), contextlib.suppress(FileNotFoundError, SyscallError):
            await directory.cleanup()
        raise
    options: dict[str, OptionValue] = {
        "IdentityFile": directory / "key",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": directory / "known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": "localhost",
    }

    def to_host(ssh: SSHCommand) -> SSHCommand:
        return ssh.ssh_options(options).proxy_command(sshd).args("-F", "/dev/null", "localhost")

    host = SSHHost(executables, to_host, directory)
    if isinstance(process.task.sysif, DirectSyscallInterface):
        weakref.finalize(host, _remove, str(directory), os.getpid())
    return host


def _remove(directory: str, owner: int) -> None:
    if owner == os.getpid():  # a forked copy of us has no business there
        shutil.rmtree(directory, ignore_errors=True)


async def _prepare(
    process: Process, directory: TemporaryDirectory, executables: SSHDExecutables
) -> SSHDCommand:
    """Make keys; returns the server that knows them."""
    for name in ("key", "host_key"):
        keygen = executables.ssh_keygen.args(
            "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", directory / name
        )
        await process.run(keygen, stdin=DEVNULL, capture_stdout=True, capture_stderr=True)
    host_key = await _read(process, directory / "host_key.pub")
    await process.spit(directory / "known_hosts", f"localhost {host_key}")
    sshd = executables.sshd.args("-f", "/dev/null").sshd_options(
        {
            **_SSHD_OPTIONS,
            "AuthorizedKeysFile": directory / "key.pub",
            "HostKey": directory / "host_key",
        }
    )
    # What is tried out here is not to stay in the user's cache; and at this level bash does not
    # take the user's .bashrc for that of a remote shell.
    variables = [f"XDG_CACHE_HOME={directory / 'cache'}", "SHLVL=1"]
    sshd = with_options(sshd, ["SetEnv=" + " ".join(map(quoted, variables))])
    await _check(process, sshd.args("-t"))
    return sshd.args("-i", "-e")


_MISSING = "Missing privilege separation directory: "


async def _check(process: Process, command: SSHDCommand) -> None:
    """Have sshd look at its options, and make the empty directory that it wants if root runs it."""
    done = await process.run(command, check=False, capture_stderr=True)
    said = (done.stderr or b"").decode(errors="replace").strip()
    if not done.clean() and said.startswith(_MISSING):
        # Where no service has started it has none yet; only root's wants it.
        await process.task.mkdir(said.removeprefix(_MISSING), 0o755)
        done = await process.run(command, check=False, capture_stderr=True)
        said = (done.stderr or b"").decode(errors="replace").strip()
    if not done.clean():
        raise SSHError("trying sshd", f"it has {done}", done, said)


async def _read(process: Process, path: Path) -> str:
    async with await process.task.open(path, O.RDONLY) as fd:
        return (await fd.read(4096)).decode()


async def make_local_ssh(process: Process) -> SSHHost:
    """A host that is this machine, for tests: a real sshd that ssh starts itself, `sshd -i`.

    No port is opened, and nothing of the machine's configuration or of the user's is read or
    changed, but for /run/sshd, which root's sshd wants and no service may have made yet. The keys
    are thrown away, in a temporary directory of the process; as a context manager the host removes
    it. ExecutableNotFound if ssh, ssh-keygen or sshd is missing (Debian: openssh-client,
    openssh-server); SSHError if sshd cannot be run; CalledProcessError of ssh-keygen. A checkpoint;
    if cancelled, nothing is left. sshd(8).
    """
    executables = await SSHExecutables.find(process)
    return await make_local_ssh_from_executables(
        process, executables, await SSHDExecutables.find(process)
    )

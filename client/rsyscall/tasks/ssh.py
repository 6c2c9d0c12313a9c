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
import shlex
import shutil
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path as LocalPath
from typing import TYPE_CHECKING, TypeVar

from rsyscall._checkpoint import checkpoint, shield
from rsyscall.child.stdio import DEVNULL
from rsyscall.command import Command
from rsyscall.fcntl import O
from rsyscall.near.sysif import SyscallError
from rsyscall.path import Path
from rsyscall.stdlib.mktemp import TemporaryDirectory, mkdtemp
from rsyscall.sysif.direct import DirectSyscallInterface
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

T_ssh_command = TypeVar("T_ssh_command", bound="SSHCommand")
T_command = TypeVar("T_command", bound=Command)

#: What an option may be.
OptionValue = str | bytes | os.PathLike[str] | os.PathLike[bytes]

#: Options of which the whole rest of the line is the value, and which know no quotes.
_WHOLE_LINE = {
    "proxycommand",
    "remotecommand",
    "localcommand",
    "knownhostscommand",
    "forcecommand",
    "authorizedkeyscommand",
    "authorizedprincipalscommand",
    "versionaddendum",
}

#: What ssh is told unless the user has told it something else: never to ask, to notice within 45 s
#: that the network is dead, and that what is run is ours, without a terminal.
_DEFAULTS = {
    "BatchMode": "yes",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "3",
    "RequestTTY": "no",
    "RemoteCommand": "none",
}


def _text(value: OptionValue, name: str) -> str:
    """As it stands on a command line. ValueError, naming it, for what cannot stand in one line."""
    text = os.fsdecode(value)
    if "\0" in text or "\n" in text or "\r" in text:
        raise ValueError(f"{name}: {value!r} contains a NUL or a line break")
    return text


def _option(keyword: str, value: OptionValue, name: str) -> str:
    """Keyword=value, as ssh_config(5) and sshd_config(5) want it."""
    if not keyword.isalnum() or not keyword.isascii():
        raise ValueError(f"{name}: {keyword!r} is no name of an option")
    text = _text(value, f"{name}[{keyword!r}]")
    if keyword.lower() not in _WHOLE_LINE and (
        not text or any(c in "\"'\\#" or c.isspace() for c in text)
    ):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        text = f'"{escaped}"'
    return f"{keyword}={text}"


def _with_options(command: T_command, options: list[str]) -> T_command:
    """The same with options in front of all others: of two that are the same, the first counts."""
    first, *rest = command.arguments
    words = [word for option in options for word in ("-o", option)]
    return type(command)(command.executable_path, [first, *words, *rest], command.env_updates)


class SSHCommand(Command):
    """A command that runs ssh, with methods for its options. ssh(1)."""

    __slots__ = ()

    def ssh_options(self, config: Mapping[str, OptionValue]) -> SSHCommand:
        """The same with options of ssh_config(5).

        config: values by the options' names. Each is one value, which is quoted if it must be;
        those of commands, such as ProxyCommand, are taken as they are, to the end of the line. `%`
        and `~` mean what ssh_config(5) says of the option. What is given later counts more than
        what was given before. ValueError, naming the option, for a value with a NUL or a line break
        or a name that cannot be one.
        """
        return _with_options(self, [_option(k, v, "config") for k, v in config.items()])

    def proxy_command(self, command: Command) -> SSHCommand:
        """The same, with what a command reads and writes as the connection to the server.

        command: with all its arguments and variables, as they are; no `%` of it means anything.
        ValueError for a line break in one.
        """
        if command.env_updates:  # ssh puts `exec` in front, which knows no variables
            variables = [f"{k}={os.fspath(v)}" for k, v in command.env_updates.items()]
            bare = Command(command.executable_path, command.arguments)
            line = f"{shlex.join(['env', '--', *variables])} {bare.in_shell_form()}"
        else:
            line = command.in_shell_form()
        line = _text(line, "command").replace("%", "%%")
        return _with_options(self, [f"ProxyCommand={line}"])

    def local_forward(self, local_socket: str, remote_socket: str) -> SSHCommand:
        """The same, with connections to a UNIX socket here led to one there.

        local_socket, remote_socket: their paths; ssh makes the first, and the second is connected
        to when somebody connects to the first. ValueError for a path that is empty, or contains a
        NUL, a line break or, of local_socket, `${`, which ssh would replace.
        """
        ends = [
            _socket_path(local_socket, "local_socket").replace("%", "%%"),
            _socket_path(remote_socket, "remote_socket"),
        ]
        if "${" in local_socket:
            raise ValueError(f"local_socket: {local_socket!r} contains '${{'")
        return self.args("-L", ":".join(ends))

    @classmethod
    def make(cls: type[T_ssh_command], executable_path: Path) -> T_ssh_command:
        """What runs the ssh at that path, without arguments."""
        return cls(executable_path, ["ssh"])


def _socket_path(path: str, name: str) -> str:
    """A path as -L wants it."""
    text = _text(path, name)
    if not text:
        raise ValueError(f"{name}: is empty")
    if "/" not in text:  # it would be a port
        text = f"./{text}"
    return text.replace("\\", "\\\\").replace(":", "\\:")


class SSHDCommand(Command):
    """A command that runs sshd, with a method for its options. sshd(8)."""

    __slots__ = ()

    def sshd_options(self, config: Mapping[str, OptionValue]) -> SSHDCommand:
        """The same with options of sshd_config(5); see SSHCommand.ssh_options."""
        return _with_options(self, [_option(k, v, "config") for k, v in config.items()])

    @classmethod
    def make(cls, executable_path: Path) -> SSHDCommand:
        """What runs the sshd at that path, which must be an absolute one, without arguments."""
        return cls(executable_path, [executable_path])  # it wants to find itself by its name


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
        "LogLevel": "ERROR",
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
            # What is tried out here is not to stay in the user's cache.
            "SetEnv": f"XDG_CACHE_HOME={directory / 'cache'}",
        }
    )
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

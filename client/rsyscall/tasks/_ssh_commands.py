"""Commands that run ssh and sshd, and how their options are written."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Mapping
from typing import TypeVar

from rsyscall.command import Argument, Command
from rsyscall.path import Path

__all__ = ["OptionValue", "SSHCommand", "SSHDCommand", "quoted", "with_options"]

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
    return f"{keyword}={text if keyword.lower() in _WHOLE_LINE else quoted(text)}"


def quoted(text: str) -> str:
    """As one word of an option's value."""
    if text and not any(c in "\"'\\#" or c.isspace() for c in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _shell_word(text: str) -> str:
    """For a shell, in a line whose quotes ssh wants to come in pairs by its own rules as well.

    In these a backslash counts inside of single quotes, too.
    """
    if text and not text.translate(_PLAIN):
        return text
    pieces = re.split(r"(['\\])", text)
    special = {"'": '"\'"', "\\": '"\\\\"'}
    return "".join(special.get(piece, f"'{piece}'") for piece in pieces if piece) or "''"


_PLAIN = dict.fromkeys(map(ord, f"{string.ascii_letters}{string.digits}@%_+=:,./-"))


def with_options(command: T_command, options: list[str]) -> T_command:
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
        return with_options(self, [_option(k, v, "config") for k, v in config.items()])

    def proxy_command(self, command: Command) -> SSHCommand:
        """The same, with what a command reads and writes as the connection to the server.

        command: with all its arguments and variables, as they are; no `%` of it means anything.
        ValueError for a line break in one.
        """
        words: list[Argument] = [command.executable_path, *command.arguments[1:]]
        if command.env_updates:  # ssh puts `exec` in front, which knows no variables
            variables = [f"{k}={os.fspath(v)}" for k, v in command.env_updates.items()]
            # To env(1) a program whose path has a = would be one more.
            words = ["env", "--", *variables, "nice", "-n", "0", *words]
        line = " ".join(_shell_word(os.fspath(word)) for word in words)
        line = _text(line, "command").replace("%", "%%")
        return with_options(self, [f"ProxyCommand={line}"])

    def local_forward(self, local_socket: str, remote_socket: str) -> SSHCommand:
        """The same, with connections to a UNIX socket here led to one there.

        local_socket, remote_socket: their paths; ssh makes the first, and the second is connected
        to when somebody connects to the first. ValueError for a path that is empty, or contains a
        NUL, a line break or `${`, which ssh would replace.
        """
        ends = local_socket, remote_socket
        names = "local_socket", "remote_socket"
        return self.args("-L", ":".join(map(_socket_path, ends, names)))

    @classmethod
    def make(cls: type[T_ssh_command], executable_path: Path) -> T_ssh_command:
        """What runs the ssh at that path, without arguments."""
        return cls(executable_path, ["ssh"])


def _socket_path(path: str, name: str) -> str:
    """A path as -L wants it."""
    text = _text(path, name)
    if not text:
        raise ValueError(f"{name}: is empty")
    if "${" in text:
        raise ValueError(f"{name}: {path!r} contains '${{'")
    if "/" not in text:  # it would be a port
        text = f"./{text}"
    return text.replace("%", "%%").replace("\\", "\\\\").replace(":", "\\:")


class SSHDCommand(Command):
    """A command that runs sshd, with a method for its options. sshd(8)."""

    __slots__ = ()

    def sshd_options(self, config: Mapping[str, OptionValue]) -> SSHDCommand:
        """The same with options of sshd_config(5); see SSHCommand.ssh_options."""
        return with_options(self, [_option(k, v, "config") for k, v in config.items()])

    @classmethod
    def make(cls, executable_path: Path) -> SSHDCommand:
        """What runs the sshd at that path, which must be an absolute one, without arguments."""
        return cls(executable_path, [executable_path])  # it wants to find itself by its name

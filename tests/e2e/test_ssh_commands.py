"""The commands that run ssh and sshd: what these understand is what was meant."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from e2e.ssh import local_host
from rsyscall import Command, local_process
from rsyscall.path import Path as FarPath
from rsyscall.tasks.ssh import (
    SSHCommand,
    SSHDCommand,
    SSHDExecutables,
    SSHError,
    SSHExecutables,
    SSHHost,
)

SSH = SSHCommand.make(FarPath("/usr/bin/ssh"))

#: What can stand in an argument, with all that means something to somebody on the way.
NASTY = ["a b", "'", '"', "\\", 'a"b c\\', "#x", "%h%%", "$HOME ${x}", " ", "*~`;&|<>()", "\t", "ä"]
texts = st.text(
    st.sampled_from("ab '\"\\#%$`~=,\t")
    | st.characters(codec="utf-8", exclude_characters="\0\r\n"),
    min_size=1,
    max_size=20,
)


def configuration(command: Command) -> dict[str, bytes]:
    """What ssh makes of its options."""
    words = [os.fspath(word) for word in command.args("-G", "-F", "/dev/null", "host").arguments]
    done = subprocess.run(words, executable="/usr/bin/ssh", capture_output=True, check=True)
    lines = (line.partition(b" ") for line in done.stdout.split(b"\n"))
    return {key.decode(): value for key, _, value in lines}


@settings(max_examples=60, deadline=None)
@given(texts)
@example('a"b c\\')
@example("'#")
def test_values_of_options(text: str) -> None:
    # One of the few that are taken and shown as they are.
    for value in (text, text.encode(), FarPath("/" + text.lstrip("/"))):
        got = configuration(SSH.ssh_options({"BindInterface": value}))["bindinterface"]
        assert got == os.fsencode(value)


def test_what_is_given_later_counts() -> None:
    one = SSH.ssh_options({"User": "one", "Port": "1"}).args("-o", "HostKeyAlias=x")
    both = one.ssh_options({"User": "two"})
    assert type(both) is SSHCommand
    got = configuration(both)
    assert (got["user"], got["port"], got["hostkeyalias"]) == (b"two", b"1", b"x")
    assert configuration(one)["user"] == b"one"


def test_defaults_and_what_overrides_them() -> None:
    def complete(ssh: SSHCommand) -> dict[str, bytes]:
        from rsyscall.tasks.ssh import _complete  # pyright: ignore[reportPrivateUsage]

        return configuration(SSHCommand(ssh.executable_path, _complete(ssh).arguments))

    host = SSHHost(SSHExecutables(SSH), lambda ssh: ssh.args("-4"))
    assert host.command().arguments == ("ssh", "-4")
    got = complete(SSH.args("-4", "-v"))
    assert (got["batchmode"], got["serveraliveinterval"]) == (b"yes", b"15")
    got = complete(SSH.args("-o", "BatchMode=no").ssh_options({"ServerAliveInterval": "3"}))
    assert (got["batchmode"], got["serveraliveinterval"]) == (b"no", b"3")


async def test_a_proxy_command_gets_its_arguments(tmp_path: Path) -> None:
    out = tmp_path / "it's 100% \\ here"
    script = 'printf "%s\\0" "$V" "$@" >"$0"'
    proxy = Command("/bin/sh", ["sh", "-c", script, out, *NASTY])
    for command, variable in ((proxy, ""), (proxy.env(V="a 'b' %c"), "a 'b' %c")):
        ssh = SSH.proxy_command(command).args("-F", "/dev/null", "nowhere")
        with pytest.raises(SSHError, match="while connecting"):
            await SSHHost(SSHExecutables(ssh), lambda ssh: ssh).ssh(local_process)
        assert out.read_text().split("\0") == [variable, *NASTY, ""]
        out.unlink()


async def test_options_of_sshd(tmp_path: Path) -> None:
    sshd = (await SSHDExecutables.find(local_process)).sshd
    key = tmp_path / 'a "key" # of \\ it'
    keygen: list[str | Path] = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]
    await local_process.run(Command("ssh-keygen", keygen))
    command = sshd.sshd_options({"HostKey": key, "Banner": "/a b", "ForceCommand": "a 'b' \"c\""})
    assert type(command) is SSHDCommand
    async with local_host():  # which makes the directory that sshd wants, if there is none
        done = await local_process.run(
            command.args("-T", "-f", "/dev/null"), capture_stdout=True, capture_stderr=True
        )
    assert done.stdout is not None
    lines = done.stdout.decode().splitlines()
    assert f"hostkey {key}" in lines
    assert "banner /a b" in lines
    assert "forcecommand a 'b' \"c\"" in lines


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: SSH.ssh_options({"User": "a\nb"}), r"config\['User'\]: 'a\\nb' contains a NUL or"),
        (lambda: SSH.ssh_options({"User": b"a\0"}), r"config\['User'\]: b'a\\x00' contains"),
        (lambda: SSH.ssh_options({"Us er": "a"}), "config: 'Us er' is no name of an option"),
        (lambda: SSH.ssh_options({"": "a"}), "config: '' is no name of an option"),
        (lambda: SSH.ssh_options({"User=x": "a"}), "config: 'User=x' is no name"),
        (lambda: SSH.proxy_command(Command("/x", ["x", "a\nb"])), "command: .* a line break"),
        (lambda: SSH.local_forward("", "/x"), "local_socket: is empty"),
        (lambda: SSH.local_forward("/x", "a\nb"), "remote_socket: 'a.nb' contains a NUL or"),
        (lambda: SSH.local_forward("/${HOME}", "/x"), "local_socket: '/.{HOME}' contains"),
        (lambda: SSHDCommand.make(FarPath("/x")).sshd_options({"A": "\r"}), r"config\['A'\]: "),
    ],
)
def test_what_cannot_be(function: object, message: str) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match=message):
        function()

"""Commands, as shells understand them."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path as OsPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsyscall.command import Command
from rsyscall.path import Path

WORDS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=8)
NAMES = WORDS.filter(lambda name: bool(name) and "=" not in name)


def shown(line: str, directory: OsPath) -> tuple[list[str], dict[str, str]]:
    """The arguments and the environment that a shell gives to a program that prints both."""
    out = subprocess.run(["/bin/sh", "-c", line], capture_output=True, env={}, cwd=directory)
    assert out.returncode == 0, out.stderr
    number, *items = [os.fsdecode(item) for item in out.stdout.split(b"\0")[:-1]]
    pairs = [item.partition("=") for item in items[int(number) :]]
    return items[1 : int(number)], {name: value for name, _, value in pairs}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> OsPath:
    """Prints its arguments and its environment; its name would be an assignment elsewhere."""
    path = tmp_path_factory.mktemp("bin") / "a=b c"
    path.write_text(
        f"#!{sys.executable} -SE\n"
        "import os, sys\n"
        "items = [*sys.argv, *map('='.join, os.environ.items())]\n"
        "print(len(sys.argv), *items, sep='\\0', end='\\0')\n"
    )
    path.chmod(0o755)
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(args=st.lists(WORDS, max_size=4), env=st.dictionaries(NAMES, WORDS, max_size=3))
def test_the_shell_form_runs_the_same(
    program: OsPath, args: list[str], env: dict[str, str]
) -> None:
    env = {name: value for name, value in env.items() if name not in ("PWD", "_", "LC_CTYPE")}
    command = Command(program, ["called", *args], env)
    got_args, got_env = shown(command.in_shell_form(), program.parent)
    assert got_args == args
    for name in ("PWD", "_", "LC_CTYPE", "SHLVL", "OLDPWD"):
        if name not in env:
            got_env.pop(name, None)
    assert got_env == env


def test_a_name_without_a_slash_is_a_file_of_the_working_directory(program: OsPath) -> None:
    assert Command("if", ["x", "y"]).in_shell_form() == "./if y"
    assert shown(Command(program.name, ["x", "y"]).in_shell_form(), program.parent)[0] == ["y"]


def test_commands_are_made_of_commands_and_do_not_change() -> None:
    base = Command("/bin/echo", ["echo"])
    more = base.args("a b", Path("/x"), OsPath("y"))
    assert more.arguments == ("echo", "a b", Path("/x"), OsPath("y"))
    assert more.args() == more != base
    assert base.arguments == ("echo",)
    with_env = more.env({"A": "1", "B": "2"}, B="3")
    assert dict(with_env.env_updates) == {"A": "1", "B": "3"}
    assert dict(with_env.env(A=Path("/p")).env_updates) == {"A": Path("/p"), "B": "3"}
    assert dict(more.env_updates) == {}
    assert with_env.in_shell_form() == str(with_env) == "A=1 B=3 /bin/echo 'a b' /x y"
    assert repr(base) == "Command('/bin/echo')"
    with pytest.raises(AttributeError, match="executable_path: a command cannot be changed"):
        base.executable_path = Path("/bin/sh")
    with pytest.raises(AttributeError, match="arguments: a command cannot be changed"):
        del base.arguments
    with pytest.raises(TypeError):
        with_env.env_updates["A"] = "2"  # type: ignore[index] # pyright: ignore - what is refused
    assert Command("./echo", []).executable_path == "./echo"
    assert Command(Path("/bin/echo"), ["echo"]) == base
    assert copy.copy(with_env) == pickle.loads(pickle.dumps(with_env)) == with_env
    assert len({base, Command("/bin/echo", ["echo"]), more}) == 2


def test_subclasses_stay_what_they_are() -> None:
    class Special(Command):
        pass

    special = Special("/bin/true", ["true"])
    assert type(special.args("x").env(A="b")) is Special
    assert special != Command("/bin/true", ["true"])


@pytest.mark.parametrize(
    ("path", "arguments", "env", "message"),
    [
        ("/bin/a\0b", ["x"], {}, "arguments: embedded null byte in '/bin/a"),
        ("/bin/sh", ["x\0"], {}, "arguments: embedded null byte in 'x"),
        ("/bin/sh", [], {"": "x"}, "env_updates: '' cannot be the name"),
        ("/bin/sh", [], {"a=b": "x"}, "env_updates: 'a=b' cannot be the name"),
        ("/bin/sh", [], {"a": "x\0"}, "env_updates: embedded null byte in a="),
        ("/bin/sh", "sh", {}, "arguments: a list of strings, not the string 'sh'"),
    ],
)
def test_what_cannot_be_executed_is_refused(
    path: str, arguments: list[str], env: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Command(path, arguments, env)


def test_paths_join_to_paths() -> None:
    path = Path("/a") / "b" / OsPath("c")
    assert type(path) is Path
    assert type(path.parent) is Path
    assert type(path.with_segments("/x", "y")) is Path
    assert str(path) == "/a/b/c"
    assert not hasattr(path, "exists")

"""The table of system calls against the C compiler's headers, and against its own rules."""

import keyword
import platform
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

Call = dict[str, Any]

PATH = Path(__file__).parents[2] / "protocol" / "syscalls.toml"
CALLS: dict[str, Call] = tomllib.loads(PATH.read_text())["calls"]

ARCHITECTURES = ("x86_64", "aarch64", "riscv64")
NUMBER_KINDS = {"int", "uint", "size", "off", "fd", "dirfd", "pid", "uid", "gid", "mode", "sig"}
BARE_KINDS = NUMBER_KINDS | {"path", "str", "addr"}
FAMILY_KINDS = {"flags", "enum"}  # the detail is a prefix of constants
MEMORY_KINDS = {"in", "out", "inout", "ptr"}  # the detail is a type
VALUES: dict[str, set[object]] = {
    "returns": {"fd", "size", "addr", "pid", "off"},
    "blocks": {True},
    "eintr": {"partial", "continues", "done", "remaining"},
    "thread": {True, "reads"},
    "credentials": {True},
    "in_process": {"refuse"},
    "stub": {"refuse"},
}
FIELDS = {*ARCHITECTURES, *VALUES, "args", "fds_out", "since", "man"}
NOT_CALLS = {"syscalls", "arch_specific_syscall"}  # limits, in older asm-generic headers

every_call = pytest.mark.parametrize("call", [pytest.param(c, id=n) for n, c in CALLS.items()])


def preprocess(source: str, *options: str) -> str:
    command = ["gcc", "-E", "-P", *options, "-include", "asm/unistd.h", "-x", "c", "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout


def compiler_numbers() -> dict[str, int]:
    names = set(re.findall(r"^#define __NR_(\w+) ", preprocess("", "-dM"), re.MULTILINE))
    source = "".join(f'"{name}" = __NR_{name};\n' for name in names - NOT_CALLS)
    values = re.findall(r'^"(\w+)" = (.+);$', preprocess(source), re.MULTILINE)
    # A value is a number or, for an architecture's own calls, a sum such as (244 + 14).
    return {name: sum(map(int, re.findall(r"\d+", value))) for name, value in values}


def test_agrees_with_the_compilers_headers() -> None:
    numbers = compiler_numbers()
    assert numbers.keys() >= {"read", "openat", "clone3"}
    architecture = platform.machine()
    assert numbers == {name: CALLS.get(name, {}).get(architecture) for name in numbers}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_numbers_are_unique(architecture: str) -> None:
    numbers = [call[architecture] for call in CALLS.values() if architecture in call]
    assert all(type(number) is int and number >= 0 for number in numbers)
    assert len(numbers) == len(set(numbers)) > 300


def test_order() -> None:
    order = [(call.get("x86_64", float("inf")), name) for name, call in CALLS.items()]
    assert order == sorted(order)


def test_names_are_python_names() -> None:
    assert [n for n in CALLS if not n.isidentifier() or keyword.iskeyword(n)] == []


@every_call
def test_fields(call: Call) -> None:
    assert call.keys() <= FIELDS
    assert call.keys() & set(ARCHITECTURES)
    for field, allowed in VALUES.items():
        assert field not in call or call[field] in allowed
    assert re.fullmatch(r"\d+\.\d+", call.get("since", "5.11"))
    assert re.fullmatch(r"\w+", call.get("man", "read"))
    if "credentials" in call:
        assert call["thread"]
        assert call["in_process"] == "refuse"


@every_call
def test_arguments(call: Call) -> None:
    args = [arg.split(":") for arg in call.get("args", [])]
    assert len(args) <= 6
    names = [name for name, *_ in args]
    assert len(names) == len(set(names))
    for name, kind, *detail in args:
        assert name.isidentifier()
        if kind in FAMILY_KINDS:
            pattern = r"[A-Z][A-Z0-9_]*"
        elif kind in MEMORY_KINDS:
            pattern = r"|[a-z_]\w*(\[\d*\])?"
        else:
            assert kind in BARE_KINDS
            pattern = ""
        assert re.fullmatch(pattern, ":".join(detail))
    if "fds_out" in call:
        assert [call["fds_out"], "out"] in [arg[:2] for arg in args]

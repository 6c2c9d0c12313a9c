"""Environments, and the programs found there, against shutil.which and what a program gets."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import pytest

import rsyscall
from conformance.seen import nothing_sent, recording
from rsyscall.command import Command
from rsyscall.environ import Environment, ExecutableNotFound, ExecutablePathCache
from rsyscall.far import AddressSpaceMismatchError
from rsyscall.handle import Task, UseAfterFreeError
from rsyscall.near.sysif import SyscallSendError
from rsyscall.path import Path as FarPath
from rsyscall.unistd import ArgList


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


async def test_which_finds_what_shutil_finds(task: Task) -> None:
    environ = Environment.make_from_environ(task, dict(os.environ))
    for name in ("sh", "true", "env"):
        command = await environ.which(name)
        assert command == Command(FarPath(shutil.which(name) or ""), [name])
        assert await environ.which(name) == command


async def test_which_takes_the_first_that_can_be_executed(task: Task, tmp_path: Path) -> None:
    for i in range(4):
        program(tmp_path / str(i) / "tool")
    (tmp_path / "0" / "tool").chmod(0o644)
    (tmp_path / "1" / "tool").unlink()
    (tmp_path / "1" / "tool").mkdir()
    path = ":".join([str(tmp_path / "none"), *(str(tmp_path / str(i)) for i in range(4))])
    environ = Environment(task, {"PATH": path})
    assert (await environ.which("tool")).executable_path == FarPath(tmp_path / "2" / "tool")
    assert shutil.which("tool", path=path) == str(tmp_path / "2" / "tool")
    (tmp_path / "2" / "tool").unlink()  # it was remembered, and is not there any more
    assert (await environ.which("tool")).executable_path == FarPath(tmp_path / "3" / "tool")
    (tmp_path / "3" / "tool").unlink()
    with pytest.raises(ExecutableNotFound, match=r"'tool' was not found in .*tool is a directory"):
        await environ.which("tool")
    (tmp_path / "1" / "tool").rmdir()
    with pytest.raises(ExecutableNotFound, match=r"0/tool: Permission denied") as caught:
        await environ.which("tool")
    assert caught.value.name == "tool"
    assert caught.value.paths == tuple(path.split(":"))


async def test_what_was_found_is_remembered_for_the_mount_namespace(
    task: Task, tmp_path: Path
) -> None:
    program(tmp_path / "tool")
    paths = (*(f"/none/{i}" for i in range(100)), str(tmp_path))
    command = await ExecutablePathCache(task, paths).which("tool")
    with recording(task) as recorder:
        assert await ExecutablePathCache(task, paths).which("tool") == command
    assert [name for name, _ in recorder.sent] == ["faccessat2"]
    other = Task(
        task.sysif, task.near_process, task.fd_table, task.address_space, task.pidns
    )  # of a mount namespace of its own, as far as we know
    with recording(other) as recorder, pytest.raises(SyscallSendError, match="batch"):
        await ExecutablePathCache(other, paths).which("tool")  # it has to look, in a batch
    assert recorder.sent == []


async def test_which_with_a_slash_is_a_path(apart: rsyscall.Process, tmp_path: Path) -> None:
    path = program(tmp_path / "tool")
    environ = Environment(apart.task, {"PATH": ""})
    assert await environ.which(str(path)) == Command(path, [str(path)])
    await apart.task.chdir(tmp_path)
    assert await environ.which("./tool") == Command("./tool", ["./tool"])
    with pytest.raises(ExecutableNotFound, match="no directory at all"):
        await environ.which("tool")
    with pytest.raises(ExecutableNotFound):
        await environ.which("./other")
    environ["PATH"] = "/none:"
    assert await environ.which("tool") == Command("./tool", ["tool"])


async def test_which_refuses_what_is_no_name(task: Task) -> None:
    environ = Environment(task, {})
    with nothing_sent(task):
        for name in ("", "a\0b"):
            with pytest.raises(ValueError, match=r"name: .* is no name of a program"):
                await environ.which(name)
    assert (await environ.which("sh")).arguments == ("sh",)  # there is a default of PATH


async def test_an_environment_is_a_mapping_of_its_own(task: Task) -> None:
    given = {"A": "1"}
    environ = Environment(task, given)
    given["A"] = "2"
    assert environ["A"] == "1"
    assert environ.get("B", "no") == "no"
    environ["B"] = "2"
    assert environ.data == {"A": "1", "B": "2"}
    child = environ.inherit(task)
    child["A"] = "3"
    del child["B"]
    assert "B" not in child
    assert environ.data == {"A": "1", "B": "2"}
    environ.data = {"C": "3"}
    assert environ.data == {"C": "3"}
    with pytest.raises(KeyError):
        environ["A"]
    assert environ.sh == Command("/bin/sh", ["sh"])
    assert environ.tmpdir == FarPath("/tmp")
    environ["TMPDIR"] = "/somewhere"
    assert environ.tmpdir == FarPath("/somewhere")
    assert "/somewhere" not in repr(environ)


async def strings_at(task: Task, address: int, count: int) -> list[bytes]:
    """The strings that an array of addresses points at, and a null pointer behind them."""
    data = await task.sysif.read_memory(address, 8 * (count + 1))
    *addresses, null = struct.unpack(f"={count + 1}Q", data)
    assert null == 0
    found: list[bytes] = []
    for at in addresses:
        string = b""
        while not string.endswith(b"\0"):
            string += await task.sysif.read_memory(at + len(string), 1)
        found.append(string[:-1])
    return found


@pytest.mark.parametrize(
    "data", [{}, {"A": ""}, {"A": "1", "ünïcode": "\udcff", "PATH": "/bin:/usr/bin"}]
)
async def test_an_environment_in_memory(task: Task, data: dict[str, str]) -> None:
    written = await Environment(task, data).as_arglist(task)
    expected = [os.fsencode(f"{name}={value}") for name, value in data.items()]
    assert await strings_at(task, int(written.near), len(data)) == expected
    assert [pointer.value for pointer in written.value] == list(map(os.fsdecode, expected))
    for pointer, string in zip(written.value, expected, strict=True):
        assert await pointer.read() == os.fsdecode(string)
        assert pointer.size() == len(string) + 1


async def test_what_cannot_be_an_environment_is_refused(task: Task) -> None:
    with nothing_sent(task):
        for name in ("", "a=b"):
            with pytest.raises(ValueError, match=f"environment: '{name}' cannot be the name"):
                await Environment(task, {name: "x"}).as_arglist(task)
        with pytest.raises(ValueError, match="strings: embedded null byte"):
            await Environment(task, {"A": "\0"}).as_arglist(task)


async def test_an_argument_list_of_pointers(task: Task, stranger: rsyscall.Process) -> None:
    args = ArgList([await task.ptr("a"), await task.ptr(FarPath("/b")), await task.ptr("")])
    written = await task.ptr(args)
    assert written.size() == 32
    assert await strings_at(task, int(written.near), 3) == [b"a", b"/b", b""]
    with pytest.raises(ValueError, match="cannot be read back"):
        await written.read()
    room = await task.malloc(ArgList, 64)
    assert (await room.write(ArgList())).size() == 64
    args.append(await stranger.ptr("c"))
    with nothing_sent(task), pytest.raises(AddressSpaceMismatchError):
        await task.ptr(args)
    freed = await task.ptr("d")
    freed.free()
    with nothing_sent(task), pytest.raises(UseAfterFreeError):
        await task.ptr(ArgList([freed]))

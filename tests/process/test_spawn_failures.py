"""Programs that are not started: one test per step that may fail, which the error names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import rsyscall
from leaks import children
from process.seen import SLEEP, TRUE, fds
from rsyscall import DEVNULL, near
from rsyscall.command import Command
from rsyscall.fcntl import O
from rsyscall.sched import CLONE
from rsyscall.signal import SIG
from rsyscall.sys.mount import MS
from rsyscall.sys.resource import RLIMIT, Rlimit
from rsyscall.sys.syscall import SYS

FAILURES: list[tuple[dict[str, object], type[Exception], str]] = [
    ({"cwd": "/no/such/directory"}, FileNotFoundError, "while changing the directory"),
    ({"cwd": "/etc/passwd"}, NotADirectoryError, "while changing the directory"),
    ({"rlimits": {999: (1, 1)}}, OSError, "while setting resource limit 999"),
    ({"rlimits": {7: (2, 1)}}, OSError, "while setting resource limit 7"),
    ({"pdeathsig": 999}, OSError, "while setting the death signal"),
    ({"fds": {2**30: "stdin"}}, OSError, "while making descriptor 0 number 1073741824"),
    ({"tty": "stdin"}, OSError, "while getting the controlling terminal"),
]


@pytest.mark.parametrize(("options", "error", "note"), FAILURES, ids=lambda v: str(v)[:40])
async def test_the_step_that_failed_is_named(
    parent: rsyscall.Process, options: dict[str, Any], error: type[Exception], note: str
) -> None:
    await parent.task.getpid()
    before = fds(int(parent.pid))
    async with await parent.task.open("/dev/null", O.RDONLY) as null:
        given = dict(options)
        if "fds" in given:
            given["fds"] = dict.fromkeys(given["fds"], parent.stdin)
        if "tty" in given:
            given["tty"] = null
        with pytest.raises(error) as caught:
            await parent.spawn(TRUE, **given)
    assert caught.value.__notes__[-1] == note
    assert caught.value.__notes__[0].startswith("in ")
    assert fds(int(parent.pid)) == before


async def test_a_map_that_is_refused(parent: rsyscall.Process, tmp_path: Path) -> None:
    """One whose /proc shows nobody."""
    async with await parent.clone(CLONE.NEWUSER | CLONE.NEWNS) as child:
        await child.task.mount("none", "/proc", "tmpfs", MS.NONE, "")
        with pytest.raises(FileNotFoundError) as caught:
            await child.spawn(TRUE, unshare=CLONE.NEWUSER)
        assert "to /proc/self/setgroups" in caught.value.__notes__[-1]


async def test_no_room_for_descriptors(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child, await child.task.memfd_create("x") as fd:
        await child.task.setrlimit(RLIMIT.NOFILE, Rlimit(64, 64))
        with pytest.raises(OSError, match="Invalid argument") as caught:
            await child.spawn(TRUE, fds={100: child.stdin, 0: fd})
        assert caught.value.__notes__[-1] == "while moving descriptor 0 out of the way"


async def test_a_parent_that_is_dead_by_then(parent: rsyscall.Process) -> None:
    """The child has another one, and would never get the signal."""
    async with await parent.clone() as child:
        before, child.task.near_process = child.task.near_process, near.Pid(2**22 + 1)
        with pytest.raises(OSError, match="Input/output") as caught:
            await child.spawn(TRUE, pdeathsig=SIG.TERM)
        child.task.near_process = before
        assert caught.value.__notes__[-1] == "while looking for the parent"


async def test_a_process_group_of_another_session(parent: rsyscall.Process) -> None:
    async with await parent.spawn(SLEEP, session=True) as leader:
        with pytest.raises(PermissionError) as caught:
            await parent.spawn(TRUE, pgid=leader.pid)
        assert caught.value.__notes__[-1] == "while setting the process group"


@pytest.mark.privileged
async def test_where_there_is_no_dev_null(parent: rsyscall.Process, tmp_path: Path) -> None:
    async with await parent.clone() as child:
        await child.task.chroot(tmp_path)
        with pytest.raises(FileNotFoundError) as caught:
            await child.spawn(TRUE, stdout=DEVNULL)
        assert caught.value.__notes__[-1] == "while opening /dev/null"


@pytest.mark.privileged
async def test_ids_that_one_may_not_have(parent: rsyscall.Process) -> None:
    """The child, for which 33 is nobody else, may not become 34."""
    async with await parent.clone(vm=False) as child:
        await child.task.sysif.syscall(SYS.setresuid, 33, 33, 33)
        cases: list[tuple[dict[str, Any], str]] = [
            ({"uid": 34}, "while setting the user id"),
            ({"gid": 34}, "while setting the group id"),
            ({"groups": [34]}, "while setting the groups"),
        ]
        for options, note in cases:
            with pytest.raises(PermissionError) as caught:
                await child.spawn(TRUE, **options)
            assert caught.value.__notes__[-1] == note
        with pytest.raises(PermissionError) as caught:
            await child.spawn(TRUE, unshare=CLONE.NEWNET)
        assert caught.value.__notes__[0].startswith("in clone(")
        assert (await child.run(TRUE)).clean()


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/no/such/program", FileNotFoundError),
        ("no-such-program-anywhere", FileNotFoundError),
        ("/etc/passwd", PermissionError),
        ("/", PermissionError),
        ("", FileNotFoundError),
    ],
)
async def test_a_program_that_cannot_be_executed(
    parent: rsyscall.Process, path: str, error: type[OSError]
) -> None:
    with pytest.raises(error) as caught:
        await parent.spawn(Command(path, ["x"], {}))
    assert caught.value.__notes__[-1] == "while executing the program"


async def test_a_program_in_path_that_may_not_be_executed(
    parent: rsyscall.Process, tmp_path: Path
) -> None:
    (tmp_path / "program").write_text("")
    path = f"/no/such:{tmp_path}:/neither"
    with pytest.raises(PermissionError):
        await parent.spawn(Command("program", ["x"], {}), env={"PATH": path})
    (tmp_path / "true").write_text("")  # one that may not does not hide one that may
    assert (await parent.run(Command("true", ["x"], {"PATH": f"{tmp_path}:/bin"}))).clean()


BAD: list[tuple[Callable[[rsyscall.Process], dict[str, Any]], str]] = [
    (lambda p: {"uid": -1}, "uid: "),
    (lambda p: {"gid": 2**32 - 1}, "gid: "),
    (lambda p: {"unshare": CLONE.FILES}, "unshare: "),
    (lambda p: {"fds": {-1: p.stdin}}, "fds: "),
    (lambda p: {"fds": {0: p.stdin}, "stdin": p.stdin}, "fds: 0 is given twice"),
    (lambda p: {"cwd": "a\0b"}, "cwd: "),
    (lambda p: {"env": {"A": "\0"}}, "env: A: "),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=lambda v: str(v)[:20])
async def test_what_cannot_be_is_refused_by_name(
    parent: rsyscall.Process,
    options: Callable[[rsyscall.Process], dict[str, Any]],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        await parent.spawn(TRUE, **options(parent))


async def test_a_cancelled_spawn_starts_nothing(parent: rsyscall.Process) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await parent.spawn(SLEEP)
    assert scope.cancelled_caught
    assert children() == children()

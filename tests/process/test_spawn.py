"""Programs with all that they are to find around them: one test per keyword."""

from __future__ import annotations

import json
import os
import pty
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

import rsyscall
from process.seen import FALSE, SH, SLEEP, TRUE, output, status
from rsyscall import far, local_process
from rsyscall.command import Command
from rsyscall.fcntl import O
from rsyscall.monitor import AsyncChildPid
from rsyscall.near.sysif import SyscallHangup
from rsyscall.sched import CLONE
from rsyscall.signal import SIG
from rsyscall.sys.mount import MS
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import CLD, CalledProcessError, W

TELL = """
import json, os, resource, sys
lines = [line.partition(":") for line in open("/proc/self/status")]
status = {key: value.strip() for key, _, value in lines}
def tty():
    try: return os.ttyname(os.open("/dev/tty", os.O_RDWR))
    except OSError: return None
print(json.dumps({
    "fds": {n: os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{n}")},
    "cwd": os.getcwd(), "env": dict(os.environ),
    "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
    "pid": os.getpid(), "pgid": os.getpgid(0), "sid": os.getsid(0), "ppid": os.getppid(),
    "tty": tty(), "blocked": status["SigBlk"], "ignored": status["SigIgn"],
    "ns": {n: os.readlink(f"/proc/self/ns/{n}") for n in os.listdir("/proc/self/ns")},
}))
"""


async def tell(parent: rsyscall.Process, path: Path, **options: Any) -> dict[str, Any]:
    """What a program finds."""
    async with await output(parent.task, path) as out:
        command = Command(sys.executable, ["python", "-c", TELL], {})
        async with await parent.spawn(command, stdout=out, **options) as child:
            await child.check()
    found: dict[str, Any] = json.loads(path.read_text())
    return found


async def test_nothing_in_particular(parent: rsyscall.Process, tmp_path: Path) -> None:
    found = await tell(parent, tmp_path / "out")
    assert {n for n in found["fds"] if int(n) > 2} == set()
    assert int(found["blocked"], 16) == 0
    for sig in (SIG.PIPE, SIG.XFSZ):
        # Python ignores them itself; it has begun with what subprocess gives it.
        assert int(found["ignored"], 16) & 1 << (sig - 1)
    assert found["ppid"] == int(parent.task.near_process)
    assert found["sid"] == os.getsid(found["ppid"])


async def test_dispositions_and_mask_of_what_is_no_python(
    parent: rsyscall.Process, tmp_path: Path
) -> None:
    async with await parent.spawn(SLEEP) as child:
        found = status(int(child))
        assert int(found["SigBlk"], 16) == 0
        assert int(found["SigCgt"], 16) == 0
        for sig in (SIG.PIPE, SIG.XFSZ):
            assert not int(found["SigIgn"], 16) & 1 << (sig - 1)


@pytest.mark.parametrize("command", [TRUE, Command("true", ["true"], {})], ids=str)
async def test_success(parent: rsyscall.Process, command: Command) -> None:
    async with await parent.spawn(command) as child:
        assert child.command is command
        assert (await child.check()).clean()


async def test_what_is_kept_of_one_program_is_not_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same command too: what its name stands for, and its environment, may have changed."""
    tool = Command("tool", ["tool"], {})
    for code in (1, 2, 1):
        directory = tmp_path / str(code)
        directory.mkdir(exist_ok=True)
        script = directory / "tool"
        script.write_text("#!/bin/sh\nexit $CODE\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}:{os.defpath}")
        for number in (code, 10 + code):
            monkeypatch.setenv("CODE", str(number))
            async with await local_process.spawn(tool) as child:
                assert (await child.waitpid(W.EXITED)).exit_status == number
        script.unlink()
        for number in (3, 4):
            async with await local_process.spawn(SH.args("-c", f"exit {number}")) as child:
                assert (await child.waitpid(W.EXITED)).exit_status == number
    with pytest.raises(FileNotFoundError):
        await local_process.spawn(tool)


async def test_programs_that_end_soon_keep_nobody_else_waiting() -> None:
    """Nor is one that does not end soon waited for any other way than trio's."""
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        for _ in range(20):
            async with await local_process.spawn(TRUE) as child:
                await child.check()
        nursery.cancel_scope.cancel()
    assert turns > 5
    for _ in range(2):
        async with await local_process.spawn(SLEEP) as child:
            with trio.move_on_after(0.01) as scope:
                await child.waitpid(W.EXITED)
            assert scope.cancelled_caught


async def test_run(parent: rsyscall.Process) -> None:
    assert (await parent.run(TRUE)).clean()
    assert (await parent.run(FALSE, check=False)).exit_status == 1
    with pytest.raises(CalledProcessError, match=r"^/bin/false: pid \d+ exited with status 1$"):
        await parent.run(FALSE)


async def test_a_run_that_is_cancelled_is_killed(parent: rsyscall.Process) -> None:
    async with trio.open_nursery() as nursery:
        child: AsyncChildPid = await nursery.start(parent.run, SLEEP)
        nursery.cancel_scope.cancel()
    assert child.pid.death_state is not None
    assert child.pid.death_state.killed_with() == SIG.KILL
    assert not os.path.exists(f"/proc/{int(child)}")


async def test_stdio_and_descriptors(parent: rsyscall.Process, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("input")
    task = parent.task
    async with (
        await task.open(tmp_path / "in", O.RDONLY) as source,
        await output(task, tmp_path / "err") as err,
        await task.memfd_create("seven") as seven,
    ):
        found = await tell(
            parent, tmp_path / "out", stdin=source, stderr=err, fds={7: seven, 9: source}
        )
    assert found["fds"] == {
        "0": str(tmp_path / "in"),
        "1": str(tmp_path / "out"),
        "2": str(tmp_path / "err"),
        "7": "/memfd:seven (deleted)",
        "9": str(tmp_path / "in"),
    } | {n: w for n, w in found["fds"].items() if w == f"/proc/{found['pid']}/fd"}


async def test_descriptors_under_their_own_numbers(
    parent: rsyscall.Process, tmp_path: Path
) -> None:
    async with await parent.task.memfd_create("a") as a, await parent.task.memfd_create("b") as b:
        found = await tell(parent, tmp_path / "out", fds=[a, b])
        assert found["fds"][str(int(a.near))] == "/memfd:a (deleted)"
        assert found["fds"][str(int(b.near))] == "/memfd:b (deleted)"


async def test_descriptors_that_change_places(parent: rsyscall.Process, tmp_path: Path) -> None:
    task = parent.task
    async with (
        await task.memfd_create("a") as a,
        await task.memfd_create("b") as b,
        await task.memfd_create("c") as c,
    ):
        numbers = [int(fd.near) for fd in (a, b, c)]
        moved = dict(zip(numbers, (b, c, a), strict=True))
        found = await tell(parent, tmp_path / "out", fds=moved)
        for number, name in zip(numbers, "bca", strict=True):
            assert found["fds"][str(number)] == f"/memfd:{name} (deleted)"


async def test_a_descriptor_of_another_table(parent: rsyscall.Process) -> None:
    async with rsyscall.open_process() as stranger, await stranger.task.memfd_create("x") as fd:
        with pytest.raises(far.FDTableMismatchError):
            await parent.spawn(TRUE, stdout=fd)


async def test_cwd(parent: rsyscall.Process, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    assert (await tell(parent, tmp_path / "out", cwd=tmp_path / "d"))["cwd"] == f"{tmp_path}/d"
    async with await parent.task.open(tmp_path / "d", O.PATH | O.DIRECTORY) as fd:
        assert (await tell(parent, tmp_path / "out", cwd=fd))["cwd"] == f"{tmp_path}/d"


async def test_env(parent: rsyscall.Process, tmp_path: Path) -> None:
    found = await tell(parent, tmp_path / "out", env={"A": "1"})
    assert found["env"]["A"] == "1"
    assert found["env"].keys() <= {"A", "LC_CTYPE"}
    async with await output(parent.task, tmp_path / "out") as out:
        command = Command("/usr/bin/env", ["env"], {"B": "2"})
        async with await parent.spawn(command, stdout=out, env={"A": "1"}) as child:
            await child.check()
    assert (tmp_path / "out").read_text() == "A=1\nB=2\n"


async def ids(parent: rsyscall.Process, path: Path, **options: Any) -> dict[str, list[int]]:
    """The ids that a program has; none of Python's, which not every user can execute."""
    async with await output(parent.task, path) as out:
        command = Command("/bin/cat", ["cat", "/proc/self/status"], {})
        async with await parent.spawn(command, stdout=out, **options) as child:
            await child.check()
    lines = [line.partition(":") for line in path.read_text().splitlines()]
    return {k: list(map(int, v.split())) for k, _, v in lines if k in ("Uid", "Gid", "Groups")}


@pytest.mark.privileged
async def test_ids(parent: rsyscall.Process, tmp_path: Path) -> None:
    found = await ids(parent, tmp_path / "out", uid=33, gid=34, groups=[35, 36])
    assert found == {"Uid": [33] * 4, "Gid": [34] * 4, "Groups": [35, 36]}


@pytest.mark.privileged
async def test_a_change_of_ids_leaves_us_dumpable(tmp_path: Path) -> None:
    """Dumpable or not is a matter of the memory, which was the child's, too."""
    async with rsyscall.open_process() as process, await process.clone() as child:
        for parent in (local_process, process, child):
            changes: list[dict[str, Any]] = [{"uid": 33}, {"gid": 34}, {"unshare": CLONE.NEWUSER}]
            for options in changes:
                assert await dumpable(parent)
                await ids(parent, tmp_path / "out", **options)
                assert await dumpable(parent)


@pytest.mark.privileged
async def test_a_change_of_ids_that_fails_leaves_us_dumpable(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await local_process.spawn(Command("/no/such/file", ["x"], {}), uid=33)
    assert await dumpable(local_process)


async def dumpable(process: rsyscall.Process) -> bool:
    return await process.task.sysif.syscall(SYS.prctl, 3) == 1


@pytest.mark.privileged
async def test_no_groups_at_all(parent: rsyscall.Process, tmp_path: Path) -> None:
    assert (await ids(parent, tmp_path / "out", groups=[]))["Groups"] == []


async def test_rlimits(parent: rsyscall.Process, tmp_path: Path) -> None:
    limits = {resource.RLIMIT_CORE: (4096, 8192), resource.RLIMIT_NOFILE: (64, 64)}
    found = await tell(parent, tmp_path / "out", rlimits=limits)
    assert (found["core"], found["nofile"]) == ([4096, 8192], [64, 64])


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        pytest.param(CLONE.NEWNS, "mnt", marks=pytest.mark.privileged),
        pytest.param(CLONE.NEWNET, "net", marks=pytest.mark.privileged),
        pytest.param(CLONE.NEWUTS, "uts", marks=pytest.mark.privileged),
        pytest.param(CLONE.NEWIPC, "ipc", marks=pytest.mark.privileged),
        pytest.param(CLONE.NEWCGROUP, "cgroup", marks=pytest.mark.privileged),
        pytest.param(CLONE.NEWPID, "pid", marks=pytest.mark.privileged),
        (CLONE.NEWUSER, "user"),
    ],
    ids=str,
)
async def test_unshare(parent: rsyscall.Process, tmp_path: Path, flag: CLONE, name: str) -> None:
    found = await tell(parent, tmp_path / "out", unshare=flag)
    ours = {n: os.readlink(f"/proc/self/ns/{n}") for n in found["ns"]}
    new = {n.removesuffix("_for_children") for n in ours if ours[n] != found["ns"][n]}
    assert new == {name}
    if flag == CLONE.NEWPID:
        assert (found["pid"], found["ppid"]) == (1, 0)


async def test_ids_in_a_new_user_namespace(parent: rsyscall.Process, tmp_path: Path) -> None:
    found = await tell(parent, tmp_path / "out", unshare=CLONE.NEWUSER, uid=5, gid=6)
    assert (found["uid"], found["gid"]) == ([5] * 3, [6] * 3)


async def test_groups_and_sessions(parent: rsyscall.Process, tmp_path: Path) -> None:
    found = await tell(parent, tmp_path / "out", pgid=0)
    assert found["pgid"] == found["pid"] != found["sid"]
    found = await tell(parent, tmp_path / "out", session=True)
    assert found["pgid"] == found["sid"] == found["pid"]
    async with await parent.spawn(SLEEP, pgid=0) as leader:
        found = await tell(parent, tmp_path / "out", pgid=leader.pid)
        assert found["pgid"] == int(leader)
        async with await parent.spawn(SLEEP, pgid=leader.pid) as other:
            await leader.killpg(SIG.TERM)
            assert (await other.wait()).killed_with() == SIG.TERM
            assert (await leader.wait()).killed_with() == SIG.TERM


async def test_a_controlling_terminal(parent: rsyscall.Process, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    os.close(slave)
    try:
        async with await parent.task.open(name, O.RDWR | O.NOCTTY) as tty:
            found = await tell(parent, tmp_path / "out", tty=tty)
        assert found["tty"] is not None
        assert found["sid"] == found["pid"]
    finally:
        os.close(master)


async def test_the_death_of_the_parent(parent: rsyscall.Process) -> None:
    async with (
        await parent.clone() as middle,
        await middle.spawn(SLEEP, pdeathsig=SIG.TERM) as child,
    ):
        await middle.pid.kill(SIG.KILL)
        with trio.fail_after(10):
            await child.pid.wait_readable()
        assert (await child.waitpid(W.EXITED)).code is CLD.UNKNOWN


async def test_a_cgroup(parent: rsyscall.Process, tmp_path: Path) -> None:
    """Of a hierarchy that is mounted for the purpose, whatever is mounted here."""
    if os.geteuid() != 0:
        pytest.skip("only root can make cgroups everywhere")
    async with await parent.clone(CLONE.NEWNS) as apart:
        task, name = apart.task, f"rsyscall-test-{int(apart.pid)}"
        await task.mount("none", "/", "", MS.REC | MS.PRIVATE, "")
        await task.mount("none", tmp_path, "cgroup2", MS.NONE, "")
        await task.mkdir(tmp_path / name)
        try:
            async with await task.open(tmp_path / name, O.DIRECTORY) as group:
                async with await apart.spawn(SLEEP, cgroup=group) as child:
                    assert f"/{name}\n" in Path(f"/proc/{int(child)}/cgroup").read_text()
                assert f"/{name}\n" not in Path(f"/proc/{int(apart.pid)}/cgroup").read_text()
            async with await task.open("/", O.DIRECTORY) as none:
                with pytest.raises(FileNotFoundError) as caught:
                    await apart.spawn(SLEEP, cgroup=none)
            assert caught.value.__notes__[-1] == "while entering the cgroup"
        finally:
            await task.rmdir(tmp_path / name)


async def test_signals_that_stay_blocked(parent: rsyscall.Process) -> None:
    class Block:
        mask = {SIG.USR1}

    async with await parent.spawn(SLEEP, inherited_signal_blocks=[Block()]) as child:
        assert int(status(int(child))["SigBlk"], 16) == 1 << (SIG.USR1 - 1)


async def test_leaving_the_block_ends_it(parent: rsyscall.Process) -> None:
    async with await parent.spawn(SLEEP) as child:
        pass
    assert child.pid.death_state is not None
    assert not os.path.exists(f"/proc/{int(child)}")


async def test_what_was_not_waited_for_ends_with_its_parent(parent: rsyscall.Process) -> None:
    async with await parent.clone() as middle:
        child = await middle.spawn(SLEEP)
        assert os.path.exists(f"/proc/{int(child)}")
    assert not os.path.exists(f"/proc/{int(child)}")


async def test_unless_it_is_detached(parent: rsyscall.Process) -> None:
    async with await parent.clone() as middle:
        async with await middle.spawn(SLEEP) as child:
            child.detach()
        assert child.pid.death_state is None
    assert os.path.exists(f"/proc/{int(child)}")
    await child.kill(SIG.KILL)
    await child.pid.wait_readable()
    await child.waitpid(W.EXITED)


async def test_killed_at_any_time() -> None:
    """By another process, as early as it can see the child: success or an error, nothing left."""
    program = f"""
import os, signal, sys
print(flush=True)
while True:
    for child in open("/proc/{os.getpid()}/task/{os.getpid()}/children").read().split():
        if int(child) != os.getpid():
            try: os.kill(int(child), signal.SIGKILL)
            except ProcessLookupError: pass
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as killer:
        assert killer.stdout is not None
        killer.stdout.readline()
        outcomes = {"killed": 0, "hangup": 0, "exited": 0}
        for _ in range(100):
            try:
                async with await local_process.spawn(SLEEP.args("0")) as child:
                    state = await child.waitpid(W.EXITED)
                    outcomes["killed" if state.code is CLD.KILLED else "exited"] += 1
            except SyscallHangup:
                outcomes["hangup"] += 1
        killer.kill()
    assert sum(outcomes.values()) == 100
    assert outcomes["killed"] + outcomes["hangup"] > 0


async def test_many_at_once(parent: rsyscall.Process) -> None:
    async with trio.open_nursery() as nursery:

        async def one(code: int) -> None:
            state = await parent.run(SH.args(f"exit {code}"), check=False)
            assert state.exit_status == code

        for code in range(20):
            nursery.start_soon(one, code)


async def test_rusage_is_that_of_the_program(parent: rsyscall.Process) -> None:
    command = Command(sys.executable, ["python", "-c", "x = bytearray(64 << 20)"], {})
    async with await parent.spawn(command) as child:
        await child.check()
        assert child.pid.rusage is not None
        assert child.pid.rusage.ru_maxrss > 64 << 10


async def test_handlers_of_the_interpreter_do_not_run_on_the_way() -> None:
    """A signal that comes all the time is handled by us, and by nobody who shares our memory."""
    seen: set[int] = set()

    def note(_signal: int, _frame: object) -> None:
        seen.add(os.getpid())

    before = signal.signal(signal.SIGALRM, note)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for _ in range(50):
            await local_process.run(TRUE)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert seen == {os.getpid()}

"""A child becomes another program."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio

import rsyscall
from process.seen import FALSE, SH, SLEEP, TRUE, fds, output, status
from rsyscall import local_process
from rsyscall.fcntl import AT, O
from rsyscall.handle.process import DeadTaskError
from rsyscall.near.sysif import In, SyscallHangup
from rsyscall.sched import CLONE
from rsyscall.signal import SIG
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import CLD, CalledProcessError, W
from rsyscall.thread import ChildProcess
from rsyscall.unistd import SEEK

KINDS = [(CLONE.NONE, True), (CLONE.FILES, True), (CLONE.NONE, False), (CLONE.FILES, False)]


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]!r}-vm={kind[1]}")
async def child(
    request: pytest.FixtureRequest, parent: rsyscall.Process
) -> AsyncGenerator[ChildProcess]:
    flags, vm = request.param
    async with await parent.clone(flags, vm=vm) as child:
        yield child


async def test_success(child: ChildProcess) -> None:
    number = int(child.pid)
    pid = await child.exec(TRUE)
    assert pid is child.pid
    assert int(pid) == number
    assert (await pid.check()).clean()
    with pytest.raises(DeadTaskError, match=r"exec'd|exited"):
        await child.task.getpid()
    with pytest.raises(DeadTaskError, match=r"exec'd|exited"):
        await child.exec(TRUE)


async def test_the_status_is_that_of_the_program(child: ChildProcess) -> None:
    pid = await child.exec(FALSE)
    with pytest.raises(CalledProcessError, match=r"^/bin/false: pid \d+ exited with status 1$"):
        await pid.check()


async def test_a_program_that_runs_on(child: ChildProcess) -> None:
    with trio.fail_after(10):  # and success is known though it does not end
        pid = await child.exec(SLEEP)
    assert Path(f"/proc/{int(pid)}/comm").read_text() == "sleep\n"
    await pid.kill(SIG.TERM)
    assert (await pid.wait()).killed_with() == SIG.TERM


async def test_failure_leaves_the_child_as_it_was(child: ChildProcess, tmp_path: Path) -> None:
    await child.task.getpid()
    before = fds(int(child.pid)), status(int(child.pid))
    for path, error in (
        ("/no/such/file", FileNotFoundError),
        ("/", PermissionError),
        ("/etc/passwd", PermissionError),
    ):
        with pytest.raises(error) as caught:
            await child.execv(path, ["x"])
        assert caught.value.__notes__[0].startswith(
            f"in execveat(dirfd=AT_FDCWD, pathname='{path}'"
        )
    after = fds(int(child.pid)), status(int(child.pid))
    assert after[0] <= before[0]
    for line in ("SigBlk", "SigIgn", "SigCgt"):
        assert after[1][line] == before[1][line]
    assert await child.task.getpid() == child.task.near_process
    assert (await (await child.exec(TRUE)).check()).clean()


async def test_a_string_with_a_nul_is_refused(child: ChildProcess) -> None:
    with pytest.raises(ValueError, match=r"^path: "):
        await child.execv("/bin/tr\0ue", ["x"])
    with pytest.raises(ValueError, match=r"^argv\[1\]: "):
        await child.execv("/bin/true", ["x", "\0"])
    with pytest.raises(ValueError, match=r"^env: A: "):
        await child.execve("/bin/true", ["x"], {"A": "\0"})
    with pytest.raises(ValueError, match=r"^env: 'A=B' "):
        await child.execve("/bin/true", ["x"], {"A=B": ""})
    assert await child.task.getpid() == child.task.near_process


async def test_descriptors_are_inherited_if_they_are_told_to(
    parent: rsyscall.Process, tmp_path: Path
) -> None:
    out, closed = await output(parent.task, tmp_path / "out"), await parent.task.memfd_create("x")
    async with out, closed, await parent.clone() as child:
        inherited = child.inherit_fd(out)
        await inherited.disable_cloexec()
        await child.inherit_fd(closed).enable_cloexec()
        command = SH.args(
            f"readlink /proc/self/fd/{int(out.near)} >&{int(out.near)}; "
            f"ls /proc/$$/fd >&{int(out.near)}"
        )
        await (await child.exec(command)).check()
        lines = (tmp_path / "out").read_text().split()
        assert lines[0] == str(tmp_path / "out")
        assert str(int(closed.near)) not in lines[1:]


async def test_signals_are_as_subprocess_has_them(parent: rsyscall.Process, tmp_path: Path) -> None:
    async with await output(parent.task, tmp_path / "out") as out, await parent.clone() as child:
        await child.inherit_fd(out).disable_cloexec()
        command = SH.args(f"grep Sig /proc/self/status >&{int(out.near)}")
        await (await child.exec(command)).check()
    there = dict(line.split() for line in (tmp_path / "out").read_text().splitlines())
    assert int(there["SigBlk:"], 16) == 0
    for sig in (SIG.PIPE, SIG.XFSZ):
        assert not int(there["SigIgn:"], 16) & 1 << (sig - 1)


async def test_signals_that_are_to_stay_blocked(parent: rsyscall.Process) -> None:
    class Block:
        mask = {SIG.USR1, SIG.HUP}

    async with await parent.clone() as child:
        pid = await child.exec(SLEEP, [Block()])
        blocked = int(status(int(pid))["SigBlk"], 16)
        assert blocked == 1 << (SIG.USR1 - 1) | 1 << (SIG.HUP - 1)


async def test_the_environment(parent: rsyscall.Process, tmp_path: Path) -> None:
    async with await output(parent.task, tmp_path / "out") as out:
        for env, updates, wanted in (
            (None, {"A": "1"}, {**os.environ, "A": "1"}),
            ({"B": "2"}, {"A": "1"}, {"A": "1", "B": "2"}),
            ({}, {}, {}),
        ):
            async with await parent.clone() as child:
                await child.inherit_fd(out).disable_cloexec()
                code = f"import os; os.write({int(out.near)}, repr(dict(os.environ)).encode())"
                pid = await child.execve(sys.executable, ["python", "-c", code], updates, env=env)
                await pid.check()
            got = eval((tmp_path / "out").read_text().rpartition("\n")[2])
            (tmp_path / "out").write_bytes(b"\n")
            got.pop("LC_CTYPE", None)
            assert got == {k: v for k, v in wanted.items() if k != "LC_CTYPE"}
            await out.lseek(1, SEEK.SET)


async def test_the_environment_is_as_it_is_by_then(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with await output(local_process.task, tmp_path / "out") as out:
        for value in ("1", "2", None, "1"):
            if value is None:
                monkeypatch.delenv("RSYSCALL_TEST")
            else:
                monkeypatch.setenv("RSYSCALL_TEST", value)
            for greeting in ("a", "b"):
                async with await local_process.clone() as child:
                    await child.inherit_fd(out).dup2(child.stdout)
                    line = 'echo "$0${RSYSCALL_TEST-none}"'
                    await (await child.execv("/bin/sh", ["sh", "-c", line, greeting])).check()
    wanted = [f"{greeting}{value}" for value in ("1", "2", "none", "1") for greeting in "ab"]
    assert (tmp_path / "out").read_text().split() == wanted


async def test_a_large_environment(parent: rsyscall.Process) -> None:
    env = {f"VARIABLE_{i}": "x" * 100 for i in range(3000)}
    async with await parent.clone() as child:
        pid = await child.execve(
            sys.executable,
            ["python", "-c", "import os; assert len(os.environ) >= 3000"],
            env=env,
        )
        await pid.check()
    async with await parent.clone() as child:
        with pytest.raises(OSError, match="list too long") as caught:
            await child.execv("/bin/true", ["x" * 200_000])
        assert caught.value.errno == 7
        assert await child.task.getpid() == child.task.near_process


async def test_a_file_by_its_descriptor(parent: rsyscall.Process) -> None:
    async with (
        await parent.clone() as child,
        await child.task.open("/bin/true", O.RDONLY) as fd,
    ):
        pid = await child.execveat(fd, "", ["true"], flags=AT.EMPTY_PATH)
        assert (await pid.check()).clean()


async def test_a_name_in_a_directory(parent: rsyscall.Process) -> None:
    async with (
        await parent.clone() as child,
        await child.task.open("/bin", O.PATH | O.DIRECTORY) as fd,
    ):
        assert (await (await child.execveat(fd, "true", ["true"])).check()).clean()


async def test_a_memfd(parent: rsyscall.Process) -> None:
    data = Path("/bin/true").read_bytes()
    async with await parent.clone() as child, await child.task.memfd_create("program") as fd:
        while data:
            data = data[await fd.write(data) :]
        pid = await child.execveat(fd, "", ["program"], flags=AT.EMPTY_PATH)
        assert (await pid.check()).clean()


async def test_a_table_that_was_shared_is_not_afterwards(parent: rsyscall.Process) -> None:
    await parent.task.getpid()
    before = fds(int(parent.pid))
    async with (
        await parent.clone(CLONE.FILES) as child,
        await parent.task.memfd_create("x") as fd,
    ):
        there = child.inherit_fd(fd)
        with pytest.raises(FileNotFoundError):
            await child.execv("/no/such/file", ["x"])
        assert child.task.fd_table is not parent.task.fd_table
        await there.write(b"x")
        await there.close()
        assert (await fd.fstat()).size == 1
    assert fds(int(parent.pid)) == before


async def test_success_is_known_while_a_fork_has_copies_of_everything() -> None:
    """Also of both ends of the child's socket, so that it never ends."""
    flags = CLONE.FILES
    async with await local_process.clone(flags) as child:
        fork = os.fork()
        if fork == 0:
            signal.pause()
            os._exit(0)
        try:
            with trio.fail_after(10):
                pid = await child.exec(SLEEP)
                assert Path(f"/proc/{int(pid)}/comm").read_text() == "sleep\n"
                await pid.kill(SIG.KILL)
                await pid.wait()
        finally:
            os.kill(fork, signal.SIGKILL)
            os.waitpid(fork, 0)


async def test_killed_before_it_could(child: ChildProcess) -> None:
    await child.task.getpid()
    await child.pid.kill(SIG.KILL)
    with pytest.raises(SyscallHangup):
        await child.exec(TRUE)
    state = await child.pid.waitpid(W.EXITED)
    assert (state.code, state.sig) == (CLD.KILLED, SIG.KILL)


async def test_killed_at_any_time(parent: rsyscall.Process) -> None:
    """Success or an error, and nothing in between; the status is known in either case."""
    for delay in range(0, 40, 2):
        async with await parent.clone() as child:
            try:
                with trio.fail_after(10):
                    async with trio.open_nursery() as nursery:

                        async def kill(child: ChildProcess = child, n: int = delay) -> None:
                            for _ in range(n):
                                await trio.lowlevel.checkpoint()
                            child.pid.pid.send_signal(SIG.KILL)

                        nursery.start_soon(kill)
                        await child.exec(SLEEP)
            except* SyscallHangup:
                pass
            state = await child.pid.waitpid(W.EXITED)
            assert (state.code, state.sig) == (CLD.KILLED, SIG.KILL)


async def test_memory_is_given_back(parent: rsyscall.Process) -> None:
    async with await parent.clone() as warm:
        await (await warm.exec(TRUE)).check()
    before = await parent_size(parent)
    for _ in range(5):
        async with await parent.clone() as child:
            await (await child.exec(TRUE)).check()
    assert await parent_size(parent) <= before + 4096  # KiB: not even one child's


async def parent_size(process: rsyscall.Process) -> int:
    if not process.task.sysif.immediate:  # without the threads it keeps for calls that may block
        await process.task.sysif.syscall(SYS.setresuid, -1, -1, -1)
    return int(status(int(process.pid))["VmSize"].split()[0])


async def test_a_foreign_wait_may_steal_a_program() -> None:
    async with await local_process.clone() as child:
        pid = await child.exec(TRUE)
        await pid.pid.wait_readable()
        stolen = os.waitpid(int(pid), 0)
        assert stolen[1] == 0
        assert (await pid.waitpid(W.EXITED)).code in (CLD.EXITED, CLD.UNKNOWN)


async def test_a_raw_exec_is_noticed_all_the_same(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child:
        with pytest.raises(SyscallHangup):
            await child.task.sysif.call(SYS.execve, (In(b"/bin/true\0"), 0, 0))
        assert (await child.pid.waitpid(W.EXITED)).died()

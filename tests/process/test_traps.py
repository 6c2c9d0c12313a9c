"""What a child that lives in our memory must not do to us, nor others to it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import re
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import rsyscall
from leaks import file_descriptors
from process.seen import SH, SLEEP, TRUE, status
from rsyscall import local_process
from rsyscall.fcntl import O
from rsyscall.near.sysif import In, Out, SyscallHangup
from rsyscall.sched import CLONE
from rsyscall.signal import SIG
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import CLD, CalledProcessError, W
from rsyscall_protocol import Size


async def test_a_foreign_wait_does_not_steal_it() -> None:
    async with await local_process.clone() as child:
        await child.exit(5)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, 0)
        assert (await child.pid.waitpid(W.EXITED)).exit_status == 5


#: Whether a pidfd tells how a process has ended that somebody else has waited for.
PIDFD_TELLS = tuple(map(int, platform.release().split("-")[0].split(".")[:2])) >= (6, 15)


async def test_a_stolen_status_is_unknown_unless_the_pidfd_tells() -> None:
    async with await local_process.clone() as child:
        await child.pid.kill(SIG.KILL)
        await child.pid.pid.wait_readable()
        os.waitid(os.P_PID, int(child.pid), os.WEXITED | 0x40000000)
        state = await child.pid.waitpid(W.EXITED)
        assert (state.died(), state.clean()) == (True, False)
        assert state.code is (CLD.KILLED if PIDFD_TELLS else CLD.UNKNOWN)
        with pytest.raises(CalledProcessError, match="SIGKILL" if PIDFD_TELLS else "unknown"):
            await child.pid.check()


async def test_a_status_that_no_pidfd_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before Linux 6.15: a request that no pidfd knows."""
    monkeypatch.setattr("rsyscall.handle._ended._PIDFD_GET_INFO", 0xC040FFFF)
    async with await local_process.spawn(TRUE) as child:
        await child.pid.wait_readable()
        os.waitpid(int(child), 0)
        state = await child.waitpid(W.EXITED)
        assert (state.code, state.died(), state.clean()) == (CLD.UNKNOWN, True, False)
        with pytest.raises(CalledProcessError, match="unknown"):
            await child.check()


@pytest.mark.parametrize("code", [0, 3])
async def test_children_of_a_process_that_ignores_their_ends(code: int) -> None:
    """The kernel waits for them at once; so it is with programs that others started in Python."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with await local_process.spawn(SH.args(f"exit {code}")) as child:
            with trio.fail_after(10):
                state = await child.waitpid(W.EXITED)
        assert state.exit_status == (code if PIDFD_TELLS else None)
        async with await local_process.spawn(SLEEP) as child:
            await child.kill(SIG.TERM)
            with trio.fail_after(10):
                state = await child.waitpid(W.EXITED)
        assert state.sig == (SIG.TERM if PIDFD_TELLS else None)
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_what_nobody_may_kill_is_left_alone(tmp_path: Path) -> None:
    """Its end is waited for a moment, and not for ever; the error names it, and it runs on."""
    if os.geteuid() != 0:
        pytest.skip("only root can start programs as somebody else")
    program = """
import os, sys, trio
from rsyscall import local_process
from rsyscall.command import Command
async def main():
    left = await local_process.spawn(Command("/bin/sleep", ["sleep", "1000"], {}), uid=34)
    ours = await local_process.spawn(Command("/bin/sleep", ["sleep", "1000"], {}), uid=33)
    os.setresuid(33, 33, 33)
    print(int(left), int(ours), flush=True)
    try:
        await local_process.end_children()
    except PermissionError as exc:
        print(exc, ours.pid.death_state.sig.name, left.pid.death_state)
    await local_process.end_children()
trio.run(main)
"""
    with (tmp_path / "said").open("w") as file:  # not a pipe, which what runs on would keep open
        await trio.run_process([sys.executable, "-c", program], stdout=file)
    pids, said = (tmp_path / "said").read_text().splitlines()
    left, ours = map(int, pids.split())
    try:
        assert f"{left}), which runs on" in said
        assert said.endswith(" KILL None")
        assert not Path(f"/proc/{ours}").exists()
        assert status(left)["Uid"].split()[0] == "34"
    finally:
        os.kill(left, signal.SIGKILL)


@pytest.mark.parametrize(
    "sig", [SIG.QUIT, SIG.ILL, SIG.TRAP, SIG.ABRT, SIG.BUS, SIG.FPE, SIG.SEGV, SIG.XCPU, SIG.SYS]
)
async def test_a_signal_that_dumps_core_kills_the_child_alone(sig: SIG) -> None:
    """Its memory is ours: a dump would be ours, and before Linux 5.16 our end as well."""
    async with await local_process.clone() as child:
        await child.task.getpid()
        assert int(status(int(child.pid))["SigCgt"], 16) & 1 << (sig - 1)
        await child.pid.kill(sig)
        state = await child.pid.waitpid(W.EXITED)
        assert (state.code, state.sig) == (CLD.KILLED, SIG.KILL)


async def test_a_bad_address_in_a_child_kills_the_child_alone() -> None:
    async with await local_process.clone(ring=True) as child:
        ring = getattr(child.task.sysif, "_halves")  # noqa: B009 - nobody else wants to know
        session = ring.address - Size.CHILD_MEMORY
        with pytest.raises(SyscallHangup):
            await child.task.sysif.syscall(SYS.mprotect, session, Size.CHILD_MEMORY, 0)
        state = await child.pid.waitpid(W.EXITED)
        assert (state.code, state.sig) == (CLD.KILLED, SIG.KILL)


async def test_a_child_that_scribbles_over_its_own_memory_harms_itself_alone() -> None:
    """There it says where its threads had their stacks; nothing of ours is unmapped for that."""
    async with await local_process.clone(ring=True) as child:
        ring = getattr(child.task.sysif, "_halves")  # noqa: B009 - nobody else wants to know
        session = ring.address - Size.CHILD_MEMORY
        precious = mmap.mmap(-1, 2 * Size.HELPER_MEMORY)
        address = ctypes.addressof(ctypes.c_char.from_buffer(precious)) + Size.HELPER_STACK
        words = struct.pack("@Q", address) * (Size.CHILD_MEMORY // 8)
        own = os.open("/proc/self/mem", os.O_RDWR)
        await child.pid.kill(SIG.STOP)
        assert (await child.pid.wait()).code is CLD.STOPPED
        os.pwrite(own, words, session)
        os.close(own)
        await child.pid.kill(SIG.KILL)
        assert (await child.pid.waitpid(W.EXITED)).sig == SIG.KILL
        precious[:] = bytes(len(precious))  # it is still there


async def test_handlers_of_the_interpreter_do_not_run_in_a_child() -> None:
    seen: list[int] = []

    def note(_signal: int, _frame: object) -> None:
        seen.append(os.getpid())

    before = signal.signal(signal.SIGUSR1, note)
    try:
        async with await local_process.clone() as child:
            await child.task.getpid()
            caught = int(status(int(child.pid))["SigCgt"], 16)
            assert not caught & 1 << (signal.SIGUSR1 - 1)
            await child.pid.kill(SIG.USR1)
            assert (await child.pid.waitpid(W.EXITED)).killed_with() == SIG.USR1
        assert seen == []
    finally:
        signal.signal(signal.SIGUSR1, before)


async def test_a_write_to_a_closed_pipe_is_an_error_of_that_call(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child:
        reply = await child.task.sysif.call(SYS.pipe2, (Out(8), O.CLOEXEC))
        first, second = (int.from_bytes(reply.outs[0][i : i + 4], sys.byteorder) for i in (0, 4))
        await child.task.sysif.syscall(SYS.close, first)
        with pytest.raises(BrokenPipeError):
            await child.task.sysif.call(SYS.write, (second, In(b"x"), 1))
        assert await child.task.getpid() == child.task.near_process


async def test_sigpipe_and_the_mask_are_as_a_server_has_them(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child:
        await child.task.getpid()
        found = status(int(child.pid))
        ignored = int(found["SigIgn"], 16)
        for sig in (SIG.PIPE, SIG.XFSZ):
            assert ignored & 1 << (sig - 1)
        assert found["SigBlk"] == status(int(parent.pid))["SigBlk"]


async def test_children_end_when_the_client_is_killed() -> None:
    """Also those that share its table, in which its own end of the socket is open, too."""
    program = """
import os, signal, sys, trio
from rsyscall import local_process
from rsyscall.sched import CLONE
async def main():
    for flags in (CLONE.NONE, CLONE.FILES):
        for ring in (True, False):
            child = await local_process.clone(flags, ring=ring)
            print(int(child.pid), flush=True)
            globals().setdefault("keep", []).append(child)
    os.kill(os.getpid(), signal.SIGKILL)
trio.run(main)
"""
    done = await trio.run_process([sys.executable, "-c", program], capture_stdout=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pids = [int(line) for line in done.stdout.split()]
    assert len(pids) == 4
    with trio.fail_after(10):
        for pid in pids:
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                await trio.lowlevel.wait_readable(pidfd)
            finally:
                os.close(pidfd)


async def test_the_interpreter_may_fork_while_it_has_children() -> None:
    async with await local_process.clone() as child:
        assert pidfds()
        pid = os.fork()
        if pid == 0:  # nothing of a child's is open there
            code = 2
            try:
                code = len(pidfds())
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        assert await child.task.getpid() == child.task.near_process


def test_nothing_is_looked_up_when_a_child_calls_it() -> None:
    import rsyscall._raw

    command = ["readelf", "--wide", "--dynamic", rsyscall._raw.__file__]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"BIND_NOW|Flags: NOW", said)


@pytest.mark.privileged
async def test_the_init_of_a_pid_namespace(parent: rsyscall.Process) -> None:
    """It ignores what it has no handler for; and with it all end who are in there."""
    async with await parent.clone(CLONE.NEWPID) as init, await init.clone() as other:
        for sig in (SIG.TERM, SIG.USR1, SIG.HUP):
            os.kill(int(init.pid), sig)
        assert await init.task.getpid() == init.task.near_process
        await init.pid.kill(SIG.SEGV)  # which would dump core, and cannot kill itself
        state = await init.pid.waitpid(W.EXITED)
        assert (state.code, state.exit_status) == (CLD.EXITED, 128 + SIG.SEGV)
        with trio.fail_after(10):
            await other.pid.pid.wait_readable()
        with pytest.raises(SyscallHangup):
            await other.task.getpid()
    assert await parent.task.getpid() == parent.task.near_process


async def many(children: list[rsyscall.ChildProcess]) -> None:
    while True:
        children.append(await local_process.clone())


async def test_more_children_than_descriptors() -> None:
    """An error, and nothing is left; most have a soft limit of 1,024."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    children: list[rsyscall.ChildProcess] = []
    highest = max(file_descriptors())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 16, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            await many(children)
        assert len(children) > 1
        for child in children:
            await child.task.getpid()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for child in children:
            await child.end()
    async with await local_process.clone() as child:
        await child.task.getpid()


async def test_the_score_of_the_oom_killer_is_left_alone(parent: rsyscall.Process) -> None:
    """It belongs to the memory, and so to everybody who shares that."""
    score = Path("/proc/self/oom_score_adj")
    before = score.read_text()
    async with await parent.clone() as child:
        await child.run(SH.args("echo 1000 > /proc/self/oom_score_adj"))
        await (await child.exec(TRUE)).check()
    assert score.read_text() == before


def pidfds() -> set[str]:
    return {what for what in file_descriptors().values() if "pidfd" in what}


@pytest.mark.parametrize("number", [SYS.clone, SYS.clone3, SYS.fork, SYS.vfork], ids=str)
async def test_a_raw_clone_that_would_answer_twice_is_refused(
    parent: rsyscall.Process, number: SYS
) -> None:
    with pytest.raises((PermissionError, rsyscall.SyscallSendError)) as caught:
        await parent.task.sysif.syscall(number, int(signal.SIGCHLD))
    assert getattr(caught.value, "errno", errno.EPERM) == errno.EPERM
    assert await parent.task.getpid() == parent.task.near_process

"""Rows of children."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import rsyscall
from conformance.cancellation import Case, row
from conformance.cancellation.streams import later
from rsyscall.command import Command
from rsyscall.handle import FileDescriptor
from rsyscall.path import Path as FarPath
from rsyscall.sched import CLONE
from rsyscall.signal import SIG
from rsyscall.sys.wait import W


def is_there(process: rsyscall.Process, fd: FileDescriptor, name: str) -> bool:
    """Whether the process has a memfd of that name under the number of a handle."""
    link = f"/proc/{int(process.pid)}/fd/{int(fd.near)}"
    return os.path.lexists(link) and name in os.readlink(link)


SLEEP = Command(FarPath("/bin/sleep"), ["sleep", "1000"], {})
TRUE = Command(FarPath("/bin/true"), ["true"], {})


@row("`Process.clone`, `fork`", "there is no child")
async def cloning(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async def judge(cancelled: bool, child: Any) -> None:
        if not cancelled:
            async with child:
                assert await child.task.getppid() == process.pid

    yield Case(process.clone, judge)


@row("`ChildProcess.map_ids`", "nothing is mapped, or the user ids alone")
async def mapping_ids(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    one = [(0, 0, 1)]
    async with await process.clone(CLONE.NEWUSER, False) as child:

        async def judge(cancelled: bool, _: Any) -> None:
            uids, gids = [
                bool(Path(f"/proc/{int(child.pid)}/{kind}_map").read_text())
                for kind in ("uid", "gid")
            ]
            assert (uids and gids) if not cancelled else not gids

        yield Case(lambda: child.map_ids(one, one), judge)


@row("`Process.open_channels`, `open_async_channels`", "there are none")
async def opening_channels(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async def judge(cancelled: bool, channels: Any) -> None:
        if not cancelled:
            ((ours, theirs),) = channels
            await ours.close()
            await theirs.close()

    yield Case(lambda: process.open_channels(1), judge)


@row("`Process.spawn`", "there is no child, or it was killed and waited for")
async def spawning(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async def judge(cancelled: bool, child: Any) -> None:
        if not cancelled:
            await child.end()

    yield Case(lambda: process.spawn(SLEEP), judge)


@row("`Process.run`", "there is no child, or it was killed and waited for")
async def running_a_program(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async def judge(cancelled: bool, state: Any) -> None:
        assert cancelled or state.clean()

    yield Case(lambda: process.run(TRUE), judge)


@row("`AsyncChildPid.wait`, `waitpid`, `check`", "no change was taken")
async def waiting_for_a_child(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with await process.spawn(SLEEP) as child:

        async def kill() -> None:
            os.kill(child.pid.near.id, signal.SIGTERM)

        async def judge(cancelled: bool, state: Any) -> None:
            if cancelled:
                state = await child.waitpid(W.EXITED)
            assert state.sig == signal.SIGTERM

        yield Case(lambda: child.waitpid(W.EXITED), judge, later(kill))


@row("`AsyncChildPid.kill`, `killpg`", "no signal was sent")
async def killing(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with await process.spawn(SLEEP) as child:

        async def judge(cancelled: bool, _: Any) -> None:
            if cancelled:
                await child.kill(SIG.TERM)
            expected = SIG.TERM if cancelled else SIG.KILL
            assert (await child.waitpid(W.EXITED)).sig == expected

        yield Case(child.kill, judge)


def ended(*pids: int) -> Callable[[bool, Any], Awaitable[None]]:
    async def judge(cancelled: bool, _: Any) -> None:
        assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]

    return judge


@row("`AsyncChildPid.end`", "it has ended")
async def ending_a_program(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    child = await process.spawn(SLEEP)
    yield Case(child.end, ended(child.pid.near.id))


@row("`ChildProcess.end`", "it and its children have ended")
async def ending_a_child(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    child = await process.clone()
    program = await child.spawn(SLEEP)
    yield Case(child.end, ended(child.pid.pid.near.id, program.pid.near.id))


@row("`Process.end_children`", "they have ended")
async def ending_all_children(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with await process.clone() as parent:
        pids = [(await parent.spawn(SLEEP)).pid.near.id for _ in range(2)]
        yield Case(parent.end_children, ended(*pids))


@row("leaving the blocks of children", "they have ended", checkpoint="no")
async def leaving_the_block_of_a_child(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    child = await process.clone()

    async def leave() -> None:
        async with child:
            pass

    yield Case(leave, ended(child.pid.pid.near.id))


@row("`ChildProcess.exec`, `execve`, `execv`, `execveat`", "it was not executed")
async def executing(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with await process.clone() as child:

        async def judge(cancelled: bool, pid: Any) -> None:
            if cancelled:
                assert await child.task.getppid() == process.pid
            else:
                assert Path(f"/proc/{child.pid.pid.near.id}/comm").read_text() == "sleep\n"
                await pid.end()

        yield Case(lambda: child.exec(SLEEP), judge)


@row("`Process.exit`", "it goes on")
async def exiting(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with await process.clone() as child:

        async def judge(cancelled: bool, _: Any) -> None:
            if cancelled:
                assert await child.task.getppid() == process.pid
            else:
                state = await child.pid.waitpid(W.EXITED)
                assert state.exit_status == 3

        yield Case(lambda: child.exit(3), judge)


@row("`Process.unshare`", "nothing has happened")
async def unsharing(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with await process.clone(CLONE.FS) as child:
        there = Path(await process.task.getcwd())

        async def judge(cancelled: bool, _: Any) -> None:
            await child.task.chdir("/proc")
            assert await process.task.getcwd() == ("/proc" if cancelled else str(there))

        yield Case(lambda: child.unshare(CLONE.FS), judge)
        await process.task.chdir(there)


@row("`Process.unshare_files`", "nothing has happened")
async def unsharing_files(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with await process.clone(CLONE.FILES) as child:

        async def judge(cancelled: bool, _: Any) -> None:
            assert (child.task.fd_table is process.task.fd_table) == cancelled
            async with await child.task.memfd_create("only there") as fd:
                assert is_there(process, fd, "only there") == cancelled

        yield Case(child.unshare_files, judge)


@row("`Process.unshare_user`", "nothing has happened, or the ids are not mapped yet")
async def unsharing_users(process: rsyscall.Process, _: Path) -> AsyncGenerator[Case]:
    async with await process.clone() as child:
        before = child.task.userns

        async def judge(cancelled: bool, _: Any) -> None:
            mapped = Path(f"/proc/{child.pid.pid.near.id}/uid_map").read_text().split()
            if cancelled:
                assert mapped == [] or child.task.userns is before
            else:
                assert mapped[0] == str(os.geteuid())

        yield Case(child.unshare_user, judge)

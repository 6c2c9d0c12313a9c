"""Time namespaces: of children, of programs, and whose clocks are set."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

import rsyscall
from process.seen import SLEEP, TRUE, output
from rsyscall import local_process
from rsyscall.command import Command
from rsyscall.fcntl import O
from rsyscall.sched import CLONE
from rsyscall.sys.timerfd import CLOCK
from rsyscall.time import Timespec

DAY = 86400
AHEAD: dict[CLOCK, float | Timespec] = {
    CLOCK.MONOTONIC: DAY + 0.5,
    CLOCK.BOOTTIME: Timespec(2 * DAY, 0),
}
CLOCKS = Command(
    sys.executable,
    ["python", "-Sc", "import time; print(time.monotonic(), time.clock_gettime(7))"],
    {},
)


def namespace(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/time")


def check_clocks(said: bytes, before: tuple[float, float]) -> None:
    monotonic, boot = map(float, said.split())
    assert 0 <= monotonic - before[0] - (DAY + 0.5) < 60
    assert 0 <= boot - before[1] - 2 * DAY < 60


def clocks() -> tuple[float, float]:
    return time.clock_gettime(1), time.clock_gettime(7)


@pytest.mark.privileged
async def test_a_program_with_other_clocks(origin: rsyscall.Process, tmp_path: Path) -> None:
    before = clocks()
    async with (
        await output(origin.task, tmp_path / "out") as out,
        await origin.spawn(
            CLOCKS, stdout=out, unshare=CLONE.NEWTIME, time_offsets=AHEAD
        ) as program,
    ):
        await program.check()
    check_clocks((tmp_path / "out").read_bytes(), before)
    assert origin.task.timens_for_children is origin.task.timens


async def test_without_privileges_in_a_user_namespace(origin: rsyscall.Process) -> None:
    async with await origin.spawn(SLEEP, unshare=CLONE.NEWTIME | CLONE.NEWUSER) as program:
        assert namespace(int(program)) != namespace(int(origin.pid))
    async with await origin.clone(CLONE.NEWTIME | CLONE.NEWUSER, vm=False) as child:
        assert namespace(int(child.pid)) != namespace(int(origin.pid))
        assert child.task.timens is child.task.timens_for_children is not origin.task.timens


@pytest.mark.privileged
async def test_a_child_with_other_clocks_and_its_children(origin: rsyscall.Process) -> None:
    before = clocks()
    async with await origin.clone(CLONE.NEWTIME, vm=False, time_offsets=AHEAD) as child:
        assert child.task.timens is child.task.timens_for_children is not origin.task.timens
        done = await child.run(CLOCKS, capture_stdout=True)
        check_clocks(done.stdout or b"", before)
        async with await child.clone() as grandchild:
            assert grandchild.task.timens is child.task.timens


@pytest.mark.privileged
async def test_one_that_is_made_for_children_only(origin: rsyscall.Process) -> None:
    before = clocks()
    async with await origin.clone() as middle:
        await middle.unshare(CLONE.NEWTIME, time_offsets=AHEAD)
        done = await middle.run(CLOCKS, capture_stdout=True)
        check_clocks(done.stdout or b"", before)
        assert namespace(int(middle.pid)) == namespace(int(origin.pid))


@pytest.mark.privileged
async def test_entering_one_changes_our_own_time(origin: rsyscall.Process) -> None:
    async with (
        await origin.clone(CLONE.NEWTIME, vm=False) as other,
        await origin.clone(vm=False) as alone,
        await origin.clone() as sharing,
    ):
        path = f"/proc/{int(other.pid)}/ns/time"
        async with await alone.task.open(path, O.RDONLY) as fd:
            before = alone.task.timens
            await alone.setns(fd)
            assert alone.task.timens is alone.task.timens_for_children is not before
            assert namespace(int(alone.pid)) == namespace(int(other.pid))
        async with await sharing.task.open(path, O.RDONLY) as fd:
            with pytest.raises(OSError, match="Too many users") as caught:
                await sharing.setns(fd, CLONE.NEWTIME)
            assert "address space for itself" in caught.value.__notes__[-1]


@pytest.mark.privileged
async def test_the_step_that_failed_is_named() -> None:
    far_away = {CLOCK.MONOTONIC: -(10**9)}
    with pytest.raises(OSError, match="out of range") as caught:
        await local_process.spawn(TRUE, unshare=CLONE.NEWTIME, time_offsets=far_away)
    assert "/proc/self/timens_offsets" in caught.value.__notes__[-1]
    with pytest.raises(OSError, match="out of range"):
        await local_process.clone(CLONE.NEWTIME, vm=False, time_offsets=far_away)


async def test_what_cannot_be() -> None:
    for offsets, what in (
        ({CLOCK.REALTIME: 1}, "is the same in all"),
        ({CLOCK.MONOTONIC: float("nan")}, "nan is no number"),
    ):
        with pytest.raises(ValueError, match=f"^time_offsets: .*{what}"):
            await local_process.spawn(TRUE, unshare=CLONE.NEWTIME, time_offsets=offsets)
    with pytest.raises(ValueError, match=r"^time_offsets: only a new"):
        await local_process.spawn(TRUE, time_offsets=AHEAD)
    with pytest.raises(ValueError, match=r"^vm: "):
        await local_process.clone(CLONE.NEWTIME)

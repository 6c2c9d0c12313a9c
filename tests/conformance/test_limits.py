"""Limits, priorities, capabilities, CPUs and prctl, against /proc and the standard library."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

import rsyscall
from conformance.kernel import limits
from conformance.seen import nothing_sent
from rsyscall.far import AddressSpaceMismatchError
from rsyscall.handle import Task, UseAfterFreeError
from rsyscall.sched import CpuSet
from rsyscall.signal import SIG
from rsyscall.sys.capability import CAP, CapData, CapHeader
from rsyscall.sys.prctl import PR, PR_CAP_AMBIENT
from rsyscall.sys.resource import PRIO, RLIM_INFINITY, RLIMIT, RUSAGE, Rlimit

SHOWN_AS = {"effective": "CapEff", "permitted": "CapPrm", "inheritable": "CapInh"}


def shown_caps(task: Task, name: str) -> set[CAP]:
    lines = Path(f"/proc/{int(task.near_process)}/status").read_text().splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return {cap for cap in CAP if int(value, 16) >> cap & 1}


# ---- limits ----


@pytest.mark.parametrize("limit", list(RLIMIT), ids=lambda limit: limit.name)
async def test_getrlimit_is_what_the_standard_library_knows(task: Task, limit: RLIMIT) -> None:
    ours = await task.getrlimit(limit)
    expected = resource.prlimit(int(task.near_process), limit)
    assert ours == Rlimit(*(value % 2**64 for value in expected))
    assert await (await task.getrlimit(limit, await task.malloc(Rlimit))).read() == ours


async def test_limits_can_be_lowered(apart: rsyscall.Process) -> None:
    task = apart.task
    before = await task.getrlimit(RLIMIT.NOFILE)
    await task.setrlimit(RLIMIT.NOFILE, Rlimit(200, before.max))
    assert limits(apart, "Max open files")[0] == "200"
    assert await task.prlimit(RLIMIT.NOFILE, Rlimit(100, before.max)) == Rlimit(200, before.max)
    assert limits(apart, "Max open files")[0] == "100"
    old = await task.malloc(Rlimit)
    written = await task.ptr(Rlimit(150, before.max))
    await task.prlimit(RLIMIT.NOFILE, written, old)
    assert await old.read() == Rlimit(100, before.max)
    await task.setrlimit(RLIMIT.NOFILE, written)
    async with apart.batch() as batch:
        first = batch.prlimit(RLIMIT.CORE, Rlimit(0, 0))
        second = batch.getrlimit(RLIMIT.CORE)
        batch.setrlimit(RLIMIT.NOFILE, Rlimit(120, before.max))
    assert first.value.max <= RLIM_INFINITY
    assert second.value == Rlimit(0, 0)
    assert limits(apart, "Max open files")[0] == "120"


async def test_prlimit_of_another_process(
    apart: rsyscall.Process, stranger: rsyscall.Process
) -> None:
    before = await stranger.task.prlimit(RLIMIT.NOFILE)
    old = await apart.task.prlimit(RLIMIT.NOFILE, Rlimit(77, before.max), pid=stranger.pid)
    assert old == before
    assert limits(stranger, "Max open files")[0] == "77"
    with pytest.raises(ProcessLookupError):
        await apart.task.prlimit(RLIMIT.NOFILE, pid=2**22 + 1)


async def test_a_soft_limit_above_the_hard_one_fails(apart: rsyscall.Process) -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        await apart.task.setrlimit(RLIMIT.NOFILE, Rlimit(20, 10))
    assert "prlimit64(pid=0, resource=" in caught.value.__notes__[0]


async def test_limits_refuse_memory_that_will_not_do(
    task: Task, stranger: rsyscall.Process
) -> None:
    small, _ = (await task.malloc(Rlimit)).split(8)
    far = await stranger.malloc(Rlimit)
    freed = await task.malloc(Rlimit)
    freed.free()
    with nothing_sent(task):
        with pytest.raises(ValueError, match="rlim: 8 bytes, struct rlimit has 16"):
            await task.getrlimit(RLIMIT.CPU, small)
        with pytest.raises(ValueError, match="old_limit: 8 bytes"):
            await task.prlimit(RLIMIT.CPU, None, small)
        with pytest.raises(AddressSpaceMismatchError):
            await task.getrlimit(RLIMIT.CPU, far)
        with pytest.raises(UseAfterFreeError):
            await task.getrlimit(RLIMIT.CPU, freed)


# ---- priorities and use ----


async def test_priorities_are_those_of_the_standard_library(apart: rsyscall.Process) -> None:
    task, pid = apart.task, int(apart.pid)
    assert await task.getpriority(PRIO.PROCESS) == os.getpriority(os.PRIO_PROCESS, pid)
    await task.setpriority(PRIO.PROCESS, 7)
    assert os.getpriority(os.PRIO_PROCESS, pid) == await task.getpriority(PRIO.PROCESS) == 7
    await task.setpriority(PRIO.PROCESS, 19, apart.pid)
    async with apart.batch() as batch:
        step = batch.getpriority(PRIO.PROCESS, apart.pid)
        user = batch.getpriority(PRIO.USER)
    assert step.value == 19
    assert -20 <= user.value <= 19
    assert await task.getpriority(PRIO.PROCESS, os.getpid()) == os.getpriority(os.PRIO_PROCESS, 0)


async def test_getrusage_grows(process: rsyscall.Process) -> None:
    first = await process.task.getrusage()
    async with process.batch() as batch:
        second = batch.getrusage(RUSAGE.SELF)
    assert 0 <= first.maxrss <= second.value.maxrss
    assert first.utime + first.stime <= second.value.utime + second.value.stime
    if process is rsyscall.local_process:
        here = resource.getrusage(resource.RUSAGE_SELF)
        assert here.ru_maxrss >= second.value.maxrss
        assert here.ru_utime + here.ru_stime >= first.utime + first.stime
        assert here.ru_minflt >= first.minflt > 0


# ---- capabilities ----


async def test_capget_is_what_proc_shows(task: Task) -> None:
    ours = await task.capget(CapHeader())
    for name in ("effective", "permitted", "inheritable"):
        assert getattr(ours, name) == shown_caps(task, SHOWN_AS[name])
    header = await task.ptr(CapHeader(int(task.near_process)))
    filled = await task.capget(header, await task.malloc(CapData))
    assert await filled.read() == ours


async def test_capabilities_can_be_dropped(apart: rsyscall.Process) -> None:
    task = apart.task
    ours = await task.capget(CapHeader())
    ours.effective.discard(CAP.SYS_ADMIN)
    ours.permitted.discard(CAP.SYS_ADMIN)
    ours.inheritable &= ours.permitted
    await task.capset(CapHeader(), ours)
    assert await task.capget(CapHeader()) == ours
    assert shown_caps(task, "CapPrm") == ours.permitted
    ours.effective.clear()
    await task.capset(await task.ptr(CapHeader()), await task.ptr(ours))
    assert shown_caps(task, "CapEff") == set()
    with pytest.raises(PermissionError):
        await task.capset(CapHeader(), CapData(permitted=[CAP.SYS_ADMIN]))


async def test_ambient_capabilities(apart: rsyscall.Process) -> None:
    task = apart.task
    ours = await task.capget(CapHeader())
    if CAP.CHOWN not in ours.permitted:
        with pytest.raises(PermissionError):
            await task.prctl_cap_ambient(PR.CAP_AMBIENT, PR_CAP_AMBIENT.RAISE, CAP.CHOWN)
        return
    async with apart.batch() as batch:
        batch.capset(CapHeader(), CapData(ours.effective, ours.permitted, [CAP.CHOWN]))
        batch.prctl_cap_ambient(PR.CAP_AMBIENT, PR_CAP_AMBIENT.RAISE, CAP.CHOWN)
        batch.capget(CapHeader())
    assert shown_caps(task, "CapAmb") == {CAP.CHOWN}
    assert await task.prctl_cap_ambient(PR.CAP_AMBIENT, PR_CAP_AMBIENT.IS_SET, CAP.CHOWN) == 1
    await task.prctl_cap_ambient(PR.CAP_AMBIENT, PR_CAP_AMBIENT.CLEAR_ALL)
    assert shown_caps(task, "CapAmb") == set()


# ---- prctl ----


async def test_the_name_of_the_thread(apart: rsyscall.Process) -> None:
    task, comm = apart.task, Path(f"/proc/{int(apart.pid)}/comm")
    assert await task.prctl_get_name(PR.GET_NAME) == comm.read_text().rstrip("\n")
    for given in ("a name", b"as bytes", await task.ptr("in memory"), "of more than fifteen bytes"):
        await task.prctl_set_name(PR.SET_NAME, given)
        now = await task.prctl_get_name(PR.GET_NAME)
        assert now == comm.read_text().rstrip("\n")
    assert now == "of more than fi"
    filled = await task.prctl_get_name(PR.GET_NAME, await task.malloc(str, 16))
    assert await filled.read() == now
    async with apart.batch() as batch:
        batch.prctl_set_name(PR.SET_NAME, "again")
        step = batch.prctl_get_name(PR.GET_NAME)
    assert step.value == "again"


async def test_prctl_refuses_another_option(task: Task) -> None:
    small = await task.malloc(str, 15)
    with nothing_sent(task):
        with pytest.raises(ValueError, match=r"option: .*GET_NAME.* is not .*SET_NAME"):
            await task.prctl_set_name(PR.GET_NAME, "x")  # type: ignore[arg-type] # pyright: ignore
        with pytest.raises(ValueError, match="arg2: embedded null byte"):
            await task.prctl_set_name(PR.SET_NAME, "a\0b")
        with pytest.raises(ValueError, match="arg2: 15 bytes, a name may have 16"):
            await task.prctl_get_name(PR.GET_NAME, small)


async def test_prctl_with_numbers(apart: rsyscall.Process) -> None:
    task = apart.task
    assert await task.prctl(PR.GET_NO_NEW_PRIVS) == 0
    await task.prctl(PR.SET_NO_NEW_PRIVS, 1)
    assert await task.prctl(PR.GET_NO_NEW_PRIVS) == 1
    assert "NoNewPrivs:\t1" in Path(f"/proc/{int(apart.pid)}/status").read_text()
    await task.prctl(PR.SET_CHILD_SUBREAPER, 1)
    number = await task.malloc(bytes, 4)
    await task.prctl(PR.GET_CHILD_SUBREAPER, number)
    assert await number.read() == b"\1\0\0\0"
    await task.prctl_set_pdeathsig(PR.SET_PDEATHSIG, SIG.KILL)
    await task.prctl(PR.GET_PDEATHSIG, number)
    assert await number.read() == b"\x09\0\0\0"
    async with apart.batch() as batch:
        batch.prctl_set_pdeathsig(PR.SET_PDEATHSIG, 0)
        step = batch.prctl(PR.GET_DUMPABLE)
    assert step.value in (0, 1)
    await task.prctl(PR.GET_PDEATHSIG, number)
    assert await number.read() == bytes(4)


# ---- CPUs ----


async def test_affinity_is_that_of_the_standard_library(apart: rsyscall.Process) -> None:
    task, pid = apart.task, int(apart.pid)
    everything = os.sched_getaffinity(pid)
    assert await task.sched_getaffinity() == everything
    cpu = max(everything)
    for given in ([cpu], CpuSet([cpu]), {cpu}, await task.ptr(CpuSet([cpu]))):
        await task.sched_setaffinity(everything)
        assert os.sched_getaffinity(pid) == everything
        await task.sched_setaffinity(given)
        assert os.sched_getaffinity(pid) == {cpu}
    filled = await task.sched_getaffinity(await task.malloc(CpuSet))
    assert await filled.read() == {cpu}
    async with apart.batch() as batch:
        batch.sched_setaffinity(everything)
        step = batch.sched_getaffinity()
    assert step.value == everything
    with pytest.raises(OSError, match="Invalid argument"):
        await task.sched_setaffinity([8191])
    with nothing_sent(task), pytest.raises(ValueError, match="cpus: -1"):
        await task.sched_setaffinity([-1])

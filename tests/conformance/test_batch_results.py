"""What becomes of each step when some fail: predicates, stop and continue, undo."""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rsyscall
from conformance.kernel import is_open
from rsyscall import RESULT, Step
from rsyscall.batch import BatchError, BoundBatch
from rsyscall.batch.step import OnError
from rsyscall.near.sysif import Out
from rsyscall.sys.syscall import SYS
from rsyscall.unistd import SEEK
from rsyscall_protocol import Status

CLOSE = (SYS.close, RESULT)


def failure(batch: BoundBatch, step: Step[Any]) -> BaseException | None:
    """What asking for a value raises."""
    try:
        _ = step.value
    except (OSError, BatchError) as exc:
        return exc
    return None


@pytest.mark.parametrize("position", range(4))
async def test_a_failure_at_every_position(process: rsyscall.Process, position: int) -> None:
    """Before it: done, or undone. After it: not started."""
    batch = process.batch()
    steps: list[Step[Any]] = []
    for i in range(4):
        if i == position:
            batch.syscall(SYS.lseek, -1, 0, 0)
        steps.append(batch.memfd_create("made", undo=CLOSE if i % 2 else None))
        steps.append(batch.lseek(steps[-1], i, SEEK.SET))
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        await batch.run()

    failing = batch.steps[2 * position]
    assert caught.value.errno == errno.EBADF
    assert caught.value.__notes__ == [
        f"in step {failing.index} of a batch: lseek(fd=-1, offset=0, whence=0x0)"
    ]
    assert failing.status == Status.FAILED
    assert failing.result == -errno.EBADF
    for step in steps:
        if step.index > failing.index:
            assert step.status == Status.NOT_STARTED
            assert "not started" in str(failure(batch, step))
        elif step.undo is not None:
            assert step.status == Status.UNDONE
            assert "undone" in str(failure(batch, step))
        else:
            assert step.status == Status.DONE
            assert failure(batch, step) is None
    made = [s for s in steps if s.number == SYS.memfd_create and s.index < failing.index]
    # What was closed can have its number again in no other step: nothing is made afterwards.
    for step in made:
        assert is_open(process, step.result) == (step.undo is None)
        if step.undo is None:
            assert step.value in process.task.fd_handles
            await step.value.close()


async def test_undo_is_in_reverse_order(process: rsyscall.Process) -> None:
    """The last one made leaves its mark: each undo writes the file's length."""
    log = await process.task.memfd_create("log")
    number = int(log.near)
    batch = process.batch()
    for i in (10, 20, 30):
        # Of the lengths that are set, the first step's is the last.
        batch.getpid(undo=(SYS.ftruncate, number, i))
    batch.syscall(SYS.lseek, -1, 0, 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        await batch.run()
    assert (await log.fstat()).size == 10
    assert [step.status for step in batch.steps] == [Status.UNDONE] * 3 + [Status.FAILED]
    await log.close()


async def test_an_undo_that_fails(process: rsyscall.Process) -> None:
    """The others are made all the same, and what was made is known."""
    batch = process.batch()
    first = batch.memfd_create("first", undo=CLOSE)
    second = batch.memfd_create("second", undo=(SYS.close, -1))
    third = batch.memfd_create("third", undo=CLOSE)
    batch.syscall(SYS.lseek, -1, 0, 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        await batch.run()
    statuses = [step.status for step in (first, second, third)]
    assert statuses == [Status.UNDONE, Status.UNDO_FAILED, Status.UNDONE]
    assert [is_open(process, s.result) for s in (first, second, third)] == [False, True, False]
    await second.value.close()


async def test_nothing_is_undone_if_nothing_stops(process: rsyscall.Process) -> None:
    async with process.batch() as b:
        made = b.memfd_create("made", undo=CLOSE)
        bad = b.syscall(SYS.lseek, -1, 0, 0, on_error="continue")
        after = b.getpid()
    assert [step.status for step in b.steps] == [Status.DONE, Status.FAILED, Status.DONE]
    assert after.value == process.task.near_process
    error = failure(b, bad)
    assert isinstance(error, OSError)
    assert (error.errno, error.__notes__) == (
        errno.EBADF,
        ["in step 1 of a batch: lseek(fd=-1, offset=0, whence=0x0)"],
    )
    await made.value.close()


@pytest.mark.parametrize(
    ("ok", "good"),
    [
        (None, False),
        ({errno.EBADF}, True),
        ((errno.EINVAL, errno.EBADF), True),
        ([errno.EINVAL], False),
        ((), False),
        (-errno.EBADF, True),
        (0, False),
    ],
)
async def test_predicates_of_an_error(
    process: rsyscall.Process, ok: int | Collection[int] | None, good: bool
) -> None:
    async with process.batch() as b:
        step = b.syscall(SYS.close, -1, ok=ok, on_error="continue")
    assert step.status == (Status.DONE if good else Status.FAILED)
    assert step.result == -errno.EBADF
    assert isinstance(failure(b, step), OSError) == (not good)
    if good:
        assert step.value is None


async def test_predicates_of_a_number(process: rsyscall.Process) -> None:
    pid = int(process.pid)
    async with process.batch() as b:
        right = b.getpid(ok=pid)
        wrong = b.getpid(ok=pid + 1, on_error="continue")
        errors_too = b.getpid(ok={errno.ENOENT})
    assert right.value == errors_too.value == process.task.near_process
    assert wrong.status == Status.FAILED
    error = failure(b, wrong)
    assert isinstance(error, OSError)
    assert f"returned {pid}, not {pid + 1}" in str(error)
    assert error.__notes__ == [f"in step 1 of a batch, which returned {pid}: getpid()"]

    batch = process.batch()
    batch.getpid(ok=0)
    with pytest.raises(OSError, match=f"returned {pid}, not 0"):
        await batch.run()


async def test_what_is_made_has_a_handle_though_another_number_was_wanted(
    process: rsyscall.Process,
) -> None:
    batch = process.batch()
    made = batch.memfd_create("made", ok=10**6)
    with pytest.raises(OSError, match="not 1000000"):
        await batch.run()
    assert is_open(process, made.result)
    handles = [h for h in process.task.fd_handles if int(h.near) == made.result]
    assert len(handles) == 1
    await handles[0].close()


async def test_on_error_is_one_of_two(process: rsyscall.Process) -> None:
    batch = process.batch()
    wrong: Any = "ignore"
    batch.getpid(on_error=wrong)
    with pytest.raises(ValueError, match="neither 'stop' nor 'continue'"):
        await batch.run()


async def test_an_undo_has_no_outputs_and_no_later_steps(process: rsyscall.Process) -> None:
    for undo in ((SYS.pipe2, Out(8), 0), (SYS.close, 1, 2, 3, 4, 5, 6, 7)):
        batch = process.batch()
        batch.memfd_create("never made", undo=undo)
        with pytest.raises(ValueError, match=r"undo|at most six|refused"):
            await batch.run()


async def test_results_before_and_without_a_run(process: rsyscall.Process) -> None:
    batch = process.batch()
    step = batch.getpid()
    for ask in (lambda: step.value, lambda: step.result, lambda: step.status, lambda: step.outs):
        with pytest.raises(BatchError, match="has not run"):
            ask()
    await batch.run()
    assert step.value == process.task.near_process


# ---- against a model ----


OpName: TypeAlias = Literal["getpid", "memfd", "dup", "flags", "seek", "close"]
NAMES: tuple[OpName, ...] = ("getpid", "memfd", "memfd", "dup", "flags", "seek", "close")

ENDINGS: tuple[OnError, ...] = ("stop", "continue")


@dataclass(frozen=True)
class Op:
    """A step: its call, an earlier step that it uses, and its options."""

    call: OpName
    use: int | None
    ok: int | frozenset[int] | None
    on_error: OnError
    undo: bool


@st.composite
def batches(draw: st.DrawFn) -> list[Op]:
    """Steps that use earlier ones, or -1. What has an undo is not closed by a step."""
    ops: list[Op] = []
    made: list[int] = []  # by steps, and not closed yet
    for i in range(draw(st.integers(1, 12))):
        call = draw(st.sampled_from(NAMES))
        free = [k for k in made if not ops[k].undo] if call == "close" else made
        use = draw(st.sampled_from([None, *free, *free]))
        numbers = st.sampled_from([0, 1, 5, -errno.EBADF])
        errnos = st.frozensets(st.sampled_from([errno.EBADF, errno.EINVAL]))
        ok = draw(st.none() | errnos if call in ("memfd", "dup") else st.none() | numbers | errnos)
        undo = call in ("memfd", "dup") and draw(st.booleans())
        ops.append(Op(call, use, ok, draw(st.sampled_from(ENDINGS)), undo))
        if call == "close" and use is not None:
            made.remove(use)
        elif call in ("memfd", "dup"):
            made.append(i)
    return ops


def build(batch: BoundBatch, op: Op) -> None:
    fd: Any = -1 if op.use is None else batch.steps[op.use]
    options: Any = {"ok": op.ok, "on_error": op.on_error, "undo": CLOSE if op.undo else None}
    match op.call:
        case "getpid":
            batch.getpid(**options)
        case "memfd":
            batch.memfd_create("model", **options)
        case "dup":
            batch.syscall(SYS.dup, fd, **options)
        case "flags":
            batch.syscall(SYS.fcntl, fd, 1, **options)  # F_GETFD
        case "seek":
            batch.syscall(SYS.lseek, fd, 5, 0, **options)
        case "close":
            batch.syscall(SYS.close, fd, **options)


def expect(ops: list[Op], pid: int, numbers: list[int]) -> tuple[list[Status], list[int], set[int]]:
    """Statuses, results, and the steps whose descriptors are still open.

    numbers: what the steps returned; of it only the numbers of new descriptors are believed.
    """
    statuses = [Status.NOT_STARTED] * len(ops)
    results: list[int] = []
    files: dict[int, int] = {}  # by number, the step that made it
    flags: dict[int, int] = {}
    for i, op in enumerate(ops):
        fd = -1 if op.use is None else results[op.use]
        known = fd in files
        match op.call:
            case "getpid":
                value = pid
            case "memfd" | "dup":
                value = numbers[i] if op.call == "memfd" or known else -errno.EBADF
                if value >= 0:
                    assert value not in files, "one number for two open files"
                    files[value], flags[value] = i, int(op.call == "memfd")
            case "flags":
                value = flags[fd] if known else -errno.EBADF
            case "seek":
                value = 5 if known else -errno.EBADF
            case "close":
                value = 0 if known else -errno.EBADF
                files.pop(fd, None)
        results.append(value)
        counts = value >= 0 or (isinstance(op.ok, frozenset) and -value in op.ok)
        good = value == op.ok if isinstance(op.ok, int) else counts
        statuses[i] = Status.DONE if good else Status.FAILED
        if not good and op.on_error == "stop":
            for k in reversed(range(i)):
                if ops[k].undo and statuses[k] == Status.DONE:
                    undone = files.pop(results[k], None) is not None
                    statuses[k] = Status.UNDONE if undone else Status.UNDO_FAILED
            break
    return statuses, results, set(files.values())


async def check(process: rsyscall.Process, ops: list[Op]) -> None:
    batch = process.batch()
    for op in ops:
        build(batch, op)
    error: OSError | None = None
    try:
        await batch.run()
    except OSError as exc:
        error = exc
    result = batch.result
    numbers = list(result.values)
    statuses, expected, left = expect(ops, int(process.pid), numbers)
    assert [step.status for step in batch.steps] == statuses
    assert numbers == expected
    stopped = [
        i for i, s in enumerate(statuses) if s == Status.FAILED and ops[i].on_error == "stop"
    ]
    assert (error is None) == (not stopped)
    if error is not None:
        assert f"in step {stopped[0]} of a batch" in error.__notes__[0]
        assert error.errno == max(-numbers[stopped[0]], 0)
    makers = {i for i, op in enumerate(ops[: len(numbers)]) if op.call in ("memfd", "dup")}
    alive = {numbers[i] for i in left}
    for i in makers:
        if numbers[i] >= 0:
            assert is_open(process, numbers[i]) == (numbers[i] in alive)
    handles = {int(handle.near): handle for handle in process.task.fd_handles}
    assert {numbers[i] for i in left if ops[i].call == "memfd"} <= handles.keys()
    async with process.batch() as b:
        for number in alive:
            if number in handles:
                b.close(handles[number])
            else:
                b.syscall(SYS.close, number)


async def test_random_batches_against_a_model(process: rsyscall.Process) -> None:
    suppressed = [HealthCheck.too_slow]

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=suppressed)
    @given(batches())
    def run(ops: list[Op]) -> None:
        trio.from_thread.run(check, process, ops)

    await trio.to_thread.run_sync(run)

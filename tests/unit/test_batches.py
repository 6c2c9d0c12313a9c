"""Batches on the real stub, against a model of what they mean."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsyscall.sys.syscall import SYS
from rsyscall_protocol import (
    RESULT,
    Argument,
    Batch,
    Batched,
    BatchFlag,
    Connection,
    Event,
    FdArg,
    Hello,
    In,
    InOut,
    Out,
    Param,
    Prepare,
    Ref,
    Result,
    Role,
    Run,
    Status,
    Step,
    StepFlag,
    Struct,
    Unprepare,
)
from wire import Peer, Stub

EPERM, EBADF = 1, 9
NO_FD = 99_999
O_CLOEXEC = 0o2000000
F_GETFD, F_SETFD, F_DUPFD_CLOEXEC = 1, 2, 1030
DONE, FAILED, UNDONE = Status.DONE, Status.FAILED, Status.UNDONE


class Client:
    """One end of a connection to a stub."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.connection = Connection(Role.CLIENT)
        self.last_id = 0
        hello = self.exchange(Hello())
        assert isinstance(hello, Hello)
        self.pid = int(hello.info["pid"])

    def exchange(self, event: Event) -> Event:
        """Say something and hear the answer."""
        data, fds = self.connection.send(event)
        self.peer.send(data, fds)
        body = self.peer.receive()
        self.connection.receive(b"\xce" + len(body).to_bytes(4, "big") + body)
        answer = self.connection.next_event()
        assert isinstance(answer, Event)
        return answer

    def next_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def batch(
        self, *steps: Step, flags: BatchFlag = BatchFlag.NONE, fds: tuple[int, ...] = ()
    ) -> Batched:
        answer = self.exchange(Batch(self.next_id(), steps, flags, fds))
        assert isinstance(answer, Batched)
        return answer

    def prepare(
        self, steps: tuple[Step, ...], parameters: int = 0, flags: BatchFlag = BatchFlag.NONE
    ) -> int:
        answer = self.exchange(Prepare(self.next_id(), steps, parameters, flags))
        assert isinstance(answer, Result)
        return answer.value

    def run(self, program: int, *args: Argument, fds: tuple[int, ...] = ()) -> Batched:
        answer = self.exchange(Run(self.next_id(), program, args, fds))
        assert isinstance(answer, Batched)
        return answer

    def unprepare(self, program: int) -> int:
        answer = self.exchange(Unprepare(self.next_id(), program))
        assert isinstance(answer, Result)
        return answer.value

    def descriptors(self) -> dict[int, bool]:
        """Those that the stub has open, and whether each is close-on-exec."""
        found: dict[int, bool] = {}
        for path in Path(f"/proc/{self.pid}/fdinfo").iterdir():
            words = dict(line.split(":", 1) for line in path.read_text().splitlines()[:3])
            found[int(path.name)] = bool(int(words["flags"], 8) & O_CLOEXEC)
        return found


# ---- the model ----


@dataclass
class Table:
    """The stub's descriptors, and the few calls that the batches below are made of."""

    pid: int
    open: dict[int, bool]
    guarded: frozenset[int]

    def call(self, nr: int, args: Sequence[int]) -> int:
        a = [*args, 0, 0, 0]
        fd = a[0] & 0xFFFFFFFF
        match nr:
            case SYS.getpid:
                return self.pid
            case SYS.close:
                if fd in self.guarded:
                    return -EPERM
                return -EBADF if self.open.pop(fd, None) is None else 0
            case SYS.dup:
                return self._new(0, cloexec=False) if fd in self.open else -EBADF
            case SYS.fcntl if fd not in self.open:
                return -EBADF
            case SYS.fcntl if a[1] == F_GETFD:
                return int(self.open[fd])
            case SYS.fcntl if a[1] == F_SETFD:
                self.open[fd] = bool(a[2] & 1)
                return 0
            case SYS.fcntl:
                return self._new(a[2], cloexec=True)
            case SYS.lseek:
                return -EBADF
            case _:
                raise ValueError(nr)

    def pipe(self) -> tuple[int, int]:
        return self._new(0, cloexec=False), self._new(0, cloexec=False)

    def _new(self, least: int, *, cloexec: bool) -> int:
        fd = next(n for n in range(least, NO_FD) if n not in self.open)
        self.open[fd] = cloexec
        return fd


def succeeded(step: Step, value: int) -> bool:
    match step.ok:
        case None:
            return not -4095 <= value <= -1
        case int(number):
            return value == number
        case errors:
            return not -4095 <= value <= -1 or -value in errors


@dataclass
class Model:
    """Runs one batch as SPEC.md says it."""

    table: Table
    params: Sequence[int] = ()
    values: list[int] = field(default_factory=list[int])
    outs: list[bytes] = field(default_factory=list[bytes])
    statuses: list[Status] = field(default_factory=list[Status])

    def number(self, arg: Argument) -> int:
        match arg:
            case int():
                return arg
            case Param(index):
                return self.params[index]
            case Ref(step, offset) if offset == RESULT:
                return self.values[step]
            case Ref(step, offset):
                (value,) = struct.unpack_from("<i", self.outs[step], offset)
                return int(value)
            case _:
                raise ValueError(arg)

    def run(self, steps: Sequence[Step], flags: BatchFlag, id_: int) -> Batched:
        stopped = len(steps)
        for i, step in enumerate(steps):
            self.outs.append(b"")
            if step.nr == SYS.pipe2:
                self.outs[i] = struct.pack("<2i", *self.table.pipe())
                self.values.append(0)
            else:
                self.values.append(self.table.call(step.nr, [*map(self.number, step.args)]))
            good = succeeded(step, self.values[i])
            self.statuses.append(DONE if good else FAILED)
            if not good and not step.flags & StepFlag.CONTINUE:
                stopped = i
                break
        if stopped < len(steps):
            self.undo(steps[:stopped])
        return self.reply(steps, flags, id_, stopped)

    def undo(self, steps: Sequence[Step]) -> None:
        for i in reversed(range(len(steps))):
            if self.statuses[i] is DONE and (undo := steps[i].undo) is not None:
                value = self.table.call(undo[0], [*map(self.number, undo[1])])
                bad = -4095 <= value <= -1
                self.statuses[i] = Status.UNDO_FAILED if bad else UNDONE

    def reply(self, steps: Sequence[Step], flags: BatchFlag, id_: int, stopped: int) -> Batched:
        values, statuses = self.values, bytes(self.statuses).ljust(len(steps), b"\0")
        if flags & BatchFlag.BRIEF:
            values = values[-1:]
            if FAILED not in self.statuses:
                statuses = b""
        packed = struct.pack(f"<{len(values)}q", *values)
        outs = tuple(data for data in self.outs if data)
        return Batched(id_, outs, packed, statuses, stopped)


@dataclass(frozen=True)
class Planned:
    """A batch, and how it is to be run: at once, or prepared, with these arguments."""

    steps: tuple[Step, ...]
    flags: BatchFlag
    params: tuple[int, ...] | None


@st.composite
def plans(draw: st.DrawFn) -> Planned:
    params = draw(st.none() | st.tuples(st.sampled_from([0, 1, 100]), st.integers(0, 12)))
    steps: list[Step] = []

    def number(own: int) -> Argument:
        kinds: list[st.SearchStrategy[Argument]] = [st.sampled_from([0, 1, 2, NO_FD])]
        if own:  # mostly what an earlier step has made
            kinds += [st.builds(Ref, st.integers(0, own - 1))] * 3
        pipes = [i for i, step in enumerate(steps[:own]) if step.nr == SYS.pipe2]
        if pipes:
            kinds += [st.builds(Ref, st.sampled_from(pipes), st.sampled_from([0, 4]))] * 2
        if params:
            kinds.append(st.builds(Param, st.integers(0, 1)))
        return draw(st.one_of(kinds))

    def call(own: int, *, pipe: bool) -> tuple[int, tuple[Argument, ...]]:
        match draw(st.sampled_from(["dup", "close", "fcntl", "getpid", "lseek", "pipe"])):
            case "dup":
                return SYS.dup, (number(own),)
            case "close":
                return SYS.close, (number(own),)
            case "fcntl":
                command = draw(st.sampled_from([(F_GETFD,), (F_SETFD, 1), (F_DUPFD_CLOEXEC, 50)]))
                return SYS.fcntl, (number(own), *command)
            case "lseek":
                return SYS.lseek, (NO_FD, 0, 1)
            case "pipe" if pipe:
                return SYS.pipe2, (Out(8), 0)
            case _:
                return SYS.getpid, ()

    for i in range(draw(st.integers(0, 7))):
        ok = draw(st.sampled_from([None, None, None, 0, 5, -EBADF, (EBADF,), (EPERM, EBADF), ()]))
        flags = StepFlag(draw(st.sampled_from([0, 0, 1])))
        nr, args = call(i, pipe=True)
        steps.append(Step(nr, args, ok, flags))
        if draw(st.booleans()):
            steps[i] = replace(steps[i], undo=call(i + 1, pipe=False))
    return Planned(tuple(steps), BatchFlag(draw(st.sampled_from([0, 0, 1]))), params)


@settings(deadline=None, max_examples=150)
@given(st.lists(plans(), min_size=1, max_size=6))
def test_batches_do_what_the_model_says(planned: list[Planned]) -> None:
    with Stub() as peer:
        client = Client(peer)
        opened = client.descriptors()
        guarded = {
            fd
            for fd in opened
            if fd == 0 or os.readlink(f"/proc/{client.pid}/fd/{fd}") == "anon_inode:[pidfd]"
        }
        table = Table(client.pid, opened, frozenset(guarded))
        for plan in planned:
            program = None
            if plan.params is None:
                said = client.batch(*plan.steps, flags=plan.flags)
            else:
                program = client.prepare(plan.steps, 2, plan.flags)
                said = client.run(program, *plan.params)
            model = Model(table, plan.params or ())
            assert said == model.run(plan.steps, plan.flags, said.id)
            assert client.descriptors() == table.open
            if program is not None:
                assert client.unprepare(program) == 0


# ---- what the model does not show ----


@pytest.mark.parametrize("brief", [BatchFlag.NONE, BatchFlag.BRIEF])
@pytest.mark.parametrize("failing", range(4))
def test_what_was_done_is_undone_in_reverse_order(failing: int, brief: BatchFlag) -> None:
    ours, theirs = os.pipe()
    with Stub() as peer, open(ours, "rb") as pipe:
        client = Client(peer)
        before = client.descriptors()
        undos = [(SYS.write, (FdArg(0), In(b"%d" % i), 1)) for i in range(4)]
        steps = [Step(SYS.getpid, undo=undo) for undo in undos]
        steps[failing] = Step(SYS.lseek, (NO_FD, 0, 0), undo=undos[failing])
        with open(theirs, "wb") as end:
            said = client.batch(*steps, flags=brief, fds=(end.fileno(),))
        undone = [UNDONE] * failing + [FAILED] + [Status.NOT_STARTED] * (3 - failing)
        assert (said.stopped, said.statuses) == (failing, bytes(undone))
        assert pipe.read() == b"3210"[4 - failing :]
        assert client.descriptors() == before  # that of the frame was closed


def test_an_undo_takes_back_what_its_own_step_has_made() -> None:
    with Stub() as peer:
        client = Client(peer)
        before = client.descriptors()
        make = Step(SYS.dup, (0,), undo=(SYS.close, (Ref(0),)))
        pair = Step(SYS.pipe2, (Out(8), 0), undo=(SYS.close, (Ref(1, 0),)))
        rest = Step(SYS.getpid, undo=(SYS.close, (Ref(1, 4),)))
        said = client.batch(make, pair, rest, Step(SYS.close, (NO_FD,)))
        assert said.statuses == bytes([UNDONE] * 3 + [FAILED])
        assert client.descriptors() == before


def test_an_undo_may_have_data_of_its_own(tmp_path: Path) -> None:
    with Stub() as peer:
        client = Client(peer)
        path = In(bytes(tmp_path / "made") + b"\0")
        make = Step(SYS.mkdir, (path, 0o700), undo=(SYS.rmdir, (path,)))
        said = client.batch(make, make)
        assert said.statuses == bytes([UNDONE, FAILED])
        assert [*tmp_path.iterdir()] == []


def test_a_struct_of_a_program_is_as_it_was_each_time_it_is_run() -> None:
    """Calls and relocations write into it."""
    with Stub() as peer:
        client = Client(peer)
        vector = Struct(bytes(8) + (5).to_bytes(8, "little"), ((0, 6),))
        pollfd = Struct(struct.pack("<ihh", -1, 0, 7), ((0, 6),), ((0, 8),))
        steps = (
            Step(SYS.pipe2, (Out(8), 0)),
            Step(SYS.writev, (Ref(0, 4), vector, 1, 0, 0, 0, Param(0))),
            Step(SYS.poll, (replace(pollfd, relocations=()), 1, 0)),
            Step(SYS.close, (Ref(0, 0),)),
            Step(SYS.close, (Ref(0, 4),)),
        )
        program = client.prepare(steps, 1)
        said = [client.run(program, In(b"hello")) for _ in range(3)]
        assert [s.stopped for s in said] == [5] * 3
        assert {s.outs[1] for s in said} == {struct.pack("<ihh", -1, 0, 0)}
        assert {struct.unpack("<5q", s.values)[1] for s in said} == {5}


def test_what_a_call_has_left_in_an_inout_can_be_referred_to() -> None:
    with Stub() as peer:
        client = Client(peer)
        level, type_ = 1, 3
        room = Step(SYS.getsockopt, (0, level, type_, Out(4), InOut(b"\4\0\0\0")))
        said = client.batch(room, Step(SYS.lseek, (NO_FD, Ref(0, 0)), -EBADF))
        assert said.outs == (b"\1\0\0\0", b"\4\0\0\0")
        assert said.statuses == bytes([DONE] * 2)


def test_as_many_steps_as_there_may_be() -> None:
    with Stub() as peer:
        client = Client(peer)
        count = client.connection.limits.steps
        said = client.batch(*[Step(SYS.getpid)] * count)
        assert struct.unpack(f"<{count}q", said.values) == (client.pid,) * count
        assert said.statuses == bytes([DONE]) * count


def test_a_batch_cannot_close_the_connection_either() -> None:
    with Stub() as peer:
        client = Client(peer)
        said = client.batch(Step(SYS.close, (0,), (EPERM,)), Step(SYS.lseek, (NO_FD, 0, 0)))
        assert struct.unpack("<2q", said.values) == (-EPERM, -EBADF)


def test_programs_are_kept_apart_while_others_come_and_go() -> None:
    """Those behind one that is forgotten move in the server's memory."""
    with Stub() as peer:
        client = Client(peer)
        limit = client.connection.limits.programs
        texts = [b"%d" % i * (i + 1) for i in range(limit)]

        def steps(i: int) -> tuple[Step, ...]:
            move = Struct(texts[i], (), ((0, len(texts[i])),))
            return (Step(SYS.getpid, (move,)),)

        assert [client.prepare(steps(i)) for i in range(limit)] == [*range(limit)]
        assert client.prepare(()) < 0
        for gone in range(0, limit, 3):
            assert client.unprepare(gone) == 0
        for i in range(limit):
            if i % 3:
                assert client.run(i).outs == (texts[i],)
        for gone in range(0, limit, 3):
            assert client.prepare(steps(gone)) == gone
        for i in range(limit):
            assert client.run(i).outs == (texts[i],)

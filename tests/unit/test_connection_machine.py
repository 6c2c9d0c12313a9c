"""Two ends of a connection that talk to each other in whatever order, against a simple model."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rsyscall_protocol import (
    NEED_DATA,
    Batch,
    Batched,
    BatchFlag,
    Bye,
    Call,
    CallFlag,
    Connection,
    Event,
    Hello,
    Limits,
    Prepare,
    Read,
    Request,
    Result,
    Role,
    Run,
    State,
    Unprepare,
)
from rsyscall_protocol._arguments import out_sizes
from rsyscall_protocol._codec import reservation
from strategies import requests

CLIENT, SERVER = Role.CLIENT, Role.SERVER
# Small enough to be reached.
LIMITS = Limits(outstanding=3, window=8192, frame=4096)


class Pipe:
    """One direction: what was said and not yet heard, and as bytes what was not yet read."""

    def __init__(self) -> None:
        self.unheard: deque[Event] = deque()
        self.sends: deque[tuple[bytes, list[Any]]] = deque()


class TwoEnds(RuleBasedStateMachine):
    """A client and a server, and a pipe in each direction."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = {role: Connection(role, LIMITS) for role in Role}
        self.from_ = {role: Pipe() for role in Role}
        self.unanswered: dict[int, Request] = {}  # sent, as the client sees it
        self.open: dict[int, Request] = {}  # heard and not answered, as the server sees it
        self.last_id = 0
        self.descriptors = 0
        self.run_of: dict[int, Prepare] = {}  # by the id of a RUN
        self.programs: dict[int, Prepare] = {}  # that the client may run
        self.next_program = 0

    def say(self, role: Role, event: Event) -> None:
        data, fds = self.ends[role].send(event)
        self.from_[role].unheard.append(event)
        self.from_[role].sends.append((data, list(fds)))

    def new_descriptors(self, count: int) -> tuple[object, ...]:
        self.descriptors += count
        return tuple(f"descriptor {self.descriptors - i}" for i in range(count))

    def is_(self, role: Role, *states: State) -> bool:
        return self.ends[role].state in states

    # ---- what the two say ----

    @precondition(lambda self: self.is_(CLIENT, State.IDLE))
    @rule()
    def greet(self) -> None:
        self.say(CLIENT, Hello(limits=LIMITS))

    @precondition(lambda self: self.is_(SERVER, State.GREETED))
    @rule()
    def greet_back(self) -> None:
        self.say(SERVER, Hello(limits=self.ends[SERVER].limits))

    @precondition(lambda self: self.is_(CLIENT, State.OPEN))
    @rule(request=requests(st.just(0)), gap=st.integers(1, 5))
    def ask(self, request: Request, gap: int) -> None:
        self.last_id += gap
        request = replace(request, id=self.last_id)
        if isinstance(request, Call | Batch):
            request = replace(request, fds=self.new_descriptors(len(request.fds)))
        elif isinstance(request, Read):
            request = replace(request, length=request.length * 10)
        self.ask_if_it_fits(request)

    @precondition(lambda self: self.is_(CLIENT, State.OPEN) and self.programs)
    @rule(data=st.data())
    def run(self, data: st.DataObject) -> None:
        self.last_id += 1
        number = data.draw(st.sampled_from(sorted(self.programs)))
        args = (0,) * self.programs[number].parameters
        run = Run(self.last_id, number, args, self.new_descriptors(data.draw(st.integers(0, 1))))
        self.run_of[run.id] = self.programs[number]
        self.ask_if_it_fits(run)

    @precondition(lambda self: self.is_(CLIENT, State.OPEN) and self.programs)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        self.last_id += 1
        number = data.draw(st.sampled_from(sorted(self.programs)))
        if self.ask_if_it_fits(Unprepare(self.last_id, number)):
            del self.programs[number]

    def reserved(self, request: Request) -> int:
        return reservation(self.run_of[request.id] if isinstance(request, Run) else request)

    def ask_if_it_fits(self, request: Request) -> bool:
        reserved = sum(map(self.reserved, self.unanswered.values())) + self.reserved(request)
        fits = len(self.unanswered) < LIMITS.outstanding and reserved <= LIMITS.window
        assert self.ends[CLIENT].has_room(request) is fits
        if fits:
            self.unanswered[request.id] = request
            self.say(CLIENT, request)
        return fits

    @precondition(lambda self: self.open)
    @rule(data=st.data(), value=st.integers(-3, 50))
    def answer(self, data: st.DataObject, value: int) -> None:
        request = self.open.pop(data.draw(st.sampled_from(sorted(self.open))))
        if isinstance(request, Batch | Run):
            stopped = data.draw(st.integers(0, 4))
            self.say(SERVER, self.batched(request, stopped))
            return
        if isinstance(request, Prepare) and value >= 0:
            value = self.next_program = self.next_program + 1
        outs: list[bytes] = []
        fds: tuple[object, ...] = ()
        if isinstance(request, Call):
            sizes = out_sizes(request.args)
            outs = [bytes(n if exact else min(max(value, 0), n)) for n, exact in sizes]
            fds = self.new_descriptors(value >= 0 and CallFlag.RETURN_FD in request.flags)
        elif isinstance(request, Read):
            value = min(value, request.length)
            outs = [bytes(value)] if value >= 0 else []
        self.say(SERVER, Result(request.id, value, tuple(outs), fds))

    def batched(self, request: Batch | Run, stopped: int) -> Batched:
        batch = self.run_of[request.id] if isinstance(request, Run) else request
        steps = batch.steps
        stopped = min(stopped, len(steps))
        started = min(stopped + 1, len(steps))
        outs = [bytes(n) for step in steps[:started] for n, _ in out_sizes(step.args)]
        values = bytes(8 * started)
        statuses = bytes([1] * stopped + [2] * (started - stopped)).ljust(len(steps), b"\0")
        if BatchFlag.BRIEF in batch.flags:
            values = values[:8]
            statuses = b"" if stopped == len(steps) else statuses
        return Batched(request.id, tuple(outs), values, statuses, stopped)

    @precondition(lambda self: self.is_(CLIENT, State.OPEN))
    @rule(sure=st.sampled_from([False, False, False, True]))
    def leave(self, sure: bool) -> None:
        if sure:
            self.say(CLIENT, Bye())

    @precondition(lambda self: self.is_(SERVER, State.CLOSING) and not self.open)
    @rule()
    def leave_too(self) -> None:
        self.say(SERVER, Bye())

    # ---- and hear ----

    @rule(sender=st.sampled_from(Role), size=st.integers(1, 200))
    def read(self, sender: Role, size: int) -> None:
        """One read, as the kernel cuts them."""
        pipe, end = self.from_[sender], self.ends[sender.peer]
        data, fds = b"", list[Any]()
        while pipe.sends and len(data) < size and not fds:
            send, fds = pipe.sends.popleft()
            part = send[: size - len(data)]
            data += part
            if part != send:
                pipe.sends.appendleft((send[len(part) :], []))
        if not data:
            return
        end.receive(data, fds)
        while (event := end.next_event()) is not NEED_DATA:
            assert event == pipe.unheard.popleft()
            if isinstance(event, Result | Batched):
                asked = self.unanswered.pop(event.id)
                if isinstance(asked, Prepare) and isinstance(event, Result) and event.value >= 0:
                    self.programs[event.value] = asked
            elif isinstance(event, Request):
                self.open[event.id] = event
        assert end.take_unclaimed() == []

    # ---- what holds at any time ----

    @invariant()
    def accounts_agree_with_the_model(self) -> None:
        client, server = self.ends[CLIENT], self.ends[SERVER]
        assert client.reserved == sum(map(self.reserved, self.unanswered.values()))
        assert client.reserved <= LIMITS.window
        assert server.reserved == sum(map(self.reserved, self.open.values()))

    @invariant()
    def nothing_fails(self) -> None:
        assert not self.is_(CLIENT, State.FAILED)
        assert not self.is_(SERVER, State.FAILED)

    def teardown(self) -> None:
        """In the end everything that was said is heard."""
        while any(pipe.sends for pipe in self.from_.values()):
            for role in Role:
                self.read(role, 10**6)
        assert not any(pipe.unheard for pipe in self.from_.values())


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(deadline=None, max_examples=60, stateful_step_count=60)

"""What a request that is under way may be answered with."""

from __future__ import annotations

from rsyscall_protocol._arguments import out_sizes
from rsyscall_protocol._constants import BatchFlag, CallFlag, Status
from rsyscall_protocol._encode import reservation
from rsyscall_protocol._events import (
    Batch,
    Batched,
    Call,
    Prepare,
    Read,
    Request,
    Result,
    Ring,
    Run,
    Step,
)


class Program:
    """What is known of a batch without running it."""

    __slots__ = ("brief", "outs", "parameters", "reserved")

    def __init__(self, request: Batch | Prepare) -> None:
        """Work out what its reply may hold."""
        self.reserved: int = reservation(request)
        self.parameters: int = request.parameters if isinstance(request, Prepare) else 0
        self.brief: bool = BatchFlag.BRIEF in request.flags
        #: Of each step, what out_sizes says.
        self.outs: list[list[tuple[int, bool]]] = [_step_outs(step) for step in request.steps]

    @classmethod
    def known(cls, reserved: int, outs: list[list[tuple[int, bool]]], *, brief: bool) -> Program:
        """A program whose numbers were worked out elsewhere."""
        program = cls.__new__(cls)
        program.reserved = reserved
        program.parameters = 0
        program.brief = brief
        program.outs = outs
        return program

    def mismatch(self, reply: Batched) -> str | None:
        """Why it cannot be the reply to this, if it cannot."""
        steps, stopped = len(self.outs), reply.stopped
        if stopped > steps:
            return "BATCHED: more steps than there are"
        started = min(stopped + 1, steps)
        values = min(started, 1) if self.brief else started
        if len(reply.values) != 8 * values:
            return "BATCHED: not as many results as steps were started"
        if not reply.statuses and steps and self.brief:
            if stopped != steps:
                return "BATCHED: no statuses, though a step failed"
        elif len(reply.statuses) != steps:
            return "BATCHED: not as many statuses as steps"
        elif max(reply.statuses, default=0) > max(Status) or any(reply.statuses[started:]):
            return "BATCHED: a status that cannot be"
        sizes = [size for outs in self.outs[:started] for size in outs]
        if len(reply.outs) != len(sizes):
            return "BATCHED: not as many outputs as were asked for"
        for out, (size, exact) in zip(reply.outs, sizes, strict=True):
            if len(out) > size or (exact and len(out) != size):
                return "BATCHED: an output of another size than was asked for"
        return None


def _step_outs(step: Step) -> list[tuple[int, bool]]:
    return out_sizes(step.args) if step.args else []


class Pending:
    """A request that has no reply yet: what it reserved and what may come back."""

    __slots__ = ("outs", "program", "reads", "request", "reserved", "returns_fd")

    def __init__(self, request: Request, program: Program | None = None) -> None:
        """program: for a Run, what was prepared."""
        self.request = request
        if program is None and isinstance(request, Batch | Prepare):
            program = Program(request)
        self.program = program
        self.reserved = self.program.reserved if self.program else reservation(request)
        self.reads = request.length if isinstance(request, Read) else None
        self.outs = out_sizes(request.args) if isinstance(request, Call) else []
        self.returns_fd = isinstance(request, Call) and CallFlag.RETURN_FD in request.flags

    def mismatch(self, reply: Result | Batched) -> str | None:
        """Why it cannot be the reply to this request, if it cannot."""
        if isinstance(self.request, Batch | Run):
            if not isinstance(reply, Batched) or self.program is None:
                return "RESULT: where a BATCHED was due"
            return self.program.mismatch(reply)
        if isinstance(reply, Batched):
            return "BATCHED: where a RESULT was due"
        return self._result_mismatch(reply)

    def _ring_mismatch(self, request: Ring, result: Result) -> str | None:
        if result.outs:
            return "RESULT: not as many outputs as were asked for"
        if result.value < 0:
            return "RESULT: a file descriptor that was not asked for" if result.fds else None
        if result.value != request.size:
            return "RESULT: a ring of another size than was asked for"
        # None if the memory is shared already.
        return None if len(result.fds) in (0, 2) else "RESULT: not the two halves of a ring"

    def _result_mismatch(self, result: Result) -> str | None:
        if not -(2**63) <= result.value < 2**63:
            return "RESULT: the value is out of range"
        if isinstance(self.request, Ring):
            return self._ring_mismatch(self.request, result)
        if len(result.fds) > (1 if self.returns_fd and result.value >= 0 else 0):
            return "RESULT: a file descriptor that was not asked for"
        if isinstance(self.request, Prepare) and result.value >= 2**32:
            return "RESULT: not the number of a program"
        if self.reads is not None:
            sizes = [len(out) for out in result.outs]
            if sizes != ([result.value] if result.value >= 0 else []) or result.value > self.reads:
                return "RESULT: not the bytes that were to be read"
            return None
        if len(result.outs) != len(self.outs):
            return "RESULT: not as many outputs as were asked for"
        for out, (size, exact) in zip(result.outs, self.outs, strict=True):
            expected = size if exact else min(max(result.value, 0), size)
            if len(out) != expected:
                return "RESULT: an output of another size than was asked for"
        return None

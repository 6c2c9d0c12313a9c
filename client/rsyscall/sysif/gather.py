"""Calls that many tasks make at the same time, sent as one batch.

When a thousand descriptors have become ready at once, as many tasks are about to make a call each.
A trip to the server and back for each of them would cost far more than the calls. So the first of
them waits until trio has let the others run too, which add theirs, and sends them all.

Whether there are several is not guessed from the calls: whoever wakes tasks that are about to call
says how many there are.
"""

from __future__ import annotations

import abc
import errno
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import trio

from rsyscall._checkpoint import shield, yielded
from rsyscall._core import Frame, Outcome, StepList
from rsyscall.near.sysif import (
    Probe,
    Reply,
    SyscallArgument,
    SyscallError,
    SyscallHangup,
    SyscallInterface,
    check_reply,
)
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import Batched, In, Out, Ret, Size

__all__ = ["Gathering"]

#: Of one batch: calls, and bytes of them and of their replies, which nobody else's call waits long
#: for.
_MOST_CALLS, _MOST_BYTES = 256, 262144
_TOO_EARLY = -errno.EAGAIN


class _Call:
    """One call that waits to be sent with others."""

    __slots__ = ("args", "number", "outs", "probe", "probed", "sent", "state", "task", "value")

    def __init__(
        self, number: SYS | int, args: Sequence[SyscallArgument], probe: Probe | None
    ) -> None:
        self.number = number
        self.args = args
        self.probe = probe
        self.probed: int | None = None
        self.task: trio.lowlevel.Task | None = None
        self.sent = False
        self.state = ""
        self.value = 0
        self.outs: tuple[bytes, ...] = ()

    def size(self) -> int:
        """How many bytes it takes, and its reply, about."""
        size = 64
        for arg in self.args:
            if isinstance(arg, In):
                size += len(arg.data)
            elif isinstance(arg, Out | Ret):
                size += Size.REPLY_OUT + arg.size
        return size

    def wake(self, state: str) -> None:
        """Have its task go on."""
        self.state = state
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)
            self.task = None


def _portions(calls: list[_Call]) -> Iterator[list[_Call]]:
    portion: list[_Call] = []
    total = 0
    for call in calls:
        size = call.size()
        if portion and (len(portion) == _MOST_CALLS or total + size > _MOST_BYTES):
            yield portion
            portion, total = [], 0
        portion.append(call)
        total += size
    yield portion


class Gathering(SyscallInterface):
    """An interface that sends what many tasks ask for at the same time together."""

    #: How many tasks are about to call, as far as is known.
    _expected = 0
    #: Who waits for others to call, and what is to be sent then, that call first or not.
    _gatherer: _Call | None = None
    _gathered: dict[_Call, None]

    def expect(self, callers: int) -> None:
        """See SyscallInterface."""
        self._expected += callers

    async def call_at_once(
        self,
        number: SYS | int,
        args: Sequence[SyscallArgument] = (),
        probe: Probe | None = None,
    ) -> Reply:
        """See SyscallInterface."""
        expected = self._expected
        if expected:
            self._expected = expected - 1
        if expected < 2 and self._gatherer is None and not self.busy:
            return await self.call(number, args)
        call = _Call(number, args, probe)
        if self._gatherer is None:
            self._gathered = {call: None}
            await self._send_soon(call)
        else:
            self._gathered[call] = None
            await self._be_sent(call)
        if call.state == "alone":
            return await self.call(number, args)
        if call.state != "done":
            raise await self._explain()
        if call.value == _TOO_EARLY:  # the most usual error, and nobody reads what is wrong
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if call.value < 0:
            check_reply(number, args, call.value)
        return Reply(call.value, call.outs, None, call.probed)

    @property
    @abc.abstractmethod
    def busy(self) -> bool:
        """Whether calls are under way."""

    @abc.abstractmethod
    async def _explain(self) -> SyscallHangup:
        """The exception for a call that was sent, and not answered."""

    async def _be_sent(self, call: _Call) -> None:
        """Have another one send it."""

        def abort(_: Any) -> trio.lowlevel.Abort:
            if call.sent:
                return trio.lowlevel.Abort.FAILED
            call.task = None
            del self._gathered[call]  # at once, so that nobody makes it the one who sends
            return trio.lowlevel.Abort.SUCCEEDED

        call.task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)
        if call.state == "lead":
            call.state = ""
            await self._send_soon(call)

    async def _send_soon(self, call: _Call) -> None:
        """Send what has been gathered once all who are about to call have had their turn."""
        self._gatherer = call
        try:
            await trio.lowlevel.checkpoint()
        except BaseException:
            del self._gathered[call]
            self._gatherer = next(iter(self._gathered), None)
            if self._gatherer is not None:
                self._gatherer.wake("lead")
            raise
        yielded()
        calls, self._gatherer = list(self._gathered), None
        if len(calls) == 1:
            self._expected = 0
            call.state = "alone"
            return
        for one in calls:
            one.sent = True
        try:
            with shield():
                for portion in _portions(calls):
                    await self._send_gathered(portion)
        finally:
            for one in calls:
                if not one.state:
                    one.wake("hangup")  # we were torn away by KeyboardInterrupt

    async def _send_gathered(self, calls: list[_Call]) -> None:
        steps = StepList()
        for call in calls:
            steps.syscall(call.number, *call.args, on_error="continue")
            if call.probe is not None:
                steps.syscall(call.probe[0], *call.probe[1], on_error="continue")
        state = "alone"
        frame = steps.encode()
        if isinstance(frame, Frame):
            try:
                reply = await self.batch_frame(frame, steps)
            except SyscallError as exc:
                state = "hangup" if isinstance(exc, SyscallHangup) else "alone"
            except ValueError:
                pass
            else:
                state = "done"
                self._deliver(calls, reply, frame.outs)
        self._expected += len(calls)
        for call in calls:
            call.wake(state)

    def _deliver(
        self, calls: list[_Call], reply: Outcome | Batched, sizes: list[list[tuple[int, bool]]]
    ) -> None:
        at = 0
        values = iter(struct.unpack(f"{len(sizes)}q", reply.values))
        outputs = iter(sizes)
        for call in calls:
            call.value = next(values)
            count = len(next(outputs))
            if count:
                call.outs = reply.outs[at : at + count]
                at += count
            if call.probe is not None:
                call.probed = next(values)
                at += len(next(outputs))

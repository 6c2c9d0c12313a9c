"""The door of a child, and what is left of it when the child is over."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, SupportsInt

import trio

from rsyscall._checkpoint import checkpoint
from rsyscall._core import Frame as BatchFrame
from rsyscall._core import Outcome, Ring, StepList
from rsyscall.near.sysif import Buffer, Reply, SyscallArgument, SyscallInterface
from rsyscall.sys.syscall import SYS
from rsyscall.sysif._frames import Dead, Frame
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall.sysif.ring import RING_SIZE, SharedHalves, make_ring
from rsyscall_protocol import (
    Batch,
    Batched,
    BatchFlag,
    Call,
    Hello,
    Limits,
    SideChannel,
    Step,
)
from rsyscall_protocol._encode import HEADER, HEADER_TAG, encode

__all__ = ["EXEC_US", "LIMITS", "MOST_BYTES", "ChildInterface", "DeadInterface"]

LIMITS = Limits()
#: How many bytes a frame of a child's may have.
MOST_BYTES = min(LIMITS.frame, LIMITS.window)
_EXIT = int(SYS.exit_group)
#: For how long to sleep at once for an exec, in microseconds.
EXEC_US = 1000
#: When and how often to look at a child that ought to end its socket, in seconds.
_FIRST_LOOK, _LAST_LOOK = 0.01, 0.1


class ChildInterface(RemoteSyscallInterface):
    """The door of a child, or of a stub that was started here.

    Its end closes its socket, unless others have that in their table, too; `share` tells that.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        post_mortem: Callable[[], Awaitable[str]],
        death: Callable[[], Awaitable[None]],
        pidfd: Callable[[], int] = lambda: -1,
        spin: int | None = None,
    ) -> None:
        """Take over a connected stream socket; nothing is sent before `start` or `begin`.

        death: returns once it is dead. pidfd: one of ours, if there still is one. spin: for how
        many microseconds it pays to spin, if known.
        """
        super().__init__(sock, limits=LIMITS, post_mortem=post_mortem, spin=spin)
        self._wait_dead = death
        self._own_pidfd = pidfd
        self._sharers = 0
        #: Asked now and then while somebody waits: whether it will not answer any more.
        self.probe: Callable[[], bool] | None = None
        #: Whether it ended with calls under way, of which nobody knows whether they had an effect.
        self.cut_short: bool = False
        #: What makes use of it, if that is a child.
        self.child: object | None = None

    def begin(
        self,
        greeting: Callable[[], Hello],
        halves: SharedHalves | tuple[int, int],
        ring: Ring | None = None,
    ) -> None:
        """Begin in shared memory that the child has, too.

        greeting: what it would have said; with LIMITS, and batches. halves: as make_ring wants
        them. ring: what that has made of them, if it was done already.
        """
        self._greeting = greeting
        self._most_steps = LIMITS.steps
        if ring is None:
            ring = make_ring(RING_SIZE, self._sock.fileno(), 1, MOST_BYTES, halves, self._spin)
        self._ring = ring
        self._halves = halves if isinstance(halves, SharedHalves) else None
        self._side = SideChannel(LIMITS)
        self._looked = time.monotonic()

    async def exec_frame(self, frame: BatchFrame, batch: StepList) -> Outcome | Batched | None:
        """Send a batch whose last step is an exec: its reply, or None if its socket has ended.

        It may also end with SyscallHangup, when that takes longer. A checkpoint; if cancelled,
        nothing was sent.
        """
        ring = self._ring
        if ring is None or self._waiters or self._out or frame.steps > self._most_steps:
            return await self.batch_frame(frame, batch)
        await checkpoint()
        if self._ring is not ring or self._waiters or self._out:
            return await self.batch_frame(frame, batch)
        if not ring.post_batch(frame):
            return await self.batch_frame(frame, batch)
        # To sleep in trio's loop takes longer than most execs.
        return await self.finish_exec(frame, EXEC_US)

    async def finish_exec(self, frame: BatchFrame, us: int = 0) -> Outcome | Batched | None:
        """The same once the batch has been posted. A checkpoint if it takes long.

        us: for how many microseconds to sleep at once, if nobody has yet.
        """
        ring = self._ring
        if ring is None:
            raise AssertionError("it was posted in the ring")
        if ring.sleep_until_end(us):
            self._die(Dead(""))
            return None
        return await self._finish_frame(ring, frame, lambda id_: Batch(id_, ()), len(frame))

    def send_exit(self, status: int) -> bool:
        """Have the child exit, without waiting for that; False if it is not that simple."""
        if self._dead is not None or self._waiters or self._out:
            return False
        if self._ring is not None:
            return self._ring.post(_EXIT, status)
        body = encode(Call(self._take_id(), _EXIT, (status,)))
        self._out.append(Frame(HEADER.pack(HEADER_TAG, len(body)) + body, (), None))
        self._flush()
        return not self._out and self._dead is None

    @property
    def _death(self) -> Callable[[], Awaitable[None]] | None:
        """What else is to be waited for: the end of the socket may not come."""
        return self._wait_dead if self._sharers else None

    def share(self) -> None:
        """One more has its socket from now on."""
        self._sharers += 1
        self._end_sleep()  # whoever waits already is to look for its death, too

    @property
    def shared(self) -> bool:
        """Whether others have its socket, too."""
        return self._sharers > 0

    def unshare(self) -> None:
        """One of those has it no more."""
        self._sharers -= 1

    def get_end_fds(self) -> list[tuple[int, int]]:
        """See SyscallInterface: also the child itself."""
        pidfd = self._own_pidfd()
        return super().get_end_fds() + ([(pidfd, select.EPOLLIN)] if pidfd >= 0 else [])

    def _die(self, dead: Dead) -> None:
        if self._dead is None and (self._waiters or self._adopt_alone is not None):
            self.cut_short = True
        super()._die(dead)

    def let_go(self, cause: str) -> None:
        """It is over, for that cause, as far as is known: its owner is asked nothing more."""

        async def post_mortem() -> str:
            return cause

        self.child, self._post_mortem = None, post_mortem

    def give_up(self, reason: str) -> None:
        """Close the socket, if that was not done before: nobody is at the other end any more."""
        if self._dead is None:
            self._die(Dead(reason))

    async def _readable(self) -> bool:
        try:
            return await super()._readable()
        except BaseExceptionGroup as exc:  # out of a nursery it comes in a group
            if exc.split(trio.Cancelled)[1] is not None:
                raise
            return False

    async def _wait_readable(self) -> None:
        pause = _FIRST_LOOK
        while (probe := self.probe) is not None:
            with trio.move_on_after(pause):
                await super()._wait_readable()
                return
            pause = min(2 * pause, _LAST_LOOK)
            if probe():
                self._die(Dead(""))
                raise trio.ClosedResourceError
        if self._death is None:
            await super()._wait_readable()
            return
        closed = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, self._death, nursery.cancel_scope)
            try:
                await super()._wait_readable()
            except trio.ClosedResourceError:
                closed = True
            nursery.cancel_scope.cancel()
        if closed:  # not inside, where it would become a group of one
            raise trio.ClosedResourceError

    async def _watch(self, death: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        await death()
        self._join()
        while self._dead is None and self._receive(woken=True):
            pass  # what it said last
        self._die(Dead(""))
        scope.cancel()


class DeadInterface(SyscallInterface):
    """The door of a task that is over: whatever is tried raises the same kind of error."""

    def __init__(self, error: Callable[[], Exception]) -> None:
        """error: makes the exception."""
        self.error = error

    async def _fail(self) -> NoReturn:
        await checkpoint()
        raise self.error()

    async def call(
        self,
        number: SYS | int,
        args: Sequence[SyscallArgument] = (),
        *,
        fds: Sequence[int] = (),
        return_fd: bool = False,
    ) -> Reply:
        """Raise."""
        await self._fail()

    async def read_memory(self, address: SupportsInt, length: int) -> bytes:
        """Raise."""
        await self._fail()

    async def write_memory(self, address: SupportsInt, data: Buffer) -> None:
        """Raise."""
        await self._fail()

    async def batch(self, request: Batch) -> Batched:
        """Raise."""
        await self._fail()

    async def batch_frame(self, frame: BatchFrame, batch: StepList) -> Outcome | Batched:
        """Raise."""
        await self._fail()

    async def wait_readable(self, fd: int) -> bool:
        """Raise."""
        await self._fail()

    async def prepare(self, steps: tuple[Step, ...], parameters: int, flags: BatchFlag) -> int:
        """Raise."""
        await self._fail()

    async def run(
        self, number: int, args: list[int | bytes], frame: BatchFrame
    ) -> Outcome | Batched:
        """Raise."""
        await self._fail()

    async def unprepare(self, number: int) -> None:
        """Raise."""
        await self._fail()

    async def barrier(self) -> None:
        """Raise."""
        await self._fail()

    def on_end(self, function: Callable[[], None]) -> None:
        """It has ended: at once."""
        function()

    async def close_interface(self) -> None:
        """Nothing is open. Not a checkpoint."""

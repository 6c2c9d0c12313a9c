"""The short way over a socket: of a request that is alone on its way.

The core has encoded and sent it, and takes its answer, if that comes alone too. As soon as anything
else is under way, or comes, the connection is told of the request and looks after it as after any
other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import trio

from rsyscall.sysif._frames import Waiter
from rsyscall.sysif.link import Link
from rsyscall_protocol import Batched, Request, Result
from rsyscall_protocol._pending import Program

__all__ = ["AloneLink"]

#: A result, perhaps with outputs.
Answer: TypeAlias = int | tuple[int, tuple[bytes, ...]]
#: What Batched has after its id.
Batch4: TypeAlias = tuple[tuple[bytes, ...], bytes, bytes, int]


class AloneLink(Link):
    """A connection that knows the short way."""

    @property
    def _is_quiet(self) -> bool:
        """Whether a request would be alone."""
        return not self._waiters and not self._out and self._connection.quiet

    async def _alone(
        self, make: Callable[[int], Request], program: Program | None, rest: bytes | None
    ) -> Answer | Batch4 | Result | Batched:
        """The answer to the request that the core has just sent, and that has not come at once.

        make, program: the request, should others have to look after it. rest: what could not be
        sent yet. Not a checkpoint, and cannot be cancelled.
        """
        core, connection = self._core, self._connection
        id_ = core.last_id
        waiter = self._waiters[id_] = Waiter()
        try:
            if rest is not None:
                connection.adopt(make(id_), program)
                return await self._push(waiter, rest, ())
            waiter.sent = self._reading = True
            self._adopt_alone = lambda: connection.adopt(make(id_), program)
            try:
                while self._adopt_alone is not None and self._dead is None:
                    if not core.ready:
                        self._look_at_cpus(core)
                        await self._readable()
                    if self._adopt_alone is None or self._dead is not None:
                        break
                    got = core.take()
                    if isinstance(got, list):
                        self._join()
                        self._hand_in(*got)
                    elif got is not None:
                        self._adopt_alone = None
                        return got
            finally:
                self._join()
                self._reading = False
                self._pass_on()
            return await self._reply(waiter)
        finally:
            del self._waiters[id_]

    async def _readable(self) -> None:
        """Wait until the socket is readable, or closed by us; no cancellation ends that."""
        try:
            try:
                await self._wait_readable()
            except trio.Cancelled:
                # It will be delivered by the next checkpoint. A shield from the start would cost
                # every call more than this costs the few that are cancelled.
                with trio.CancelScope(shield=True):
                    await self._wait_readable()
        except trio.ClosedResourceError:
            pass  # self._dead says why

"""Many descriptors that echo at once: what an echo costs, and whether all get their turn."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

import trio

import rsyscall
from benchmarks.measure import Row, Scale, interleave, progress, ratio_row, recorded
from rsyscall.epoller import AsyncFileDescriptor
from rsyscall.sys.resource import RLIMIT, Rlimit
from rsyscall.sys.socket import AF, SOCK

__all__ = ["streams"]

_DATA = b"0123456789abcdef"
_MOST = 4096
#: Descriptors of a process besides those that echo.
_OTHERS = 200


class _End:
    """One end of a connection: a socket of trio's, or a descriptor of another process."""

    def __init__(
        self,
        read: Callable[[int], Awaitable[bytes]],
        write: Callable[[bytes], Awaitable[object]],
    ) -> None:
        self.read = read
        self.write = write


_Pairs = list[tuple[_End, _End]]


@contextlib.contextmanager
def _room(descriptors: int) -> Generator[None]:
    """Let this process have so many, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, descriptors + _OTHERS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.asynccontextmanager
async def _here(descriptors: int) -> AsyncGenerator[_Pairs]:
    """Sockets of trio's."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_room(descriptors))
        pairs: _Pairs = []
        for _ in range(descriptors // 2):
            ends = [stack.enter_context(end) for end in trio.socket.socketpair()]
            client, server = [_End(end.recv, end.send) for end in ends]
            pairs.append((client, server))
        yield pairs


@contextlib.asynccontextmanager
async def _there(descriptors: int, *, ring: bool) -> AsyncGenerator[_Pairs]:
    """Descriptors of a stub."""
    async with rsyscall.open_process(ring=ring) as process, contextlib.AsyncExitStack() as stack:
        task = process.task
        limit = await task.getrlimit(RLIMIT.NOFILE)
        wanted = max(limit.cur, descriptors + _OTHERS)
        await task.setrlimit(RLIMIT.NOFILE, Rlimit(wanted, max(limit.max, wanted)))
        pairs: _Pairs = []
        for _ in range(descriptors // 2):
            made = await task.socketpair(AF.UNIX, SOCK.STREAM | SOCK.NONBLOCK)
            ends: list[AsyncFileDescriptor] = []
            for fd in (made.first, made.second):
                end = AsyncFileDescriptor(process.epoller, fd)
                ends.append(await stack.enter_async_context(end))
            client, server = [_End(end.read_some_bytes, end.write_all_bytes) for end in ends]
            pairs.append((client, server))
        yield pairs


async def _serve(end: _End) -> None:
    while data := await end.read(_MOST):
        await end.write(data)


async def _echo(pairs: _Pairs, turns: int) -> float:
    """Seconds for one echo of so many of each pair."""

    async def ask(end: _End) -> None:
        for _ in range(turns):
            await end.write(_DATA)
            await end.read(_MOST)

    async with trio.open_nursery() as servers:
        for _, server in pairs:
            servers.start_soon(_serve, server)
        start = time.perf_counter()
        async with trio.open_nursery() as clients:
            for client, _ in pairs:
                clients.start_soon(ask, client)
        seconds = time.perf_counter() - start
        servers.cancel_scope.cancel()
    return seconds / turns / len(pairs)


async def _fairness(pairs: _Pairs, seconds: float) -> list[int]:
    """How many echoes each pair has made in that time."""
    counts = [0] * len(pairs)

    async def ask(end: _End, index: int) -> None:
        while True:
            await end.write(_DATA)
            await end.read(_MOST)
            counts[index] += 1

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for index, (client, server) in enumerate(pairs):
                nursery.start_soon(_serve, server)
                nursery.start_soon(ask, client, index)
    return counts


async def _row_of_fairness(name: str, pairs: _Pairs, seconds: float) -> Row:
    counts: list[int] = []
    while not counts or min(counts) == 0:  # too short for everybody's first turn
        counts = await _fairness(pairs, 3 * seconds)
        seconds *= 2
    what = f"{2 * len(pairs):,} descriptors echo, {name}: most echoes of a pair over fewest"
    shown = f"{min(counts)} to {max(counts)} echoes"
    return recorded(what, [max(counts) / min(counts)], "x", budget=2, ours=shown)


async def streams(scale: Scale) -> list[Row]:
    """Descriptors of another process beside sockets of trio's in this one."""
    descriptors = scale.descriptors
    turns = max(1, scale.slow // 100)
    async with (
        _here(descriptors) as here,
        _there(descriptors, ring=True) as ring,
        _there(descriptors, ring=False) as socket,
    ):
        pairs = {"trio": here, "ring": ring, "socket": socket}

        def echoes(name: str) -> Callable[[], Awaitable[float]]:
            return lambda: _echo(pairs[name], turns)

        subjects = {name: echoes(name) for name in pairs}
        samples = await interleave("echoes", subjects, scale.rounds)
        rows = [
            ratio_row(
                f"{descriptors:,} descriptors of a process echo, {name}, against trio's of ours",
                samples,
                name,
                "trio",
                direct="trio",
            )
            for name in ("ring", "socket")
        ]
        for name in ("ring", "socket"):
            progress(f"echoes: fairness, {name}")
            rows.append(await _row_of_fairness(name, pairs[name], scale.seconds))
    return rows

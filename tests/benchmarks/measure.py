"""How things are measured: in rounds, one subject in turn after the other."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "FULL",
    "TINY",
    "Benchmark",
    "Row",
    "Samples",
    "Scale",
    "Subject",
    "duration",
    "interleave",
    "per_call",
    "progress",
    "ratio_row",
    "recorded",
    "step",
]

#: One round of one subject: how many seconds one unit of its work took.
Subject: TypeAlias = Callable[[], Awaitable[float]]
Samples: TypeAlias = "dict[str, list[float]]"


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    calls: in one round of what takes a microsecond. slow: of what takes much longer. seconds: of a
    loop that runs for a time. imports: how often Python is started to import. idle: seconds of
    doing nothing, of so many stubs. delay: seconds each way over the slow link. children: alive at
    the same time. memory: bytes of a large parent. descriptors: that echo at once.
    """

    rounds: int = 21
    calls: int = 20_000
    slow: int = 500
    seconds: float = 1.0
    imports: int = 11
    idle: float = 10.0
    stubs: int = 100
    delay: float = 0.05
    instructions: int = 400
    children: int = 1000
    memory: int = 2**30
    descriptors: int = 1000


FULL = Scale()
TINY = Scale(
    rounds=1,
    calls=20,
    slow=2,
    seconds=0.02,
    imports=1,
    idle=0.05,
    stubs=3,
    delay=0.002,
    instructions=5,
    children=3,
    memory=2**20,
    descriptors=6,
)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    measure: what is compared with the budget, in `unit`, to so many decimals; without a budget it
    is only recorded. spread: its quartiles over the rounds. floor, direct, ours: what it was made
    of, for people.
    """

    name: str
    measure: float
    unit: str
    budget: float | None = None
    spread: tuple[float, float] | None = None
    floor: str = ""
    direct: str = ""
    ours: str = ""
    decimals: int = 2

    @property
    def within(self) -> bool | None:
        """Whether the budget is kept; None if there is none."""
        return None if self.budget is None else round(self.measure, self.decimals) <= self.budget


Benchmark: TypeAlias = "Callable[[Scale], Awaitable[list[Row]]]"


def progress(text: str) -> None:
    """Say what is being done: on a terminal in one line, which the next one overwrites.

    Nothing runs in the background for it: that would be measured along.
    """
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def step(text: str) -> None:
    """One of many small steps: shown on a terminal only."""
    if sys.stderr.isatty():
        progress(text)


async def interleave(what: str, subjects: Mapping[str, Subject], rounds: int) -> Samples:
    """A round of each subject in turn, again and again, after one that does not count."""
    samples: Samples = {name: [] for name in subjects}
    for n in range(-1, rounds):
        step(f"{what}: round {max(n, 0) + 1} of {rounds}")
        for name, subject in subjects.items():
            value = await subject()
            if n >= 0:
                samples[name].append(value)
    return samples


async def per_call(n: int, call: Callable[[], Awaitable[object]]) -> float:
    """Seconds for one call of n in a row."""
    start = time.perf_counter()
    for _ in range(n):
        await call()
    return (time.perf_counter() - start) / n


def duration(seconds: float) -> str:
    """For people."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.2f} us" if seconds < 1e-4 else f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def recorded(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    budget: float | None = None,
    floor: str = "",
    direct: str = "",
    ours: str = "",
    decimals: int = 2,
) -> Row:
    """A row of what every round has measured: its median."""
    return Row(
        name,
        statistics.median(values),
        unit,
        budget,
        _quartiles(values),
        floor,
        direct,
        ours,
        decimals,
    )


def ratio_row(
    name: str,
    samples: Samples,
    ours: str,
    over: str,
    *,
    budget: float | None = None,
    floor: str | None = None,
    direct: str | None = None,
) -> Row:
    """How many times `over` what is `ours` takes: the median of the ratios of the rounds.

    floor, direct: the subjects that are shown beside it.
    """

    def shown(subject: str | None) -> str:
        return "" if subject is None else duration(statistics.median(samples[subject]))

    return recorded(
        name,
        [a / b for a, b in zip(samples[ours], samples[over], strict=True)],
        "x",
        budget=budget,
        floor=shown(floor),
        direct=shown(direct),
        ours=shown(ours),
    )

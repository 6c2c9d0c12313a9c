"""Two processes, their tables of descriptors and their memory, changed at random together.

After every step what we believe of both is what /proc/PID/fd and /proc/PID/maps show.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

import rsyscall
from process.test_address_spaces import Space, step
from process.test_fd_machine import WHICH, Tables, drive
from rsyscall.sched import CLONE


class Whole(Tables):
    """A child and its child, which may share a table, and memory if they are `together`."""

    together: bool

    def __init__(self) -> None:
        super().__init__()
        self.spaces: list[Space] = []

    async def clone(self, flags: CLONE) -> None:
        one = await self.stub.clone(vm=False)
        await self.begin_with(one)
        self.processes = [one, await one.clone(flags, vm=self.together)]
        await self.settle()
        tasks = [process.task for process in self.processes]
        groups = [tasks] if self.together else [[task] for task in tasks]
        self.spaces = [Space(group, None) for group in groups]

    @precondition(lambda self: self.spaces)
    @rule(who=WHICH, seed=st.integers(0, 2**32))
    def change_memory(self, who: int, seed: int) -> None:
        self.run(step, self.spaces[who % len(self.spaces)], random.Random(seed).choice)

    @invariant()
    def the_memory_agrees(self) -> None:
        for space in self.spaces:
            space.check()


@pytest.mark.parametrize("together", [True, False])
async def test_two_processes_against_a_model(together: bool) -> None:
    async with rsyscall.open_process() as stub:

        class Machine(Whole):
            pass

        Machine.stub, Machine.together = stub, together
        await drive(Machine, 30)

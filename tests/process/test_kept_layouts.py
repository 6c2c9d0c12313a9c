"""What is kept of a program that was started, for when it is started again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from process.seen import SH
from rsyscall import local_process
from rsyscall.child.plain import _lay_out  # pyright: ignore[reportPrivateUsage]
from rsyscall.command import Command
from rsyscall.sys.wait import W


class _Change(trio.abc.Instrument):
    """PATH is changed by somebody else as soon as trio's loop has its turn."""

    def __init__(self, path: str) -> None:
        self.path = path

    def before_io_wait(self, timeout: float) -> None:
        """Do it."""
        del timeout
        os.environ["PATH"] = self.path


async def test_what_is_kept_belongs_to_the_path_that_there_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has a turn in front of the call may change it."""
    tool = Command("tool", ["tool"], {})
    for code in (1, 2):
        directory = tmp_path / str(code)
        directory.mkdir()
        script = directory / "tool"
        script.write_text(f"#!/bin/sh\nexit {code}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/1:{os.defpath}")
    change = _Change(f"{tmp_path}/2:{os.defpath}")
    until = time.perf_counter() + 0.0012
    while time.perf_counter() < until:  # then a turn is due
        pass
    trio.lowlevel.add_instrument(change)
    child = await local_process.spawn(tool)
    trio.lowlevel.remove_instrument(change)
    async with child:
        await child.waitpid(W.EXITED)
    assert os.environ["PATH"] == change.path
    monkeypatch.setenv("PATH", f"{tmp_path}/1:{os.defpath}")
    async with await local_process.spawn(tool) as child:
        assert (await child.waitpid(W.EXITED)).exit_status == 1


async def test_what_does_not_fit_is_started_all_the_same_and_not_kept() -> None:
    large = SH.args("exit $#", "sh", *["x" * 65536] * 5)
    _lay_out.cache_clear()
    async with await local_process.spawn(large) as child:
        assert (await child.waitpid(W.EXITED)).exit_status == 5
    assert _lay_out.cache_info().currsize == 0


_ADDING = """
import os, sys, threading, trio
from rsyscall import Command, local_process

sys.setswitchinterval(1e-5)
over = False

def add():
    for i in range(10**9):
        if over:
            break
        os.environ[f"V{i % 500}"] = "x" * (i % 50)
        os.environ.pop(f"V{i * 7 % 500}", None)

async def main():
    global over
    thread = threading.Thread(target=add)
    thread.start()
    try:
        for i in range(200):
            how = {"cwd": "/"} if i % 2 else {}
            child = await local_process.spawn(Command("/bin/true", ["true"]), **how)
            assert (await child.check()).clean()
    finally:
        over = True
        thread.join()

trio.run(main)
"""


def test_the_environment_may_change_while_a_program_is_started() -> None:
    subprocess.run([sys.executable, "-c", _ADDING], check=True, timeout=60)


_MANY = """
import os, trio
from rsyscall import Command, local_process

for number in range(2000):
    os.environ[f"V{number}"] = str(number)

async def main():
    ask = Command("/bin/sh", ["sh", "-c", 'test "$V0 $V1999" = "0 1999"'])
    assert (await (await local_process.spawn(ask)).check()).clean()

trio.run(main)
"""


def test_the_environment_may_be_large() -> None:
    subprocess.run([sys.executable, "-c", _MANY], check=True, timeout=60)

"""The ring's C code under load: two threads, every byte compared, every wake-up needed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.servers import environment, missing

ROOT = Path(__file__).parents[2]
SECONDS = 200  # for one program; with two CPUs it takes two
#: How many frames each of them sends. With sanitizers one takes ten times as long.
PROGRAMS = {
    "ring_stress_": 10_000_000,
    "ring_stress_thread": 1_000_000,
    "ring_stress_address_undefined": 1_000_000,
}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs are built."""
    for tool in "clang", "cmake", "ninja", "setarch":
        if shutil.which(tool) is None:
            missing(tool)
    directory = tmp_path_factory.mktemp("ring")
    options = [
        "-DRSYSCALL_TESTS=ON",
        "-DCMAKE_C_COMPILER=clang",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    run("cmake", "-S", ROOT / "server", "-B", directory, "-G", "Ninja", *options)
    run("cmake", "--build", directory, "--target", *PROGRAMS)
    return directory


def run(*command: str | Path) -> str:
    # No search for leaks: under ptrace the search itself fails.
    env = environment(ASAN_OPTIONS="detect_leaks=0")
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_byte_arrives_in_order_and_no_wake_up_is_lost(build: Path, program: str) -> None:
    frames = PROGRAMS[program]
    # At a fixed address: the thread sanitizer cannot live with all that the kernel may choose.
    said = run("setarch", "-R", build / program, str(frames), str(SECONDS))
    print(said)
    assert f"{frames} frames in all" in said
    assert re.search(r"\d+ times: 0 wake-ups lost", said)
    assert len(re.findall(r"(futex|eventfd|pipe) +ring +\d+: .* [1-9]\d* sleeps", said)) == 15

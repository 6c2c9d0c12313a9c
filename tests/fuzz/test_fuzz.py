"""The C decoder and session under libFuzzer with sanitizers: the seeds, and a short bounded run.

For a long one, build the targets as `build` does and run them on a copy of the seeds.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.servers import environment, missing
from fuzz import corpus
from rsyscall._raw import ffi, lib
from rsyscall_protocol import Batched, Bell, Fds, Result, Stall, encode

ROOT = Path(__file__).parents[2]
RUNS = 20_000
SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "fuzz_request": corpus.bodies,
    "fuzz_session": corpus.sessions,
}
COVERED = {"fuzz_request": 130, "fuzz_session": 300}
every_target = pytest.mark.parametrize("target", SEEDS)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the targets are built."""
    for tool in "clang", "cmake", "ninja":
        if shutil.which(tool) is None:
            missing(tool)
    directory = tmp_path_factory.mktemp("fuzz")
    options = [
        "-DRSYSCALL_FUZZ=ON",
        "-DCMAKE_C_COMPILER=clang",
        f"-DPython_EXECUTABLE={sys.executable}",
    ]
    run("cmake", "-S", ROOT / "server", "-B", directory, "-G", "Ninja", *options)
    run("cmake", "--build", directory, "--target", *SEEDS)
    return directory


def run(*command: str | Path, directory: Path | None = None) -> str:
    # No search for leaks: the code allocates nothing, and under ptrace the search itself fails.
    env = environment(ASAN_OPTIONS="detect_leaks=0")
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=directory,
        env=env,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@every_target
def test_seeds(build: Path, target: str, tmp_path: Path) -> None:
    """Each by itself, so that a failure names the seed."""
    count = corpus.write(tmp_path / "seeds", SEEDS[target]())
    seeds = sorted((tmp_path / "seeds").iterdir())
    assert len(seeds) == count
    said = run(build / target, *seeds, directory=tmp_path)
    assert said.count("Executed ") == count


@every_target
def test_fuzz(build: Path, target: str, tmp_path: Path) -> None:
    corpus.write(tmp_path / "corpus", SEEDS[target]())
    said = run(
        build / target,
        *(f"-runs={RUNS}", "-seed=1", "-max_len=4096", "-timeout=20", "corpus"),
        directory=tmp_path,
    )
    assert f"Done {RUNS} runs" in said
    # Half of what it reaches; less would mean that the target no longer does what it did.
    covered = re.findall(r"cov: (\d+) ", said)
    assert int(covered[-1]) >= COVERED[target], said[-2000:]


def test_seeds_are_what_they_seem() -> None:
    """The decoder in C accepts what our encoder made for a server, and little of the rest."""

    def accepted(body: bytes) -> bool:
        return lib.rs_check_request(ffi.from_buffer("uint8_t[]", bytearray(body)), len(body)) == 0

    refused = [event for event in corpus.EVENTS if not accepted(encode(event))]
    assert [type(event) for event in refused] == [Result, Batched, Bell, Fds, Stall]
    assert [body for body in corpus.ODD if body and accepted(body)] == [corpus.ODD[8]]

"""Programs whose input and output are ours: pipes, /dev/null, and what `run` reads and writes."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio

import rsyscall
from process.seen import FALSE, SH, SLEEP, TRUE, fds, output
from rsyscall import DEVNULL, PIPE, STDOUT, local_process
from rsyscall.command import Command
from rsyscall.far import FDTableMismatchError
from rsyscall.monitor import AsyncChildPid
from rsyscall.near.sysif import SyscallError
from rsyscall.signal import SIG
from rsyscall.sys.resource import RLIMIT, Rlimit
from rsyscall.sys.wait import CalledProcessError

CAT = Command("/bin/cat", ["cat"], {})
BOTH = SH.args("echo out; echo err >&2")
#: More than a pipe holds.
LARGE = bytes(range(256)) * 1024


async def read_all(stream: trio.abc.ReceiveStream | None) -> bytes:
    assert stream is not None
    return b"".join([bytes(part) async for part in stream])


async def test_the_constants_are_those_of_subprocess() -> None:
    assert (PIPE, DEVNULL, STDOUT) == (subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT)


async def test_pipes_are_streams(parent: rsyscall.Process) -> None:
    await parent.task.getpid()
    far_away = parent.task.fd_table is not local_process.task.fd_table
    before = fds(int(parent.pid))
    async with await parent.spawn(
        SH.args("cat; echo err >&2"), stdin=PIPE, stdout=PIPE, stderr=PIPE
    ) as child:
        assert child.stdin is not None
        if far_away:  # it has none of the ends
            assert fds(int(parent.pid)) - {child.pid.pidfd_there} == before
        async with trio.open_nursery() as nursery:

            async def feed(stream: trio.abc.SendStream) -> None:
                async with stream:
                    await stream.send_all(LARGE)

            nursery.start_soon(feed, child.stdin)
            assert await read_all(child.stdout) == LARGE
        assert await read_all(child.stderr) == b"err\n"
        assert (await child.check()).clean()


async def test_only_what_is_a_pipe_is_a_stream(parent: rsyscall.Process) -> None:
    async with await parent.spawn(CAT, stdin=DEVNULL, stdout=PIPE) as child:
        assert (child.stdin, child.stderr) == (None, None)
        assert await read_all(child.stdout) == b""


async def test_leaving_the_block_closes_the_streams(parent: rsyscall.Process) -> None:
    async with await parent.spawn(SLEEP, stdout=PIPE) as child:
        pass
    assert child.stdout is not None
    with pytest.raises(trio.ClosedResourceError):
        await child.stdout.receive_some()


async def test_a_clone_meanwhile_does_not_hold_a_pipe_open(parent: rsyscall.Process) -> None:
    async with await parent.spawn(CAT, stdin=PIPE, stdout=PIPE) as child, await parent.clone():
        assert child.stdin is not None
        await child.stdin.aclose()
        with trio.fail_after(10):
            assert await read_all(child.stdout) == b""
            await child.check()


@pytest.mark.parametrize(
    "options",
    [
        {"stdout": PIPE, "stderr": STDOUT},
        {"stderr": STDOUT, "stdout": "file"},
        {"stderr": STDOUT, "fds": "file"},
    ],
    ids=str,
)
async def test_errors_where_output_goes(
    parent: rsyscall.Process, tmp_path: Path, options: dict[str, Any]
) -> None:
    async with await output(parent.task, tmp_path / "out") as file:
        given = dict(options)
        given.update({key: file for key, value in options.items() if value == "file"})
        if "fds" in given:
            given["fds"] = {1: given["fds"]}
        async with await parent.spawn(BOTH, **given) as child:
            if child.stdout is not None:
                assert await read_all(child.stdout) == b"out\nerr\n"
            await child.check()
        if options.get("stdout") != PIPE:
            assert (tmp_path / "out").read_text() == "out\nerr\n"


async def test_errors_where_the_output_of_the_parent_goes(
    parent: rsyscall.Process, tmp_path: Path
) -> None:
    async with (
        await output(parent.task, tmp_path / "out") as file,
        await parent.clone() as middle,
    ):
        await middle.inherit_fd(file).dup2(middle.stdout)
        await middle.run(BOTH, stderr=STDOUT)
    assert (tmp_path / "out").read_text() == "out\nerr\n"


async def test_dev_null(parent: rsyscall.Process) -> None:
    what = "readlink /proc/self/fd/0 /proc/self/fd/2; ls /proc/self/fd | wc -w"
    done = await parent.run(SH.args(what), stdin=DEVNULL, stderr=DEVNULL, capture_stdout=True)
    # and that which `ls` reads
    assert done.stdout == b"/dev/null\n/dev/null\n4\n"
    assert (await parent.run(SH.args("echo x"), stdout=DEVNULL)).clean()


async def test_pipes_beside_descriptors_with_any_number(parent: rsyscall.Process) -> None:
    """The numbers that the ends of the pipes have for a moment are wanted for others."""
    async with await parent.task.memfd_create("x") as fd:
        numbers = range(3, 3 + 4 + len(fds(int(parent.pid))))
        async with await parent.spawn(
            SH.args("readlink /proc/self/fd/*; cat"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            fds=dict.fromkeys(numbers, fd),
        ) as child:
            assert child.stdin is not None
            await child.stdin.aclose()
            seen = (await read_all(child.stdout)).decode().split("\n")
    assert seen.count("/memfd:x (deleted)") == len(numbers)
    assert sum(name.startswith("pipe:") for name in seen) == 2
    assert seen.count("/dev/null") == 1


async def test_a_program_that_is_not_there_leaves_no_pipe(parent: rsyscall.Process) -> None:
    await parent.task.getpid()
    here, there = fds(os.getpid()), fds(int(parent.pid))
    with pytest.raises(FileNotFoundError):
        await parent.spawn(Command("/no/such", ["x"], {}), stdin=PIPE, stdout=PIPE, stderr=PIPE)
    with pytest.raises(FDTableMismatchError):
        async with rsyscall.open_process() as other, await other.task.memfd_create("x") as fd:
            await parent.spawn(TRUE, stdin=fd, stdout=PIPE)
    assert (fds(os.getpid()), fds(int(parent.pid))) == (here, there)


async def test_a_pipe_for_which_there_is_no_room(parent: rsyscall.Process) -> None:
    """The step that failed has the name of the argument, and nothing is left."""
    async with await parent.clone() as child:
        assert await child.task.getpid() == child.pid.pid.near
        here, there = fds(os.getpid()), fds(int(child.pid))
        await child.task.setrlimit(RLIMIT.NOFILE, Rlimit(3, 3))
        for name in ("stdin", "stdout", "stderr"):
            options: dict[str, Any] = {name: PIPE}
            with pytest.raises(OSError, match="Too many open files") as caught:
                await child.spawn(TRUE, **options)
            assert caught.value.__notes__[-1] == f"while making the pipe for {name}=PIPE"
            assert await child.task.getppid() == parent.task.near_process  # still there
            assert (fds(os.getpid()), fds(int(child.pid))) == (here, there)


async def test_a_parent_that_is_dead_leaves_no_pipe(parent: rsyscall.Process) -> None:
    async with await parent.clone() as child:
        await child.pid.kill(SIG.KILL)
        await child.pid.pid.wait_readable()
        here = fds(os.getpid())
        with pytest.raises(SyscallError):
            await child.spawn(TRUE, stdout=PIPE)
        assert fds(os.getpid()) - here == set()


async def test_a_cancelled_spawn_leaves_no_pipe(parent: rsyscall.Process) -> None:
    here = fds(os.getpid())
    with trio.CancelScope() as scope:
        scope.cancel()
        await parent.spawn(SLEEP, stdin=PIPE, stdout=PIPE)
    assert scope.cancelled_caught
    assert fds(os.getpid()) == here


BAD: list[tuple[dict[str, Any], str]] = [
    ({"stdin": 7}, "stdin: 7 is neither"),
    ({"stdout": -7}, "stdout: -7 is neither"),
    ({"stdin": STDOUT}, "stdin: STDOUT is for stderr only"),
    ({"stdout": STDOUT}, "stdout: STDOUT is for stderr only"),
    ({"stdin": PIPE, "fds": {0: "stdin"}}, "fds: 0 is given twice"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=str)
async def test_what_cannot_be(options: dict[str, Any], message: str) -> None:
    given = dict(options)
    if "fds" in given:
        given["fds"] = {0: local_process.stdin}
    with pytest.raises(ValueError, match=f"^{message}"):
        await local_process.spawn(TRUE, **given)


# ---- run ----


async def test_input_and_output(parent: rsyscall.Process) -> None:
    done = await parent.run(
        SH.args("cat; echo err >&2"), input=LARGE, capture_stdout=True, capture_stderr=True
    )
    assert (done.stdout, done.stderr) == (LARGE, b"err\n")
    assert done.clean()
    assert done.returncode == 0


async def test_no_input_is_the_end(parent: rsyscall.Process) -> None:
    assert (await parent.run(CAT, input=b"", capture_stdout=True)).stdout == b""


async def test_input_that_is_not_read(parent: rsyscall.Process) -> None:
    done = await parent.run(TRUE, input=LARGE)
    assert (done.clean(), done.stdout, done.stderr) == (True, None, None)


async def test_output_that_is_read_to_its_end(parent: rsyscall.Process) -> None:
    """Whoever has inherited it."""
    done = await parent.run(SH.args("(read x; echo late) & echo early"), input=b"\n", check=False)
    assert done.stdout is None
    done = await parent.run(
        SH.args("exec 3<&0; (read x <&3; echo late) & echo early"),
        input=b"\n",
        capture_stdout=True,
    )
    assert sorted((done.stdout or b"").split()) == [b"early", b"late"]


@pytest.mark.parametrize("script", ["exit 7", "kill -TERM $$"])
async def test_as_trio_has_it(script: str) -> None:
    command = SH.args(f"echo out; echo err >&2; {script}")
    wanted = await trio.run_process(
        ["/bin/bash", *(str(arg) for arg in command.arguments[1:])],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    with pytest.raises(CalledProcessError) as caught:
        await local_process.run(command, capture_stdout=True, capture_stderr=True)
    error = caught.value
    assert (error.returncode, error.stdout, error.stderr) == (
        wanted.returncode,
        wanted.stdout,
        wanted.stderr,
    )
    done = await local_process.run(command, False, capture_stdout=True, capture_stderr=True)
    assert (done.returncode, done.stdout, done.stderr) == (
        wanted.returncode,
        wanted.stdout,
        wanted.stderr,
    )
    assert "out" in repr(done)
    assert done != await local_process.run(FALSE, check=False)


async def test_run_takes_the_keywords_of_spawn(parent: rsyscall.Process, tmp_path: Path) -> None:
    done = await parent.run(
        SH.args("pwd; echo $A"), cwd=tmp_path, env={"A": "b"}, capture_stdout=True
    )
    assert done.stdout == f"{tmp_path}\nb\n".encode()


async def test_a_timeout_is_a_cancellation(parent: rsyscall.Process) -> None:
    await parent.task.getpid()
    here, there = fds(os.getpid()), fds(int(parent.pid))
    async with trio.open_nursery() as nursery:
        start = functools.partial(
            parent.run,
            SH.args("echo $$; exec sleep 1000"),
            input=LARGE,
            capture_stderr=True,
            stdout=PIPE,
        )
        child: AsyncChildPid = await nursery.start(start)
        assert child.stdout is not None
        assert int(await child.stdout.receive_some()) > 0
        nursery.cancel_scope.cancel()
    assert child.pid.death_state is not None
    assert child.pid.death_state.killed_with() == SIG.KILL
    assert not os.path.exists(f"/proc/{int(child)}")
    assert (fds(os.getpid()), fds(int(parent.pid))) == (here, there)


async def test_a_cancellation_is_no_group() -> None:
    seen: list[BaseException] = []
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def one(task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
                try:
                    await local_process.run(
                        SLEEP, input=LARGE, capture_stdout=True, task_status=task_status
                    )
                except BaseException as exc:
                    seen.append(exc)
                    raise

            await nursery.start(one)
            scope.cancel()
    assert [type(exc) for exc in seen] == [trio.Cancelled]


RUN_BAD: list[tuple[dict[str, Any], str]] = [
    ({"input": b"", "stdin": DEVNULL}, "input: stdin is given, too"),
    ({"capture_stdout": True, "stdout": PIPE}, "capture_stdout: stdout is given, too"),
    ({"capture_stderr": True, "stderr": STDOUT}, "capture_stderr: stderr is given, too"),
    ({"stdin": PIPE}, "stdin: nobody would use the other end"),
    ({"stdout": PIPE}, "stdout: nobody would use the other end"),
]


@pytest.mark.parametrize(("options", "message"), RUN_BAD, ids=str)
async def test_what_run_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        await local_process.run(TRUE, **options)

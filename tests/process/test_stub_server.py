"""Programs that become processes of ours when somebody runs them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest
import trio
import trio.testing

import rsyscall
from e2e.servers import DEADLINE, STUB
from process.test_stdin_bootstrap import command
from rsyscall import Command, local_process
from rsyscall.near import FileDescriptor
from rsyscall.near.sysif import ProtocolHangup, SyscallHangup
from rsyscall.sys.syscall import SYS
from rsyscall.sys.un import PathTooLongError
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall.tasks.stdin_bootstrap import stdin_bootstrap
from rsyscall.tasks.stub import StubServer, script
from rsyscall.thread import Process

BASH = Command("/bin/bash", ["bash", "-c"])


@pytest.fixture
def public(tmp_path: Path) -> Generator[Path]:
    """A directory that everybody can read, with a stub."""
    path = Path("/tmp") / f"rsyscall-test-{os.getpid()}"
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    shutil.copy(STUB, path / "rsyscall-stub")
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("ring", [True, False])
async def test_a_program_is_ours(origin: Process, tmp_path: Path, ring: bool) -> None:
    async with await StubServer.make(origin, tmp_path, "helper") as server:
        run = BASH.args(
            'printf seven > 7; exec 7< 7; echo in | (cd /usr; X=y "$0" a "" "b c" $\'\\377\');'
            " echo status $?",
            str(tmp_path / "helper"),
        )
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def runs() -> None:  # pyright: ignore[reportUnusedFunction]
                    done = await local_process.run(
                        run, cwd=tmp_path, capture_stdout=True, check=False
                    )
                    assert done.stdout == b"out\nstatus 3\n"

                argv, process = await server.accept(ring=ring)
                sysif = process.task.sysif
                assert isinstance(sysif, RemoteSyscallInterface)
                assert sysif.uses_ring == ring
                assert argv == [str(tmp_path / "helper"), "a", "", "b c", "\udcff"]
                assert process.environ["X"] == "y"
                assert await process.task.getcwd() == "/usr"
                assert await process.read_to_eof(process.stdin) == b"in\n"
                seven = process.task.make_fd_handle(FileDescriptor(7))
                assert await seven.read(100) == b"seven"
                await process.spit(process.stdout, "out\n")
                async with await process.clone() as child:
                    assert await child.task.getcwd() == "/usr"
                await process.exit(3)
    assert sorted(os.listdir(tmp_path)) == ["7"]


async def test_what_is_ours_is_told_from_what_it_was_given(tmp_path: Path) -> None:
    async with await StubServer.make(local_process, tmp_path, "helper") as server:
        run = BASH.args('"$0" 9</dev/null <&- >&- 2>&-; exit $?', tmp_path / "helper")
        async with await local_process.spawn(run) as shell:
            _, process = await server.accept()
            own = process.task.fd_table.own
            assert len(own) == 2
            assert min(own) > 2
            assert 9 not in own
            await process.exit(0)
            await shell.check()


@pytest.mark.parametrize("length", [254, 255, 256, 257])
async def test_a_line_that_is_too_long_takes_a_shell(tmp_path: Path, length: int) -> None:
    stub = tmp_path / "x"
    sock = tmp_path / "s"
    missing = length - len(script(f"{stub}/rsyscall-stub", str(sock)))
    stub = tmp_path / ("x" * (1 + missing))
    stub.mkdir()
    shutil.copy(STUB, stub)
    text = script(f"{stub}/rsyscall-stub", str(sock))
    assert text.startswith(b"#!/bin/sh\n") == (length > 255)
    assert length > 255 or len(text) == length
    helper = tmp_path / "helper"
    helper.write_bytes(text)
    helper.chmod(0o755)
    async with (
        await StubServer.listen_on(local_process, sock) as server,
        await local_process.spawn(command(helper, "a  b", "$c")) as child,
    ):
        argv, process = await server.accept()
        assert argv == [str(helper), "a  b", "$c"]
        await process.exit(0)
        await child.check()


async def test_names_that_are_hard_to_write_down(tmp_path: Path) -> None:
    directory = tmp_path / "a 'b'\n$c"
    directory.mkdir()
    async with (
        rsyscall.open_process(shutil.copy(STUB, directory)) as process,
        await StubServer.make(process, directory, "he lp") as server,
        await process.spawn(command(directory / "he lp")) as child,
    ):
        argv, made = await server.accept()
        assert argv == [str(directory / "he lp")]
        await made.exit(0)
        await child.check()


async def test_a_relative_directory_is_that_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    async with await local_process.clone() as child:
        await child.task.chdir(tmp_path)
        async with (
            await StubServer.make(child, "in", "helper") as server,
            await local_process.spawn(command(tmp_path / "in" / "helper")) as program,
        ):
            _, process = await server.accept()
            await process.exit(0)
            await program.check()


async def test_it_ends_with_whom_it_was_given_to(tmp_path: Path) -> None:
    helper = command(tmp_path / "helper")
    async with await StubServer.make(local_process, tmp_path, "helper") as server:
        async with await local_process.clone() as owner:
            child = await local_process.spawn(helper)
            _, process = await server.accept(owner)
            grandchild = await process.clone()
        assert (await child.wait()).exit_status == 2
        assert grandchild.pid.pid.death_state is not None
        with pytest.raises(SyscallHangup, match="closed by us"):
            await process.task.getpid()
        # One that is killed, or does not get that far.
        child = await local_process.spawn(helper)
        _, process = await server.accept(owner)
        await child.kill()
        with pytest.raises(SyscallHangup):
            await process.task.getpid()
        await child.wait()
        # One that is in a call, which another of its threads has to wait for.
        child = await local_process.spawn(helper)
        _, process = await server.accept()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def blocked() -> None:  # pyright: ignore[reportUnusedFunction]
                with pytest.raises(SyscallHangup):
                    await process.task.sysif.syscall(SYS.ppoll)

            await trio.testing.wait_all_tasks_blocked()
            await process.task.getpid()
            await process.task.sysif.close_interface()
        assert (await child.wait()).exit_status == 2
        child = await local_process.spawn(helper)
    # It was in the queue, or finds nobody there any more.
    assert (await child.wait()).exit_status == 2
    assert not os.listdir(tmp_path)


async def test_what_is_no_stub_does_no_harm(tmp_path: Path) -> None:
    async with await StubServer.make(local_process, tmp_path, "helper") as server:
        for words, error in ((b"", SyscallHangup), (b"hello", ProtocolHangup)):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(tmp_path / "helper.sock"))
                sock.send(words) if words else sock.close()
                with pytest.raises(error):
                    await server.accept()
        async with await local_process.spawn(command(tmp_path / "helper")) as child:
            _, process = await server.accept()
            await process.exit(7)
            assert (await child.wait()).exit_status == 7


async def test_cancelled(origin: Process, tmp_path: Path) -> None:
    """Whenever that is: what has connected is taken, or waits, or ends."""
    async with await StubServer.make(origin, tmp_path, "helper") as server:
        ended = dict.fromkeys([0, 2], 0)

        async def serve() -> None:
            _, process = await server.accept()
            with trio.CancelScope(shield=True):
                await process.exit(0)

        for i in range(20):
            async with await local_process.spawn(command(tmp_path / "helper")) as child:
                with trio.move_on_after(0.0004 * i):
                    await serve()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(serve)
                    status = (await child.wait()).exit_status
                    nursery.cancel_scope.cancel()
                ended[status or 0] += 1
        assert ended[0]


async def test_several_at_once(tmp_path: Path) -> None:
    async with await StubServer.make(local_process, tmp_path, "helper") as server:
        found = set[str]()

        async def accept() -> None:
            argv, process = await server.accept()
            found.add(argv[1])
            await process.exit(0)

        async with trio.open_nursery() as nursery:
            for i in range(8):
                nursery.start_soon(accept)
                nursery.start_soon(local_process.run, command(tmp_path / "helper", str(i)))
        assert found == {str(i) for i in range(8)}


async def test_bad_input(tmp_path: Path) -> None:
    for name in ("", ".", "..", "a/b", "a\0b"):
        with pytest.raises(ValueError, match="name:"):
            await StubServer.make(local_process, tmp_path, name)
    with pytest.raises(PathTooLongError):
        await StubServer.make(local_process, tmp_path, "x" * 100)
    with pytest.raises(PathTooLongError):
        await StubServer.listen_on(local_process, "/" + "x" * 108)
    with pytest.raises(FileNotFoundError):
        await StubServer.make(local_process, tmp_path / "no", "helper")
    (tmp_path / "helper").write_text("mine")
    with pytest.raises(FileExistsError):
        await StubServer.make(local_process, tmp_path, "helper")
    assert (tmp_path / "helper").read_text() == "mine"
    assert os.listdir(tmp_path) == ["helper"]


@pytest.mark.privileged
async def test_who_is_let_in(public: Path) -> None:
    """Of those who can open the socket only the same user, and root."""
    path = public / "sock"
    stub = public / "rsyscall-stub"
    connect = command(stub, f"--connect={path}")
    nobody = command("setpriv", "--reuid=33", "--regid=33", "--clear-groups")
    async with await StubServer.listen_on(local_process, path) as server:
        path.chmod(0o777)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def programs() -> None:  # pyright: ignore[reportUnusedFunction]
                refused = await local_process.spawn(nobody.args(*connect.arguments))
                assert (await refused.wait()).exit_status == 2
                await local_process.run(connect.args("x"))

            argv, process = await server.accept()
            assert argv == ["x"]
            await process.exit(0)
    public.chmod(0o777)
    child, user = await stdin_bootstrap(local_process, nobody.args(stub))
    async with child, await StubServer.listen_on(user, path) as server:
        one = await user.spawn(connect.args("one"))
        argv, process = await server.accept()
        assert argv == ["one"]
        assert await process.task.geteuid() == 33
        await process.exit(0)
        await one.check()
        # Root does not serve whoever has made a socket there.
        two = await local_process.spawn(connect.args("two"))
        with pytest.raises(ProtocolHangup, match="not served"):
            await server.accept()
        assert (await two.wait()).exit_status == 2


async def test_a_listener_that_dies(tmp_path: Path) -> None:
    async with rsyscall.open_process() as process:
        server = await StubServer.make(process, tmp_path, "helper")
        program = await local_process.spawn(command(tmp_path / "helper"))
        _, made = await server.accept(local_process)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def waits() -> None:  # pyright: ignore[reportUnusedFunction]
                with pytest.raises(SyscallHangup):
                    await server.accept()

            await trio.testing.wait_all_tasks_blocked()
            await process.exit(0)
        await server.close()
    assert (await program.wait()).exit_status == 2
    with pytest.raises(SyscallHangup):
        await made.task.getpid()


def test_it_is_told_what_is_wrong(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))  # and does not listen
        done = subprocess.run(
            [STUB, f"--connect={tmp_path}/s"], capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (2, f"rsyscall-stub: {tmp_path}/s: cannot connect\n")

"""Processes that some command leads to, which hands the stub its standard input."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio
import trio.testing

import rsyscall
from e2e.servers import STUB, StubServer, wait_for
from rsyscall import Command, local_process
from rsyscall.environ import ExecutableNotFound
from rsyscall.handle.process import DeadTaskError
from rsyscall.near import Pid
from rsyscall.near.sysif import ProtocolHangup, SyscallHangup
from rsyscall.sched import CLONE
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import CLD, W
from rsyscall.sysif.remote import RemoteSyscallInterface
from rsyscall.tasks._foreign import foreign_process
from rsyscall.tasks.stdin_bootstrap import stdin_bootstrap, stdin_bootstrap_path
from rsyscall_protocol import Limits

SH = Command("/bin/sh", ["sh", "-c"])


def command(*words: str | os.PathLike[str]) -> Command:
    return Command(words[0], words)


def is_gone(pid: int) -> bool:
    """Whether it has ended; who has inherited it may not have waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("ring", [True, False])
async def test_a_command_leads_to_a_process(origin: rsyscall.Process, ring: bool) -> None:
    env = command("env", "-i", "NAME=a=b", await stdin_bootstrap_path(origin))
    child, process = await stdin_bootstrap(origin, env, ring=ring)
    async with child:
        sysif = process.task.sysif
        assert isinstance(sysif, RemoteSyscallInterface)
        assert sysif.uses_ring == ring
        assert process.pid == child.pid.near == await process.task.getpid()
        assert await process.task.getppid() == origin.task.near_process
        assert process.environ.data == {"NAME": "a=b"}
        assert await process.task.readlink("/proc/self/fd/0") == "/dev/null"
        # Nothing of ours is open in what it starts.
        listed = await process.run(
            SH.args("echo $NAME; readlink /proc/$$/fd/*"), check=False, capture_stdout=True
        )
        assert listed.stdout is not None
        assert listed.stdout.startswith(b"a=b\n/dev/null\n")
        assert b"socket:" not in listed.stdout.split(b"pipe:")[0]
        # It has children, in its own memory.
        async with await process.clone() as grandchild:
            assert await grandchild.task.getppid() == process.pid
        await process.exit(3)
        assert (await child.wait()).exit_status == 3


async def test_the_end_of_its_block_is_the_end_of_all(origin: rsyscall.Process) -> None:
    path = await stdin_bootstrap_path(origin)
    child, process = await stdin_bootstrap(origin, SH.args(f"{path}; :"))
    async with child:
        assert int(process.pid) != child.pid.near.id
        grandchild = await process.clone()
        mine = await process.spawn(command("sleep", "1000"))
        assert await mine.pid.getpgid()
    assert grandchild.pid.pid.death_state is not None
    assert mine.pid.death_state is not None
    assert child.pid.death_state is not None
    wait_for(lambda: is_gone(int(process.pid)), "the stub to be gone")
    with pytest.raises(SyscallHangup, match="closed by us"):
        await process.task.getpid()


async def test_the_end_of_its_parent_is_the_end_of_all() -> None:
    async with rsyscall.open_process() as parent:
        path = await stdin_bootstrap_path(parent)
        child, process = await stdin_bootstrap(parent, SH.args(f"{path}; :"))
        daemon, orphan = await stdin_bootstrap(parent, command("setsid", "-f", path))
        assert (await daemon.check()).clean()
        assert await orphan.task.getpid() == orphan.pid
    assert child.pid.death_state is not None
    for pid in (process.pid, orphan.pid):
        wait_for(lambda pid=int(pid): is_gone(pid), "the stub to be gone")  # type: ignore[misc]


async def test_a_command_that_is_killed_takes_the_process_with_it() -> None:
    path = await stdin_bootstrap_path(local_process)
    child, process = await stdin_bootstrap(local_process, SH.args(f"{path}; :"))
    await child.kill()
    assert (await child.waitpid(W.EXITED)).code is CLD.KILLED
    with pytest.raises(SyscallHangup, match="closed by us"):
        await process.task.getpid()
    wait_for(lambda: is_gone(int(process.pid)), "the stub to be gone")


@pytest.mark.parametrize("ring", [True, False])
async def test_a_process_that_is_killed(ring: bool) -> None:
    path = await stdin_bootstrap_path(local_process)
    run = SH.args(f"{path}; exit 7")
    child, process = await stdin_bootstrap(local_process, run, ring=ring)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def killed() -> None:  # pyright: ignore[reportUnusedFunction]
            with pytest.raises(SyscallHangup, match="exited with status 7"):
                await process.task.sysif.syscall(SYS.ppoll)

        await trio.testing.wait_all_tasks_blocked()
        os.kill(int(process.pid), signal.SIGKILL)
    assert child.pid.death_state is not None


async def test_namespaces_of_its_own(origin: rsyscall.Process) -> None:
    path = await stdin_bootstrap_path(origin)
    unshare = command("unshare", "--user", "--map-root-user", "--pid", "--fork", "--net", path)
    child, process = await stdin_bootstrap(origin, unshare)
    async with child:
        assert await process.task.getpid() == process.pid == Pid(1)
        assert process.task.pidns is not origin.task.pidns
        net = await process.task.readlink("/proc/self/ns/net")
        async with await process.clone(CLONE.NEWNET) as inner:
            assert await inner.task.readlink("/proc/self/ns/net") != net
            assert await inner.task.getppid() == process.pid


@pytest.mark.privileged
async def test_with_other_ids() -> None:
    """Who has the ids of somebody else serves us all the same: we have started it."""
    setpriv = command("setpriv", "--reuid=33", "--regid=33", "--clear-groups")
    child, process = await stdin_bootstrap(
        local_process, setpriv.args("--no-new-privs", await stdin_bootstrap_path(local_process))
    )
    async with child:
        assert await process.task.geteuid() == 33
        assert (await process.malloc(bytes, 65536)).size() == 65536
        data = await process.task.ptr(bytes(range(256)) * 64)
        assert await data.read() == bytes(range(256)) * 64


async def test_a_command_that_is_not_there(origin: rsyscall.Process) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        await stdin_bootstrap(origin, command("/no/such/command"))
    assert "executing the program" in str(caught.value.__notes__)


async def test_a_command_that_leads_nowhere(origin: rsyscall.Process) -> None:
    with pytest.raises(SyscallHangup, match="exited with status 3"):
        await stdin_bootstrap(origin, SH.args("exit 3"))
    with pytest.raises(SyscallHangup, match="killed by SIGTERM"):
        await stdin_bootstrap(origin, SH.args("kill $$"))
    with pytest.raises(SyscallHangup, match="still runs"):
        await stdin_bootstrap(origin, SH.args("exec <&-; exec sleep 1000"))
    with pytest.raises(ProtocolHangup):
        await stdin_bootstrap(origin, SH.args("echo hello >&0"))


async def test_cancelled(origin: rsyscall.Process) -> None:
    """At each moment: what was started is killed."""
    path = await stdin_bootstrap_path(origin)
    for i in range(25):
        with trio.move_on_after(0.0005 * i) as scope:
            child, _ = await stdin_bootstrap(origin, SH.args(f"{path}; :"))
            await child.end()
    with trio.move_on_after(0.01) as scope:
        await stdin_bootstrap(origin, command("sleep", "1000"))
    assert scope.cancelled_caught


async def test_a_parent_that_has_died() -> None:
    async with await local_process.clone() as parent:
        await parent.exit(0)
        with pytest.raises(DeadTaskError, match="exit"):
            await stdin_bootstrap(parent, command("env", STUB))


async def test_a_parent_that_takes_no_descriptors() -> None:
    with StubServer() as client:
        sysif = RemoteSyscallInterface(client.sock.dup(), limits=Limits(fds=0))
        parent = foreign_process(sysif, await sysif.start(ring=False))
        with pytest.raises(ValueError, match="fds: more than 0") as caught:
            await stdin_bootstrap(parent, command("env", STUB))
        assert "while sending a socket to Process(" in caught.value.__notes__[0]
        await sysif.close_interface()


async def test_the_path_is_what_is_found_there(tmp_path: Path) -> None:
    async with rsyscall.open_process() as stub, await local_process.clone() as child:
        assert str(await stdin_bootstrap_path(stub)) == str(STUB)
        assert str(await stdin_bootstrap_path(child)) == str(STUB)
    copy = tmp_path / "rsyscall-stub"
    copy.write_bytes(STUB.read_bytes())
    copy.chmod(0o755)
    async with rsyscall.open_process(copy) as stub:
        assert str(await stdin_bootstrap_path(stub)) == str(copy)
        copy.unlink()
        assert str(await stdin_bootstrap_path(stub)) == str(STUB)


@pytest.mark.privileged
async def test_no_path_where_there_is_no_stub(tmp_path: Path) -> None:
    async with await local_process.clone() as child:
        await child.chroot(tmp_path)
        with pytest.raises(ExecutableNotFound):
            await stdin_bootstrap_path(child)
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "rsyscall-stub").write_bytes(STUB.read_bytes())
        (tmp_path / "bin" / "rsyscall-stub").chmod(0o755)
        child.environ["PATH"] = "/bin"
        path = await stdin_bootstrap_path(child)
        assert str(path) == "/bin/rsyscall-stub"
        # There is no /dev/null, either, nor /proc.
        bootstrapped, process = await stdin_bootstrap(child, command(path))
        async with bootstrapped:
            assert await process.task.getpid() == process.pid

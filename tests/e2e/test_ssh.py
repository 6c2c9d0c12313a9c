"""Processes that are reached by a real ssh, whose server is a real sshd."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

import rsyscall
from e2e.servers import event
from e2e.ssh import ended, local_host, reached, with_options
from rsyscall import PIPE, Command, local_process
from rsyscall.environ import ExecutableNotFound
from rsyscall.far import MachineMismatchError
from rsyscall.fcntl import O
from rsyscall.near.sysif import FdArg
from rsyscall.sched import CLONE
from rsyscall.signal import SIG
from rsyscall.sys.mount import MS
from rsyscall.sys.syscall import SYS
from rsyscall.sys.wait import CLD, CalledProcessError
from rsyscall.tasks.ssh import (
    SSHCommand,
    SSHError,
    SSHExecutables,
    SSHHost,
    make_local_ssh,
    make_ssh_host,
)
from rsyscall.unistd.names import OK
from rsyscall_protocol import Error, ErrorCode


async def cache_of(host: SSHHost) -> Path:
    async with reached(host) as remote:
        return Path(remote.environ["XDG_CACHE_HOME"])


async def test_calls_are_made_there(tmp_path: Path) -> None:
    async with await make_local_ssh(local_process) as host:
        child, remote = await host.ssh(local_process)
        async with child:
            task = remote.task
            pid = int(await task.getpid())
            assert pid == int(remote.pid) != os.getpid()
            async with await task.open(tmp_path / "file", O.RDWR | O.CREAT, 0o600) as fd:
                data = os.urandom(300_000)
                assert await fd.write(data) == len(data)
                assert await fd.pread(len(data), 0) == data
            assert (tmp_path / "file").read_bytes() == data
            pointer = await remote.ptr(data)
            assert await pointer.read() == data
            # It is where a login begins.
            assert Path(f"/proc/{pid}/cwd").readlink() == Path(remote.environ["HOME"])
            assert remote.environ["SSH_CONNECTION"]
            assert task.machine.name == os.uname().nodename
            assert os.getpgid(int(child)) == int(child)  # ^C is for us
            pidfd = os.pidfd_open(pid)
        assert ended(pidfd)
        with pytest.raises(rsyscall.SyscallHangup, match="closed by us"):
            await task.getpid()


async def test_calls_that_depend_on_each_other_in_one_batch() -> None:
    async with local_host() as host, reached(host) as remote:
        async with remote.batch() as batch:
            fd = batch.open("/", O.RDONLY)
            for _ in range(18):
                fd = batch.dup(fd)
            got = batch.fstat(fd)
        assert got.value.ino == os.stat("/").st_ino


async def test_many_tasks_share_the_connection() -> None:
    async with local_host() as host, reached(host) as remote:
        done: list[int] = []

        async def ask(fd: rsyscall.FileDescriptor, n: int) -> None:
            for i in range(5):
                assert await fd.pread(100, 100 * (n + i)) == data[100 * (n + i) :][:100]
            done.append(n)

        data = Path(rsyscall.stub_path()).read_bytes()
        file = await remote.task.open(rsyscall.stub_path(), O.RDONLY)
        async with file, trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(ask, file, n)
        assert sorted(done) == list(range(50))


async def test_the_stub_is_sent_once(tmp_path: Path) -> None:
    async with local_host() as host:
        cache = await cache_of(host) / "rsyscall"
        assert stat.S_IMODE(cache.stat().st_mode) == 0o700
        (stub,) = cache.iterdir()
        assert stub.read_bytes() == rsyscall.stub_path().read_bytes()
        assert stat.S_IMODE(stub.stat().st_mode) == 0o700
        inode = stub.stat().st_ino
        await cache_of(host)
        assert [path.stat().st_ino for path in cache.iterdir()] == [inode]
        # One that was damaged is replaced, and so is one that cannot be executed.
        for damage in ("cut short", "not executable"):
            stub.rename(tmp_path / "stub")  # it may still run
            shutil.copyfile(tmp_path / "stub", stub)
            stub.chmod(0o700 if damage == "cut short" else 0o600)
            if damage == "cut short":
                os.truncate(stub, 32000)
            await cache_of(host)
            assert stub.read_bytes() == rsyscall.stub_path().read_bytes()
            assert list(cache.iterdir()) == [stub]


async def test_descriptors_do_not_leave_their_machine(tmp_path: Path) -> None:
    async with local_host() as host, reached(host) as one, reached(host) as other:
        (tmp_path / "file").touch()
        there = await one.task.open(tmp_path / "file", O.RDONLY)
        here = await local_process.task.open(tmp_path / "file", O.RDONLY)
        name = os.uname().nodename
        both = rf"Task\(pid \d+\) is on Machine\('{name}'\), and Task\(pid \d+\) on Machine\('this"
        with pytest.raises(MachineMismatchError, match=both):
            await there.send_to(local_process)
        for fd, process in ((here, one), (there, other)):
            with pytest.raises(MachineMismatchError):
                await fd.send_to(process)
        with pytest.raises(MachineMismatchError):
            await one.open_channels(1)
        with pytest.raises(OSError, match="nothing was sent") as caught:
            await one.task.sysif.call(SYS.close, (FdArg(0),), fds=[int(here.near)])
        assert caught.value.errno == errno.EOPNOTSUPP
        with pytest.raises(OSError, match="nothing was sent"):
            await one.task.sysif.call(SYS.dup, (there.near,), return_fd=True)
        assert await one.task.getpid() == one.pid
        await here.close()


async def test_nothing_of_one_machine_is_known_on_another() -> None:
    async with local_host() as host, reached(host) as remote:
        far = vars(remote.task)
        near = vars(local_process.task)
        for name in ("pidns", "mountns", "netns", "userns", "ipcns", "utsns", "cgroupns", "timens"):
            assert far[name] is not near[name], name
        assert remote.task.fd_table is not local_process.task.fd_table
        assert remote.task.address_space is not local_process.task.address_space
        # Not even by chance: the pid is one of ours as well, and is not looked at.
        pointer = await remote.ptr(b"x" * 100_000)
        await pointer.read()
        assert remote.task.sysif.road == "frames"  # type: ignore[attr-defined] # pyright: ignore


NOISE = "echo noise; echo noise without end | tr -d \\\\n; echo much >&2; "


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
async def test_whatever_the_shell_there_is_and_prints(shell: str, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ["uname", "mkdir", "chmod", "sha256sum", "rm", "mktemp", "head", "mv", "cp", "tr"]:
        if shell.startswith("busybox"):
            (tools / name).symlink_to("/bin/busybox")
    (tools / "sh").write_text(f'#!/bin/sh\nexec /usr/bin/env {shell} "$@"\n')
    (tools / "sh").chmod(0o755)
    force = f'PATH={tools}:$PATH; export PATH; {NOISE} eval "$SSH_ORIGINAL_COMMAND"'
    async with local_host(ForceCommand=force) as host:
        for _ in range(2):  # the stub is sent, and is there already
            async with reached(host) as remote:
                assert await remote.task.getpid() == remote.pid


async def test_a_server_that_gives_a_socket(tmp_path: Path) -> None:
    """As sshd does where it was built so; the last argument is what is to be run."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    command = SSHCommand(ssh, ["ssh"], {"XDG_CACHE_HOME": tmp_path / "it's"})
    host = SSHHost(SSHExecutables(command), lambda ssh: ssh)
    for _ in range(2):
        async with reached(host) as remote:
            assert remote.environ["XDG_CACHE_HOME"].endswith("/it's")
            assert Path(f"/proc/{int(remote.pid)}/fd/3").readlink().name.startswith("socket:")
            assert len(os.listdir(f"/proc/{int(remote.pid)}/fd")) == 5  # with a pidfd of ours


async def test_too_much_noise() -> None:
    async with local_host(ForceCommand="yes; cat") as host:
        with pytest.raises(SSHError, match="more than 65536 bytes came that are not ours"):
            await host.ssh(local_process)


# ---- programs ----


async def test_programs_with_pipes() -> None:
    async with local_host() as host, reached(host) as remote:
        before = os.listdir(f"/proc/{int(remote.pid)}/fd")
        data = os.urandom(300_000)
        cat = Command("sh", ["sh", "-c", "cat; echo $HOME >&2; exit 3"])
        for _ in range(2):
            done = await remote.run(
                cat, input=data, capture_stdout=True, capture_stderr=True, check=False
            )
            assert done.exit_status == 3
            assert done.stdout == data
            assert done.stderr == f"{remote.environ['HOME']}\n".encode()
        async with await remote.spawn(cat, stdin=PIPE, stdout=PIPE) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            for word in (b"one", b"two"):  # nobody asks for it again and again
                await child.stdin.send_all(word)
                assert await child.stdout.receive_some(10) == word
            await child.stdin.aclose()
            with pytest.raises(CalledProcessError):
                await child.check()
        async with await remote.spawn(Command("sleep", ["sleep", "1000"]), stdout=PIPE) as child:
            pidfd = os.pidfd_open(int(child))
        assert ended(pidfd)
        assert child.pid.death_state is not None
        assert child.pid.death_state.killed_with() == SIG.KILL
        await remote.task.run_fd_table_gc()
        assert os.listdir(f"/proc/{int(remote.pid)}/fd") == before


async def test_programs_end_with_the_process_unless_they_are_detached() -> None:
    sleep = Command("sleep", ["sleep", "1000"])
    async with local_host() as host:
        async with reached(host) as remote:
            pidfds = [os.pidfd_open(int(await remote.spawn(sleep))) for _ in range(2)]
            detached = await remote.spawn(sleep)
            detached.detach()
        assert all(ended(pidfd) for pidfd in pidfds)
        assert (await detached.wait()).code is CLD.UNKNOWN
        os.kill(int(detached), signal.SIGKILL)  # it goes on


async def test_programs_of_a_machine_that_does_not_answer() -> None:
    async with local_host() as host:
        child, remote = await host.ssh(local_process)
        program = await remote.spawn(Command("sleep", ["sleep", "1000"]))
        os.kill(int(remote.pid), signal.SIGSTOP)
        await child.end()
        assert child.pid.death_state is not None
        with pytest.raises(rsyscall.SyscallHangup):
            await remote.task.getpid()
        for pid in (int(remote.pid), int(program)):
            os.kill(pid, signal.SIGKILL)


async def test_children_that_serve_cannot_be_reached() -> None:
    async with local_host() as host, reached(host) as remote:
        with pytest.raises(OSError, match="no socket to a child that serves us") as refused:
            await remote.clone()
        assert refused.value.errno == errno.EOPNOTSUPP


async def test_programs_that_are_waited_for_when_the_connection_ends() -> None:
    async with local_host() as host, reached(host) as remote:
        sleeping = Command("sleep", ["sleep", "1000"])
        async with await remote.spawn(sleeping) as program:
            os.kill(int(remote.pid), signal.SIGKILL)
            state = await program.wait()
            assert state.code is CLD.UNKNOWN
            os.kill(int(program), signal.SIGKILL)  # it is nobody's now


# ---- what can go wrong ----


async def test_no_connection() -> None:
    host = await make_ssh_host(
        local_process,
        lambda ssh: ssh.proxy_command(
            Command("/bin/sh", ["sh", "-c", "printf '\\033 no road 100%% there' >&2; exit 3"])
        ).args("-F", "/dev/null", "nowhere"),
    )
    with pytest.raises(
        SSHError, match=r"while connecting: ssh has ended: pid \d+ exited with status 255"
    ) as error:
        await host.ssh(local_process)
    exc = error.value
    assert exc.step == "connecting"
    assert exc.state is not None
    assert exc.state.exit_status == 255
    assert "\N{REPLACEMENT CHARACTER} no road 100% there" in exc.stderr
    assert exc.stderr in str(exc)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"UserKnownHostsFile": "/dev/null"}, "Host key verification failed"),
        ({"IdentityFile": "/dev/null"}, "Permission denied (publickey)"),
        ({"StrictHostKeyChecking": "whatever"}, "unsupported option"),
        ({"NoSuchOption": "x"}, "Bad configuration option: nosuchoption"),
    ],
)
async def test_ssh_refuses(options: dict[str, str], said: str) -> None:
    async with local_host() as host:
        if "IdentityFile" in options:  # of several identities each is tried

            def to_host(ssh: SSHCommand) -> SSHCommand:
                command = host.to_host(ssh)
                words = [
                    "IdentityFile=/dev/null" if str(word).startswith("IdentityFile=") else word
                    for word in command.arguments
                ]
                return SSHCommand(command.executable_path, words)

            wrong = SSHHost(host.executables, to_host)
        else:
            wrong = with_options(host, options)
        with pytest.raises(SSHError, match="while connecting: ") as error:
            await wrong.ssh(local_process)
        assert said in error.value.stderr
        assert error.value.state is not None
        assert error.value.state.exit_status == 255


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("no-such-command", 127, "no-such-command"),
        ("echo refused >&2; exit 1", 1, "refused"),
        ("kill -9 $$", 255, ""),
    ],
)
async def test_no_shell_there(command: str, status: int, said: str) -> None:
    async with local_host(ForceCommand=command) as host:
        with pytest.raises(SSHError, match="while connecting") as error:
            await host.ssh(local_process)
        assert error.value.state is not None
        assert error.value.state.exit_status == status
        assert said in error.value.stderr


def bootstrap(host: SSHHost, path: Path) -> SSHHost:
    return SSHHost(SSHExecutables(host.executables.base_ssh, path), host.to_host)


async def test_another_architecture(tmp_path: Path) -> None:
    stub = bytearray(rsyscall.stub_path().read_bytes())
    stub[18:20] = (183).to_bytes(2, "little")
    (tmp_path / "stub").write_bytes(stub)
    async with local_host() as host:
        what = "it is Linux on x86_64, and our stub is for Linux on aarch64.*bootstrap_path"
        with pytest.raises(SSHError, match=what):
            await bootstrap(host, tmp_path / "stub").ssh(local_process)
        (tmp_path / "stub").write_text("#!/bin/sh\n")
        with pytest.raises(ValueError, match=r"bootstrap_path: .*stub is no executable"):
            await bootstrap(host, tmp_path / "stub").ssh(local_process)
        with pytest.raises(FileNotFoundError):
            await bootstrap(host, tmp_path / "none").ssh(local_process)


STRANGER = """
#include <unistd.h>
int main(int argc, char **argv) {
    static const unsigned char frame[] = {%s};
    if (argc != 2 && read(3, argv[0], 1) == 1)
        return write(4, frame, sizeof frame) < 0;
    return 0;
}
"""


async def test_another_version_of_the_protocol(tmp_path: Path) -> None:
    async with local_host() as host:
        with pytest.raises(rsyscall.SyscallHangup, match="status 0") as hangup:
            await bootstrap(host, Path("/bin/true")).ssh(local_process)
        assert "while greeting the stub on" in hangup.value.__notes__[0]
        frame = event(Error(ErrorCode.VERSION, 0, "versions 7 to 9 are spoken here"))
        source = STRANGER % ",".join(map(str, frame))
        compiler = Command("gcc", ["gcc", "-x", "c", "-", "-o", tmp_path / "stranger"])
        await local_process.run(compiler, input=source.encode())
        with pytest.raises(rsyscall.ProtocolHangup, match="VERSION: versions 7 to 9") as refused:
            await bootstrap(host, tmp_path / "stranger").ssh(local_process)
        assert "while greeting the stub on" in refused.value.__notes__[0]


@pytest.mark.privileged
async def test_directories_where_nothing_can_be_executed() -> None:
    async with await local_process.clone(CLONE.NEWNS) as process:
        task = process.task
        await task.mount("", "/", "", MS.REC | MS.PRIVATE, "")
        await task.mount("none", "/mnt", "tmpfs", MS.NONE, "")
        process.environ["TMPDIR"] = "/mnt"
        async with local_host(process) as host:  # whose cache is there
            await task.mount("none", "/mnt", "", MS.REMOUNT | MS.BIND | MS.NOEXEC, "")
            child, remote = await host.ssh(process)
            async with child:
                assert remote.environ["XDG_CACHE_HOME"].startswith("/mnt/")
                assert await remote.task.getpid() == remote.pid
                exe = await remote.task.readlink("/proc/self/exe")
                assert exe.startswith("/tmp/rsyscall.")
                assert exe.endswith("/stub (deleted)")
            with pytest.raises(FileNotFoundError):
                await task.access(exe.removesuffix("/stub (deleted)"), OK.F)
            for directory in ("/tmp", "/dev/shm", "/var/tmp"):
                await task.mount("none", directory, "tmpfs", MS.NOEXEC, "")
            where = "nothing can be executed in any of /mnt/.*/rsyscall /tmp /dev/shm /var/tmp"
            with pytest.raises(SSHError, match=where):
                await host.ssh(process)
            for directory in ("/tmp", "/dev/shm", "/var/tmp"):
                opened = await task.open(directory, O.RDONLY)
                assert {entry.name for entry in await opened.getdents()} == {".", ".."}


async def test_no_ssh() -> None:
    async with await local_process.clone() as process:
        process.environ["PATH"] = "/nowhere"
        with pytest.raises(ExecutableNotFound, match="'ssh' was not found"):
            await make_ssh_host(process, lambda ssh: ssh.args("localhost"))


# ---- the end ----


@pytest.mark.parametrize("who", ["ssh", "sshd", "stub"])
async def test_all_who_wait_learn_of_the_end(who: str) -> None:
    async with local_host() as host:
        child, remote = await host.ssh(local_process)
        async with child:
            pid = int(remote.pid)
            status = Path(f"/proc/{pid}/stat").read_text()
            parent = int(status.rpartition(")")[2].split()[1])
            pidfd = os.pidfd_open(pid)
            pipe = await remote.task.pipe()
            errors: list[str] = []

            async def wait() -> None:
                with pytest.raises(rsyscall.SyscallHangup) as hangup:
                    await pipe.read.read(1)
                errors.append(str(hangup.value))

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                assert await remote.task.getpid() == remote.pid  # they have been sent
                os.kill({"ssh": int(child), "sshd": parent, "stub": pid}[who], signal.SIGKILL)
            assert len(set(errors)) == 1
            what = "was killed by SIGKILL" if who == "ssh" else "exited with status 255"
            assert f"ssh has ended: pid {int(child)} {what}" in errors[0]
            assert ended(pidfd)
            with pytest.raises(rsyscall.SyscallSendError):
                await remote.task.getpid()
        assert child.pid.death_state is not None


async def test_a_network_that_is_dead() -> None:
    """Nothing tells of that but that nothing comes."""
    async with local_host() as host:
        options = {"ServerAliveInterval": "1", "ServerAliveCountMax": "1"}
        child, remote = await with_options(host, options).ssh(local_process)
        async with child:
            status = Path(f"/proc/{int(remote.pid)}/stat").read_text()
            server = int(status.rpartition(")")[2].split()[1])
            os.kill(server, signal.SIGSTOP)
            try:
                with pytest.raises(rsyscall.SyscallHangup, match="not responding"):
                    await remote.task.getpid()
            finally:
                with contextlib.suppress(ProcessLookupError):  # ssh has ended, and perhaps it, too
                    os.kill(server, signal.SIGCONT)


async def test_closing_the_connection_ends_both() -> None:
    async with local_host() as host:
        child, remote = await host.ssh(local_process)
        pidfd = os.pidfd_open(int(remote.pid))
        await remote.task.sysif.close_interface()
        assert (await child.check()).clean()
        assert ended(pidfd)


async def test_what_is_printed_there_is_printed_nowhere() -> None:
    async with local_host() as host, reached(host) as remote:
        for fd in (remote.stdin, remote.stdout, remote.stderr):
            assert (await fd.fstat()).rdev == os.stat("/dev/null").st_rdev


async def test_what_ssh_prints_holds_nothing_up() -> None:
    """It is read while a process runs, however much that is; the end of it is kept."""
    async with local_host() as host:
        child, remote = await with_options(host, {"LogLevel": "DEBUG3"}).ssh(local_process)
        async with child:
            for _ in range(500):
                assert await remote.task.getpid() == remote.pid
            os.kill(int(remote.pid), signal.SIGKILL)
            with pytest.raises(rsyscall.SyscallHangup, match="debug1: Exit status") as hangup:
                await remote.task.getpid()
            assert len(str(hangup.value)) < 5000

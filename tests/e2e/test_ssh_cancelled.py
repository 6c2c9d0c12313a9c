"""What is left of ssh when it is cancelled: nothing, wherever that happens."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from conformance.cancellation import Injection, watch_the_doors
from e2e.servers import wait_for
from e2e.ssh import local_host, reached
from leaks import unchanged
from rsyscall import AsyncChildPid, Process, local_process
from rsyscall.path import Path as FarPath
from rsyscall.tasks.ssh import SSHHost, make_local_ssh, ssh_forward

#: More points than any of these has.
MOST = 200


@pytest.fixture(autouse=True)
def _doors(monkeypatch: pytest.MonkeyPatch) -> None:
    watch_the_doors(monkeypatch.setattr)


def processes_with(variable: str) -> list[int]:
    """Those with this in their environment: what a server of a test's own has started."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):  # it has ended
            if name.isdigit() and variable.encode() in Path(f"/proc/{name}/environ").read_bytes():
                found.append(int(name))
    return found


async def at_every_point(
    act: Callable[[], Awaitable[object]], undo: Callable[[object], Awaitable[None]]
) -> int:
    """Cancel it at each of its points in turn; returns how many there are."""
    await trio.testing.wait_all_tasks_blocked()
    for at in range(MOST):
        injection = Injection(at)
        with unchanged():
            result = await injection.run(act)
            if injection.scope.cancelled_caught:
                assert result is None
            else:
                await undo(result)
            await trio.testing.wait_all_tasks_blocked()  # what reads what ssh prints has ended
        if injection.points <= at:
            return at
    raise AssertionError(f"it has more than {MOST} points")


@pytest.mark.parametrize("sent", [True, False], ids=["to be sent", "there already"])
async def test_reaching_a_process(sent: bool) -> None:
    async with local_host() as host:
        async with reached(host) as remote:
            cache = Path(remote.environ["XDG_CACHE_HOME"])
        (stub,) = (cache / "rsyscall").iterdir()

        async def act() -> object:
            if sent:
                stub.unlink(missing_ok=True)
            return await host.ssh(local_process)

        async def undo(result: object) -> None:
            child, remote = cast("tuple[AsyncChildPid, Process]", result)
            async with child:
                await remote.task.getpid()

        assert await at_every_point(act, undo) > 10
        wait_for(lambda: not processes_with(str(cache)), "what was started has ended")
        assert set((cache / "rsyscall").iterdir()) <= {stub}


async def test_forwarding(tmp_path: Path) -> None:
    async with local_host() as host:

        async def act() -> object:
            (tmp_path / "near").unlink(missing_ok=True)
            return await ssh_forward(
                local_process, host.command(), FarPath(tmp_path / "near"), str(tmp_path / "far")
            )

        async def undo(result: object) -> None:
            async with cast("AsyncChildPid", result):
                pass

        assert await at_every_point(act, undo) > 10


async def test_making_a_host(tmp_path: Path) -> None:
    environ = local_process.environ
    before = environ.data
    environ.data = {**before, "TMPDIR": str(tmp_path)}
    try:

        async def act() -> object:
            return await make_local_ssh(local_process)

        async def undo(result: object) -> None:
            assert isinstance(result, SSHHost)
            assert [*tmp_path.iterdir()]
            await result.close()

        assert await at_every_point(act, undo) > 10
        assert not [*tmp_path.iterdir()]
    finally:
        environ.data = before

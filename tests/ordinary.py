"""Python as an ordinary user: a made-up one, who may read what it needs of this installation."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import rsyscall
from rsyscall import STDOUT, Command, CompletedProcess, local_process
from rsyscall.sched import CLONE
from rsyscall.sys.mount import MS

#: Nobody has these ids, and so they have no rights at all.
UID, GID = 54321, 54322


@dataclass
class OrdinaryUser:
    """Who can run Python programs.

    directory: where nobody else writes. checkout: where the checkout is seen.
    """

    process: rsyscall.Process
    python: Path
    directory: Path
    checkout: Path
    path: str

    async def run(self, *args: str | Path) -> CompletedProcess:
        """Run Python with these arguments; what it writes comes back, all in one."""
        env = {
            "PYTHONPATH": self.path,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "TMPDIR": str(self.directory),
            "HOME": str(self.directory),
            # Its own library, not the system's, where it is not linked into it.
            "LD_LIBRARY_PATH": str(self.python.parents[1] / "lib"),
            "PYTHONHOME": str(self.python.parents[1]),
        }
        command = Command(self.python, [self.python, *args])
        root = os.geteuid() == 0
        return await self.process.run(
            command,
            check=False,
            capture_stdout=True,
            stderr=STDOUT,
            cwd=self.directory,
            env=env,
            uid=UID if root else None,
            gid=GID if root else None,
            groups=[] if root else None,
        )


@contextlib.asynccontextmanager
async def ordinary_user() -> AsyncGenerator[OrdinaryUser]:
    """Root's own directories are closed to others: they are mounted where they are not."""
    checkout = Path(__file__).resolve().parents[1]
    base = Path(sys.base_prefix).resolve()
    python = Path(sys.executable).resolve()
    site = Path(sysconfig.get_path("purelib"))
    where = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        own = where / "own"
        own.mkdir(0o700)
        if os.geteuid() != 0:
            path = f"{site}:{checkout / 'tests'}"
            yield OrdinaryUser(local_process, python, own, checkout, path)
            return
        where.chmod(0o755)
        os.chown(own, UID, GID)
        mounts = {"python": base, "site": site, "checkout": checkout}
        for name in mounts:
            (where / name).mkdir()
        async with await local_process.clone(CLONE.NEWNS) as process:
            await process.task.mount("", "/", "", MS.REC | MS.PRIVATE, "")
            for name, source in mounts.items():
                await process.task.mount(source, where / name, "", MS.BIND, "")
            yield OrdinaryUser(
                process,
                where / "python" / python.relative_to(base),
                own,
                where / "checkout",
                f"{where / 'site'}:{where / 'checkout' / 'tests'}",
            )
    finally:
        shutil.rmtree(where)

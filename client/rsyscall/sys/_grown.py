"""What a mapping with MAP_GROWSDOWN has grown to."""

from __future__ import annotations

from rsyscall._checkpoint import checkpoint, shield
from rsyscall.far import Task
from rsyscall.near.sysif import In, Ret
from rsyscall.sys.syscall import SYS

__all__ = ["lowest"]

_AT_FDCWD, _O_CLOEXEC = -100, 0o2000000
_MAPS = In(b"/proc/self/maps\0")
_ROOM = 65536


async def lowest(task: Task, address: int) -> int:
    """Where the kernel's mapping begins in which `address` lies, if nothing else of ours is there.

    The address itself if the process has no /proc of its own. A checkpoint; if cancelled, nothing
    has happened.
    """
    await checkpoint()
    sysif, text = task.sysif, bytearray()
    with shield():
        try:
            fd = await sysif.syscall(SYS.openat, _AT_FDCWD, _MAPS, _O_CLOEXEC)
        except OSError:
            return address
        try:
            while data := (await sysif.call(SYS.read, (fd, Ret(_ROOM), _ROOM))).outs[0]:
                text += data
        except OSError:
            return address
        finally:
            await sysif.syscall(SYS.close, fd)
    for line in text.splitlines():
        start, end = (int(number, 16) for number in line.split(b" ", 1)[0].split(b"-"))
        if start <= address < end:
            below = task.address_space.regions.overlapping(start, address)
            return below[-1].end if below else start
    return address

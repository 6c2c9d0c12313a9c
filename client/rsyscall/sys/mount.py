"""`#include <sys/mount.h>`"""

from __future__ import annotations

import enum

import rsyscall.far
from rsyscall._raw import lib
from rsyscall.handle.borrow import PathArgument, PathOrAddress, path_in, perform_with
from rsyscall.near.typed import TypedCall, declares, nothing
from rsyscall.sys.syscall import SYS

__all__ = ["MS", "UMOUNT", "MountTask", "mount_call", "pivot_root_call", "umount_call"]


class MS(enum.IntFlag):
    """Flags of mount(2)."""

    NONE = 0
    RDONLY = lib.MS_RDONLY
    NOSUID = lib.MS_NOSUID
    NODEV = lib.MS_NODEV
    NOEXEC = lib.MS_NOEXEC
    SYNCHRONOUS = lib.MS_SYNCHRONOUS
    REMOUNT = lib.MS_REMOUNT
    MANDLOCK = lib.MS_MANDLOCK
    DIRSYNC = lib.MS_DIRSYNC
    NOATIME = lib.MS_NOATIME
    NODIRATIME = lib.MS_NODIRATIME
    BIND = lib.MS_BIND
    MOVE = lib.MS_MOVE
    REC = lib.MS_REC
    SILENT = lib.MS_SILENT
    UNBINDABLE = lib.MS_UNBINDABLE
    PRIVATE = lib.MS_PRIVATE
    SLAVE = lib.MS_SLAVE
    SHARED = lib.MS_SHARED
    RELATIME = lib.MS_RELATIME
    STRICTATIME = lib.MS_STRICTATIME
    LAZYTIME = lib.MS_LAZYTIME


class UMOUNT(enum.IntFlag):
    """Flags of umount2(2)."""

    NONE = 0
    FORCE = lib.MNT_FORCE
    DETACH = lib.MNT_DETACH
    EXPIRE = lib.MNT_EXPIRE
    NOFOLLOW = lib.UMOUNT_NOFOLLOW


@declares("mount")
def mount_call(
    source: PathOrAddress,
    target: PathOrAddress,
    filesystemtype: PathOrAddress,
    mountflags: MS,
    data: PathOrAddress,
) -> TypedCall[None]:
    """mount(2). Names, or their addresses."""
    args = (
        path_in(source, "source"),
        path_in(target, "target"),
        path_in(filesystemtype, "filesystemtype"),
        mountflags,
        path_in(data, "data"),
    )
    return TypedCall(SYS.mount, args, nothing)


@declares("umount")
def umount_call(target: PathOrAddress, flags: UMOUNT = UMOUNT.NONE) -> TypedCall[None]:
    """umount2(2). target: a name, or its address."""
    return TypedCall(SYS.umount2, (path_in(target, "target"), flags), nothing)


@declares("pivot_root")
def pivot_root_call(new_root: PathOrAddress, put_old: PathOrAddress) -> TypedCall[None]:
    """pivot_root(2). Names, or their addresses."""
    args = (path_in(new_root, "new_root"), path_in(put_old, "put_old"))
    return TypedCall(SYS.pivot_root, args, nothing)


class MountTask(rsyscall.far.Task):
    """A task that can mount file systems.

    A path that contains a NUL is a ValueError, a pointer that the task cannot use a
    UseAfterFreeError or AddressSpaceMismatchError; OSError as the call reports it. All are
    checkpoints; if cancelled, nothing has happened.
    """

    async def mount(
        self,
        source: PathArgument,
        target: PathArgument,
        filesystemtype: PathArgument,
        mountflags: MS,
        data: PathArgument,
    ) -> None:
        """Mount a file system, or change, move or copy a mount, as the flags say.

        data: the options of the file system. Empty strings where an argument does not matter.
        mount(2).
        """
        await perform_with(self, mount_call, source, target, filesystemtype, mountflags, data)

    async def umount(self, target: PathArgument, flags: UMOUNT = UMOUNT.NONE) -> None:
        """Unmount what is mounted there. umount(2)."""
        await perform_with(self, umount_call, target, flags)

    async def pivot_root(self, new_root: PathArgument, put_old: PathArgument) -> None:
        """Make the mount at new_root the root of the mount namespace, and put the old one there.

        A server inside the interpreter refuses (PermissionError). pivot_root(2).
        """
        await perform_with(self, pivot_root_call, new_root, put_old)

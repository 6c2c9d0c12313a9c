"""The typed methods of a batch that concern names, descriptors and mounts."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, cast

from rsyscall.batch._steps import DirfdArgument, FdArgument, PathArgument, Steps
from rsyscall.batch.step import Step, StepOptions
from rsyscall.fcntl import AT, F, O
from rsyscall.handle.fd import BaseFileDescriptor
from rsyscall.linux.dirent import DirentList, getdents_call
from rsyscall.near.sysif import SyscallArgument
from rsyscall.sys.ioctl import ioctl_call
from rsyscall.sys.mount import MS, UMOUNT, mount_call, pivot_root_call, umount_call
from rsyscall.unistd.cwd import chdir_call, chroot_call, fchdir_call, getcwd_call, sethostname_call
from rsyscall.unistd.dup import (
    disable_cloexec_call,
    dup2_call,
    dup3_call,
    dup_call,
    enable_cloexec_call,
    fcntl_call,
)
from rsyscall.unistd.names import (
    OK,
    RENAME,
    access_call,
    chmod_call,
    chown_call,
    faccessat_call,
    fchmod_call,
    fchown_call,
    link_call,
    linkat_call,
    mkdir_call,
    mkdirat_call,
    readlink_call,
    readlinkat_call,
    rename_call,
    renameat_call,
    rmdir_call,
    rmdirat_call,
    symlink_call,
    symlinkat_call,
    unlink_call,
    unlinkat_call,
)
from rsyscall.unistd.pipe import Pipe, pipe_call

if TYPE_CHECKING:
    from typing import Unpack

    from rsyscall.handle import FileDescriptor

__all__ = ["NameSteps"]


class NameSteps(Steps):
    """The calls by name. What they return is said by their namesakes of tasks and handles."""

    __slots__ = ()

    def _replaced(self, fd: FdArgument, *, kept: bool) -> SyscallArgument:
        """A descriptor that is to mean another file: a handle must be the only one."""
        number = self._fd(fd)
        if isinstance(fd, BaseFileDescriptor):
            fd.check_only()
            self.used.append(fd.check_only)  # once more when it is sent
            self.used.append(functools.partial(fd.replaced, kept=kept))
        return number

    def _kept(self, fd: FdArgument, kept: bool) -> SyscallArgument:
        """A descriptor that is to stay open on exec, or not."""
        number = self._fd(fd)
        if isinstance(fd, BaseFileDescriptor):
            self.used.append(functools.partial(fd.keep, kept))
        return number

    # ---- names of files ----

    def readlink(self, path: PathArgument, **options: Unpack[StepOptions]) -> Step[str]:
        """What a symbolic link says. readlink(2)."""
        return self.add(readlink_call(path), **options)

    def readlinkat(
        self, fd: FdArgument, path: PathArgument, **options: Unpack[StepOptions]
    ) -> Step[str]:
        """What a symbolic link says. readlinkat(2)."""
        return self.add(readlinkat_call(self._fd(fd), path), **options)

    def access(
        self, path: PathArgument, mode: int, flags: int = 0, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Whether a file may be used so. access(2)."""
        return self.add(access_call(path, mode, flags), **options)

    def faccessat(
        self,
        fd: FdArgument,
        ptr: PathArgument,
        mode: OK,
        flags: AT = AT.NONE,
        **options: Unpack[StepOptions],
    ) -> Step[None]:
        """Whether a file may be used so. faccessat(2)."""
        return self.add(faccessat_call(self._fd(fd), ptr, mode, flags), **options)

    def mkdir(
        self, path: PathArgument, mode: int = 0o755, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Make a directory. mkdir(2)."""
        return self.add(mkdir_call(path, mode), **options)

    def mkdirat(
        self, fd: FdArgument, path: PathArgument, mode: int = 0o755, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Make a directory. mkdirat(2)."""
        return self.add(mkdirat_call(self._fd(fd), path, mode), **options)

    def unlink(self, path: PathArgument, **options: Unpack[StepOptions]) -> Step[None]:
        """Remove a name. unlink(2)."""
        return self.add(unlink_call(path), **options)

    def unlinkat(
        self,
        fd: FdArgument,
        path: PathArgument,
        flags: AT = AT.NONE,
        **options: Unpack[StepOptions],
    ) -> Step[None]:
        """Remove a name. unlinkat(2)."""
        return self.add(unlinkat_call(self._fd(fd), path, flags), **options)

    def rmdir(self, path: PathArgument, **options: Unpack[StepOptions]) -> Step[None]:
        """Remove an empty directory. rmdir(2)."""
        return self.add(rmdir_call(path), **options)

    def rmdirat(
        self, fd: FdArgument, path: PathArgument, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Remove an empty directory. unlinkat(2)."""
        return self.add(rmdirat_call(self._fd(fd), path), **options)

    def link(
        self, oldpath: PathArgument, newpath: PathArgument, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Give a file another name. link(2)."""
        return self.add(link_call(oldpath, newpath), **options)

    def linkat(
        self,
        olddirfd: DirfdArgument,
        oldpath: PathArgument,
        newdirfd: DirfdArgument,
        newpath: PathArgument,
        flags: AT = AT.NONE,
        **options: Unpack[StepOptions],
    ) -> Step[None]:
        """Give a file another name. linkat(2)."""
        return self.add(
            linkat_call(self._dirfd(olddirfd), oldpath, self._dirfd(newdirfd), newpath, flags),
            **options,
        )

    def rename(
        self, oldpath: PathArgument, newpath: PathArgument, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Move a file. rename(2)."""
        return self.add(rename_call(oldpath, newpath), **options)

    def renameat(
        self,
        fd: FdArgument,
        oldpath: PathArgument,
        newdirfd: DirfdArgument,
        newpath: PathArgument,
        flags: RENAME = RENAME.NONE,
        **options: Unpack[StepOptions],
    ) -> Step[None]:
        """Move a file. rename(2)."""
        return self.add(
            renameat_call(self._fd(fd), oldpath, self._dirfd(newdirfd), newpath, flags), **options
        )

    def symlink(
        self, target: PathArgument, linkpath: PathArgument, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Make a symbolic link. symlink(2)."""
        return self.add(symlink_call(target, linkpath), **options)

    def symlinkat(
        self,
        fd: FdArgument,
        target: PathArgument,
        linkpath: PathArgument,
        **options: Unpack[StepOptions],
    ) -> Step[None]:
        """Make a symbolic link. symlinkat(2)."""
        return self.add(symlinkat_call(self._fd(fd), target, linkpath), **options)

    def chmod(self, path: PathArgument, mode: int, **options: Unpack[StepOptions]) -> Step[None]:
        """Change permission bits. chmod(2)."""
        return self.add(chmod_call(path, mode), **options)

    def fchmod(self, fd: FdArgument, mode: int, **options: Unpack[StepOptions]) -> Step[None]:
        """Change permission bits. fchmod(2)."""
        return self.add(fchmod_call(self._fd(fd), mode), **options)

    def chown(
        self,
        path: PathArgument,
        owner: int,
        group: int,
        flags: AT = AT.NONE,
        **options: Unpack[StepOptions],
    ) -> Step[None]:
        """Change owner and group. ValueError for what is no id. chown(2)."""
        return self.add(chown_call(path, owner, group, flags), **options)

    def fchown(
        self, fd: FdArgument, owner: int, group: int, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Change owner and group. ValueError for what is no id. fchown(2)."""
        return self.add(fchown_call(self._fd(fd), owner, group), **options)

    # ---- descriptors ----

    def fcntl(
        self, fd: FdArgument, cmd: F, arg: int | None = None, **options: Unpack[StepOptions]
    ) -> Step[int]:
        """Ask for, or change, a flag or a size. fcntl(2)."""
        return self.add(fcntl_call(self._fd(fd), cmd, arg), **options)

    def disable_cloexec(self, fd: FdArgument, **options: Unpack[StepOptions]) -> Step[None]:
        """Let it stay open on exec. fcntl(2)."""
        return self.add(disable_cloexec_call(self._kept(fd, True)), **options)

    def enable_cloexec(self, fd: FdArgument, **options: Unpack[StepOptions]) -> Step[None]:
        """Have it closed on exec. fcntl(2)."""
        return self.add(enable_cloexec_call(self._kept(fd, False)), **options)

    def dup(self, fd: FdArgument, **options: Unpack[StepOptions]) -> Step[FileDescriptor]:
        """Another descriptor of the same open file. fcntl(2)."""
        return cast("Step[FileDescriptor]", self.add(dup_call(self._fd(fd)), **options))

    def dup3(
        self, fd: FdArgument, newfd: FdArgument, flags: int, **options: Unpack[StepOptions]
    ) -> Step[int]:
        """Have newfd, by its number, mean the same open file. dup(2)."""
        new = self._replaced(newfd, kept=not int(flags) & O.CLOEXEC)
        return self.add(dup3_call(self._fd(fd), new, int(flags)), **options)

    def dup2(self, fd: FdArgument, newfd: FdArgument, **options: Unpack[StepOptions]) -> Step[int]:
        """dup3 without flags; not for a descriptor and itself. dup(2)."""
        return self.add(dup2_call(self._fd(fd), self._replaced(newfd, kept=True)), **options)

    def ioctl(
        self, fd: FdArgument, request: int, arg: SyscallArgument = 0, **options: Unpack[StepOptions]
    ) -> Step[int]:
        """Ask the device for something special, with a plain argument. ioctl(2)."""
        return self.add(ioctl_call(self._fd(fd), request, arg), **options)

    def pipe(self, flags: O = O.NONE, **options: Unpack[StepOptions]) -> Step[Pipe]:
        """Make a pipe; int_at(0) and int_at(4) are its ends, for later steps. pipe(2)."""
        return self.add(pipe_call(flags), **options)

    # ---- mounts and directories ----

    def mount(
        self,
        source: PathArgument,
        target: PathArgument,
        filesystemtype: PathArgument,
        mountflags: MS,
        data: PathArgument,
        **options: Unpack[StepOptions],
    ) -> Step[None]:
        """Mount a file system, or change a mount. mount(2)."""
        return self.add(mount_call(source, target, filesystemtype, mountflags, data), **options)

    def umount(
        self, target: PathArgument, flags: UMOUNT = UMOUNT.NONE, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Unmount. umount(2)."""
        return self.add(umount_call(target, flags), **options)

    def pivot_root(
        self, new_root: PathArgument, put_old: PathArgument, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """Make a mount the root, and put the old one below it. pivot_root(2)."""
        return self.add(pivot_root_call(new_root, put_old), **options)

    def chdir(self, path: PathArgument, **options: Unpack[StepOptions]) -> Step[None]:
        """Change the working directory. chdir(2)."""
        return self.add(chdir_call(path), **options)

    def fchdir(self, fd: FdArgument, **options: Unpack[StepOptions]) -> Step[None]:
        """Change the working directory. chdir(2)."""
        return self.add(fchdir_call(self._fd(fd)), **options)

    def chroot(self, path: PathArgument, **options: Unpack[StepOptions]) -> Step[None]:
        """Change the root directory. chroot(2)."""
        return self.add(chroot_call(path), **options)

    def getcwd(self, **options: Unpack[StepOptions]) -> Step[str]:
        """The working directory. getcwd(2)."""
        return self.add(getcwd_call(), **options)

    def sethostname(self, name: str | bytes, **options: Unpack[StepOptions]) -> Step[None]:
        """Change the host name. sethostname(2)."""
        return self.add(sethostname_call(name), **options)

    def getdents(
        self, fd: FdArgument, dirp: int = 32768, **options: Unpack[StepOptions]
    ) -> Step[DirentList]:
        """The next names of a directory, into so many bytes. getdents64(2)."""
        return self.add(getdents_call(self._fd(fd), dirp), **options)

"""`#include <sched.h>`"""

from __future__ import annotations

import enum

from rsyscall._raw import lib

__all__ = ["CLONE"]


class CLONE(enum.IntFlag):
    """What a child shares with its parent, or has anew; what unshare(2) and setns(2) move."""

    NONE = 0
    VM = lib.CLONE_VM
    FS = lib.CLONE_FS
    FILES = lib.CLONE_FILES
    SIGHAND = lib.CLONE_SIGHAND
    VFORK = lib.CLONE_VFORK
    PARENT = lib.CLONE_PARENT
    NEWNS = lib.CLONE_NEWNS
    SYSVSEM = lib.CLONE_SYSVSEM
    CHILD_CLEARTID = lib.CLONE_CHILD_CLEARTID
    NEWCGROUP = lib.CLONE_NEWCGROUP
    NEWUTS = lib.CLONE_NEWUTS
    NEWIPC = lib.CLONE_NEWIPC
    NEWUSER = lib.CLONE_NEWUSER
    NEWPID = lib.CLONE_NEWPID
    NEWNET = lib.CLONE_NEWNET
    NEWTIME = lib.CLONE_NEWTIME
    IO = lib.CLONE_IO

"""`#include <sys/syscall.h>`: the numbers of the system calls."""

from rsyscall.sys._sys_x86_64 import SYS

__all__ = ["SYS"]

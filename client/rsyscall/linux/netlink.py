"""`#include <linux/netlink.h>`"""

from __future__ import annotations

import enum
from typing import Self

from rsyscall.abi import ABI, Layout
from rsyscall.struct import check_size
from rsyscall.sys._sockaddr import AF, Sockaddr

__all__ = ["NETLINK", "SockaddrNl"]

#: Behind the family.
_REST = Layout("struct sockaddr_nl", "packed u16 _, u32 pid, u32 groups")


class NETLINK(enum.IntEnum):
    """Protocols of netlink sockets; see netlink(7)."""

    ROUTE = 0
    USERSOCK = 2
    SOCK_DIAG = 4
    XFRM = 6
    SELINUX = 7
    AUDIT = 9
    CONNECTOR = 11
    NETFILTER = 12
    KOBJECT_UEVENT = 15
    GENERIC = 16
    CRYPTO = 21


class SockaddrNl(Sockaddr):
    """The address of a netlink socket.

    pid: which one; 0 is the kernel's, and for bind(2): one that the kernel picks. groups: the
    multicast groups, as a set of bits; see rsyscall.linux.rtnetlink.RTMGRP.
    """

    __slots__ = ("groups", "pid")
    family: int = AF.NETLINK

    def __init__(self, pid: int, groups: int = 0) -> None:
        """ValueError for what is no number of 32 bits."""
        for name, value in (("pid", pid), ("groups", groups)):
            if not 0 <= value < 2**32:
                raise ValueError(f"{name}: {value} is not from 0 to {2**32 - 1}")
        self.pid: int = pid
        self.groups: int = groups

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """The address in the memory of a task with that ABI."""
        return self._head(abi) + _REST.pack(abi, self.pid, int(self.groups))

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """From an address in such memory. ValueError: another family, or too few bytes."""
        check_size(data, cls.sizeof(), "struct sockaddr_nl")
        cls._check_head(data, abi)
        return cls(*_REST.unpack(abi, data[2:]))

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes."""
        return 2 + _REST.size()

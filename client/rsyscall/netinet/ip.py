"""`#include <netinet/ip.h>`"""

from __future__ import annotations

import enum

from rsyscall._raw import lib
from rsyscall.netinet.in_ import IPPROTO, SockaddrIn

__all__ = ["IP", "IPPROTO", "SockaddrIn"]


class IP(enum.IntEnum):
    """Options of IPv4 sockets, and a value."""

    RECVERR = lib.IP_RECVERR
    PKTINFO = lib.IP_PKTINFO
    MULTICAST_TTL = lib.IP_MULTICAST_TTL
    MTU_DISCOVER = lib.IP_MTU_DISCOVER
    PMTUDISC_DONT = lib.IP_PMTUDISC_DONT

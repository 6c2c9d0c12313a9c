"""`#include <linux/rtnetlink.h>`"""

from __future__ import annotations

import enum

__all__ = ["RTMGRP"]


class RTMGRP(enum.IntFlag):
    """Multicast groups of NETLINK.ROUTE, for SockaddrNl; see rtnetlink(7)."""

    NONE = 0
    LINK = 1 << 0
    NOTIFY = 1 << 1
    NEIGH = 1 << 2
    TC = 1 << 3
    IPV4_IFADDR = 1 << 4
    IPV4_MROUTE = 1 << 5
    IPV4_ROUTE = 1 << 6
    IPV4_RULE = 1 << 7
    IPV6_IFADDR = 1 << 8
    IPV6_MROUTE = 1 << 9
    IPV6_ROUTE = 1 << 10
    IPV6_IFINFO = 1 << 11
    DECnet_IFADDR = 1 << 12
    NOP2 = 1 << 13
    DECnet_ROUTE = 1 << 14
    DECnet_RULE = 1 << 15
    NOP4 = 1 << 16
    IPV6_PREFIX = 1 << 17
    IPV6_RULE = 1 << 18
    MPLS_ROUTE = 1 << 26

"""`#include <netinet/tcp.h>`"""

from __future__ import annotations

import enum

from rsyscall._raw import lib

__all__ = ["TCP"]


class TCP(enum.IntEnum):
    """Options of TCP sockets."""

    NODELAY = lib.TCP_NODELAY
    MAXSEG = lib.TCP_MAXSEG
    CORK = lib.TCP_CORK
    KEEPIDLE = lib.TCP_KEEPIDLE
    KEEPINTVL = lib.TCP_KEEPINTVL
    KEEPCNT = lib.TCP_KEEPCNT
    SYNCNT = lib.TCP_SYNCNT
    LINGER2 = lib.TCP_LINGER2
    DEFER_ACCEPT = lib.TCP_DEFER_ACCEPT
    WINDOW_CLAMP = lib.TCP_WINDOW_CLAMP
    INFO = lib.TCP_INFO
    QUICKACK = lib.TCP_QUICKACK
    CONGESTION = lib.TCP_CONGESTION
    USER_TIMEOUT = lib.TCP_USER_TIMEOUT
    FASTOPEN = lib.TCP_FASTOPEN

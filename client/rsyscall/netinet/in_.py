"""`#include <netinet/in.h>`"""

from __future__ import annotations

import enum
import ipaddress
import struct
from typing import Self

from rsyscall._raw import lib
from rsyscall.abi import ABI, Layout
from rsyscall.struct import check_size
from rsyscall.sys.socket import AF, Sockaddr

__all__ = ["IPPROTO", "SockaddrIn", "SockaddrIn6"]

_PORT = struct.Struct("!H")
_REST6 = struct.Struct("!HI16s")
_SCOPE = Layout("struct sockaddr_in6", "u32 scope_id")


class IPPROTO(enum.IntEnum):
    """Protocols over IP, and levels of their options."""

    IP = lib.IPPROTO_IP
    TCP = lib.IPPROTO_TCP
    UDP = lib.IPPROTO_UDP
    IPV6 = lib.IPPROTO_IPV6
    ICMPV6 = lib.IPPROTO_ICMPV6


def _check_port(port: int) -> int:
    if not 0 <= port < 2**16:
        raise ValueError(f"port: {port} is not from 0 to 65535")
    return port


class SockaddrIn(Sockaddr):
    """An IPv4 address and a port.

    addr: also as a number, or as text with dots.
    """

    __slots__ = ("addr", "port")
    family: int = AF.INET

    def __init__(self, port: int, addr: str | int | ipaddress.IPv4Address) -> None:
        """ValueError for what is no port or address."""
        self.port: int = _check_port(port)
        self.addr: ipaddress.IPv4Address = ipaddress.IPv4Address(addr)

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """The address in the memory of a task with that ABI."""
        return self._head(abi) + _PORT.pack(self.port) + self.addr.packed + bytes(8)

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """From an address in such memory. ValueError: another family, or too few bytes."""
        check_size(data, cls.sizeof(), "struct sockaddr_in")
        cls._check_head(data, abi)
        return cls(_PORT.unpack_from(data, 2)[0], ipaddress.IPv4Address(data[4:8]))

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes."""
        return 16

    def addr_as_string(self) -> str:
        """The address, with dots."""
        return str(self.addr)


class SockaddrIn6(Sockaddr):
    """An IPv6 address and a port.

    addr: also as a number, or as text with colons. scope_id: the interface that it is meant for.
    """

    __slots__ = ("addr", "flowinfo", "port", "scope_id")
    family: int = AF.INET6

    def __init__(
        self,
        port: int,
        addr: str | int | ipaddress.IPv6Address,
        flowinfo: int = 0,
        scope_id: int = 0,
    ) -> None:
        """ValueError for what is no port or address."""
        self.port: int = _check_port(port)
        self.addr: ipaddress.IPv6Address = ipaddress.IPv6Address(addr)
        for name, value in (("flowinfo", flowinfo), ("scope_id", scope_id)):
            if not 0 <= value < 2**32:
                raise ValueError(f"{name}: {value} is no unsigned number of 32 bits")
        self.flowinfo: int = flowinfo
        self.scope_id: int = scope_id

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """The address in the memory of a task with that ABI."""
        rest = _REST6.pack(self.port, self.flowinfo, self.addr.packed)
        return self._head(abi) + rest + _SCOPE.pack(abi, self.scope_id)

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """From an address in such memory. ValueError: another family, or too few bytes."""
        check_size(data, cls.sizeof(), "struct sockaddr_in6")
        cls._check_head(data, abi)
        port, flowinfo, addr = _REST6.unpack_from(data, 2)
        (scope_id,) = _SCOPE.unpack(abi, data[24:])
        return cls(port, ipaddress.IPv6Address(addr), flowinfo, scope_id)

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes."""
        return 28

    def addr_as_string(self) -> str:
        """The address, with colons."""
        return str(self.addr)

"""`#include <net/if.h>`"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, overload

from rsyscall.abi import ABI, NATIVE
from rsyscall.netinet.in_ import SockaddrIn
from rsyscall.struct import Portable, Struct, check_size, string_from_null_terminated_bytes

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "IFF",
    "SIOC",
    "TUNSETIFF",
    "AddressField",
    "CStringField",
    "IFFField",
    "Ifreq",
    "IntField",
]

#: The request to /dev/net/tun that makes an interface; see Ifreq.
TUNSETIFF: int = 0x400454CA
_NAME, _VALUE = 16, 24


class SIOC(enum.IntEnum):
    """Requests to a socket that concern network interfaces; see netdevice(7)."""

    GIFNAME = 0x8910
    SIFLINK = 0x8911
    GIFCONF = 0x8912
    GIFFLAGS = 0x8913
    SIFFLAGS = 0x8914
    GIFADDR = 0x8915
    SIFADDR = 0x8916
    GIFDSTADDR = 0x8917
    SIFDSTADDR = 0x8918
    GIFBRDADDR = 0x8919
    SIFBRDADDR = 0x891A
    GIFNETMASK = 0x891B
    SIFNETMASK = 0x891C
    GIFMETRIC = 0x891D
    SIFMETRIC = 0x891E
    GIFMEM = 0x891F
    SIFMEM = 0x8920
    GIFMTU = 0x8921
    SIFMTU = 0x8922
    SIFNAME = 0x8923
    SIFHWADDR = 0x8924
    GIFENCAP = 0x8925
    SIFENCAP = 0x8926
    GIFHWADDR = 0x8927
    GIFSLAVE = 0x8929
    SIFSLAVE = 0x8930
    ADDMULTI = 0x8931
    DELMULTI = 0x8932
    GIFINDEX = 0x8933
    SIFPFLAGS = 0x8934
    GIFPFLAGS = 0x8935
    DIFADDR = 0x8936
    SIFHWBROADCAST = 0x8937
    GIFCOUNT = 0x8938


class IFF(enum.IntFlag):
    """Flags of an interface; TUN, TAP and NO_PI are for TUNSETIFF. See netdevice(7)."""

    NONE = 0
    UP = 1 << 0
    BROADCAST = 1 << 1
    DEBUG = 1 << 2
    LOOPBACK = 1 << 3
    POINTOPOINT = 1 << 4
    NOTRAILERS = 1 << 5
    RUNNING = 1 << 6
    NOARP = 1 << 7
    PROMISC = 1 << 8
    ALLMULTI = 1 << 9
    MASTER = 1 << 10
    SLAVE = 1 << 11
    MULTICAST = 1 << 12
    PORTSEL = 1 << 13
    AUTOMEDIA = 1 << 14
    DYNAMIC = 1 << 15
    # The same numbers, and so other names of those above.
    TUN = 1 << 0
    TAP = 1 << 1
    NO_PI = 1 << 12


class CStringField:
    """The name in a struct ifreq."""

    @overload
    def __get__(self, instance: None, owner: type[Ifreq]) -> Self: ...
    @overload
    def __get__(self, instance: Ifreq, owner: type[Ifreq]) -> str: ...

    def __get__(self, instance: Ifreq | None, owner: type[Ifreq]) -> str | Self:
        """What it is."""
        return self if instance is None else string_from_null_terminated_bytes(instance.raw_name)

    def __set__(self, instance: Ifreq, value: str) -> None:
        """ValueError for what is no name of an interface: over 15 bytes, or with a NUL."""
        data = value.encode()
        if len(data) >= _NAME or b"\0" in data:
            raise ValueError(f"name: {value!r} has a NUL or more than {_NAME - 1} bytes")
        instance.raw_name = data.ljust(_NAME, b"\0")


class IntField:
    """A number in a struct ifreq, such as the index of the interface."""

    @overload
    def __get__(self, instance: None, owner: type[Ifreq]) -> Self: ...
    @overload
    def __get__(self, instance: Ifreq, owner: type[Ifreq]) -> int: ...

    def __get__(self, instance: Ifreq | None, owner: type[Ifreq]) -> int | Self:
        """What it is, if it is that which the structure holds."""
        return self if instance is None else instance.get_number("i")

    def __set__(self, instance: Ifreq, value: int) -> None:
        """ValueError for what does not fit."""
        instance.set_number("i", value)


class IFFField:
    """The flags in a struct ifreq."""

    @overload
    def __get__(self, instance: None, owner: type[Ifreq]) -> Self: ...
    @overload
    def __get__(self, instance: Ifreq, owner: type[Ifreq]) -> IFF: ...

    def __get__(self, instance: Ifreq | None, owner: type[Ifreq]) -> IFF | Self:
        """What they are, if it is those that the structure holds."""
        return self if instance is None else IFF(instance.get_number("H"))

    def __set__(self, instance: Ifreq, value: int) -> None:
        """ValueError for what does not fit."""
        instance.set_number("H", value)


class AddressField:
    """An IPv4 address in a struct ifreq."""

    @overload
    def __get__(self, instance: None, owner: type[Ifreq]) -> Self: ...
    @overload
    def __get__(self, instance: Ifreq, owner: type[Ifreq]) -> SockaddrIn: ...

    def __get__(self, instance: Ifreq | None, owner: type[Ifreq]) -> SockaddrIn | Self:
        """What it is. ValueError if the structure holds none."""
        if instance is None:
            return self
        return SockaddrIn.from_bytes_for(instance.raw_value, instance.abi)

    def __set__(self, instance: Ifreq, value: SockaddrIn) -> None:
        """Hold it instead of what was there."""
        instance.raw_value = value.to_bytes_for(instance.abi).ljust(_VALUE, b"\0")


class Ifreq(Portable, Struct):
    """struct ifreq: an interface by its name, and one thing about it.

    Which that is depends on the request: addr, ifindex and flags are in the same place, so that one
    replaces the others. raw_name, raw_value: what is in memory, as a task with that abi has it.
    """

    name: CStringField = CStringField()
    addr: AddressField = AddressField()
    ifindex: IntField = IntField()
    flags: IFFField = IFFField()

    def __init__(
        self,
        name: str = "",
        addr: SockaddrIn | None = None,
        flags: IFF | None = None,
        ifindex: int | None = None,
        *,
        abi: ABI = NATIVE,
    ) -> None:
        """ValueError for what is no name or does not fit, or for more than one of the others.

        abi: of the task that it is for.
        """
        self.abi: ABI = abi
        self.raw_name: bytes = bytes(_NAME)
        self.raw_value: bytes = bytes(_VALUE)
        if sum(value is not None for value in (addr, flags, ifindex)) > 1:
            raise ValueError("addr, flags, ifindex: only one of them can be there")
        self.name = name
        if addr is not None:
            self.addr = addr
        if flags is not None:
            self.flags = flags
        if ifindex is not None:
            self.ifindex = ifindex

    def get_number(self, code: str) -> int:
        """What the structure holds, as a number; code: as the struct module has it."""
        number: int = struct.unpack_from(self.abi.order + code, self.raw_value)[0]
        return number

    def set_number(self, code: str, value: int) -> None:
        """Hold a number. ValueError for what does not fit."""
        try:
            data = struct.pack(self.abi.order + code, value)
        except struct.error as exc:
            raise ValueError(f"value: {value} does not fit into a struct ifreq") from exc
        self.raw_value = data.ljust(_VALUE, b"\0")

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """The structure in such memory. ValueError if it was made for another byte order."""
        if abi.order != self.abi.order:
            raise ValueError(f"abi: {abi}, and the structure was made for {self.abi}")
        return (self.raw_name + self.raw_value)[: self.sizeof_for(abi)]

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """From the structure in such memory. ValueError if there are too few bytes."""
        size = cls.sizeof_for(abi)
        check_size(data, size, "struct ifreq")
        ifreq = cls(abi=abi)
        ifreq.raw_name = data[:_NAME]
        ifreq.raw_value = data[_NAME:size].ljust(_VALUE, b"\0")
        return ifreq

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes."""
        return cls.sizeof_for(NATIVE)

    @classmethod
    def sizeof_for(cls, abi: ABI, /) -> int:
        """The same in the memory of a task with that ABI."""
        return 40 if abi.long == 8 else 32

    def __repr__(self) -> str:
        """For people."""
        return f"Ifreq({self.name!r}, {self.raw_value.hex()})"

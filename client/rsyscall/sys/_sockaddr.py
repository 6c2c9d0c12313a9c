"""`#include <sys/socket.h>`: addresses."""

from __future__ import annotations

import enum
import importlib
from typing import ClassVar, Self

from rsyscall._raw import lib
from rsyscall.abi import ABI, Layout
from rsyscall.struct import Portable, Record, Struct

__all__ = ["AF", "Sockaddr", "SockaddrStorage"]

_FAMILY = Layout("struct sockaddr", "u16 family")
_FAMILY_SIZE = 2


class AF(enum.IntEnum):
    """Families of addresses."""

    UNIX = lib.AF_UNIX
    INET = lib.AF_INET
    INET6 = lib.AF_INET6
    NETLINK = lib.AF_NETLINK


class Sockaddr(Record, Portable, Struct):
    """The address of a socket; each family has a class of its own."""

    __slots__ = ()
    #: The family: of a class, or of an address of any.
    family: int
    _families: ClassVar[dict[int, type[Sockaddr]]] = {}

    def __init_subclass__(cls) -> None:
        """Have addresses of its family parsed as that class."""
        if "family" in cls.__dict__ and isinstance(cls.family, AF):
            Sockaddr._families.setdefault(cls.family, cls)

    @classmethod
    def check_family(cls, family: AF) -> None:
        """ValueError unless addresses of this class have that family."""
        if cls.family != family:
            raise ValueError(f"family: {family!r}, and a {cls.__name__} has {cls.family!r}")

    def _head(self, abi: ABI) -> bytes:
        return _FAMILY.pack(abi, self.family)

    @classmethod
    def _check_head(cls, data: bytes, abi: ABI) -> None:
        (family,) = _FAMILY.unpack(abi, data)
        if family != cls.family:
            raise ValueError(f"data: an address of family {family}, {cls.__name__} has another")

    def parse(self) -> Sockaddr:
        """As the class of its family; itself, if it is that already or there is none."""
        return self


class SockaddrStorage(Sockaddr):
    """An address of any family.

    family: its number, as AF if that has a name. data: what comes behind.
    """

    __slots__ = ("data", "family")

    def __init__(self, family: int, data: bytes) -> None:
        """ValueError for more than 126 bytes."""
        if len(data) > self.sizeof() - _FAMILY_SIZE:
            raise ValueError(f"data: {len(data)} bytes, an address has at most 126")
        self.family: int = AF(family) if family in _KNOWN else family
        self.data: bytes = data

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """The address in the memory of a task with that ABI."""
        return self._head(abi) + self.data

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """From an address in such memory. ValueError if there are too few bytes."""
        return cls(_FAMILY.unpack(abi, data)[0], data[_FAMILY_SIZE : cls.sizeof()])

    @classmethod
    def sizeof(cls) -> int:
        """The size of the longest one in bytes."""
        return 128

    def parse(self) -> Sockaddr:
        """As the class of its family, if there is one. ValueError if it is not well-formed."""
        if self.family in _MODULES:
            importlib.import_module(_MODULES[self.family])
        known = Sockaddr._families.get(self.family)
        return self if known is None else known.from_bytes(self.to_bytes())

    def parsed(self) -> Sockaddr:
        """parse(), or itself where it is not well-formed: of what has come with a descriptor."""
        try:
            return self.parse()
        except ValueError:
            return self


_KNOWN = {int(family) for family in AF}
#: Where the classes of families are, which are imported when there is an address to be parsed.
_MODULES = {
    int(AF.UNIX): "rsyscall.sys.un",
    int(AF.INET): "rsyscall.netinet.in_",
    int(AF.INET6): "rsyscall.netinet.in_",
    int(AF.NETLINK): "rsyscall.linux.netlink",
}

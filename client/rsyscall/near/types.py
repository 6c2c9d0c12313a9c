"""Identifiers that mean something inside one namespace: file descriptors, addresses, pids.

They are plain numbers with a type. Which namespace they belong to is the handle's business
(`rsyscall.handle`, `rsyscall.far`). Each converts with `int()`.
"""

from __future__ import annotations

from typing import TypeAlias

from rsyscall_protocol._record import record

__all__ = [
    "Address",
    "FileDescriptor",
    "MemoryMapping",
    "Pgid",
    "Pid",
    "Process",
    "WatchDescriptor",
]


@record
class FileDescriptor:
    """The number of a file descriptor in some table."""

    number: int

    def __int__(self) -> int:
        """The number."""
        return self.number

    def __str__(self) -> str:
        """For people."""
        return f"fd {self.number}"


@record
class WatchDescriptor:
    """The number of a watch in some inotify instance."""

    number: int

    def __int__(self) -> int:
        """The number."""
        return self.number


@record
class Address:
    """An address in some address space."""

    address: int

    def __int__(self) -> int:
        """The address."""
        return self.address

    def __add__(self, other: int) -> Address:
        """The address `other` bytes further."""
        return Address(self.address + other)

    def __str__(self) -> str:
        """In hexadecimal."""
        return f"{self.address:#x}"


@record
class MemoryMapping:
    """A range of pages in some address space: address and length in bytes, size of a page."""

    address: int
    length: int
    page_size: int

    def as_address(self) -> Address:
        """Where it begins."""
        return Address(self.address)

    @property
    def pages(self) -> int:
        """How many pages it has."""
        return self.length // self.page_size

    def __getitem__(self, key: slice | int) -> MemoryMapping:
        """Some of its pages: a slice with step 1, or one page by its index.

        IndexError if there is no such page; ValueError for another step.
        """
        if isinstance(key, int):
            index = key + self.pages if key < 0 else key
            if not 0 <= index < self.pages:
                raise IndexError(f"page {key} of a mapping of {self.pages}")
            start, stop = index, index + 1
        else:
            start, stop, step = key.indices(self.pages)
            if step != 1:
                raise ValueError(f"step={step}: pages of a mapping are sliced with step 1 only")
            stop = max(start, stop)
        size = self.page_size
        return MemoryMapping(self.address + start * size, (stop - start) * size, size)

    def __str__(self) -> str:
        """The range as /proc/PID/maps shows it, and the size of a page unless it is 4096."""
        pages = "" if self.page_size == 4096 else f", pages of {self.page_size}"
        return f"{self.address:x}-{self.address + self.length:x}{pages}"


@record
class Pid:
    """A process (or thread) id in some pid namespace."""

    id: int

    def __int__(self) -> int:
        """The id."""
        return self.id

    def __str__(self) -> str:
        """For people."""
        return f"pid {self.id}"


@record
class Pgid:
    """A process group id in some pid namespace."""

    id: int

    def __int__(self) -> int:
        """The id."""
        return self.id


#: A process is named by its pid.
Process: TypeAlias = Pid

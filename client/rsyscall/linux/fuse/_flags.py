"""The flags of INIT, in two numbers."""

from __future__ import annotations

from rsyscall.linux.fuse._constants import FUSE_INIT

__all__ = ["join_flags", "split_flags"]


def split_flags(flags: FUSE_INIT) -> tuple[int, int]:
    """As the structures have them. ValueError for the second number without INIT_EXT."""
    low, high = int(flags) & 0xFFFFFFFF, int(flags) >> 32
    if high and not flags & FUSE_INIT.INIT_EXT:
        raise ValueError(f"flags: {flags!r} has more than 32 bits, and not INIT_EXT")
    return low, high


def join_flags(low: int, high: int) -> FUSE_INIT:
    """From what the structures have; the second number only counts with INIT_EXT."""
    return FUSE_INIT(low | (high << 32 if low & FUSE_INIT.INIT_EXT else 0))

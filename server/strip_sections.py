"""Cut the section headers off an executable: the kernel needs the program headers only.

GNU objcopy can do so (--strip-section-headers) since binutils 2.41, which Debian 12 does not have.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

_HEADER = struct.Struct("=16sHHIQQQIHHHHHH")  # Elf64_Ehdr
_SEGMENT = struct.Struct("=IIQQQQQQ")  # Elf64_Phdr


def without_sections(elf: bytes) -> bytes:
    """A 64-bit ELF file of our own byte order, up to the end of its last segment."""
    header = list(_HEADER.unpack_from(elf))
    first, size, count = header[5], header[9], header[10]
    segments = [_SEGMENT.unpack_from(elf, first + i * size) for i in range(count)]
    end = max(offset + length for _, _, offset, _, _, length, _, _ in segments)
    header[6] = 0  # e_shoff
    header[11:] = 0, 0, 0  # e_shentsize, e_shnum, e_shstrndx
    return _HEADER.pack(*header) + elf[_HEADER.size : end]


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_bytes(without_sections(path.read_bytes()))

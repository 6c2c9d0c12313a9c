"""`#include <unistd.h>`"""

from rsyscall.fcntl import AT, O
from rsyscall.unistd.credentials import CredentialsTask
from rsyscall.unistd.fs import FSFileDescriptor, FSTask
from rsyscall.unistd.io import MAX_IO, SEEK, IOFileDescriptor, SeekableFileDescriptor

__all__ = [
    "AT",
    "MAX_IO",
    "SEEK",
    "CredentialsTask",
    "FSFileDescriptor",
    "FSTask",
    "IOFileDescriptor",
    "O",
    "SeekableFileDescriptor",
]

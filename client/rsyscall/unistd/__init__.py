"""`#include <unistd.h>`"""

from rsyscall.fcntl import AT, O
from rsyscall.unistd.credentials import CredentialsTask
from rsyscall.unistd.cwd import CWDTask
from rsyscall.unistd.dup import FcntlFileDescriptor
from rsyscall.unistd.exec import ArgList, ArgListSerializer
from rsyscall.unistd.fs import FSFileDescriptor, FSTask, open, openat
from rsyscall.unistd.io import MAX_IO, SEEK, IOFileDescriptor, SeekableFileDescriptor
from rsyscall.unistd.names import OK, RENAME
from rsyscall.unistd.pipe import Pipe, PipeTask

__all__ = [
    "AT",
    "MAX_IO",
    "OK",
    "RENAME",
    "SEEK",
    "ArgList",
    "ArgListSerializer",
    "CWDTask",
    "CredentialsTask",
    "FSFileDescriptor",
    "FSTask",
    "FcntlFileDescriptor",
    "IOFileDescriptor",
    "O",
    "Pipe",
    "PipeTask",
    "SeekableFileDescriptor",
    "open",
    "openat",
]

"""The compiled core: constants of the system headers, and what core.h declares."""

from typing import Any, SupportsInt

class CData:
    """A C object; indexing and attributes are cffi's."""

    def __getattr__(self, name: str) -> Any: ...
    def __getitem__(self, index: int) -> Any: ...
    def __int__(self) -> int: ...

class _FFI:
    NULL: CData
    def new(self, cdecl: str, init: object = ...) -> CData: ...
    def cast(self, cdecl: str, source: object) -> CData: ...
    def release(self, cdata: CData) -> None: ...
    def from_buffer(self, cdecl: str, python_buffer: object) -> CData: ...
    def sizeof(self, cdecl: str) -> int: ...
    def buffer(self, cdata: CData, size: int = ...) -> memoryview: ...

class _Lib:
    PROT_NONE: int
    PROT_READ: int
    PROT_WRITE: int
    PROT_EXEC: int
    MAP_PRIVATE: int
    MAP_SHARED: int
    MAP_ANONYMOUS: int
    MAP_POPULATE: int
    MAP_FIXED: int
    MAP_FIXED_NOREPLACE: int
    MAP_NORESERVE: int
    MAP_LOCKED: int
    MAP_STACK: int
    MAP_GROWSDOWN: int
    MAP_HUGETLB: int
    MAP_NONBLOCK: int
    MAP_SYNC: int
    MAP_SHARED_VALIDATE: int
    MS_ASYNC: int
    MS_SYNC: int
    MS_INVALIDATE: int
    MFD_CLOEXEC: int
    MFD_ALLOW_SEALING: int
    MFD_HUGETLB: int
    MFD_HUGE_2MB: int
    MFD_HUGE_1GB: int
    O_RDONLY: int
    O_WRONLY: int
    O_RDWR: int
    O_CREAT: int
    O_EXCL: int
    O_NOCTTY: int
    O_TRUNC: int
    O_APPEND: int
    O_NONBLOCK: int
    O_DSYNC: int
    O_DIRECT: int
    O_LARGEFILE: int
    O_DIRECTORY: int
    O_NOFOLLOW: int
    O_NOATIME: int
    O_CLOEXEC: int
    O_SYNC: int
    O_PATH: int
    O_TMPFILE: int
    AT_FDCWD: int
    AT_REMOVEDIR: int
    AT_EMPTY_PATH: int
    AT_SYMLINK_NOFOLLOW: int
    AT_SYMLINK_FOLLOW: int
    SEEK_SET: int
    SEEK_CUR: int
    SEEK_END: int
    SEEK_DATA: int
    SEEK_HOLE: int
    S_IFSOCK: int
    S_IFLNK: int
    S_IFREG: int
    S_IFBLK: int
    S_IFDIR: int
    S_IFCHR: int
    S_IFIFO: int
    S_IFMT: int
    SIGHUP: int
    SIGINT: int
    SIGQUIT: int
    SIGILL: int
    SIGTRAP: int
    SIGABRT: int
    SIGIOT: int
    SIGBUS: int
    SIGFPE: int
    SIGKILL: int
    SIGUSR1: int
    SIGSEGV: int
    SIGUSR2: int
    SIGPIPE: int
    SIGALRM: int
    SIGTERM: int
    SIGSTKFLT: int
    SIGCHLD: int
    SIGCONT: int
    SIGSTOP: int
    SIGTSTP: int
    SIGTTIN: int
    SIGTTOU: int
    SIGURG: int
    SIGXCPU: int
    SIGXFSZ: int
    SIGVTALRM: int
    SIGPROF: int
    SIGWINCH: int
    SIGIO: int
    SIGPWR: int
    SIGSYS: int
    SA_NOCLDSTOP: int
    SA_NOCLDWAIT: int
    SA_NODEFER: int
    SA_ONSTACK: int
    SA_RESETHAND: int
    SA_RESTART: int
    SA_SIGINFO: int
    SA_RESTORER: int
    SIG_BLOCK: int
    SIG_UNBLOCK: int
    SIG_SETMASK: int
    def rs_direct(
        self,
        nr: int,
        a0: SupportsInt,
        a1: SupportsInt,
        a2: SupportsInt,
        a3: SupportsInt,
        a4: SupportsInt,
        a5: SupportsInt,
        /,
    ) -> int: ...
    def rs_direct_request(self, body: CData, len: int, reply: CData, room: int, /) -> int: ...
    def rs_serve(self, fd: int, /) -> int: ...
    def rs_serve_shared(self, fd: int, halves: object, size: int, /) -> int: ...
    def rs_recode(self, data: CData, len: int, out: CData, room: int, /) -> int: ...
    def rs_check_request(self, body: CData, len: int, /) -> int: ...

ffi: _FFI
lib: _Lib

"""`#include <sys/capability.h>`"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, overload

import rsyscall.far
from rsyscall._raw import lib
from rsyscall.abi import ABI, NATIVE, Layout
from rsyscall.handle.borrow import in_struct, perform_with
from rsyscall.handle.pointer import Pointer, ReadablePointer, WrittenPointer
from rsyscall.near.sysif import InOut, Out, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, nothing
from rsyscall.struct import LaidOut, Record
from rsyscall.sys.syscall import SYS

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "CAP",
    "CapData",
    "CapHeader",
    "CapabilityTask",
    "capget_call",
    "capset_call",
    "from_uint32s",
    "to_uint32s",
]


class CAP(enum.IntEnum):
    """The capabilities; see capabilities(7)."""

    CHOWN = lib.CAP_CHOWN
    DAC_OVERRIDE = lib.CAP_DAC_OVERRIDE
    DAC_READ_SEARCH = lib.CAP_DAC_READ_SEARCH
    FOWNER = lib.CAP_FOWNER
    FSETID = lib.CAP_FSETID
    KILL = lib.CAP_KILL
    SETGID = lib.CAP_SETGID
    SETUID = lib.CAP_SETUID
    SETPCAP = lib.CAP_SETPCAP
    LINUX_IMMUTABLE = lib.CAP_LINUX_IMMUTABLE
    NET_BIND_SERVICE = lib.CAP_NET_BIND_SERVICE
    NET_BROADCAST = lib.CAP_NET_BROADCAST
    NET_ADMIN = lib.CAP_NET_ADMIN
    NET_RAW = lib.CAP_NET_RAW
    IPC_LOCK = lib.CAP_IPC_LOCK
    IPC_OWNER = lib.CAP_IPC_OWNER
    SYS_MODULE = lib.CAP_SYS_MODULE
    SYS_RAWIO = lib.CAP_SYS_RAWIO
    SYS_CHROOT = lib.CAP_SYS_CHROOT
    SYS_PTRACE = lib.CAP_SYS_PTRACE
    SYS_PACCT = lib.CAP_SYS_PACCT
    SYS_ADMIN = lib.CAP_SYS_ADMIN
    SYS_BOOT = lib.CAP_SYS_BOOT
    SYS_NICE = lib.CAP_SYS_NICE
    SYS_RESOURCE = lib.CAP_SYS_RESOURCE
    SYS_TIME = lib.CAP_SYS_TIME
    SYS_TTY_CONFIG = lib.CAP_SYS_TTY_CONFIG
    MKNOD = lib.CAP_MKNOD
    LEASE = lib.CAP_LEASE
    AUDIT_WRITE = lib.CAP_AUDIT_WRITE
    AUDIT_CONTROL = lib.CAP_AUDIT_CONTROL
    SETFCAP = lib.CAP_SETFCAP
    MAC_OVERRIDE = lib.CAP_MAC_OVERRIDE
    MAC_ADMIN = lib.CAP_MAC_ADMIN
    SYSLOG = lib.CAP_SYSLOG
    WAKE_ALARM = lib.CAP_WAKE_ALARM
    BLOCK_SUSPEND = lib.CAP_BLOCK_SUSPEND
    AUDIT_READ = lib.CAP_AUDIT_READ
    PERFMON = lib.CAP_PERFMON
    BPF = lib.CAP_BPF
    CHECKPOINT_RESTORE = lib.CAP_CHECKPOINT_RESTORE


_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3


def to_uint32s(caps: Iterable[CAP]) -> tuple[int, int]:
    """A set of capabilities as the two words that the kernel has for it."""
    mask = 0
    for cap in caps:
        mask |= 1 << CAP(cap)
    return mask & 0xFFFFFFFF, mask >> 32


def from_uint32s(one: int, two: int) -> set[CAP]:
    """The capabilities in two words; bits that stand for none that is known are left out."""
    mask = one | two << 32
    return {cap for cap in CAP if mask >> cap & 1}


class CapHeader(Record, LaidOut):
    """cap_user_header_t: of which thread. pid: 0 is the calling one.

    ValueError for bytes that are one of another version.
    """

    __slots__ = ("pid",)
    LAYOUT: ClassVar[Layout] = Layout("cap_user_header_t", "u32 version, i32 pid")

    def __init__(self, pid: int = 0) -> None:
        """Nothing is checked."""
        self.pid: int = int(pid)

    def _values(self) -> Sequence[int]:
        return _VERSION, self.pid

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        version, pid = values
        if version != _VERSION:
            raise ValueError(f"data: version {version:#x} is not {_VERSION:#x}")
        return cls(pid)


class CapData(Record, LaidOut):
    """cap_user_data_t, twice: which capabilities a thread has, may have and may hand on."""

    __slots__ = ("effective", "permitted", "inheritable")  # noqa: RUF023 - the kernel's order
    LAYOUT: ClassVar[Layout] = Layout(
        "cap_user_data_t[2]",
        "u32 effective, u32 permitted, u32 inheritable,"
        "u32 effective_2, u32 permitted_2, u32 inheritable_2",
    )

    def __init__(
        self,
        effective: Iterable[CAP] = (),
        permitted: Iterable[CAP] = (),
        inheritable: Iterable[CAP] = (),
    ) -> None:
        """ValueError for what is no capability."""
        self.effective: set[CAP] = {CAP(cap) for cap in effective}
        self.permitted: set[CAP] = {CAP(cap) for cap in permitted}
        self.inheritable: set[CAP] = {CAP(cap) for cap in inheritable}

    def _values(self) -> Sequence[int]:
        words = [to_uint32s(caps) for caps in (self.effective, self.permitted, self.inheritable)]
        return [*[one for one, _ in words], *[two for _, two in words]]

    @classmethod
    def _from_values(cls, *values: int) -> Self:
        return cls(*[from_uint32s(values[i], values[i + 3]) for i in range(3)])


def _data(task: rsyscall.far.Task, _value: int, outs: tuple[bytes, ...]) -> CapData:
    return CapData.from_bytes_for(outs[-1], task.abi)


def _header(hdrp: CapHeader | SyscallArgument, abi: ABI) -> SyscallArgument:
    # The kernel writes the version that it knows into it, if that is another.
    return InOut(hdrp.to_bytes_for(abi)) if isinstance(hdrp, CapHeader) else hdrp


@declares("capset")
def capset_call(
    hdrp: CapHeader | SyscallArgument, datap: CapData | SyscallArgument, *, abi: ABI = NATIVE
) -> TypedCall[None]:
    """capset(2)."""
    return TypedCall(SYS.capset, (_header(hdrp, abi), in_struct(datap, abi)), nothing, outs=True)


@declares("capget")
def capget_call(hdrp: CapHeader | SyscallArgument, *, abi: ABI = NATIVE) -> TypedCall[CapData]:
    """capget(2)."""
    return TypedCall(
        SYS.capget, (_header(hdrp, abi), Out(CapData.sizeof_for(abi))), _data, outs=True
    )


def _capget_into(
    hdrp: CapHeader | SyscallArgument, datap: SyscallArgument, *, abi: ABI = NATIVE
) -> TypedCall[None]:
    return TypedCall(SYS.capget, (_header(hdrp, abi), datap), nothing, outs=True)


class CapabilityTask(rsyscall.far.Task):
    """A task with capabilities."""

    async def capset(
        self,
        hdrp: CapHeader | WrittenPointer[CapHeader],
        datap: CapData | WrittenPointer[CapData],
    ) -> None:
        """Change its capabilities; hdrp is CapHeader() or names itself.

        They are one thread's: refused (SyscallSendError) in the interpreter's own process while
        that has several. UseAfterFreeError or AddressSpaceMismatchError; OSError as the call
        reports it. A checkpoint; if cancelled, nothing has changed. capset(2).
        """
        await perform_with(self, capset_call, hdrp, datap)

    @overload
    async def capget(self, hdrp: CapHeader | WrittenPointer[CapHeader]) -> CapData: ...
    @overload
    async def capget(
        self, hdrp: CapHeader | WrittenPointer[CapHeader], datap: Pointer[CapData]
    ) -> ReadablePointer[CapData]: ...

    async def capget(
        self,
        hdrp: CapHeader | WrittenPointer[CapHeader],
        datap: Pointer[CapData] | None = None,
    ) -> CapData | ReadablePointer[CapData]:
        """The capabilities of a thread: returned, or left where datap points, which is consumed.

        ValueError if that is too small; UseAfterFreeError or AddressSpaceMismatchError; OSError as
        the call reports it. A checkpoint; if cancelled, nothing has happened. capget(2).
        """
        if datap is None:
            return await perform_with(self, capget_call, hdrp)
        if datap.size() < CapData.sizeof():
            raise ValueError(
                f"datap: {datap.size()} bytes, cap_user_data_t[2] has {CapData.sizeof()}"
            )
        await perform_with(self, _capget_into, hdrp, datap)
        return datap.unsafe()

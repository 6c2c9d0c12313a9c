"""`#include <signal.h>`"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, overload

import rsyscall.far
from rsyscall import near
from rsyscall._raw import lib
from rsyscall.abi import ABI, NATIVE, Layout
from rsyscall.handle.borrow import in_struct, perform_with
from rsyscall.handle.pointer import Pointer, WrittenPointer
from rsyscall.near.sysif import Out, SyscallArgument
from rsyscall.near.typed import TypedCall, declares, nothing, perform
from rsyscall.struct import LaidOut, Portable, Record, Struct, check_size
from rsyscall.sys.syscall import SYS

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "SA",
    "SIG",
    "HowSIG",
    "Sigaction",
    "Sighandler",
    "Siginfo",
    "SignalBlock",
    "SignalMask",
    "SignalMaskError",
    "SignalTask",
    "Sigset",
    "sigaction_call",
    "signal_number",
    "sigprocmask_call",
]


class SIG(enum.IntEnum):
    """The signals; real-time signals have no names here. NONE: only look whether one could be sent.

    signal(7).
    """

    NONE = 0
    HUP = lib.SIGHUP
    INT = lib.SIGINT
    QUIT = lib.SIGQUIT
    ILL = lib.SIGILL
    TRAP = lib.SIGTRAP
    ABRT = lib.SIGABRT
    IOT = lib.SIGIOT
    BUS = lib.SIGBUS
    FPE = lib.SIGFPE
    KILL = lib.SIGKILL
    USR1 = lib.SIGUSR1
    SEGV = lib.SIGSEGV
    USR2 = lib.SIGUSR2
    PIPE = lib.SIGPIPE
    ALRM = lib.SIGALRM
    TERM = lib.SIGTERM
    STKFLT = lib.SIGSTKFLT
    CHLD = lib.SIGCHLD
    CONT = lib.SIGCONT
    STOP = lib.SIGSTOP
    TSTP = lib.SIGTSTP
    TTIN = lib.SIGTTIN
    TTOU = lib.SIGTTOU
    URG = lib.SIGURG
    XCPU = lib.SIGXCPU
    XFSZ = lib.SIGXFSZ
    VTALRM = lib.SIGVTALRM
    PROF = lib.SIGPROF
    WINCH = lib.SIGWINCH
    IO = lib.SIGIO
    PWR = lib.SIGPWR
    SYS = lib.SIGSYS


class SA(enum.IntFlag):
    """Flags of sigaction(2)."""

    NONE = 0
    NOCLDSTOP = lib.SA_NOCLDSTOP
    NOCLDWAIT = lib.SA_NOCLDWAIT
    NODEFER = lib.SA_NODEFER
    ONSTACK = lib.SA_ONSTACK
    RESETHAND = lib.SA_RESETHAND
    RESTART = lib.SA_RESTART
    SIGINFO = lib.SA_SIGINFO
    RESTORER = lib.SA_RESTORER


class HowSIG(enum.IntEnum):
    """What sigprocmask(2) does with the set."""

    BLOCK = lib.SIG_BLOCK
    UNBLOCK = lib.SIG_UNBLOCK
    SETMASK = lib.SIG_SETMASK


class Sighandler(enum.IntEnum):
    """What happens with a signal for which there is no handler: the default, or nothing."""

    DFL = 0
    IGN = 1


#: How many signals there are, the real-time ones included.
_LAST = 64
_NAMES = {int(sig): sig for sig in SIG}
_SIGSET = 8


def signal_number(number: int) -> SIG | int:
    """The number of a signal as its SIG, if it has a name."""
    return _NAMES.get(number, number)


def _check_signal(name: str, number: int) -> None:
    if not 1 <= number <= _LAST:
        raise ValueError(f"{name}: {number!r} is no signal: they are from 1 to {_LAST}")


class Siginfo(Record, LaidOut):
    """siginfo_t, as far as it tells about a child.

    code: what has happened, see rsyscall.sys.wait.CLD. pid, uid: of the child. status: its exit
    status, or the number of the signal. signo: always SIG.CHLD; 0 if there is nothing to tell.
    """

    __slots__ = ("code", "pid", "signo", "status", "uid")
    LAYOUT: ClassVar[Layout] = Layout(
        "siginfo_t",
        "i32 signo, i32 _, i32 code, pointer[0] _, i32 pid, u32 uid, i32 status",
        least=128,
    )

    def __init__(
        self, code: int, pid: int, uid: int, status: int, signo: int = lib.SIGCHLD
    ) -> None:
        """Nothing is checked."""
        self.code: int = code
        self.pid: int = pid
        self.uid: int = uid
        self.status: int = status
        self.signo: int = signo


class Sigset(set[int], Portable, Struct):
    """A set of signals: SIG, or a number for those without a name."""

    def __init__(self, signals: Iterable[int] = ()) -> None:
        """ValueError for what is no signal."""
        super().__init__([signal_number(sig) for sig in signals])
        for sig in self:
            _check_signal("signals", sig)

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """The kernel's sigset_t, of eight bytes. ValueError for what is no signal."""
        mask = 0
        for sig in self:
            _check_signal("signals", sig)
            mask |= 1 << (sig - 1)
        return abi.pack_words(mask, _SIGSET)

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """From the kernel's sigset_t. ValueError if there are too few bytes."""
        check_size(data, _SIGSET, "sigset_t")
        mask = abi.unpack_words(data[:_SIGSET])
        return cls(sig for sig in range(1, _LAST + 1) if mask >> (sig - 1) & 1)

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes."""
        return _SIGSET

    def __repr__(self) -> str:
        """By name, in the order of their numbers."""
        names = [sig.name if isinstance(sig, SIG) else str(sig) for sig in sorted(self)]
        return f"Sigset({{{', '.join(names)}}})"


class Sigaction(Record, LaidOut):
    """What happens when a signal arrives: the kernel's struct sigaction.

    handler: or its address in the process. mask: what else is blocked while the handler runs.
    restorer: the address of code that ends the handler, by rt_sigreturn(2).
    """

    __slots__ = ("flags", "handler", "mask", "restorer")
    #: Without the mask, which is behind it.
    LAYOUT: ClassVar[Layout] = Layout(
        "struct sigaction", "pointer handler, ulong flags, pointer restorer"
    )

    def __init__(
        self,
        handler: Sighandler | near.Address,
        flags: SA = SA.NONE,
        mask: Iterable[int] = (),
        restorer: near.Address | None = None,
    ) -> None:
        """With a restorer, flags get SA.RESTORER. ValueError for a mask of what is no signal."""
        self.handler: Sighandler | near.Address = handler
        self.flags: SA = flags if restorer is None else flags | SA.RESTORER
        self.mask: Sigset = mask if isinstance(mask, Sigset) else Sigset(mask)
        self.restorer: near.Address | None = restorer

    def to_bytes_for(self, abi: ABI, /) -> bytes:
        """The structure in memory."""
        restorer = 0 if self.restorer is None else int(self.restorer)
        head = self.LAYOUT.pack(abi, int(self.handler), int(self.flags), restorer)
        return head + self.mask.to_bytes_for(abi)

    @classmethod
    def from_bytes_for(cls, data: bytes, abi: ABI, /) -> Self:
        """From the structure in memory. ValueError if there are too few bytes."""
        check_size(data, cls.sizeof_for(abi), cls.LAYOUT.name)
        handler, flags, restorer = cls.LAYOUT.unpack(abi, data)
        return cls(
            Sighandler(handler) if handler <= Sighandler.IGN else near.Address(handler),
            SA(flags),
            Sigset.from_bytes_for(data[cls.LAYOUT.size(abi) :], abi),
            near.Address(restorer) if flags & SA.RESTORER else None,
        )

    @classmethod
    def sizeof(cls) -> int:
        """Its size in bytes."""
        return cls.sizeof_for(NATIVE)

    @classmethod
    def sizeof_for(cls, abi: ABI, /) -> int:
        """The same in the memory of a task with that ABI."""
        return cls.LAYOUT.size(abi) + _SIGSET


def _action(task: rsyscall.far.Task, _value: int, outs: tuple[bytes, ...]) -> Sigaction:
    return Sigaction.from_bytes_for(outs[0], task.abi)


@declares("sigaction")
def sigaction_call(
    signum: int, act: Sigaction | SyscallArgument | None = None, *, abi: ABI = NATIVE
) -> TypedCall[Sigaction]:
    """sigaction(2). act: what is to happen, or its address."""
    _check_signal("signum", signum)
    # Without a restorer the kernel kills the process instead of calling the handler.
    if (
        isinstance(act, Sigaction)
        and isinstance(act.handler, near.Address)
        and act.restorer is None
    ):
        raise ValueError("act: a handler needs a restorer, which the C library has otherwise")
    new = 0 if act is None else in_struct(act, abi)
    args = (signum, new, Out(Sigaction.sizeof_for(abi)), _SIGSET)
    return TypedCall(SYS.rt_sigaction, args, _action, outs=True)


def _sigaction_into(
    signum: int, act: Any, oldact: SyscallArgument, *, abi: ABI = NATIVE
) -> TypedCall[None]:
    call = sigaction_call(signum, act, abi=abi)
    return TypedCall(call.number, (*call.args[:2], oldact, _SIGSET), nothing)


_UNBLOCKABLE = {SIG.KILL, SIG.STOP}


def _after(old: Iterable[int], how: HowSIG, signals: Iterable[int]) -> Sigset:
    """The mask that a change leaves."""
    if how is HowSIG.BLOCK:
        new = {*old, *signals}
    elif how is HowSIG.UNBLOCK:
        new = {*old} - {*signals}
    else:
        new = {*signals}
    return Sigset(new - _UNBLOCKABLE)


@declares("sigprocmask")
def sigprocmask_call(
    newset: tuple[HowSIG, Iterable[int]] | None = None, *, abi: ABI = NATIVE
) -> TypedCall[Sigset]:
    """sigprocmask(2). newset: how, and which signals.

    Its conversion keeps the task's idea of its mask right.
    """
    args: tuple[SyscallArgument, ...] = (0, 0, Out(_SIGSET), _SIGSET)
    changed: tuple[HowSIG, Sigset] | None = None
    if newset is not None:
        changed = HowSIG(newset[0]), Sigset(newset[1])
        args = (changed[0], in_struct(changed[1], abi), *args[2:])

    def convert(task: Any, _value: int, outs: tuple[bytes, ...]) -> Sigset:
        old = Sigset.from_bytes_for(outs[0], task.abi)
        if isinstance(task, SignalTask):
            task.sigmask = old if changed is None else _after(old, *changed)
        return old

    # As a handle, so that in a batch the conversion takes place even if nobody asks for the value.
    return TypedCall(SYS.rt_sigprocmask, args, convert, outs=True, handle=True)


def _sigprocmask_into(
    how: int, signals: SyscallArgument, oldset: SyscallArgument
) -> TypedCall[None]:
    return TypedCall(SYS.rt_sigprocmask, (how, signals, oldset, _SIGSET), nothing)


class SignalMaskError(Exception):
    """The signal mask of a task is not what we take it for."""


class SignalTask(rsyscall.far.Task):
    """A task that gets signals.

    sigmask: which are blocked, as far as we know: what the last call of sigprocmask has left, and
    before the first nothing.
    """

    sigmask: Sigset = Sigset()

    @overload
    async def sigaction(
        self, signum: int, act: Sigaction | Pointer[Sigaction] | None = None
    ) -> Sigaction: ...
    @overload
    async def sigaction(
        self,
        signum: int,
        act: Sigaction | Pointer[Sigaction] | None,
        oldact: Pointer[Sigaction],
    ) -> None: ...

    async def sigaction(
        self,
        signum: int,
        act: Sigaction | Pointer[Sigaction] | None = None,
        oldact: Pointer[Sigaction] | None = None,
    ) -> Sigaction | None:
        """Say what is to happen when a signal arrives; None: leave it as it is.

        Returns what was to happen before, or leaves that where oldact points. ValueError, before
        anything is sent, for what is no signal and for a handler without a restorer;
        AddressSpaceMismatchError, UseAfterFreeError; OSError as the call reports it. In the
        interpreter's own process the call is refused (SyscallSendError, or PermissionError from a
        server inside it): Python has handlers of its own and would not know; signal.signal() of the
        standard library is for that. A checkpoint; if cancelled, nothing has changed. sigaction(2).
        """
        if oldact is None:
            return await perform_with(self, sigaction_call, signum, act)
        size = Sigaction.sizeof_for(self.abi)
        if oldact.size() < size:
            raise ValueError(f"oldact: {oldact.size()} bytes, struct sigaction has {size}")
        await perform_with(self, _sigaction_into, signum, act, oldact)
        return None

    @overload
    async def sigprocmask(
        self, newset: tuple[HowSIG, WrittenPointer[Sigset] | Iterable[int]] | None = None
    ) -> Sigset: ...
    @overload
    async def sigprocmask(
        self,
        newset: tuple[HowSIG, WrittenPointer[Sigset] | Iterable[int]] | None,
        oldset: Pointer[Sigset],
    ) -> Pointer[Sigset]: ...

    async def sigprocmask(
        self,
        newset: tuple[HowSIG, WrittenPointer[Sigset] | Iterable[int]] | None = None,
        oldset: Pointer[Sigset] | None = None,
    ) -> Sigset | Pointer[Sigset]:
        """Change which signals are blocked; None: only ask. SIG.KILL and SIG.STOP never are.

        newset: how, and which signals: a Sigset or anything that yields signals. Returns those that
        were blocked before, or a pointer to them if oldset is given, which it consumes. The mask is
        one thread's: in the interpreter's own process the calling one's; a server inside the
        interpreter refuses (PermissionError). ValueError for what is no signal; errors of pointers;
        OSError as the call reports it. A checkpoint; if cancelled, nothing has changed.
        sigprocmask(2).
        """
        pointer = newset[1] if newset is not None else None
        if oldset is None and not isinstance(pointer, WrittenPointer):
            given = None if newset is None else (newset[0], pointer or ())
            return await perform(self, sigprocmask_call(given, abi=self.abi))
        how = HowSIG.BLOCK if newset is None else HowSIG(newset[0])
        signals = Sigset(pointer.value if isinstance(pointer, WrittenPointer) else pointer or ())
        argument = (
            pointer
            if isinstance(pointer, WrittenPointer)
            else 0
            if newset is None
            else in_struct(signals, self.abi)
        )
        if oldset is None:
            old = await perform_with(self, _sigprocmask_by_address, how, argument)
            self.sigmask = _after(old, how, signals)
            return old
        if oldset.size() < _SIGSET:
            raise ValueError(f"oldset: {oldset.size()} bytes, sigset_t has {_SIGSET}")
        await perform_with(self, _sigprocmask_into, how, argument, oldset)
        self.sigmask = _after(self.sigmask, how, signals)
        return oldset.unsafe()

    async def sigmask_block(
        self,
        newset: WrittenPointer[Sigset] | Iterable[int],
        oldset: Pointer[Sigset] | None = None,
    ) -> SignalBlock:
        """Block signals until the block that is returned is told to unblock them.

        oldset: where to leave the mask as it was. ValueError if we have blocked one of them
        already, so that each has one owner, or for what is no signal; otherwise as sigprocmask. A
        checkpoint; if cancelled, nothing has changed. sigprocmask(2).
        """
        signals = Sigset(newset.value if isinstance(newset, WrittenPointer) else newset)
        if both := signals & self.sigmask:
            raise ValueError(f"newset: {Sigset(both)} is blocked already")
        kept = newset if isinstance(newset, WrittenPointer) else signals
        if oldset is None:
            await self.sigprocmask((HowSIG.BLOCK, kept))
        else:
            await self.sigprocmask((HowSIG.BLOCK, kept), oldset)
        return SignalBlock(self, kept)

    async def read_oldset_and_check(self) -> None:
        """Ask which signals are blocked, and compare.

        SignalMaskError, naming both, if that is not sigmask, which is then corrected; otherwise as
        sigprocmask. A checkpoint. sigprocmask(2).
        """
        expected = self.sigmask
        if (found := await self.sigprocmask()) != expected:
            raise SignalMaskError(f"{self} blocks {found}, and not {expected}")


def _sigprocmask_by_address(how: int, signals: SyscallArgument) -> TypedCall[Sigset]:
    def convert(task: rsyscall.far.Task, _value: int, outs: tuple[bytes, ...]) -> Sigset:
        return Sigset.from_bytes_for(outs[0], task.abi)

    args = (how, signals, Out(_SIGSET), _SIGSET)
    return TypedCall(SYS.rt_sigprocmask, args, convert, outs=True)


class SignalMask(Protocol):
    """What has a set of signals, such as a SignalBlock."""

    @property
    def mask(self) -> Collection[SIG]:
        """The signals."""
        ...


class SignalBlock:
    """Signals that one of the task's callers has blocked.

    task: whose. newset: which, as given to sigmask_block.
    """

    def __init__(self, task: SignalTask, newset: WrittenPointer[Sigset] | Sigset) -> None:
        """They are blocked already; see SignalTask.sigmask_block."""
        self.task: SignalTask = task
        self.newset: WrittenPointer[Sigset] | Sigset = newset

    @property
    def mask(self) -> Sigset:
        """The signals."""
        return self.newset.value if isinstance(self.newset, WrittenPointer) else self.newset

    async def unblock(self, oldset: Pointer[Sigset] | None = None) -> None:
        """Unblock them.

        oldset: where to leave the mask as it was. ValueError if one of them is not blocked any
        more; otherwise as sigprocmask. A checkpoint; if cancelled, nothing has changed.
        sigprocmask(2).
        """
        if missing := self.mask - self.task.sigmask - _UNBLOCKABLE:
            raise ValueError(f"{Sigset(missing)} is not blocked")
        if oldset is None:
            await self.task.sigprocmask((HowSIG.UNBLOCK, self.newset))
        else:
            await self.task.sigprocmask((HowSIG.UNBLOCK, self.newset), oldset)

    def __repr__(self) -> str:
        """For people."""
        return f"SignalBlock({self.task}, {self.mask})"

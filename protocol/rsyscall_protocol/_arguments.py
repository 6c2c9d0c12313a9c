"""The arguments of a CALL that are more than an integer.

A user nests them: a Struct's relocations name the argument whose address goes there. On the wire
they are one flat list, in which a relocation can only point forward; `flatten` makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from rsyscall_protocol._record import record

Relocation: TypeAlias = "tuple[int, int | In | Out | InOut | Ret | Struct | Ref | Param]"


@record
class In:
    """Bytes for the call to read; it gets their address."""

    data: bytes


@record
class Out:
    """Room for `size` bytes, zeroed before the call; all of them come back."""

    size: int


@record
class Ret:
    """Room for `size` bytes; as many come back as the call returned (none if it failed)."""

    size: int


@record
class InOut:
    """Bytes for the call to read and change; they come back as it left them."""

    data: bytes


@record
class Struct:
    """Bytes with addresses to fill in.

    relocations: pairs of an offset in bytes and the argument whose address goes there, eight bytes
    in the byte order of the machine (in flat form: the argument's index).
    outs: pairs of an offset and a length: the parts that come back, as one string of bytes.
    """

    data: bytes
    relocations: tuple[Relocation, ...] = ()
    outs: tuple[tuple[int, int], ...] = ()


@record
class FdArg:
    """The index-th file descriptor that travels with this frame, as the receiver numbers it."""

    index: int


#: The offset of a Ref that means the result itself.
RESULT = 2**32 - 1


@record
class Ref:
    """In a batch: what an earlier step has returned, or a number that it has left.

    step: its index. offset: RESULT, or where in the step's first output (an Out or InOut) an int
    of four bytes stands. width: how many bytes of it go into a Struct that points here.
    """

    step: int
    offset: int = RESULT
    width: int = 8


@record
class Param:
    """In a prepared batch: the index-th argument of the run, a number or data."""

    index: int


Argument: TypeAlias = int | In | Out | Ret | InOut | Struct | FdArg | Ref | Param


def flatten(args: Sequence[Argument]) -> tuple[Argument, ...]:
    """The wire's form: arguments first, then the data that structs point at, always forward.

    An argument object that is pointed at twice is sent twice; only data that is not returned may
    be, since each of its copies would have a fate of its own (ValueError).
    """
    if not any(type(arg) is Struct for arg in args):
        return tuple(args)
    if len(args) > 6:
        raise ValueError(f"args: a system call takes at most six arguments, not {len(args)}")
    # The first six entries are registers: data starts behind them.
    flat: list[Argument] = [*args, *[0] * (6 - len(args))]
    seen: set[int] = {id(arg) for arg in args if isinstance(arg, Out | Ret | InOut | Struct)}
    at = 0
    while at < len(flat):
        entry = flat[at]
        if type(entry) is Struct:
            pairs: list[tuple[int, int]] = []
            for offset, target in entry.relocations:
                if isinstance(target, int):
                    raise ValueError("relocations: name the argument itself, not an index")
                if not isinstance(target, In):
                    if id(target) in seen:
                        raise ValueError(f"relocations: {target!r} is pointed at twice")
                    seen.add(id(target))
                pairs.append((offset, len(flat)))
                flat.append(target)
            flat[at] = Struct(entry.data, tuple(pairs), entry.outs)
        at += 1
    return tuple(flat)


def out_sizes(flat: Sequence[Argument]) -> list[tuple[int, bool]]:
    """For each output in order: its size in bytes, and whether exactly so many come back."""
    sizes: list[tuple[int, bool]] = []
    for arg in flat:
        match arg:
            case Out(size):
                sizes.append((size, True))
            case Ret(size):
                sizes.append((size, False))
            case InOut(data):
                sizes.append((len(data), True))
            case Struct(outs=outs) if outs:
                sizes.append((sum(n for _, n in outs), True))
            case _:
                pass
    return sizes

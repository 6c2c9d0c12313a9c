"""The steps of a batch as the protocol wants them, with all checks.

Most batches are encoded by the compiled core; what it leaves to others comes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsyscall.batch.step import RESULT, Parameter, Step, StepOutput
from rsyscall.near.sysif import SyscallArgument, convert_argument
from rsyscall_protocol import Argument, Param, Ref, StepFlag, flatten
from rsyscall_protocol import Step as WireStep

if TYPE_CHECKING:
    from rsyscall.batch.batch import Batch as Steps

__all__ = ["wire_steps"]


def _argument(batch: Steps, index: int, arg: SyscallArgument, *, undo: bool) -> Argument:
    match arg:
        case Step(ledger=owner):
            if owner is not batch.ledger or arg.index >= index:
                raise ValueError(f"step {index}: {arg!r} is no earlier step of this batch")
            return Ref(arg.index)
        case StepOutput(step=step, offset=offset):
            if step.ledger is not batch.ledger or step.index >= index + undo:
                raise ValueError(f"step {index}: {arg!r} is no earlier step of this batch")
            return Ref(step.index, offset, 4)
        case Parameter(batch=owner):
            if owner is not batch:
                raise ValueError(f"step {index}: {arg!r} belongs to another batch")
            return Param(arg.index)
        case _:
            if arg is RESULT:
                if not undo:
                    raise ValueError(f"step {index}: RESULT is for an undo")
                return Ref(index)
            return convert_argument(f"step {index}", arg)


def _arguments(
    batch: Steps, index: int, args: tuple[SyscallArgument, ...], *, undo: bool = False
) -> tuple[Argument, ...]:
    if len(args) > 6:
        raise ValueError(f"step {index}: a system call takes at most six arguments")
    return flatten([_argument(batch, index, arg, undo=undo) for arg in args])


def _wire_step(batch: Steps, step: Step[Any]) -> WireStep:
    index, ok = step.index, step.ok
    if step.on_error not in ("stop", "continue"):
        raise ValueError(f"on_error: {step.on_error!r} is neither 'stop' nor 'continue'")
    undo = None
    if step.undo is not None:
        number, *args = step.undo
        nr = convert_argument(f"undo of step {index}", number)
        if not isinstance(nr, int):
            raise ValueError(f"undo of step {index}: {number!r} is no number of a call")
        undo = (nr, _arguments(batch, index, tuple(args), undo=True))
    return WireStep(
        int(step.number),
        _arguments(batch, index, step.args),
        ok if ok is None or isinstance(ok, int) else tuple(sorted(int(n) for n in ok)),
        StepFlag.CONTINUE if step.on_error == "continue" else StepFlag.NONE,
        undo,
    )


def wire_steps(batch: Steps) -> tuple[WireStep, ...]:
    """The steps as the protocol's; ValueError for what cannot be one."""
    return tuple([_wire_step(batch, step) for step in batch.steps])

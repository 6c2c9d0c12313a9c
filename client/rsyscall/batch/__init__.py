"""Batches: many calls in one round trip.

    async with process.batch() as b:
        fd = b.open("/etc/hostname", O.RDONLY)
        name = b.read(fd, 100)
        b.close(fd)
    print(name.value)

A method of a batch takes what the method of a task or a handle takes (a handle's method the handle
first), and returns a `Step`, which stands for the result in later steps and has it as `value` once
the batch has run. A batch that was made without a process can be prepared in one, and run again and
again with other arguments.
"""

from rsyscall.batch.batch import Batch, BoundBatch
from rsyscall.batch.prepared import PreparedBatch
from rsyscall.batch.result import BatchResult
from rsyscall.batch.step import RESULT, BatchError, Parameter, Step, StepOutput

__all__ = [
    "RESULT",
    "Batch",
    "BatchError",
    "BatchResult",
    "BoundBatch",
    "Parameter",
    "PreparedBatch",
    "Step",
    "StepOutput",
]

"""The typed methods of a batch that concern the process itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rsyscall import near
from rsyscall.batch._steps import Steps
from rsyscall.batch.step import Step, StepOptions
from rsyscall.signal import HowSIG, Sigaction, Sigset, sigaction_call, sigprocmask_call
from rsyscall.unistd.credentials import getgid_call, getpid_call, getppid_call, getuid_call

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["ProcessSteps"]


class ProcessSteps(Steps):
    """The calls by name. What they return is said by their namesakes of tasks."""

    # ---- who it is ----

    def getpid(self, **options: Unpack[StepOptions]) -> Step[near.Pid]:
        """The process id. getpid(2)."""
        return self.add(getpid_call(), **options)

    def getppid(self, **options: Unpack[StepOptions]) -> Step[near.Pid]:
        """The parent's process id. getppid(2)."""
        return self.add(getppid_call(), **options)

    def getuid(self, **options: Unpack[StepOptions]) -> Step[int]:
        """The real user id. getuid(2)."""
        return self.add(getuid_call(), **options)

    def getgid(self, **options: Unpack[StepOptions]) -> Step[int]:
        """The real group id. getgid(2)."""
        return self.add(getgid_call(), **options)

    # ---- signals ----

    def sigaction(
        self, signum: int, act: Sigaction | None = None, **options: Unpack[StepOptions]
    ) -> Step[Sigaction]:
        """What is to happen when a signal arrives. ValueError for what is none. sigaction(2)."""
        return self.add(sigaction_call(signum, act), **options)

    def sigprocmask(
        self,
        newset: tuple[HowSIG, Iterable[int]] | None = None,
        **options: Unpack[StepOptions],
    ) -> Step[Sigset]:
        """Change which signals are blocked. ValueError for what is no signal. sigprocmask(2)."""
        return self.add(sigprocmask_call(newset), **options)

"""The typed methods of a batch that concern waiting: epoll, timers, signals and such."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast

from rsyscall import near
from rsyscall.batch._steps import FdArgument, PathArgument, Steps
from rsyscall.batch.step import Step, StepOptions
from rsyscall.poll import Pollfd, poll_call, ppoll_call
from rsyscall.sys.epoll import (
    EPOLL_CTL,
    EpollEvent,
    EpollEventList,
    EpollFlag,
    epoll_create_call,
    epoll_ctl_call,
    epoll_wait_call,
)
from rsyscall.sys.eventfd import EFD, eventfd_call
from rsyscall.sys.inotify import (
    IN,
    InotifyFlag,
    inotify_add_watch_call,
    inotify_init_call,
    inotify_rm_watch_call,
)
from rsyscall.sys.signalfd import SFD, signalfd_call
from rsyscall.sys.timerfd import (
    CLOCK,
    TFD,
    TFD_TIMER,
    timerfd_create_call,
    timerfd_gettime_call,
    timerfd_settime_call,
)
from rsyscall.time import Itimerspec, Timespec

if TYPE_CHECKING:
    from typing import Unpack

    from rsyscall.handle import FileDescriptor

__all__ = ["EventSteps"]


class EventSteps(Steps):
    """The calls by name. What they return is said by their namesakes of tasks and handles."""

    __slots__ = ()

    def epoll_create(
        self, flags: EpollFlag = EpollFlag.NONE, **options: Unpack[StepOptions]
    ) -> Step[FileDescriptor]:
        """Make an epoll instance. epoll_create1(2)."""
        return cast("Step[FileDescriptor]", self.add(epoll_create_call(flags), **options))

    def epoll_ctl(
        self,
        epfd: FdArgument,
        op: EPOLL_CTL,
        fd: FdArgument,
        event: EpollEvent | None = None,
        **options: Unpack[StepOptions],
    ) -> Step[None]:
        """Begin, change or end the watching of a descriptor. epoll_ctl(2)."""
        return self.add(
            epoll_ctl_call(self._fd(epfd), op, self._fd(fd), event, abi=self.abi), **options
        )

    def epoll_wait(
        self, fd: FdArgument, events: int, timeout: int, **options: Unpack[StepOptions]
    ) -> Step[EpollEventList]:
        """Take what has happened. ValueError for no room, or no timeout. epoll_wait(2)."""
        return self.add(epoll_wait_call(self._fd(fd), events, timeout, abi=self.abi), **options)

    def eventfd(
        self, initval: int, flags: EFD = EFD.NONE, **options: Unpack[StepOptions]
    ) -> Step[FileDescriptor]:
        """Make a counter. eventfd(2)."""
        return cast("Step[FileDescriptor]", self.add(eventfd_call(initval, flags), **options))

    def timerfd_create(
        self, clockid: CLOCK, flags: TFD = TFD.NONE, **options: Unpack[StepOptions]
    ) -> Step[FileDescriptor]:
        """Make a timer. timerfd_create(2)."""
        call = timerfd_create_call(clockid, flags)
        return cast("Step[FileDescriptor]", self.add(call, **options))

    def timerfd_settime(
        self,
        fd: FdArgument,
        flags: TFD_TIMER,
        new_value: Itimerspec,
        **options: Unpack[StepOptions],
    ) -> Step[Itimerspec]:
        """Set when a timer ends. timerfd_settime(2)."""
        return self.add(
            timerfd_settime_call(self._fd(fd), flags, new_value, abi=self.abi), **options
        )

    def timerfd_gettime(self, fd: FdArgument, **options: Unpack[StepOptions]) -> Step[Itimerspec]:
        """What is left until a timer ends. timerfd_gettime(2)."""
        return self.add(timerfd_gettime_call(self._fd(fd), abi=self.abi), **options)

    def signalfd(
        self,
        mask: Iterable[int],
        flags: SFD = SFD.NONE,
        *,
        fd: FdArgument | None = None,
        **options: Unpack[StepOptions],
    ) -> Step[FileDescriptor]:
        """Have signals read from a new descriptor, or change what is read from one. signalfd(2)."""
        number = -1 if fd is None else self._fd(fd)
        call = signalfd_call(mask, flags, number, abi=self.abi)
        return cast("Step[FileDescriptor]", self.add(call, **options))

    def inotify_init(
        self, flags: InotifyFlag = InotifyFlag.NONE, **options: Unpack[StepOptions]
    ) -> Step[FileDescriptor]:
        """Make an inotify instance. inotify_init1(2)."""
        return cast("Step[FileDescriptor]", self.add(inotify_init_call(flags), **options))

    def inotify_add_watch(
        self, fd: FdArgument, pathname: PathArgument, mask: IN, **options: Unpack[StepOptions]
    ) -> Step[near.WatchDescriptor]:
        """Watch a file. inotify_add_watch(2)."""
        return self.add(inotify_add_watch_call(self._fd(fd), pathname, mask), **options)

    def inotify_rm_watch(
        self, fd: FdArgument, wd: near.WatchDescriptor, **options: Unpack[StepOptions]
    ) -> Step[None]:
        """End a watch. inotify_rm_watch(2)."""
        return self.add(inotify_rm_watch_call(self._fd(fd), wd), **options)

    def poll(
        self, fds: Sequence[Pollfd], timeout: int, **options: Unpack[StepOptions]
    ) -> Step[list[Pollfd]]:
        """Wait until one of the descriptors is as wanted. poll(2)."""
        for one in fds:
            self._fd(one.fd)
        return self.add(poll_call(fds, timeout, abi=self.abi), **options)

    def ppoll(
        self,
        fds: Sequence[Pollfd],
        tmo_p: Timespec | None,
        sigmask: Iterable[int] | None = None,
        **options: Unpack[StepOptions],
    ) -> Step[list[Pollfd]]:
        """poll with an exact timeout and a mask of signals. ppoll(2)."""
        for one in fds:
            self._fd(one.fd)
        return self.add(ppoll_call(fds, tmo_p, sigmask, abi=self.abi), **options)

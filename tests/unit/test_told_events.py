"""What has been told of a watched descriptor, and who may take that off."""

from __future__ import annotations

from typing import cast

from rsyscall.epoller._epoller import Epoller
from rsyscall.epoller._watched import EpolledFileDescriptor
from rsyscall.handle import FileDescriptor
from rsyscall.sys.epoll import EPOLL


def test_two_who_were_too_early_take_nothing_off_that_came_after() -> None:
    watched = EpolledFileDescriptor(cast("Epoller", None), cast("FileDescriptor", None), 1)
    watched.arrive(EPOLL.IN)
    first, second = watched.snapshot(EPOLL.IN), watched.snapshot(EPOLL.IN)
    watched.consume_counts(first)
    assert not watched.is_ready(EPOLL.IN)
    watched.arrive(EPOLL.IN)
    watched.consume_counts(second)
    assert watched.is_ready(EPOLL.IN)
    watched.consume_counts(watched.snapshot(EPOLL.IN))
    assert not watched.is_ready(EPOLL.IN)

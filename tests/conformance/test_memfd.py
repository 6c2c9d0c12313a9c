"""Anonymous files, against the standard library."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

import rsyscall
from conformance.seen import error_here, nothing_sent, open_flags, opened
from rsyscall.far import AddressSpaceMismatchError
from rsyscall.handle import FileDescriptor, Task, UseAfterFreeError
from rsyscall.linux.memfd import MFD, memfd_create


@pytest.mark.parametrize("name", ["", "ünïcode \udcff", "x" * 249])
async def test_memfd_create_makes_an_empty_file_of_that_name(task: Task, name: str) -> None:
    async with await task.memfd_create(name) as fd:
        assert type(fd) is FileDescriptor
        here = os.memfd_create(name)
        try:
            assert os.readlink(opened(fd)) == os.readlink(f"/proc/self/fd/{here}")
            assert open_flags(opened(fd)) == open_flags(Path(f"/proc/self/fd/{here}"))
        finally:
            os.close(here)
        assert opened(fd).stat().st_size == 0


@pytest.mark.parametrize("flags", [MFD.NONE, MFD.CLOEXEC, MFD.ALLOW_SEALING])
async def test_memfd_create_always_closes_on_exec(task: Task, flags: MFD) -> None:
    async with await task.memfd_create("closes", flags) as fd:
        assert open_flags(opened(fd)) & os.O_CLOEXEC


@pytest.mark.parametrize("flags", [MFD.NONE, MFD.ALLOW_SEALING])
async def test_memfd_create_can_be_sealed_only_if_asked_to(task: Task, flags: MFD) -> None:
    async with await task.memfd_create("sealed", flags) as fd:
        with opened(fd).open("rb") as here:
            seals = fcntl.fcntl(here, fcntl.F_GET_SEALS)
        assert seals == (0 if flags else fcntl.F_SEAL_SEAL)


async def test_memfd_create_takes_a_path_a_pointer_and_is_a_function(task: Task) -> None:
    expected = "/memfd:some name (deleted)"
    async with await task.memfd_create(Path("some name")) as fd:
        assert os.readlink(opened(fd)) == expected
    async with await task.memfd_create(await task.ptr("some name")) as fd:
        assert os.readlink(opened(fd)) == expected
    async with await memfd_create(task, "some name") as fd:
        assert os.readlink(opened(fd)) == expected
        assert type(fd) is FileDescriptor
    async with await memfd_create(task, await task.ptr("some name"), MFD.ALLOW_SEALING) as fd:
        assert os.readlink(opened(fd)) == expected


async def test_memfd_create_refuses_a_nul_before_it_is_sent(task: Task) -> None:
    with nothing_sent(task), pytest.raises(ValueError, match=r"name: .*'a\\x00b'"):
        await task.memfd_create("a\0b")


async def test_memfd_create_refuses_a_pointer_of_another_process(
    task: Task, stranger: rsyscall.Process
) -> None:
    name = await stranger.ptr("name")
    with nothing_sent(task), pytest.raises(AddressSpaceMismatchError) as caught:
        await task.memfd_create(name)
    assert str(task.address_space) in str(caught.value)
    assert str(stranger.task.address_space) in str(caught.value)


async def test_memfd_create_refuses_a_freed_pointer(task: Task) -> None:
    name = await task.ptr("name")
    name.free()
    with nothing_sent(task), pytest.raises(UseAfterFreeError):
        await memfd_create(task, name)


async def test_memfd_create_fails_as_os_does_and_names_the_call(task: Task) -> None:
    expected = error_here(lambda: os.memfd_create("x" * 250))
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:
        await task.memfd_create("x" * 250)
    assert caught.value.errno == expected.errno
    assert caught.value.__notes__ == [f"in memfd_create(name={'x' * 250!r}, flags=0x1)"]

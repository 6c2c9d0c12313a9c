"""Children that run code of ours, and what a task does with what is in its memory already."""

from __future__ import annotations

import errno
import os
import platform
import struct
from collections.abc import AsyncGenerator
from typing import Any

import pytest

import rsyscall
from process.seen import status
from rsyscall import local_process
from rsyscall.far import AddressSpaceMismatchError
from rsyscall.fcntl import AT, O
from rsyscall.handle import Pointer, Task, WrittenPointer
from rsyscall.handle.process import ChildDeadError, DeadTaskError, ProcessPid
from rsyscall.linux.futex import (
    FUTEX_OWNER_DIED,
    FUTEX_TID_MASK,
    FutexNode,
    RobustListHead,
)
from rsyscall.memory.allocator import BumpAllocator
from rsyscall.near.sysif import SyscallHangup, SyscallSendError
from rsyscall.sched import CLONE, Stack
from rsyscall.struct import BytesSerializer
from rsyscall.sys.mman import MAP, PROT
from rsyscall.sys.wait import CalledProcessError, W
from rsyscall.unistd import ArgList
from rsyscall.unistd.exec import write_arglist

#: exit_group(2) with the number at the stack pointer; and pause(2), or the like, for ever.
EXIT = {
    "x86_64": b"\x8b\x3c\x24\xb8\xe7\x00\x00\x00\x0f\x05",
    "aarch64": struct.pack("<3I", 0xB94003E0, 0xD2800BC8, 0xD4000001),
}[platform.machine()]
PAUSE = {
    "x86_64": b"\xb8\x22\x00\x00\x00\x0f\x05\xeb\xf7",
    "aarch64": struct.pack("<4I", 0xAA1F03E0, 0xAA1F03E1, 0xAA1F03E2, 0xAA1F03E3)
    + struct.pack("<3I", 0xD2800928, 0xD4000001, 0x17FFFFFA),
}[platform.machine()]


async def function(task: Task, code: bytes) -> Pointer[bytes]:
    """Code that can be executed."""
    both = PROT.READ | PROT.WRITE
    mapping = await task.mmap(4096, both | PROT.EXEC, MAP.PRIVATE | MAP.ANONYMOUS)
    _, allocation = await BumpAllocator(mapping).malloc(len(code), 16)
    pointer = Pointer(mapping, BytesSerializer(), allocation, bytes)
    return await pointer.write(code)


async def stack(
    task: Task, code: bytes, data: bytes = b""
) -> tuple[Pointer[Stack[bytes]], WrittenPointer[Stack[bytes]]]:
    room: Pointer[Any] = await task.malloc(Stack, 8192)
    value = Stack(await function(task, code), data, BytesSerializer())
    return await room.write_to_end(value, 16)


@pytest.mark.parametrize("flags", [CLONE.VM, CLONE.NONE, CLONE.VM | CLONE.FILES | CLONE.FS])
async def test_a_child_that_runs_code(origin: rsyscall.Process, flags: CLONE) -> None:
    given = await stack(origin.task, EXIT, struct.pack("=I", 42))
    child = await origin.task.clone(flags, given)
    assert isinstance(child, ProcessPid)
    state = await origin.monitor.add_child_pid(child).waitpid(W.EXITED)
    assert state.exit_status == 42
    assert not any(pointer.valid for pointer in given)
    with pytest.raises(ChildDeadError):
        await child.kill(9)


async def test_its_stack_is_its_own_while_it_runs(origin: rsyscall.Process) -> None:
    data = bytes(range(256))
    given = await stack(origin.task, PAUSE, data)
    at = int(given[1].near) + 8
    async with await origin.monitor.clone(CLONE.VM, given) as child:
        assert status(int(child.pid.near))["SigBlk"] == "fffffffffffbfeff"  # all but KILL and STOP
        assert await origin.task.sysif.read_memory(at, len(data)) == data
        begin, end = (pointer.allocation.offset() for pointer in given)
        for pointer in given:
            pointer.free()
        others = [await origin.task.malloc(bytes, 8192) for _ in range(4)]
        for other in others:
            if other.mapping is given[0].mapping:
                assert not begin <= other.allocation.offset() < end


async def test_what_cannot_be_cloned(origin: rsyscall.Process) -> None:
    task = origin.task
    given = await stack(task, EXIT)
    with pytest.raises(ValueError, match=r"^flags: .*THREAD"):
        await task.clone(CLONE.VM | CLONE.THREAD, given)
    for name in ("ptid", "ctid", "newtls"):
        with pytest.raises(ValueError, match=f"^{name}: "):
            await task.clone(CLONE.VM, given, **{name: given[0]})  # type: ignore[arg-type]
    async with await local_process.clone(vm=False) as other:
        with pytest.raises(AddressSpaceMismatchError):
            await other.task.clone(CLONE.VM, given)
    assert all(pointer.valid for pointer in given)


def test_a_stack_cannot_be_read() -> None:
    with pytest.raises(ValueError, match=r"^data: "):
        Stack.from_bytes(bytes(16))


# ---- futexes ----


async def test_a_futex_whose_owner_ends_is_given_up() -> None:
    async with await local_process.clone() as child:
        owner = int(child.task.near_process)
        last = await local_process.ptr(FutexNode(None, owner))
        first = await local_process.ptr(FutexNode(last, owner))
        head = await child.ptr(RobustListHead(first))
        await child.task.set_robust_list(head)
        await child.exit(0)
        await child.pid.waitpid(W.EXITED)
        raw = await local_process.task.sysif.read_memory(first.near, FutexNode.sizeof())
        assert struct.unpack("=QI", raw[:12]) == (int(last.near), FUTEX_OWNER_DIED)
        node = await last.read()
        assert node.next is None
        assert node.futex & ~FUTEX_TID_MASK == FUTEX_OWNER_DIED
        with pytest.raises(ValueError, match=r"^data: "):
            await first.read()
        with pytest.raises(ValueError, match=r"^data: "):
            RobustListHead.from_bytes(bytes(24))
        with pytest.raises(ValueError, match=r"^futex: "):
            FutexNode(None, 2**32).to_bytes()


async def test_the_interpreter_keeps_its_own_list() -> None:
    head = await local_process.ptr(RobustListHead(await local_process.ptr(FutexNode(None, 0))))
    with pytest.raises(SyscallSendError):
        await local_process.task.set_robust_list(head)


# ---- exec of what is in memory ----


@pytest.fixture(params=[True, False], ids=["shared", "private"])
async def child(
    request: pytest.FixtureRequest, origin: rsyscall.Process
) -> AsyncGenerator[rsyscall.ChildProcess]:
    async with await origin.clone(vm=request.param) as child:
        yield child


async def arguments(
    process: rsyscall.Process, *args: str, **env: str
) -> tuple[WrittenPointer[ArgList], WrittenPointer[ArgList]]:
    variables = [f"{name}={value}" for name, value in env.items()]
    return await write_arglist(process.task, args), await write_arglist(process.task, variables)


async def test_exec_of_what_is_in_memory(child: rsyscall.ChildProcess) -> None:
    path = await child.ptr("/bin/sh")
    command = rsyscall.Command("/bin/sh", ["sh"])
    args = await arguments(child, "sh", "-c", 'exit "$STATUS"', STATUS="7")
    await child.task.execve(path, *args, command)
    assert child.pid.command is command
    with pytest.raises(CalledProcessError) as caught:
        await child.pid.check()
    assert caught.value.state.exit_status == 7
    with pytest.raises(DeadTaskError):
        await child.task.execve(path, *args)


async def test_exec_by_a_descriptor_and_its_failure(child: rsyscall.ChildProcess) -> None:
    args = await arguments(child, "true")
    with pytest.raises(FileNotFoundError):
        await child.task.execve(await child.ptr("/no/such/file"), *args)
    assert await child.task.getpid() == child.task.near_process
    async with await child.task.open("/bin/true", O.RDONLY) as fd:
        await child.task.execveat(fd, await child.ptr(""), *args, AT.EMPTY_PATH)
    assert (await child.pid.check()).clean()


async def test_exec_of_a_stub_ends_its_connection() -> None:
    async with rsyscall.open_process() as stub:
        await stub.task.execve(await stub.ptr("/bin/true"), *await arguments(stub, "true"))
        with pytest.raises(SyscallHangup):
            await stub.task.getpid()


async def test_the_interpreter_is_not_replaced() -> None:
    args = await arguments(local_process, "true")
    with pytest.raises(PermissionError) as caught:
        await local_process.task.execve(await local_process.ptr("/bin/true"), *args)
    assert caught.value.errno == errno.EPERM
    assert int(await local_process.task.getpid()) == os.getpid()


async def test_a_child_leaves_the_shared_table_by_its_task(origin: rsyscall.Process) -> None:
    async with await origin.clone(CLONE.FILES) as child:
        await child.task.unshare_files()
        assert child.task.fd_table is not origin.task.fd_table
        assert (await (await child.exec(rsyscall.Command("/bin/true", ["true"]))).check()).clean()

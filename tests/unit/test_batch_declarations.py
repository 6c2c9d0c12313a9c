"""Every typed call is declared once, and is a method of a task or a handle, and of a batch."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import rsyscall
from rsyscall.batch._typed import TypedSteps
from rsyscall.handle import FileDescriptor, MemoryMapping, Task
from rsyscall.near.typed import DECLARED, TypedCall
from rsyscall_protocol._syscalls import CALLS as KERNEL_CALLS

#: Async methods that are more, or something else, than a call with a value: a batch cannot have
#: them. Memory comes from an allocator and is reached by READ and WRITE; invalidate is a close that
#: may not happen, as_argument a call that returns something else; send_to and is_same_file are of
#: two processes; garbage is not a call's; two keep or compare our idea of the signal mask,
#: others change what we believe of the task, or make another; and some take pointers only, to
#: memory that is there.
NO_CALLS: dict[type, set[str]] = {
    Task: {
        "ptr",
        "malloc",
        "malloc_serializer",
        "run_fd_table_gc",
        "sigmask_block",
        "read_oldset_and_check",
        "unshare",
        "unshare_files",
        "setns",
        "execve",
        "execveat",
        "clone",
        "set_robust_list",
        "exit",
    },
    FileDescriptor: {"invalidate", "as_argument", "send_to", "is_same_file", "readv", "writev"},
    MemoryMapping: {"read", "read_into", "write"},
}
#: What a method is given first, in a batch.
HANDLES = {Task: None, FileDescriptor: "fd", MemoryMapping: "mapping"}
#: Where that is the name of another argument.
FIRST = {"epoll_ctl": "epfd"}
#: Where to leave what in a batch always comes back.
LEFT_AT = {
    "fstat": "statbuf",
    "sigaction": "oldact",
    "sigprocmask": "oldset",
    "sched_getaffinity": "mask",
    "prctl_get_name": "arg2",
    "getrlimit": "rlim",
    "prlimit": "old_limit",
    "capget": "datap",
    "pipe": "buf",
    "socketpair": "sv",
    "readlink": "buf",
    "readlinkat": "buf",
    "timerfd_settime": "old_value",
    "timerfd_gettime": "curr_value",
    "accept": "addr",
    "getsockname": "addr",
    "getpeername": "addr",
}
#: A call of tasks and of descriptors; in a batch it is one method with the arguments of both.
TWICE = {"mmap", "linkat", "signalfd"}

Method = Callable[..., Any]


def methods(cls: type) -> dict[str, Method]:
    """The public async ones that make calls."""
    return {
        name: method
        for name, method in inspect.getmembers(cls, inspect.iscoroutinefunction)
        if not name.startswith("_") and name not in NO_CALLS[cls]
    }


def of_batches() -> dict[str, Method]:
    found = inspect.getmembers(TypedSteps, inspect.isfunction)
    return {name: method for name, method in found if not name.startswith("_") and name != "add"}


def parameters(method: Method) -> list[tuple[str, Any, object]]:
    """Names, kinds and defaults, without self."""
    found = list(inspect.signature(method).parameters.values())[1:]
    return [(parameter.name, parameter.kind, parameter.default) for parameter in found]


CALLS = [(cls, name) for cls in NO_CALLS for name in methods(cls)]


def test_the_three_lists_are_the_same() -> None:
    names = {name for _, name in CALLS}
    assert names == DECLARED.keys() == of_batches().keys()


def test_only_some_are_there_twice() -> None:
    names = [name for _, name in CALLS]
    assert {name for name in names if names.count(name) > 1} == TWICE


def test_the_exceptions_exist() -> None:
    for cls, names in NO_CALLS.items():
        for name in names:
            assert inspect.iscoroutinefunction(getattr(cls, name))


@pytest.mark.parametrize(
    ("cls", "name"), [call for call in CALLS if call[1] not in TWICE], ids=lambda v: str(v)
)
def test_the_parameters_are_the_same(cls: type, name: str) -> None:
    *given, options = parameters(of_batches()[name])
    assert options[:2] == ("options", inspect.Parameter.VAR_KEYWORD)
    handle = FIRST.get(name, HANDLES[cls])
    if handle is not None:
        first = given.pop(0)
        assert first == (handle, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty)
    wanted = parameters(methods(cls)[name])
    left_at = LEFT_AT.get(name)
    assert left_at is None or left_at in {parameter[0] for parameter in wanted}
    assert given == [parameter for parameter in wanted if parameter[0] != left_at]


def test_the_parameters_of_mmap_are_those_of_both() -> None:
    given = parameters(of_batches()["mmap"])
    names = {name: default for name, _, default in given if name != "options"}
    assert names.pop("fd") is None
    for cls in (Task, FileDescriptor):
        for name, _, default in parameters(methods(cls)["mmap"]):
            assert names[name] == default
    task = parameters(methods(Task)["mmap"])
    assert given[: len(task) - 1] == task[:-1]  # the positional ones
    assert names.keys() == {
        name for cls in (Task, FileDescriptor) for name, _, _ in parameters(methods(cls)["mmap"])
    }


def test_the_parameters_of_linkat_are_those_of_tasks() -> None:
    """A descriptor's own is one of a task's where it comes first."""
    *given, _options = parameters(of_batches()["linkat"])
    assert given == parameters(methods(Task)["linkat"])
    assert given[1:] == parameters(methods(FileDescriptor)["linkat"])


def test_the_parameters_of_signalfd_are_those_of_both() -> None:
    """Of a descriptor's own that descriptor is given by name."""
    *given, options = parameters(of_batches()["signalfd"])
    assert options[0] == "options"
    assert given.pop()[::2] == ("fd", None)
    for cls in (Task, FileDescriptor):
        assert given == parameters(methods(cls)["signalfd"])


@pytest.mark.parametrize("name", DECLARED)
def test_a_declaration_returns_a_call(name: str) -> None:
    annotations = inspect.get_annotations(DECLARED[name])
    assert str(annotations["return"]).startswith(TypedCall.__name__)
    assert DECLARED[name].__name__ == f"{name}_call"


@pytest.mark.parametrize("name", of_batches())
def test_a_method_of_a_batch_says_what_it_is(name: str) -> None:
    """Each names its manual page, as every method does."""
    pages = {page for call, (_, _, _, page) in KERNEL_CALLS.items() for page in (call, page)}
    doc = " ".join((of_batches()[name].__doc__ or "").split())
    assert (found := re.search(r" (\w+)\(2\)\.$", doc)) is not None
    assert found[1] in pages | {"prlimit", "pwrite"}  # the kernel's have 64 in their names


def test_a_step_has_the_number_that_was_declared() -> None:
    batch = rsyscall.Batch()
    assert batch.getpid().number == DECLARED["getpid"]().number  # type: ignore[attr-defined]

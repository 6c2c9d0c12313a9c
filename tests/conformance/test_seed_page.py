"""The page the project was founded on, rsyscall.sys.mman, name by name: what needs no process."""

from __future__ import annotations

import enum
import inspect
import mmap
import os
import typing

import pytest

import rsyscall.linux.memfd
import rsyscall.sys.mman
from rsyscall import far, near
from rsyscall.handle import FileDescriptor, Task
from rsyscall.handle.fd import BaseFileDescriptor, FileDescriptorTask
from rsyscall.linux.memfd import MemfdTask
from rsyscall.near.sysif import SyscallInterface
from rsyscall.sys.mman import (
    MAP,
    MFD,
    PROT,
    MappableFileDescriptor,
    MemoryMapping,
    MemoryMappingTask,
)

NAMES = ["MFD", "PROT", "MAP", "MappableFileDescriptor", "MemoryMappingTask", "MemoryMapping"]


def parameters(function: object) -> list[tuple[str, object]]:
    """Names and defaults of what may be given by position."""
    assert callable(function)
    empty = inspect.Parameter.empty
    return [
        (name, None if parameter.default is empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]


def required(function: object) -> list[str]:
    assert callable(function)
    every = inspect.signature(function).parameters.items()
    return [name for name, parameter in every if parameter.default is inspect.Parameter.empty]


@pytest.mark.parametrize("name", NAMES)
def test_the_page_exports(name: str) -> None:
    assert name in rsyscall.sys.mman.__all__
    assert hasattr(rsyscall.sys.mman, name)


@pytest.mark.parametrize("name", ["EXEC", "READ", "WRITE", "NONE"])
def test_prot_has_the_numbers_of_the_header(name: str) -> None:
    # the standard library has no PROT_NONE
    assert PROT[name] == (0 if name == "NONE" else getattr(mmap, f"PROT_{name}"))


@pytest.mark.parametrize("name", ["PRIVATE", "SHARED", "ANONYMOUS", "POPULATE"])
def test_map_has_the_numbers_of_the_header(name: str) -> None:
    assert MAP[name] == getattr(mmap, f"MAP_{name}")


@pytest.mark.parametrize("name", ["CLOEXEC", "ALLOW_SEALING", "HUGETLB", "HUGE_2MB", "HUGE_1GB"])
def test_mfd_has_the_numbers_of_the_header(name: str) -> None:
    assert MFD[name] == getattr(os, f"MFD_{name}")


def test_mfd_none_is_no_flag() -> None:
    assert int(MFD.NONE) == 0


@pytest.mark.parametrize("flags", [PROT, MAP, MFD])
def test_flags_are_intflags(flags: type[enum.IntFlag]) -> None:
    assert issubclass(flags, enum.IntFlag)
    assert isinstance(flags(0) | flags(1), flags)


def test_mfd_is_that_of_linux_memfd() -> None:
    assert MFD is rsyscall.linux.memfd.MFD


def test_mapping_has_the_slots_of_the_page() -> None:
    assert MemoryMapping.__dict__["__slots__"] == ("task", "near", "file")
    assert "__dict__" not in vars(MemoryMapping)  # nor any other attribute


def test_mapping_is_constructed_from_task_near_and_file() -> None:
    assert required(MemoryMapping) == ["task", "near", "file"]
    assert len(parameters(MemoryMapping)) == 3


@pytest.mark.parametrize("name", ["munmap", "_validate"])
def test_mapping_method_takes_nothing(name: str) -> None:
    assert parameters(getattr(MemoryMapping, name)) == [("self", None)]


def test_mapping_for_task_takes_a_task() -> None:
    assert required(MemoryMapping.for_task) == ["self", "task"]
    assert not inspect.iscoroutinefunction(MemoryMapping.for_task)


def test_mapping_task_is_a_file_descriptor_task() -> None:
    assert issubclass(MemoryMappingTask, FileDescriptorTask)
    assert issubclass(MemoryMappingTask, far.Task)
    assert issubclass(Task, MemoryMappingTask)


def test_mapping_task_constructor_names() -> None:
    names = ["sysif", "near_process", "fd_table", "address_space", "pidns"]
    assert required(MemoryMappingTask) == names
    assert required(Task) == names


def test_mapping_task_mmap_signature() -> None:
    function = MemoryMappingTask[BaseFileDescriptor].mmap
    assert inspect.iscoroutinefunction(function)
    assert required(function) == ["self", "length", "prot", "flags"]
    assert parameters(function)[4:] == [("page_size", 4096)]


def test_mappable_file_descriptor_is_a_base_file_descriptor() -> None:
    assert issubclass(MappableFileDescriptor, BaseFileDescriptor)
    assert issubclass(FileDescriptor, MappableFileDescriptor)


def test_mappable_file_descriptor_constructor_names() -> None:
    assert [name for name, _ in parameters(MappableFileDescriptor)] == ["task", "near", "valid"]


def test_mappable_file_descriptor_mmap_signature() -> None:
    function = MappableFileDescriptor.mmap
    assert inspect.iscoroutinefunction(function)
    assert required(function) == ["self", "length", "prot", "flags"]
    assert parameters(function)[4:] == [("offset", 0), ("page_size", 4096), ("file", None)]


def test_raw_mmap_signature() -> None:
    function = rsyscall.sys.mman._mmap  # pyright: ignore[reportPrivateUsage] - on the page
    assert inspect.iscoroutinefunction(function)
    assert required(function) == ["sysif", "length", "prot", "flags"]
    assert parameters(function)[4:] == [
        ("addr", None),
        ("fd", None),
        ("offset", 0),
        ("page_size", 4096),
    ]


def test_raw_munmap_signature() -> None:
    function = rsyscall.sys.mman._munmap  # pyright: ignore[reportPrivateUsage] - on the page
    assert inspect.iscoroutinefunction(function)
    assert required(function) == ["sysif", "mapping"]


def test_near_mapping_is_made_of_address_length_and_page_size() -> None:
    mapping = near.MemoryMapping(address=0x10000, length=8192, page_size=4096)
    assert (mapping.address, mapping.length, mapping.page_size) == (0x10000, 8192, 4096)
    assert str(mapping) == "10000-12000"
    assert str(near.MemoryMapping(0x10000, 8192, 8192)) == "10000-12000, pages of 8192"


def test_files_are_equal_to_themselves_only() -> None:
    one, other = far.File(), far.File()
    assert one == one
    assert one != other
    assert len({one, other}) == 2


def test_address_space_mismatch_is_an_error_of_its_own() -> None:
    assert issubclass(far.AddressSpaceMismatchError, Exception)
    assert not issubclass(far.AddressSpaceMismatchError, far.FDTableMismatchError)


@pytest.mark.parametrize("name", ["MemoryMapping", "Process", "FileDescriptor", "Address"])
def test_near_has_the_types_that_the_page_names(name: str) -> None:
    assert isinstance(getattr(near, name), type)


@pytest.mark.parametrize("name", ["File", "FDTable", "AddressSpace", "PidNamespace"])
def test_far_has_the_types_that_the_page_names(name: str) -> None:
    assert isinstance(getattr(far, name), type)


def test_syscall_interface_takes_a_number_and_six_arguments() -> None:
    names = [name for name, _ in parameters(SyscallInterface.syscall)]
    assert names == ["self", "number", *(f"arg{i}" for i in range(1, 7))]
    assert required(SyscallInterface.syscall) == ["self", "number"]


@pytest.mark.parametrize("name", ["MFD", "MemfdTask", "memfd_create"])
def test_linux_memfd_exports(name: str) -> None:
    assert name in rsyscall.linux.memfd.__all__


def test_memfd_create_is_a_method_and_a_function() -> None:
    method, function = MemfdTask[BaseFileDescriptor].memfd_create, rsyscall.linux.memfd.memfd_create
    assert required(method) == ["self", "name"]
    assert required(function) == ["task", "name"]
    assert parameters(method)[2:] == parameters(function)[2:] == [("flags", MFD.NONE)]


@pytest.mark.parametrize("cls", [MemoryMapping, MemoryMappingTask, MappableFileDescriptor])
def test_every_class_and_method_of_the_page_is_documented(cls: type) -> None:
    members = typing.cast("dict[str, object]", vars(cls))
    public = [name for name, value in members.items() if callable(value) and name[0] != "_"]
    assert public
    assert cls.__doc__
    assert all(inspect.getdoc(getattr(cls, name)) for name in public)

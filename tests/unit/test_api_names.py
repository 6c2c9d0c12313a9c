"""The names that users know: modules, classes, functions, and the names of their parameters.

api_names.txt has them; an indented line belongs to what is above it. What is not so here stands in
DIFFERENCES, with the reason.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

_NONE = inspect.Parameter.empty
WANTED = Path(__file__).with_name("api_names.txt")

#: What begins so is to come; all else is deliberate, and is said to be wrong once it is not so.
NOT_YET = "not there yet"

_INTERNAL = "how memory is handed out is nobody's business but the allocator's"
_ELSEWHERE = "of handle.Task, which knows its far objects"
_VAL = "serializers take a `val`, as their base class says"
_INSTANCE = "serializers are used as instances, as their base class says"
_CFFI = "no cffi objects are shown: from_bytes and to_bytes are there"

#: What is not the same, and why.
DIFFERENCES: dict[str, str] = {
    "rsyscall.command.Command.env": "a variable may be called env_updates, too",
    "rsyscall.epoller.AsyncReadBuffer.read_cffi": _CFFI,
    "rsyscall.far.Task.allocator": "only what can be used to allocate has one: RAMTask",
    "rsyscall.fcntl.FcntlFileDescriptor": "fcntl is a method of rsyscall.unistd's descriptors",
    "rsyscall.fcntl.O.FMODE_EXEC": "the kernel's own: open(2) knows no such flag",
    "rsyscall.fcntl.O.FMODE_NONOTIFY": "the kernel's own: open(2) knows no such flag",
    "rsyscall.handle.fd.FileDescriptorTask.unshare_files": _ELSEWHERE,
    "rsyscall.handle.pointer.Pointer.shared": "memory that is shared is what the far object says",
    "rsyscall.handle.pointer.share_pointers": "what is read is no longer shared by itself",
    "rsyscall.handle.process.ProcessPid.mark_dead": "it is called as that of any ChildPid",
    "rsyscall.linux.fuse.FuseAttr.from_cffi": _CFFI,
    "rsyscall.linux.fuse.FuseDirent.from_cffi": _CFFI,
    "rsyscall.linux.fuse.FuseDirentplus.from_cffi": _CFFI,
    "rsyscall.linux.fuse.FuseEntryOut.from_cffi": _CFFI,
    "rsyscall.linux.fuse.FuseInHeader.from_cffi": _CFFI,
    "rsyscall.linux.fuse.FuseOutHeader.from_cffi": _CFFI,
    "rsyscall.memory.allocator.Allocation.add_after": _INTERNAL,
    "rsyscall.memory.allocator.Allocation.next": _INTERNAL,
    "rsyscall.memory.allocator.Allocation.prev": _INTERNAL,
    "rsyscall.sched.SchedTask.setns": _ELSEWHERE,
    "rsyscall.signal.Sigset.from_cffi": _CFFI,
    "rsyscall.signal.Sigset.to_cffi": _CFFI,
    "rsyscall.struct.PathLikeSerializer.to_bytes": _INSTANCE,
    "rsyscall.struct.StrSerializer.from_bytes": _INSTANCE,
    "rsyscall.struct.StrSerializer.to_bytes": _INSTANCE,
    "rsyscall.sys.socket.RecvMsghdrOutSerializer.to_bytes": _VAL,
    "rsyscall.sys.socket.SocketpairSerializer.to_bytes": _VAL,
    "rsyscall.time.Timespec.from_cffi": _CFFI,
    "rsyscall.unistd.ArgListSerializer.to_bytes": _VAL,
    "rsyscall.unistd.pipe.PipeSerializer.to_bytes": _VAL,
}


def wanted() -> Iterator[tuple[str, str]]:
    """Each wanted thing: what it belongs to, and its line."""
    module = owner = ""
    for line in WANTED.read_text().splitlines():
        text = line.strip()
        match len(line) - len(text):
            case 0:
                module = owner = text
                yield "", f"module {text}"
            case 2:
                owner = module
                yield module, text
                if text.startswith("class "):
                    owner = f"{module}.{text.split()[1]}"
            case _:
                yield owner, text


def find(path: str) -> object:
    """What has that full name."""
    parts = path.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for name in parts[n:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(path)


@functools.cache
def attributes(cls: type) -> set[str]:
    """What instances of it have, as far as the class says so."""
    found = set(dir(cls))
    for base in cls.__mro__[:-1]:
        found |= set(vars(base).get("__annotations__", ()))
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):  # it is compiled
            continue
        found |= set(re.findall(r"self\.(\w+)(?:: [^=\n]+)? = ", source))
    return found


def has(owner: object, name: str) -> bool:
    owner = typing.get_origin(owner) or owner  # of a generic class with its parameters
    return hasattr(owner, name) or (isinstance(owner, type) and name in attributes(owner))


def difference(signature: inspect.Signature, parameters: list[str]) -> str | None:
    """What cannot be called the way that is wanted."""
    ours = [p for p in signature.parameters.values() if p.name != "self"]
    positional = [p for p in ours if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    names = {p.name: p for p in ours if p.kind not in variable}
    keywords = any(p.kind is p.VAR_KEYWORD for p in ours)
    rest = any(p.kind is p.VAR_POSITIONAL for p in ours)
    by_position = True
    for i, wanted in enumerate(p for p in parameters if p != "self"):
        name = wanted.rstrip("=")
        if name.startswith("*"):
            by_position = False
            if name.strip("*") and not (keywords if name.startswith("**") else rest):
                return f"no {name}"
            continue
        if by_position:
            if i >= len(positional):
                if rest:
                    continue
                return f"{name} is not taken by position"
            if positional[i].name != name:
                return f"{positional[i].name} stands where {name} is wanted"
            if positional[i].kind is inspect.Parameter.POSITIONAL_ONLY:
                return f"{name} is not taken by name"
        elif name not in names and not keywords:
            return f"no {name}"
        if (
            wanted.endswith("=")
            and name in names
            and names[name].default is inspect.Parameter.empty
        ):
            return f"{name} has no default"
    known = {p.rstrip("=").strip("*") for p in parameters}
    for name, p in names.items():
        if name not in known and p.default is _NONE:
            return f"{name} must be given"
    return None


def look(owner_path: str, line: str) -> Iterator[tuple[str, str]]:
    """The full names of what is not there as wanted, and what is wrong."""
    kind, _, rest = line.partition(" ")
    if kind == "module":
        try:
            importlib.import_module(rest)
        except ModuleNotFoundError:
            yield rest, "no such module"
        return
    try:
        owner = find(owner_path)
    except (ModuleNotFoundError, AttributeError):
        return  # that was said
    if kind in ("names", "class"):
        for name in rest.split():
            if not has(owner, name):
                yield f"{owner_path}.{name}", f"no such {kind}".removesuffix("s")
        return
    found = re.fullmatch(r"(?P<how>.*?)(?P<name>\w+)\((?P<parameters>.*)\)", line)
    assert found is not None, line
    name, how = found["name"], found["how"].split()
    path = f"{owner_path}.{name}"
    if not has(owner, name):
        yield path, "no such function"
    elif "property" not in how and "setter" not in how:
        value = inspect.getattr_static(owner, name) if isinstance(owner, type) else None
        parameters = [p for p in found["parameters"].split(", ") if p]
        if isinstance(value, classmethod) and parameters[:1] == ["cls"]:
            parameters = parameters[1:]
        function = getattr(owner, name)
        of_class = bool({"static", "classmethod"} & set(how))
        if isinstance(owner, type) and of_class != isinstance(value, classmethod | staticmethod):
            yield path, "a method of instances or of the class"
            return
        if "classmethod" in how and parameters[:1] == ["cls"]:
            parameters = parameters[1:]
        wrong = difference(inspect.signature(function), parameters)
        if wrong is not None:
            yield path, wrong
        elif inspect.iscoroutinefunction(inspect.unwrap(function)) != ("async" in how):
            yield path, "async or not"


def differences() -> dict[str, str]:
    """What is not as wanted, by its full name."""
    found: dict[str, str] = {}
    for owner, line in wanted():
        found.update(look(owner, line))
    return found


def test_all_names_are_there() -> None:
    unknown = {name: what for name, what in differences().items() if name not in DIFFERENCES}
    assert unknown == {}


def test_every_difference_is_one() -> None:
    deliberate = {name for name, why in DIFFERENCES.items() if why != NOT_YET}
    assert deliberate - differences().keys() == set()


@pytest.mark.parametrize(
    ("wanted", "ours", "wrong"),
    [
        ("self, a, b=", "self, a, b=1", None),
        ("self, a, b=", "a, b=1, c=2", None),
        ("self, a, *, b=", "a, *, b=1", None),
        ("a, b", "*args", None),
        ("self, a, b=", "b, a=1", "b stands where a is wanted"),
        ("a", "b", "b stands where a is wanted"),
        ("a", "a, /", "a is not taken by name"),
        ("a, b", "a", "b is not taken by position"),
        ("a=", "a", "a has no default"),
        ("a", "a, b", "b must be given"),
        ("a, *, b=", "a", "no b"),
        ("a, *, b=", "a, **b", None),
        ("*args", "", "no *args"),
    ],
)
def test_what_is_a_difference(wanted: str, ours: str, wrong: str | None) -> None:
    signature = inspect.signature(eval(f"lambda {ours}: None"))
    assert difference(signature, wanted.split(", ")) == wrong

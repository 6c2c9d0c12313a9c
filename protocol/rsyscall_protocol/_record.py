"""Immutable classes with a few fields.

They are what `dataclasses.dataclass(frozen=True, slots=True)` would make of the same class, for a
seventh of the time: that takes half a millisecond a class, and whatever imports us waits for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast, dataclass_transform

__all__ = ["record"]

T = TypeVar("T")


def _fields(self: Any) -> tuple[object, ...]:
    return tuple([getattr(self, name) for name in self.__match_args__])


def _eq(self: Any, other: object) -> Any:
    """Whether it is of the same type, with the same fields."""
    if type(other) is not type(self):
        return NotImplemented
    return _fields(self) == _fields(other)


def _hash(self: Any) -> int:
    """By its fields."""
    return hash(_fields(self))


def _repr(self: Any) -> str:
    """The fields, by name."""
    fields = [f"{name}={getattr(self, name)!r}" for name in self.__match_args__]
    return f"{type(self).__qualname__}({', '.join(fields)})"


def _refuse(self: object, name: str, *_value: object) -> NoReturn:
    """FrozenInstanceError, an AttributeError: it cannot be changed."""
    raise dataclasses.FrozenInstanceError(f"{type(self).__name__}.{name} cannot be changed")


def _reduce(self: Any) -> tuple[object, ...]:
    """How it is copied and pickled: by its constructor."""
    return self.__class__, _fields(self)


class _DataclassFields:
    """For dataclasses.replace() and its like: as a dataclass has them, made when asked for."""

    def __init__(self) -> None:
        self._fields: object = None

    def __get__(self, instance: object, owner: Any) -> object:
        if self._fields is None:
            names = owner.__match_args__
            twin = dataclasses.make_dataclass(owner.__name__, names, eq=False, repr=False)
            self._fields = cast("Any", twin).__dataclass_fields__
        return self._fields


_METHODS: dict[str, Callable[..., object]] = {
    "__eq__": _eq,
    "__hash__": _hash,
    "__repr__": _repr,
    "__reduce__": _reduce,
}


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Give a class a constructor that takes its annotated fields, and make it immutable.

    A value in the class is the field's default, which all instances share: it must be immutable.
    __post_init__ is called with the fields set. Methods of the class's own are kept.
    """
    names = tuple(cls.__annotations__)
    namespace = dict(cls.__dict__)
    defaults: dict[str, object] = {}
    parameters: list[str] = []
    for name in names:
        default = namespace.pop(name, ...)
        parameters.append(name if default is ... else f"{name}=default_{name}")
        defaults[f"default_{name}"] = default
    for name in ("__dict__", "__weakref__"):
        namespace.pop(name, None)
    for name, method in _METHODS.items():
        # A class that defines __eq__ has a __hash__, which is None, that it did not write.
        if namespace.get(name) is None:
            namespace[name] = method
    namespace.update(
        __dataclass_fields__=_DataclassFields(),
        __slots__=names,
        __match_args__=names,
        __setattr__=_refuse,
        __delattr__=_refuse,
    )
    # Slots can only be had by making the class anew.
    made: Any = cast("Any", type(cls))(cls.__name__, cls.__bases__, namespace)
    setters = {f"set_{name}": made.__dict__[name].__set__ for name in names}
    lines = [f" set_{name}(self, {name})" for name in names]
    if "__post_init__" in namespace:
        lines.append(" self.__post_init__()")
    source = f"def __init__({', '.join(['self', *parameters])}):\n" + "\n".join(lines or [" pass"])
    scope: dict[str, Any] = {**defaults, **setters}
    exec(source, scope)
    made.__init__ = scope["__init__"]
    made.__init__.__qualname__ = f"{cls.__qualname__}.__init__"
    return cast("type[T]", made)

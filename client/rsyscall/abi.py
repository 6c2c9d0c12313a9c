"""How values lie in memory, which is not the same on every machine.

A structure says once which fields it has, in the words of its C declaration; an ABI says how large
they are, how they are aligned, and in which order their bytes come. What a task reads and writes
has the ABI of that task.
"""

from __future__ import annotations

import os
import struct
import sys

from rsyscall_protocol._record import record

__all__ = ["ABI", "NATIVE", "Layout"]


@record
class ABI:
    """The conventions of a kind of machine.

    machine: its name, as uname(2) has it. byteorder: "little" or "big". long: bytes of a long, and
    of an address. align64: a number of eight bytes begins at a multiple of so many.
    """

    machine: str
    byteorder: str
    long: int = 8
    align64: int = 8

    def __post_init__(self) -> None:
        """ValueError for what no machine has."""
        if self.byteorder not in ("little", "big"):
            raise ValueError(f"byteorder: {self.byteorder!r} is neither 'little' nor 'big'")
        if self.long not in (4, 8) or self.align64 not in (4, 8):
            raise ValueError(f"long, align64: {self.long}, {self.align64} are not 4 or 8")

    @property
    def order(self) -> str:
        """The byte order, as the struct module has it."""
        return "<" if self.byteorder == "little" else ">"

    def pack_words(self, bits: int, size: int) -> bytes:
        """A set of bits as an array of unsigned long, of `size` bytes. OverflowError."""
        if self.byteorder == "little":
            return bits.to_bytes(size, "little")
        data, word = bits.to_bytes(size, "big"), self.long
        return b"".join([data[end - word : end] for end in range(size, 0, -word)])

    def unpack_words(self, data: bytes) -> int:
        """The set of bits that an array of unsigned long is."""
        if self.byteorder == "little":
            return int.from_bytes(data, "little")
        word = self.long
        words = [data[end - word : end] for end in range(len(data), 0, -word)]
        return int.from_bytes(b"".join(words), "big")


#: That of this interpreter.
NATIVE = ABI(
    os.uname().machine,
    sys.byteorder,
    struct.calcsize("l"),
    struct.calcsize("BQ") - 8,
)

_CODES = {"i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I"}


def _code(abi: ABI, kind: str) -> tuple[str, int]:
    """A type as the struct module has it, and its alignment."""
    if kind in ("i64", "u64"):
        return ("q" if kind == "i64" else "Q"), abi.align64
    if kind in ("long", "ulong", "pointer"):
        signed, unsigned = "iI" if abi.long == 4 else "qQ"
        return (signed if kind == "long" else unsigned), abi.long if abi.long == 4 else abi.align64
    code = _CODES[kind]
    return code, struct.calcsize(f"={code}")


class _Form:
    """A layout on one kind of machine."""

    def __init__(self, abi: ABI, fields: str, least: int) -> None:
        packed = fields.startswith("packed ")
        parts, at, most = [abi.order], 0, 1
        names: list[str] = []
        #: Of each name, the code of the struct module and the type.
        self.types: dict[str, tuple[str, str]] = {}
        for field in fields.removeprefix("packed ").split(","):
            declared, name = field.split()
            kind, _, count = declared.partition("[")
            code, align = _code(abi, kind)
            align = 1 if packed else align
            size = struct.calcsize(f"={code}") * int(count.removesuffix("]") or 1)
            parts.append(f"{-at % align}x")
            parts.append(f"{size}x" if name == "_" else code)
            at += -at % align + size
            most = max(most, align)
            if name != "_":
                names.append(name)
                self.types[name] = code, kind
        parts.append(f"{max(-at % most, least - at)}x")
        self.names: tuple[str, ...] = tuple(names)
        self.struct: struct.Struct = struct.Struct("".join(parts))


class Layout:
    """A C structure: which fields it has.

    Fields are separated by commas; each is a type and a name. Types are i8 to u64, long, ulong and
    pointer. What is called _ is not used, and zero; it may be an array, such as u8[16]. If "packed"
    stands before all, nothing is aligned.
    """

    def __init__(self, name: str, fields: str, *, least: int = 0, **others: str) -> None:
        """name: for people. least: bytes that it has at least, whatever its fields are.

        others: the fields on machines where they are not the same, by the machine's name.
        """
        self.name: str = name
        self._least = least
        self._fields = fields
        self._others = others
        self._forms: dict[ABI, _Form] = {}
        self._native: _Form | None = None  # the same as _forms[NATIVE], which takes longer to find
        kinds = fields.removeprefix("packed ").split(",")
        #: Of the fields that are used, in the order in which values are given and returned.
        self.names: tuple[str, ...] = tuple(
            [name for field in kinds if (name := field.split()[1]) != "_"]
        )

    def _form(self, abi: ABI) -> _Form:
        form = self._native if abi is NATIVE else self._forms.get(abi)
        if form is None:
            fields = self._others.get(abi.machine, self._fields)
            form = self._forms[abi] = _Form(abi, fields, self._least)
            if abi is NATIVE:
                self._native = form
        return form

    def size(self, abi: ABI = NATIVE) -> int:
        """How many bytes it has."""
        return self._form(abi).struct.size

    def pack(self, abi: ABI, *values: int) -> bytes:
        """The structure in memory. ValueError, naming the field, for what does not fit."""
        form = self._form(abi)
        ordered = values
        if form.names != self.names:
            by_name = dict(zip(self.names, values, strict=True))
            ordered = tuple([by_name[name] for name in form.names])
        try:
            return form.struct.pack(*ordered)
        except struct.error:
            for name, value in zip(form.names, ordered, strict=True):
                code, kind = form.types[name]
                low, high = -(value < 0), 8 * struct.calcsize(f"={code}") - code.islower()
                if value >> high != low or (value < 0 and code.isupper()):
                    what = f"a {kind} of {self.name}"
                    raise ValueError(f"{name}: {value} does not fit into {what}") from None
            raise

    def unpack(self, abi: ABI, data: bytes) -> tuple[int, ...]:
        """The values. ValueError if there are too few bytes."""
        form = self._form(abi)
        if len(data) < form.struct.size:
            raise ValueError(f"data: {len(data)} bytes, {self.name} has {form.struct.size}")
        values: tuple[int, ...] = form.struct.unpack_from(data)
        if form.names == self.names:
            return values
        by_name = dict(zip(form.names, values, strict=True))
        return tuple([by_name[name] for name in self.names])

"""msgpack alone: which bytes are one value, and what the shortest form of it is."""

from __future__ import annotations

from typing import Any


def same(form: Any) -> tuple[Any, Any]:
    """What is in its shortest form already."""
    return form, form


#: name: (bytes, the shortest form of the same value)
ACCEPTED: dict[str, tuple[Any, Any]] = {
    "0": ("00", "00"),
    "127": ("7f", "7f"),
    "127 in one byte too many": ("cc7f", "7f"),
    "128": ("cc80", "cc80"),
    "128 in two bytes": ("cd0080", "cc80"),
    "255": ("ccff", "ccff"),
    "256": ("cd0100", "cd0100"),
    "65535 in four bytes": ("ce0000ffff", "cdffff"),
    "65536": ("ce00010000", "ce00010000"),
    "2^32-1 in eight bytes": ("cf00000000ffffffff", "ceffffffff"),
    "2^32": ("cf0000000100000000", "cf0000000100000000"),
    "2^64-1": ("cfffffffffffffffff", "cfffffffffffffffff"),
    "-1": ("ff", "ff"),
    "-1 in eight bytes": ("d3ffffffffffffffff", "ff"),
    "-32": ("e0", "e0"),
    "-33": ("d0df", "d0df"),
    "-128 in two bytes": ("d1ff80", "d080"),
    "-129": ("d1ff7f", "d1ff7f"),
    "-32769 in eight bytes": ("d3ffffffffffff7fff", "d2ffff7fff"),
    "-2^31": ("d280000000", "d280000000"),
    "-2^31-1": ("d3ffffffff7fffffff", "d3ffffffff7fffffff"),
    "-2^63": ("d38000000000000000", "d38000000000000000"),
    "127 as a signed integer": ("d07f", "7f"),
    "255 as a signed integer": ("d100ff", "ccff"),
    "nil": ("c0", "c0"),
    "false": ("c2", "c2"),
    "true": ("c3", "c3"),
    "a float of four bytes": ("ca3f800000", "ca3f800000"),
    "a float of eight bytes": ("cb3ff0000000000000", "cb3ff0000000000000"),
    "an empty string": ("a0", "a0"),
    "a string with a length in four bytes": ("db0000000161", "a161"),
    "a string of 31 bytes": same(["bf", {"repeat": "61", "times": 31}]),
    "a string of 32 bytes": same(["d920", {"repeat": "61", "times": 32}]),
    "a string of 256 bytes": same(["da0100", {"repeat": "61", "times": 256}]),
    "a string that is no text": ("a1ff", "a1ff"),
    "no bytes": ("c400", "c400"),
    "bytes with a length in four bytes": ("c60000000161", "c40161"),
    "255 bytes": same(["c4ff", {"repeat": "00", "times": 255}]),
    "65536 bytes": same(["c600010000", {"repeat": "00", "times": 65536}]),
    "an ext of one byte": ("d40500", "d40500"),
    "an ext of one byte, with its length": ("c7010500", "d40500"),
    "an ext of no bytes": ("c7007f", "c7007f"),
    "an ext of three bytes with a length in four": ("c90000000305010203", "c70305010203"),
    "an ext of sixteen bytes": (
        ["c800107f", {"repeat": "00", "times": 16}],
        ["d87f", {"repeat": "00", "times": 16}],
    ),
    "an empty array": ("90", "90"),
    "an array with its count in four bytes": ("dd0000000101", "9101"),
    "an array of sixteen": same(["dc0010", {"repeat": "00", "times": 16}]),
    "an empty map": ("df00000000", "80"),
    "a map with an array for a key": ("819001", "819001"),
    "a map with a key twice": ("8201020103", "8201020103"),
    "a map of sixteen": same(["de0010", {"repeat": "0000", "times": 16}]),
    "eight arrays in each other": same([{"repeat": "91", "times": 7}, "90"]),
    "eight maps in each other, in keys and values": (
        [{"repeat": "8100", "times": 7}, "80"],
        [{"repeat": "8100", "times": 7}, "80"],
    ),
    "shallow after deep": ("92919191919190919190", "92919191919190919190"),
}

#: name: (bytes, error)
REFUSED: dict[str, tuple[Any, str]] = {
    "nothing at all": ("", "MALFORMED"),
    "the byte that msgpack never uses": ("c1", "MALFORMED"),
    "an integer that ends too soon": ("cd01", "MALFORMED"),
    "a float that ends too soon": ("ca000000", "MALFORMED"),
    "a string that ends too soon": ("a261", "MALFORMED"),
    "bytes without their length": ("c4", "MALFORMED"),
    "bytes of 4 GiB that are not there": ("c6ffffffff", "MALFORMED"),
    "an ext without its type": ("c700", "MALFORMED"),
    "an ext that ends too soon": ("d50100", "MALFORMED"),
    "a timestamp": ("d6ff00000000", "MALFORMED"),
    "an ext of a negative type": ("d48000", "MALFORMED"),
    "an array of 2^32-1 items that are not there": ("ddffffffff", "MALFORMED"),
    "a map of 2^32-1 pairs that are not there": ("dfffffffff", "MALFORMED"),
    "a map with a key and no value": ("8101", "MALFORMED"),
    "an array with an item too few": ("9200", "MALFORMED"),
    "two values": ("0000", "TRAILING"),
    "an array and another byte": ("90c1", "TRAILING"),
    "nine arrays in each other": ([{"repeat": "91", "times": 8}, "90"], "DEPTH"),
    "nine maps in each other": ([{"repeat": "8100", "times": 8}, "80"], "DEPTH"),
    "a thousand arrays in each other": ([{"repeat": "91", "times": 1000}, "90"], "DEPTH"),
    "too deep, and then malformed": ([{"repeat": "91", "times": 8}, "91c1"], "DEPTH"),
    "malformed, and then too deep": (["92c1", {"repeat": "91", "times": 8}], "MALFORMED"),
    "too deep, and then trailing": ([{"repeat": "91", "times": 8}, "9000"], "DEPTH"),
}


def vectors() -> list[dict[str, Any]]:
    """All of them."""
    return [
        {"name": name, "bytes": given, "shortest": shortest}
        for name, (given, shortest) in ACCEPTED.items()
    ] + [{"name": name, "bytes": given, "error": error} for name, (given, error) in REFUSED.items()]

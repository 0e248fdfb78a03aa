"""Read data that R has saved: vectors, lists and data frames of numbers, strings and factors, in its XDR format.

The format is that of `serialize`, in the chapter "Serialization Formats" of "R Internals".
"""

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Iterator
from typing import Any

NOTHING, REFERENCE = 254, 255
SYMBOL, PAIRS, STRING, LOGICALS, INTEGERS, REALS, STRINGS, LIST = 1, 2, 9, 10, 13, 14, 16, 19
WITH_ATTRIBUTES, WITH_TAG = 0x200, 0x400


class Factor(list):
    """The names of the levels of a factor, one for each row."""


class _Reader:
    def __init__(self, content: bytes):
        if content[:2] != b"X\n":
            raise ValueError(f"Data of R must be in the XDR format, which begins with X, got {content[:2]!r}.")
        self.content, self.place, self.symbols = content, 2, list[str]()
        version, _, _ = (self.integer() for _ in range(3))
        if version > 2:
            self.place += 4 + self.integer(peek=True)

    def integer(self, *, peek: bool = False) -> int:
        (value,) = struct.unpack_from(">i", self.content, self.place)
        self.place += 0 if peek else 4
        return value

    def numbers(self, kind: str, size: int) -> list[Any]:
        count = self.integer()
        values = struct.unpack_from(f">{count}{kind}", self.content, self.place)
        self.place += count * size
        return list(values)

    def item(self) -> Any:
        """The next object; the attributes of a vector are dropped but for names and levels."""
        flags = self.integer()
        kind = flags & 255
        if kind == NOTHING:
            return None
        if kind == REFERENCE:
            return self.symbols[(flags >> 8 or self.integer()) - 1]
        if kind == SYMBOL:
            self.symbols.append(self.item())
            return self.symbols[-1]
        if kind == PAIRS:
            return self.pairs(flags)
        return self.string() if kind == STRING else self.with_attributes(self.vector(kind), flags)

    def string(self) -> str:
        """A string; a missing one is empty."""
        length = max(0, self.integer())
        self.place += length
        return self.content[self.place - length : self.place].decode("latin-1")

    def with_attributes(self, value: list[Any], flags: int) -> Any:
        """A vector, as a factor or a dictionary where its attributes make it one."""
        attributes = self.item() if flags & WITH_ATTRIBUTES else {}
        if "levels" in attributes:
            return Factor(attributes["levels"][place - 1] for place in value)
        return dict(zip(attributes["names"], value, strict=True)) if "names" in attributes else value

    def pairs(self, flags: int) -> dict[str, Any]:
        """A list of pairs, by their tags."""
        found = {}
        while flags & 255 == PAIRS:
            if flags & WITH_ATTRIBUTES:
                self.item()
            tag = self.item() if flags & WITH_TAG else str(len(found))
            found[tag] = self.item()
            flags = self.integer()
        return found

    def vector(self, kind: int) -> list[Any]:
        if kind in (LOGICALS, INTEGERS):
            return self.numbers("i", 4)
        if kind == REALS:
            return self.numbers("d", 8)
        if kind in (STRINGS, LIST):
            return [self.item() for _ in range(self.integer())]
        raise ValueError(f"Data of R may hold vectors, lists and factors, got an object of type {kind}.")


def read_rda(content: bytes) -> dict[str, Any]:
    """The objects of a file that ``save`` has written, by name."""
    for magic, module in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ", lzma)):
        if content.startswith(magic):
            content = module.decompress(content)
    return _Reader(content[5:]).item()  # after "RDX2\n"


def read_rdb(content: bytes) -> Iterator[Any]:
    """The objects of a database of a package: each is a length and what zlib has compressed."""
    while content:
        decompressor = zlib.decompressobj()
        unpacked = decompressor.decompress(content[4:])
        content = decompressor.unused_data
        yield _Reader(unpacked).item()

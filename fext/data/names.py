"""The names of images, as many as there may be: held as one block of bytes, a fifth of what a tuple of texts takes."""

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload


def name_to_bytes(name: str) -> bytes:
    """A name as the file system has it. Names are sorted by these bytes, the same on every machine."""
    return name.encode("utf-8", "surrogateescape")


def name_from_bytes(data: bytes) -> str:
    """The name of these bytes; those that are not UTF-8 become lone surrogates, as Python has them."""
    return data.decode("utf-8", "surrogateescape")


def readable_in_json(text: str) -> str:
    """A JSON text as `readable` has it: of what is spelled out there the backslash is doubled, as JSON wants it."""
    return re.sub("[\udc80-\udcff]", lambda odd: f"\\\\x{ord(odd.group()) - 0xDC00:02x}", text)


def readable(text: str) -> str:
    """A text in which what stands for bytes that are not UTF-8 is spelled out, as in 'caf\\xe9.png'."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class Names(Sequence[str]):
    """An unchangeable sequence of names, equal to any sequence of the same names."""

    def __init__(self, names: Iterable[bytes]) -> None:
        """Take names as name_to_bytes gives them, in the order in which they come."""
        self._ends = array("Q", [0])
        block = bytearray()
        for name in names:
            block += name
            self._ends.append(len(block))
        self._block = bytes(block)

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Texts as Names."""
        return cls(map(name_to_bytes, names))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> "Names": ...
    def __getitem__(self, place: int | slice) -> "str | Names":
        if isinstance(place, slice):
            return self.select(range(*place.indices(len(self))))
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return name_from_bytes(self._at(place % len(self)))

    def __iter__(self) -> Iterator[str]:
        return map(name_from_bytes, self.iter_bytes())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return self._block == other._block and self._ends == other._ends
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(self._block)

    def __repr__(self) -> str:
        return f"Names of {len(self)} images"

    def iter_bytes(self) -> Iterator[bytes]:
        """The names as bytes, which compare as names are sorted."""
        return (self._block[start:end] for start, end in pairwise(self._ends))

    def select(self, places: Iterable[int]) -> "Names":
        """The names at some places."""
        return Names(self._at(place) for place in places)

    def _at(self, place: int) -> bytes:
        return self._block[self._ends[place] : self._ends[place + 1]]

"""How a TIFF is laid out, which camera raw and EXIF are, too: directories of entries.

After 'TIFF, Revision 6.0' (Adobe, 1992) and BigTIFF. Reads whatever is there of a damaged one; pixels are Pillow's.
"""

import struct
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple, Self

WIDTH, HEIGHT, STRIPS, ROWS_PER_STRIP, TILE_WIDTH, TILE_HEIGHT, TILES = 256, 257, 273, 278, 322, 323, 324
STRIP_LENGTHS = 279
NEW_SUBFILE_TYPE, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION = 254, 258, 259, 262, 274
SAMPLES_PER_PIXEL, PLANAR_CONFIGURATION, SUB_DIRECTORIES, SAMPLE_FORMAT = 277, 284, 330, 339
CHROMA_SUBSAMPLING, XMP = 530, 700

_STARTS = {b"II*\0": ("<", 8), b"MM\0*": (">", 8), b"II+\0": ("<", 16), b"MM\0+": (">", 16)}
_STARTS |= {b"MM*\0": (">", 8), b"II\0*": ("<", 8)}  # wrong, and read by Pillow
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_SIZES = {2: 1, 5: 8, 7: 1, 10: 8, 11: 4, 12: 8} | {
    kind: struct.calcsize(code) for kind, code in _WHOLE_NUMBERS.items()
}
_MAX_DIRECTORIES, _MAX_ENTRIES, _MAX_NUMBERS = 64, 4096, 1024  # more of them are none


class Entry(NamedTuple):
    """One entry of a directory: its type, how many values it has, where they lie, where the entry itself does."""

    kind: int
    length: int
    values_at: int
    at: int


class Directory(NamedTuple):
    """The entries by their tags, where it begins and ends, and where the next one is (0: nowhere).

    One that runs over the end of the file is not whole, and has the entries that are there.
    """

    entries: Mapping[int, Entry]
    at: int
    end: int
    next_at: int
    is_whole: bool


class Tiff:
    """A file or an EXIF block."""

    def __init__(self, data: bytes, byte_order: str, header_size: int) -> None:
        self.data, self.byte_order = data, byte_order
        big = header_size == 16
        self._count, self._entry, self._next = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
        self._inline = 8 if big else 4
        self._first_at = self._unpack(self._next, header_size - self._inline)

    @classmethod
    def of(cls, data: bytes) -> Self | None:
        """None where the bytes do not begin as a TIFF does."""
        start = _STARTS.get(data[:4])
        return None if start is None or len(data) < start[1] else cls(data, *start)

    def first(self) -> Directory | None:
        """The directory of the first page; None where there is none."""
        return self._directory(self._first_at)

    def all_directories(self) -> Iterator[Directory]:
        """The first page's, those of its sub-directories and those of further pages; a circle is walked once."""
        waiting, seen = [self._first_at], set[int]()
        while waiting and len(seen) < _MAX_DIRECTORIES:
            at = waiting.pop(0)
            directory = None if at in seen else self._directory(at)
            seen.add(at)
            if directory is not None:
                yield directory
                waiting += [*self.numbers(directory, SUB_DIRECTORIES), directory.next_at]

    def numbers(self, directory: Directory, tag: int) -> tuple[int, ...]:
        """The whole numbers of an entry; none where it is missing, cut off, very long or of another type."""
        entry = directory.entries.get(tag)
        return () if entry is None or entry.length > _MAX_NUMBERS else self.every_number(directory, tag)

    def every_number(self, directory: Directory, tag: int) -> tuple[int, ...]:
        """As `numbers`, however many there are."""
        entry = directory.entries.get(tag)
        if entry is None or entry.kind not in _WHOLE_NUMBERS:
            return ()
        try:
            code = f"{self.byte_order}{entry.length}{_WHOLE_NUMBERS[entry.kind]}"
            return struct.unpack_from(code, self.data, entry.values_at)
        except struct.error:
            return ()

    def number(self, directory: Directory, tag: int, default: int) -> int:
        """The first number of an entry."""
        return (*self.numbers(directory, tag), default)[0]

    def content(self, directory: Directory, tag: int) -> bytes:
        """The bytes of an entry as they lie; none where it is missing."""
        entry = directory.entries.get(tag)
        if entry is None:
            return b""
        return self.data[entry.values_at : entry.values_at + entry.length * _SIZES.get(entry.kind, 1)]

    def changed(self, drop: Collection[int], photometric: int | None = None) -> bytes:
        """The file with its first page alone, without those tags, and with that photometric interpretation."""
        directory = self.first()
        if directory is None or not directory.is_whole:
            return self.data
        changed = bytearray(self.data)
        kept = [entry for tag, entry in directory.entries.items() if tag not in drop]
        written = directory.at + struct.calcsize("=" + self._count)
        struct.pack_into(self.byte_order + self._count, changed, directory.at, len(kept))
        for entry in sorted(kept, key=lambda entry: entry.at):
            size = struct.calcsize("=" + self._entry)
            changed[written : written + size] = self.data[entry.at : entry.at + size]
            if photometric is not None and entry is directory.entries.get(PHOTOMETRIC):
                code = self.byte_order + _WHOLE_NUMBERS.get(entry.kind, "H")
                struct.pack_into(code, changed, written + size - self._inline, photometric)
            written += size
        changed[written : directory.end] = bytes(directory.end - written)  # nor a page behind this one
        return bytes(changed)

    def _directory(self, at: int) -> Directory | None:
        start, size = at + struct.calcsize("=" + self._count), struct.calcsize("=" + self._entry)
        if not 0 < at <= len(self.data) - (start - at):
            return None
        count = self._unpack(self._count, at)
        if count > _MAX_ENTRIES:
            return None
        entries = {}
        behind = start + count * size
        for place in range(start, min(behind, len(self.data) - size + 1), size):
            tag, kind, length, offset = struct.unpack_from(self.byte_order + self._entry, self.data, place)
            is_inline = length * _SIZES.get(kind, 1) <= self._inline
            entries[tag] = Entry(kind, length, place + size - self._inline if is_inline else offset, place)
        end = behind + self._inline
        next_at = self._unpack(self._next, behind) if end <= len(self.data) else 0
        return Directory(entries, at, min(end, len(self.data)), next_at, behind <= len(self.data))

    def _unpack(self, code: str, at: int) -> int:
        return int(struct.unpack_from(self.byte_order + code, self.data, at)[0])

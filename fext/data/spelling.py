"""Paths as people and programs write them: quoted, with blanks around, with backslashes, in another form of Unicode.

A text is always taken as it stands first; another reading counts only where that leads to nothing.
"""

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

_QUOTES = "\"'`\u201c\u201d\u2018\u2019"
# Blanks of no width, byte order marks, and the marks of direction that Windows' dialogs put before a path.
_INVISIBLE = "\u200b\u200e\u200f\u202a\u202b\u202c\u2066\u2067\u2068\u2069\ufeff"


def readings(text: str) -> list[str]:
    """What a text may mean as a path, the likeliest first: itself, then without what is around it and escapes in it."""
    plain = bare(text)
    found = [text, plain]
    if plain.startswith("file:"):  # as file managers put it on the clipboard
        path = urlsplit(plain).path
        found += [url2pathname(path), unquote(path)]
    found += [re.sub(r"\\(.)", r"\1", plain), plain.replace("\\", "/")]  # as a shell does it; as Windows does
    return [reading for reading in dict.fromkeys(found) if reading]


def bare(text: str) -> str:
    """A text without the blanks and the quotes around it; one quote alone goes, too, as cmd leaves it of "C:\\a\\"."""
    plain = text.strip().strip(_INVISIBLE).strip()
    if len(plain) > 1 and plain[0] in _QUOTES and plain[-1] in _QUOTES:
        return plain[1:-1].strip()
    return plain.strip('"')


def letters(name: str) -> str:
    """A name with its letters composed: macOS takes some apart ('e' and an accent), most others do not."""
    return unicodedata.normalize("NFC", name)


class Disk:
    """Finds on the disk what texts name, relative to a folder; what it has read of folders it remembers."""

    def __init__(self, root: str | os.PathLike[str] = "") -> None:
        self._root = root
        self._by_letters: dict[str, dict[str, list[str]]] = {}

    def find(self, text: str) -> str | None:
        """The first reading of a text that leads to something; None where none does.

        Then a path of the same letters counts, composed in another way, where it is the only such one.
        """
        meant = readings(text)
        there = next((reading for reading in meant if self._has(reading)), None)
        return there if there is not None else next(filter(None, map(self._composed_otherwise, meant)), None)

    def has(self, text: str) -> bool:
        """Whether a text leads to something."""
        return self.find(text) is not None

    def _has(self, path: str) -> bool:
        try:
            return os.path.lexists(os.path.join(self._root, path))
        except ValueError:  # a NUL within it
            return False

    def _composed_otherwise(self, path: str) -> str | None:
        if path.isascii():
            return None
        found = ""
        for part in re.split("(/+)", path):
            if part and part[0] != "/" and not self._has(found + part):
                same = self._names(found).get(letters(part), [])
                if len(same) != 1:
                    return None
                part = same[0]
            found += part
        return found

    def _names(self, folder: str) -> dict[str, list[str]]:
        """The names in a folder by their letters."""
        if folder not in self._by_letters:
            by_letters: dict[str, list[str]] = {}
            try:
                for name in os.listdir(os.path.join(self._root, folder) or "."):
                    by_letters.setdefault(letters(name), []).append(name)
            except (OSError, ValueError):
                pass
            self._by_letters = {folder: by_letters}  # a list names folder after folder
        return self._by_letters[folder]


def given_path(text: str) -> Path:
    """The path that a person gives, such as one pasted with quotes, or with '~' for the home.

    It is the text as it stands where that leads to something, else its first reading that does; where none does, it is
    the text without what is around it.
    """
    disk = Disk()
    for reading in (text, *map(os.path.expanduser, readings(text))):
        if (found := disk.find(reading)) is not None:
            return Path(found)
    return Path(os.path.expanduser(bare(text) or text))  # noqa: PTH111  # Path's own raises where there is no home


def match(names: Iterable[str], wanted: Collection[str]) -> dict[str, str]:
    """Which of the names each text means that names one of them; `names` is gone through several times.

    A text that is a name means that one. Else another reading of it counts, and then the same letters composed in
    another way, where that is a single name which no text has as it stands.
    """
    found = {name: name for name in names if name in wanted}
    for spelled, meant in ((str, readings), (letters, _letters_of)):
        if rest := [text for text in wanted if text not in found]:
            found |= _single(names, rest, frozenset(found.values()), spelled, meant)
    return found


def _letters_of(text: str) -> list[str]:
    return [letters(reading) for reading in readings(text)]


def _single(
    names: Iterable[str],
    texts: Collection[str],
    taken: Collection[str],
    spelled: Callable[[str], str],
    meant: Callable[[str], list[str]],
) -> dict[str, str]:
    """The texts that mean one of the names that are not taken, and no second one."""
    texts_of: dict[str, list[str]] = {}
    for text in texts:
        for reading in dict.fromkeys(meant(text)):
            texts_of.setdefault(reading, []).append(text)
    names_of: dict[str, list[str]] = {text: [] for text in texts}
    for name in names:
        if name not in taken:
            for text in texts_of.get(spelled(name), ()):
                names_of[text].append(name)
    return {text: means[0] for text, means in names_of.items() if len(means) == 1}

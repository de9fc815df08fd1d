"""Lists and tables that people write of images: text in UTF-8, or in UTF-16 as Windows writes it; columns set apart by
',', ';' or a tab, as the spreadsheet of their language does it.
"""

import codecs
import csv
import io
import re
from collections.abc import Callable, Collection
from pathlib import Path

SEPARATORS = (",", ";", "\t")
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(file: Path) -> str:
    """The text of a file, its line ends as they are; raises OSError, and UnicodeDecodeError for other encodings."""
    data = file.read_bytes()
    return data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig")


def lines_of(text: str) -> list[str]:
    """The lines of a text, without their ends."""
    return [line.rstrip("\r\n") for line in io.StringIO(text, newline="")]


def rows_of(
    text: str,
    columns: Collection[str],
    leads_somewhere: Callable[[str], bool] = lambda _: False,
    *,
    strict: bool = False,
) -> list[list[str]]:
    """The rows of a table, by the separator with which its first line has the most of the columns wanted.

    Without such a line it is the one whose first cell leads somewhere, else ','. Raises csv.Error where a row cannot be
    read; `strict` wants quotes to be as they should.
    """
    told = re.match(r"sep=(.)\r?\n", text)  # Excel's own way to say it
    if told:
        return _rows(text[told.end() :], told.group(1), strict=strict)
    first = text[: text.find("\n")] if "\n" in text else text
    headers = {separator: next(iter(_rows(first, separator)), []) for separator in SEPARATORS}
    hits = {separator: len({*map(column_name, header)} & {*columns}) for separator, header in headers.items()}
    best = max(SEPARATORS, key=lambda separator: hits[separator])
    if not hits[best]:
        leading = (separator for separator, header in headers.items() if header and leads_somewhere(header[0]))
        best = next(leading, best)
    return _rows(text, best, strict=strict)


def _rows(text: str, separator: str, *, strict: bool = False) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=strict))


def column_name(cell: str) -> str:
    """The cell of a header as its column is called: in small letters, without blanks around it."""
    return cell.strip().strip('"').strip().lower()

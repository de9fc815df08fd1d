"""The viewer page: thousands of thumbnails to look through, and of each image what is known and what is near it."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from typing import NamedTuple

from fext.pictures.page import Html, Section, json_data, page

MAX_IMAGES = 20_000
_IMAGES_PER_BLOCK = 200  # that come together: what viewer.js reads, and shows, at a time


class Viewed(NamedTuple):
    """One image: lines that say something of it, and its thumbnail (a WebP file) or the reason why there is none."""

    lines: Sequence[str]
    thumbnail: bytes
    reason: str = ""


class Neighbours(NamedTuple):
    """Of each image the pairs (place, similarity or distance) of its nearest, and in words what these go by."""

    pairs: Sequence[Sequence[tuple[int, float]]]
    told: str


def viewer(
    title: str,
    introduction: str,
    names: Sequence[str],
    images: Iterable[Viewed],
    neighbours: Neighbours | None = None,
) -> Iterator[Html]:
    """The page, piece by piece, each of a few hundred images at most; `images` are asked for as they are written.

    `neighbours` go by the order of the names.
    """
    blocks = [_CONTROLS, json_data("names", list(names))]
    if neighbours is not None:
        blocks += [json_data("neighbours", neighbours.pairs), json_data("nearest-by", neighbours.told)]
    return page(title, introduction, [Section("Images", "", *blocks, _data(images))], "viewer.js")


def told_of_limit(num_shown: int, count: int) -> str:
    """A sentence on the images that are left out, where there are any."""
    return f" Shown are the first {num_shown:,} of {count:,}." if num_shown < count else ""


_CONTROLS = Html(
    '<div class="search" role="search">\n<label for="search">Search by name</label>\n'
    '<input id="search" type="search" autocomplete="off" spellcheck="false">\n'
    '<span id="count" role="status"></span>\n</div>\n'
    '<noscript><p>This page needs JavaScript.</p></noscript>\n<div class="gallery" id="grid"></div>\n'
    '<p><button type="button" class="button" id="more" hidden>Show more</button></p>\n'
)


def _data(images: Iterable[Viewed]) -> Iterator[Html]:
    remaining = iter(images)
    for number in count():
        block = list(islice(remaining, _IMAGES_PER_BLOCK))
        if not block:
            return
        shown = [[base64.b64encode(image.thumbnail).decode(), list(image.lines), image.reason] for image in block]
        yield json_data(f"images-{number}", shown)

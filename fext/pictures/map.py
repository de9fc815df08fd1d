"""The map page: images as points and thumbnails on a plane, to move about in, drawn by map.js."""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fext.data.thumbnails import Thumbnail
from fext.pictures.page import Html, Section, json_data, page, paragraph

MAX_IMAGES = 5_000
_IMAGES_PER_BLOCK = 200  # that map.js reads at a time
_STEPS = 10_000  # places along the longer side of the plane


class Groups(NamedTuple):
    """What divides the images, such as their folders: names, the most frequent first, and of each image the place of
    its own among them; -1 of one that is in none."""

    names: Sequence[str]
    of: NDArray[np.int32]


def map_page(
    title: str,
    introduction: str,
    names: Sequence[str],
    layouts: Mapping[str, NDArray[np.float64]],
    groups: Mapping[str, Groups],
    images: Iterable[Thumbnail],
) -> Iterator[Html]:
    """The page, piece by piece; `layouts` has of each way to lay the images out their places (N, 2)."""
    data = [
        json_data("names", list(names)),
        json_data("layouts", {name: _steps(places) for name, places in layouts.items()}),
        json_data("groups", {name: [list(found.names), found.of.tolist()] for name, found in groups.items()}),
    ]
    return page(title, introduction, [Section("Map", "", _CONTROLS, paragraph(_HOW), *data, _data(images))], "map.js")


def by_frequency(labels: Sequence[str | None]) -> Groups:
    """Groups of the images by their labels; None of an image that has none. Equally frequent ones by name."""
    found, places, counts = np.unique(
        [label for label in labels if label is not None], return_inverse=True, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(len(found), np.int32)
    rank[order] = np.arange(len(found))
    of = np.full(len(labels), -1, np.int32)
    of[[place for place, label in enumerate(labels) if label is not None]] = rank[places]
    return Groups([str(found[place]) for place in order], of)


_HOW = (
    "Images that lie near each other are alike by their features. Drag or the arrow keys move the map; wheel, two "
    "fingers, + and - zoom, 0 shows all of it. A click on an image, or Enter for the one in the middle, opens it."
)
_CONTROLS = Html(
    '<div class="search" role="search">\n<label for="search">Search by name</label>\n'
    '<input id="search" type="search" autocomplete="off" spellcheck="false">\n'
    '<span id="count" role="status"></span>\n</div>\n'
    '<div class="choices">\n<label>Layout <select id="layout"></select></label>\n'
    '<label>Colours <select id="colours"></select></label>\n'
    '<label><input id="pictures" type="checkbox" checked> Thumbnails</label>\n'
    '<span class="zoom"><button type="button" class="button" id="in" aria-label="Zoom in">+</button>\n'
    '<button type="button" class="button" id="out" aria-label="Zoom out">−</button>\n'
    '<button type="button" class="button" id="all">All</button></span>\n</div>\n'
    '<noscript><p>This page needs JavaScript.</p></noscript>\n<div class="map">\n'
    '<canvas id="map" tabindex="0" role="application" aria-label="Map of the images: arrow keys move it, plus and '
    'minus zoom, 0 shows all of it, Enter shows the image in the middle"></canvas>\n'
    '<div id="name" aria-hidden="true" hidden></div>\n</div>\n<ul class="key" id="legend"></ul>\n'
)


def _steps(places: NDArray[np.float64]) -> list[list[int]]:
    """Places as whole numbers from 0, the longer side of the plane 10,000, y downwards."""
    extent = float(np.ptp(places, axis=0).max()) or 1.0
    upwards = (places - places.min(axis=0)) / extent
    upwards[:, 1] = upwards[:, 1].max() - upwards[:, 1]
    return np.rint(upwards * _STEPS).astype(int).tolist()  # type: ignore[no-any-return]


def _data(images: Iterable[Thumbnail]) -> Iterator[Html]:
    remaining = iter(images)
    for number in count():
        block = list(islice(remaining, _IMAGES_PER_BLOCK))
        if not block:
            return
        shown = [[base64.b64encode(image.data).decode(), image.reason] for image in block]
        yield json_data(f"images-{number}", shown)

"""Report pages: one HTML file each, which needs nothing beside it, no network, and shows any file name as text.

A page is made of sections, and a section of blocks, each made by one of the functions below. What is a `str` is text,
and is escaped; what is `Html` is taken as it is. page.css and page.js beside this file are what all pages share.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from fext.data.names import readable, readable_in_json
from fext.data.thumbnails import as_webp

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Nothing may be loaded from anywhere, so nothing that a page shows can leave it either.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
_PLOT = '<figure class="plot"'
_NUM_SECTIONS_WITHOUT_CONTENTS = 3
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Html(Markup):
    """HTML that is safe to show. Whatever is put into it that is not Html itself is escaped, here and only here."""

    @classmethod
    def escape(cls, s: Any, /) -> "Html":
        """Text as HTML; control characters and bytes that are not UTF-8 are spelled out, as in 'caf\\xe9.png'."""
        return cls(escape(s if hasattr(s, "__html__") else _printable(str(s))))


Block = Html | Iterator[Html]


class Section:
    """A headed part of a page: a paragraph of text that may be empty, and blocks below it."""

    def __init__(self, title: str, text: str, *blocks: Block) -> None:
        self.title, self.text, self.blocks = title, text, blocks


class Item(NamedTuple):
    """A picture of a gallery: its name, lines that say something of it, and data URIs of it small and, maybe, larger.

    One that has no picture to show, because its file is damaged, has an empty thumbnail.
    """

    name: str
    lines: Sequence[str]
    thumbnail: str
    larger: str = ""


def page(title: str, introduction: str, sections: Sequence[Section], *scripts: str) -> Iterator[Html]:
    """A whole page, piece by piece, to be written in UTF-8. plotly.js is in it once if there is a plot, else not.

    `scripts` are files beside this one that come after page.js.
    """
    yield _head(title)
    yield Html("<header>\n<h1>{}</h1>\n{}</header>\n").format(title, paragraph(introduction))
    yield _contents(sections)
    has_plots = False
    for piece in _main(sections):
        has_plots = has_plots or _PLOT in piece
        yield piece
    yield Html('<dialog id="larger" aria-label="Picture"></dialog>\n')
    if has_plots:
        yield _plotly()
    for name in ("page.js", *scripts):
        yield _script(_resource(name))
    yield Html("</body>\n</html>\n")


def paragraph(text: str) -> Html:
    """A paragraph of running text; nothing where the text is empty."""
    return Html("<p>{}</p>\n").format(text) if text else Html()


def bullets(texts: Iterable[str]) -> Html:
    """A list of sentences."""
    return Html("<ul>\n{}</ul>\n").format(Html().join(Html("<li>{}</li>\n").format(text) for text in texts))


def colour_key(colours: Mapping[str, str]) -> Html:
    """What each colour (#rrggbb) stands for in the plots below."""
    marks = (
        Html('<li><i style="background:{}"></i>{}</li>\n').format(colour, name) for name, colour in colours.items()
    )
    return Html('<ul class="key">\n{}</ul>\n').format(Html().join(marks))


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """A list of names and values."""
    rows = (Html("<div><dt>{}</dt><dd>{}</dd></div>\n").format(name, _shown(value)) for name, value in pairs)
    return Html('<dl class="facts">\n{}</dl>\n').format(Html().join(rows))


def table(header: Sequence[str], rows: Iterable[Sequence[object]], caption: str) -> Html:
    """A table that a click on the head of a column, or Enter there, sorts by it: numbers as numbers, texts as texts."""
    heads = (Html('<th scope="col" aria-sort="none"><button type="button">{}</button></th>').format(h) for h in header)
    body = (Html("<tr>{}</tr>\n").format(Html().join(map(_cell, row))) for row in rows)
    return Html(
        '<div class="table" role="region" tabindex="0" aria-label="{}">\n<table>\n<caption>{}</caption>\n'
        "<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody>\n</table>\n</div>\n"
    ).format(caption, caption, Html().join(heads), Html().join(body))


def plot(figure: "Figure", alternative_text: str, caption: str = "", height: int = 320, title: str = "") -> Html:
    """A plotly figure, `height` pixels high and as wide as there is room; page.js gives it fonts and colours.

    What it shows of file names has to go through plot_text.
    """
    from plotly.io.json import to_json_plotly

    content = figure.to_dict()
    content["layout"].pop("template", None)
    data = to_json_plotly(content, engine="orjson")
    return Html(
        _PLOT + '>\n{}<div class="canvas" role="img" aria-label="{}" style="height:{}px"></div>\n'
        '<script type="application/json">{}</script>\n</figure>\n'
    ).format(_figcaption(caption, title), alternative_text, height, _in_script(data))


def plot_text(text: str) -> str:
    """A text as plotly shows it letter by letter; it would take <b> and the like for its own markup."""
    return str(Html.escape(text)).replace("\n", "<br>")


def columns(blocks: Iterable[Html]) -> Html:
    """Blocks beside each other, as many as there is room for."""
    return Html('<div class="columns">\n{}</div>\n').format(Html().join(blocks))


def group(title: str, *blocks: Html) -> Html:
    """Blocks that belong together under a small heading."""
    return Html('<div class="group">\n<h3>{}</h3>\n{}</div>\n').format(title, Html().join(blocks))


def gallery(items: Iterable[Item]) -> Html:
    """Thumbnails with names and captions; a click opens the larger picture."""
    return Html('<div class="gallery">\n{}</div>\n').format(Html().join(map(_gallery_item, items)))


def picture(data: bytes, alternative_text: str, caption: str = "", title: str = "") -> Html:
    """A PNG or WebP file as a figure."""
    image = Html('<img src="{}" alt="{}">\n').format(file_uri(data), alternative_text)
    return Html('<figure class="picture">\n{}{}</figure>\n').format(_figcaption(caption, title), image)


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """Pixels (H, W, 3) as a WebP picture within the page."""
    return file_uri(as_webp(Image.fromarray(pixels)))


def file_uri(data: bytes) -> str:
    """The bytes of a PNG or WebP file as a picture within the page."""
    kind = "png" if data.startswith(b"\x89PNG") else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def json_data(identifier: str, data: object) -> Html:
    """Data for a script, which finds them by the identifier; texts in them are readable as those of Html are."""
    return Html('<script type="application/json" id="{}">{}</script>\n').format(identifier, json_text(data))


def json_text(data: object) -> Html:
    """JSON that may stand in a script element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _in_script(readable_in_json(text))


def _script(text: str) -> Html:
    return Html("<script>\n{}</script>\n").format(Html(text))


def _head(title: str) -> Html:
    return Html(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="{}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="generator" content="FeXT">\n'
        "<title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n"
    ).format(Html(_POLICY), title, Html(_resource("page.css")))


def _contents(sections: Sequence[Section]) -> Html:
    if len(sections) <= _NUM_SECTIONS_WITHOUT_CONTENTS:
        return Html()
    links = (
        Html('<li><a href="#section-{}">{}</a></li>\n').format(number, section.title)
        for number, section in enumerate(sections, start=1)
    )
    return Html('<nav aria-label="Contents">\n<ol>\n{}</ol>\n</nav>\n').format(Html().join(links))


def _main(sections: Sequence[Section]) -> Iterator[Html]:
    yield Html("<main>\n")
    for number, section in enumerate(sections, start=1):
        heading = Html('<section id="section-{}">\n<h2>{}</h2>\n{}')
        yield heading.format(number, section.title, paragraph(section.text))
        for block in section.blocks:
            if isinstance(block, Html):
                yield block
            else:
                yield from block
        yield Html("</section>\n")
    yield Html("</main>\n")


def _plotly() -> Html:
    from plotly.offline import get_plotlyjs

    without = Html("<noscript><p>The plots of this page are drawn by JavaScript.</p></noscript>\n")
    return without + _script(get_plotlyjs())


def _resource(name: str) -> str:
    return (files("fext.pictures") / name).read_text(encoding="utf-8")


def _figcaption(caption: str, title: str) -> Html:
    heading = Html("<b>{}</b>").format(title) if title else Html()
    return Html("<figcaption>{}{}</figcaption>\n").format(heading, caption) if title or caption else Html()


def _cell(value: object) -> Html:
    if isinstance(value, Real):
        return Html('<td class="number" data-value="{!r}">{}</td>').format(float(value), _shown(value))
    return Html("<td>{}</td>").format(value)


def _shown(value: object) -> object:
    """Numbers as a person reads them."""
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if not isinstance(value, Real):
        return value
    # Zeros at the end keep the digits of a column below each other.
    return f"{float(value):.4g}" if float(value).is_integer() else f"{float(value):#.4g}"


def _gallery_item(item: Item) -> Html:
    lines = Html().join(Html("<span>{}</span>").format(line) for line in item.lines)
    alternative = Html(' alt="{}"').format(item.name)
    larger = Html(' data-larger="{}"').format(item.larger) if item.larger else Html()
    image = Html('<img src="{}"{}{}>').format(item.thumbnail, alternative, larger) if item.thumbnail else Html()
    frame = Html('<span class="frame">{}</span>').format(image)
    folder, slash, file = item.name.rpartition("/")
    name = (Html("<i>{}</i>").format(folder + slash) if folder else Html()) + Html("<b>{}</b>").format(file)
    caption = Html('<span class="caption">{}{}</span>').format(name, lines)
    if not image:
        return Html('<div class="item">{}{}</div>\n').format(frame, caption)
    return Html('<button type="button" class="item">{}{}</button>\n').format(frame, caption)


def _in_script(json_code: str) -> Html:
    """JSON in which nothing can end the script element it stands in, or start a comment."""
    return Html(json_code.replace("<", "\\u003c"))


def _printable(text: str) -> str:
    return _CONTROL_CHARACTERS.sub(lambda control: repr(control.group())[1:-1], readable(text))

"""Report pages: one file that needs nothing else, in which whatever a file is called is text."""

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from fext.pictures.page import (
    Block,
    Html,
    Item,
    Section,
    columns,
    data_uri,
    facts,
    gallery,
    json_data,
    page,
    paragraph,
    picture,
    plot,
    plot_text,
    table,
)
from fext.store.files import write_text_chunks

ODD_NAMES = ("<script>alert(1)</script>.png", "\"quoted\" & 'more'.png", "two\nlines.png", "caf\udce9 \x1b[31m.png")
SHOWN_NAMES = (*ODD_NAMES[:3], r"caf\xe9 \x1b[31m.png")
ODD_AND_SHOWN = list(zip(ODD_NAMES, SHOWN_NAMES, strict=True))
SMALL = np.full((4, 6, 3), 200, np.uint8)


class Reader(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, its text, and what its scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text, self.scripts = "", ""
        self.in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self.in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self.in_script = False

    def handle_data(self, data: str) -> None:
        if self.in_script:
            self.scripts += data
        else:
            self.text += data

    def attributes(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(tmp_path: Path, *blocks: Block, title: str = "Report", num_sections: int = 1) -> Reader:
    """A page of these blocks, written and read again."""
    sections = [Section(f"Part {number}", "", *blocks) for number in range(num_sections)]
    write_text_chunks(tmp_path / "page.html", page(title, "What it is about.", sections))
    return Reader((tmp_path / "page.html").read_text(encoding="utf-8"))


def every_block(name: str) -> list[Block]:
    """Each kind of block with a text in each place where there may be one."""
    figure = go.Figure(go.Scatter(x=[1], y=[2], text=[plot_text(name)]))
    return [
        paragraph(name),
        facts([(name, name)]),
        table([name], [[name]], name),
        plot(figure, name, name),
        columns([plot(figure, name)]),
        gallery([Item(name, [name], data_uri(SMALL)), Item(name, [name], "")]),
        picture(b"\x89PNG", name, name),
        json_data("data", {"names": [name, {name: [name]}]}),
    ]


@pytest.mark.parametrize(("name", "shown"), ODD_AND_SHOWN)
def test_whatever_a_name_holds_is_text_wherever_it_stands(tmp_path: Path, name: str, shown: str) -> None:
    odd = read(tmp_path, *every_block(name), title=name)
    other = "plain/.png" if "/" in name else "plain.png"
    plain = read(tmp_path, *every_block(other), title=other)
    assert [tag for tag, _ in odd.tags] == [tag for tag, _ in plain.tags]
    assert [list(attributes) for _, attributes in odd.tags] == [list(attributes) for _, attributes in plain.tags]
    assert odd.text.count(shown) == plain.text.count(other) > 5
    assert {image["alt"] for image in odd.attributes("img")} == {shown}


@pytest.mark.parametrize(("name", "shown"), ODD_AND_SHOWN)
def test_data_for_a_script_hold_the_names_and_cannot_end_it(name: str, shown: str) -> None:
    text = str(json_data("data", [name, "<!-- 🦊"]))
    assert text.count("<") == 2
    data = Reader(text).scripts
    if name.isprintable() or "\n" in name:
        assert json.loads(data) == [shown, "<!-- 🦊"]
    else:  # JSON has an escape of its own for control characters
        assert json.loads(data) == ["caf\\xe9 \x1b[31m.png", "<!-- 🦊"]


def test_a_plot_shows_a_name_letter_by_letter() -> None:
    assert plot_text("<b>\n&") == "&lt;b&gt;<br>&amp;"


def test_a_page_refers_to_nothing_outside_itself(tmp_path: Path) -> None:
    found = read(tmp_path, *every_block("name"), num_sections=5)
    addresses = [
        attributes[name]
        for _, attributes in found.tags
        for name in ("src", "href", "data-larger")
        if name in attributes
    ]
    assert len(addresses) > 10
    assert all(address.startswith(("#section-", "data:image/")) for address in addresses)
    assert not found.attributes("link")
    policy = next(meta["content"] for meta in found.attributes("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy
    assert "http" not in policy
    style = (tmp_path / "page.html").read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_plotly_is_there_once_for_many_plots_and_not_without_one(tmp_path: Path) -> None:
    one = plot(go.Figure(go.Bar(y=[1, 2])), "two bars")
    assert "plotly.js v" not in read(tmp_path, paragraph("no plot")).scripts
    assert read(tmp_path, *[one] * 3).scripts.count("plotly.js v") == 1
    assert read(tmp_path, iter([one]), columns([one, one])).scripts.count("plotly.js v") == 1


def test_a_plot_carries_its_data_and_says_what_it_shows(tmp_path: Path) -> None:
    found = read(tmp_path, plot(go.Figure(go.Bar(y=[1, 2])), "two bars"))
    assert {"role": "img", "aria-label": "two bars"}.items() <= found.attributes("div")[0].items()
    assert '{"y":[1,2],"type":"bar"}' in found.scripts


def test_the_same_blocks_make_the_same_page() -> None:
    one, two = ("".join(page("Report", "", [Section("Part", "", *every_block("name"))])) for _ in range(2))
    assert one == two


def test_every_column_of_a_table_can_be_sorted_numbers_as_numbers(tmp_path: Path) -> None:
    rows = [["one", 12000, np.float64(0.5)], ["two", np.int64(9), float("nan")]]
    found = read(tmp_path, table(["image", "pixels", "share"], rows, "Pixels"))
    assert [head["aria-sort"] for head in found.attributes("th")] == ["none"] * 3
    assert [name for name, _ in found.tags].count("button") == 3
    values = [cell.get("data-value") for cell in found.attributes("td")]
    assert values == [None, "12000.0", "0.5", None, "9.0", "nan"]
    assert "12,000" in found.text


def test_a_long_page_has_contents_that_lead_to_its_sections(tmp_path: Path) -> None:
    assert not read(tmp_path, num_sections=3).attributes("nav")
    found = read(tmp_path, num_sections=4)
    assert [link["href"][1:] for link in found.attributes("a")] == [part["id"] for part in found.attributes("section")]


def test_a_picture_that_is_missing_keeps_its_place_but_opens_nothing(tmp_path: Path) -> None:
    found = read(tmp_path, gallery([Item("good.png", ["fine"], data_uri(SMALL)), Item("gone.png", ["gone"], "")]))
    items = [(tag, attributes) for tag, attributes in found.tags if attributes.get("class") == "item"]
    assert [tag for tag, _ in items] == ["button", "div"]
    assert "gone.png" in found.text


def test_blocks_that_come_in_pieces_are_taken_one_after_the_other(tmp_path: Path) -> None:
    taken = []

    def pieces() -> Iterator[Html]:
        for number in range(3):
            taken.append(number)
            yield paragraph(f"piece {number}")

    chunks = page("Report", "", [Section("Part", "", pieces())])
    while "piece 0" not in next(chunks):
        pass
    assert taken == [0]
    assert "piece 2" in "".join(chunks)

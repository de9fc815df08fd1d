"""The viewer of an extraction: every image with its own picture, and the neighbours that its features have."""

import base64
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import write_extraction
from PIL import Image

from fext.data.analysis import analyze_file
from fext.errors import ExtractionError, FextError
from fext.jobs import thumbnails as jobs_thumbnails
from fext.jobs import view as viewing
from fext.jobs.view import ViewResult, view
from fext.pictures.viewer import Viewed, viewer
from fext.reporting import SilentReporter
from fext.settings import Settings
from fext.store import files
from fext.store.analyzed import AnalyzedImages
from fext.store.scratch import ScratchRows
from fext.store.workspace import Workspace

# Images whose features lie at these angles (degrees): how near they are to each other can be seen.
ANGLES = {"a.png": 0, 'b, "quoted" & <b>.png': 10, "c.png": None, "d.png": 30, "e.png": 90}
if os.name == "nt":
    ANGLES = {name.translate(str.maketrans("", "", '"<>')): angle for name, angle in ANGLES.items()}
NAMES = list(ANGLES)
ODD = NAMES[1]
COLOURS = dict(zip(NAMES, ("red", "lime", "black", "blue", "white"), strict=True))


def row_at(angle: float) -> list[float]:
    return [2 * np.cos(np.radians(angle)), 2 * np.sin(np.radians(angle))]


def write_table(space: Workspace, *formats: str, has_error: bool = False) -> Path:
    """An extraction by hand, of five images of one colour each; c.png was rejected."""
    space.images.mkdir(parents=True, exist_ok=True)
    for name, colour in COLOURS.items():
        Image.new("RGB", (40, 30), colour).save(space.images / name)
    error = [0.25] * has_error
    rows = {name: None if angle is None else row_at(angle) + error for name, angle in ANGLES.items()}
    return write_extraction(space.inference / "table", space.images, rows, formats or ("csv",), has_error)


class Page:
    """What the script of a viewer finds in it."""

    def __init__(self, file: Path) -> None:
        self.text = file.read_text(encoding="utf-8")
        self.names: list[str] = self.data("names")
        self.images = {}
        for number in range(self.text.count('id="images-')):
            block = self.data(f"images-{number}")
            self.images |= dict(zip(self.names[200 * number : 200 * number + len(block)], block, strict=True))

    def data(self, name: str) -> Any:
        found = re.search(f'<script type="application/json" id="{name}">(.*?)</script>', self.text, re.DOTALL)
        return json.loads(found.group(1)) if found else None

    def near(self, name: str) -> list[tuple[str, float]]:
        pairs = self.data("neighbours")[self.names.index(name)]
        return [(self.names[place], similarity) for place, similarity in pairs]

    def colour(self, name: str) -> tuple[int, ...]:
        """Of the middle of its thumbnail, in steps of a sixteenth."""
        with Image.open(io.BytesIO(base64.b64decode(self.images[name][0]))) as image:
            return tuple(round(level / 16) for level in image.convert("RGB").getpixel((20, 15)))  # type: ignore[union-attr]


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def look(space: Workspace, tiny: Callable[..., Settings]) -> Callable[[], Page]:
    """Writes the viewer of the extraction and reads it."""

    def do() -> Page:
        return Page(make_page(space, tiny).file)

    return do


def make_page(space: Workspace, tiny: Callable[..., Settings]) -> ViewResult:
    return view(space, tiny(num_processors=1), space.inference / "table", SilentReporter())


# ---------------------------------------------------------------- neighbours


def cosine(degrees: float) -> float:
    return round(float(np.cos(np.radians(degrees))), 4)


def test_the_nearest_come_first_with_their_cosine_similarity(space: Workspace, look: Callable[[], Page]) -> None:
    write_table(space)
    page = look()
    assert page.near("a.png") == [(ODD, cosine(10)), ("d.png", cosine(30)), ("e.png", pytest.approx(0, abs=1e-4))]
    assert page.near(ODD) == [("a.png", cosine(10)), ("d.png", cosine(20)), ("e.png", cosine(80))]
    assert page.near("e.png") == [("d.png", cosine(60)), (ODD, cosine(80)), ("a.png", pytest.approx(0, abs=1e-4))]
    assert page.near("c.png") == []


# ---------------------------------------------------------------- pictures and what is said of them


def test_every_image_is_there_with_its_own_picture_and_its_facts(space: Workspace, look: Callable[[], Page]) -> None:
    write_table(space, has_error=True)
    page = look()
    assert page.names == NAMES
    expected = {"a.png": (16, 0, 0), ODD: (0, 16, 0), "d.png": (0, 0, 16), "e.png": (16, 16, 16)}
    assert {name: page.colour(name) for name in expected} == expected
    assert page.images["a.png"][1] == ["40 × 30 pixels", "PNG RGB, 1 kB", "reconstruction error 0.250000"]
    assert "rejected: it was damaged" in page.images["c.png"][1]
    assert "<b>.png" not in page.text


def test_an_image_that_is_gone_or_cannot_be_read_has_the_reason_in_its_place(
    space: Workspace, look: Callable[[], Page]
) -> None:
    write_table(space)
    (space.images / "a.png").unlink()
    (space.images / "c.png").unlink()
    (space.images / "d.png").write_bytes(b"")
    page = look()
    assert {name: page.images[name][0] for name in ("a.png", "c.png", "d.png")} == {
        "a.png": "",
        "c.png": "",
        "d.png": "",
    }
    assert [page.images[name][2] for name in ("a.png", "c.png", "d.png")] == [
        "the file is not there",
        "it was damaged",
        "the file is empty",
    ]
    assert page.near("a.png")[0] == (ODD, cosine(10))
    assert page.colour(ODD) == (0, 16, 0)


def test_an_image_that_changed_is_said_to_have(space: Workspace, look: Callable[[], Page]) -> None:
    write_table(space)
    Image.new("RGB", (90, 30), "red").save(space.images / "a.png")
    page = look()
    assert page.images["a.png"][1][0] == "90 × 30 pixels"
    assert "changed since the extraction" in page.images["a.png"][1]
    assert "changed since the extraction" not in page.images[ODD][1]


def test_what_the_analysis_knows_is_not_decoded_again(
    space: Workspace, look: Callable[[], Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(space)
    memory = AnalyzedImages(space.analyzed_images)
    memory.remember((space.images / name, analyze_file(space.images / name)) for name in NAMES[:3])
    memory.close()
    decoded = []

    def watched(path: Path, side: int) -> object:
        decoded.append(path.name)
        return make_thumbnail(path, side)

    make_thumbnail = jobs_thumbnails.make_thumbnail
    monkeypatch.setattr(jobs_thumbnails, "make_thumbnail", watched)
    page = look()
    assert decoded == NAMES[3:]
    assert [page.colour(name) for name in ("a.png", "d.png")] == [(16, 0, 0), (0, 0, 16)]


def test_names_that_are_code_stay_names_in_the_data(tmp_path: Path) -> None:
    names = ["</script><script>alert(1)</script>.png", "<!--.png", "two\nlines.png", "caf\udce9.png"]
    images = [Viewed([name], b"", name) for name in names]
    files.write_text_chunks(tmp_path / "viewer.html", viewer("Title", "", names, images))
    page = Page(tmp_path / "viewer.html")
    assert page.names == [*names[:3], r"caf\xe9.png"]
    assert [page.images[name] for name in page.names] == [["", [name], name] for name in page.names]
    assert "alert(1)</script>" not in page.text


# ---------------------------------------------------------------- tables


def test_each_format_of_the_table_makes_the_same_page(space: Workspace, look: Callable[[], Page]) -> None:
    folder = write_table(space, "csv", "npy", "parquet")
    before = look().text
    for file in ("features.npy", "features.parquet"):
        (folder / file).unlink()
        assert look().text == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_is_told_in_a_line() -> None:
    with open("/dev/full", "wb", buffering=0) as stream, pytest.raises(FextError, match="No space left"):
        ScratchRows(stream, 2).add(np.float32(row_at(0)))


def test_a_damaged_row_has_no_neighbours_and_is_none(space: Workspace, look: Callable[[], Page]) -> None:
    folder = write_table(space)
    table = (folder / "features.csv").read_text(encoding="utf-8")
    (folder / "features.csv").write_text(table.replace("a.png,2.0", "a.png,1.0"), encoding="utf-8", newline="\n")
    page = look()
    assert page.near("a.png") == []
    assert "its row is damaged: verify the extraction" in page.images["a.png"][1]
    assert [name for name, _ in page.near(ODD)] == ["d.png", "e.png"]


def test_more_images_than_a_page_holds_are_counted_on_it(
    space: Workspace, tiny: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(space)
    monkeypatch.setattr(viewing, "MAX_IMAGES", 3)
    result = make_page(space, tiny)
    page = Page(result.file)
    assert (result.num_images, result.num_shown) == (5, 3)
    assert page.names == NAMES[:3]
    assert page.near("a.png") == [(ODD, cosine(10))]
    assert "Shown are the first 3 of 5." in page.text


def test_a_table_that_is_not_there_is_said_to_be_so(space: Workspace, tiny: Callable[..., Settings]) -> None:
    folder = write_table(space)
    (folder / "features.csv").unlink()
    with pytest.raises(ExtractionError, match="no rows that can be read"):
        make_page(space, tiny)
    (folder / "manifest.json").unlink()
    with pytest.raises(ExtractionError, match="is not finished"):
        make_page(space, tiny)

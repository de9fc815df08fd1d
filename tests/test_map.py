"""The map of an extraction: each image once, alike ones near each other, on a page and in TensorBoard's projector."""

import base64
import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import write_configurations
from handmade import blobs, page_data, write_table
from PIL import Image

from fext.errors import ExtractionError
from fext.jobs import map as mapping
from fext.jobs.clusters import cluster
from fext.jobs.map import MapResult, lay_out
from fext.pictures.map import by_frequency, map_page
from fext.pictures.sprite import THUMBNAIL_SIDE
from fext.reporting import SilentReporter
from fext.screen import menu
from fext.screen.actions import Screen
from fext.screen.console import make_console
from fext.screen.explorations import maps
from fext.screen.program import main
from fext.settings import Settings
from fext.store import files
from fext.store.workspace import Workspace

Tiny = Callable[..., Settings]
QUIET = SilentReporter()


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed is not broken in the middle of a path."""
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def make(space: Workspace, tiny: Tiny) -> Callable[..., MapResult]:
    """Makes the map of the table of the workspace."""

    def do(**changes: object) -> MapResult:
        return lay_out(space, tiny(num_processors=1, **changes), space.inference / "table", QUIET)

    return do


def thumbnails_of(file: Path) -> list[bytes]:
    blocks = file.read_text(encoding="utf-8").count('id="images-')
    shown = [image for number in range(blocks) for image in page_data(file, f"images-{number}")]
    return [base64.b64decode(data) for data, _ in shown]


def nearest_have_the_same_folder(places: list[list[int]], names: list[str]) -> bool:
    points = np.array(places, float)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    folders = [name.partition("/")[0] for name in names]
    return all(folders[place] == folders[near] for place, near in enumerate(distances.argmin(axis=1)))


def test_each_image_is_on_the_page_once_with_its_own_picture_and_alike_ones_are_near(
    space: Workspace, make: Callable[..., MapResult]
) -> None:
    folder = write_table(space, blobs())
    result = make()
    file = folder / "map" / "map.html"
    names = page_data(file, "names")
    assert names == sorted(blobs())
    assert (result.num_images, result.num_shown, result.num_without_picture) == (36, 36, 0)
    layouts = page_data(file, "layouts")
    assert list(layouts) == ["t-SNE", "principal components"]
    for places in layouts.values():
        assert len(places) == 36
        assert nearest_have_the_same_folder(places, names)
        assert np.min(places) == 0
        assert np.max(places) == 10_000
    for name, data in zip(names, thumbnails_of(file), strict=True):
        with Image.open(io.BytesIO(data)) as shown, Image.open(space.images / name) as original:
            difference = np.subtract(shown.convert("RGB").getpixel((20, 15)), original.getpixel((20, 15)))  # type: ignore[arg-type]
            assert np.abs(difference).max() < 12


def test_the_same_seed_makes_the_same_bytes(space: Workspace, make: Callable[..., MapResult]) -> None:
    folder = write_table(space, blobs(per_blob=4))

    def contents() -> dict[str, bytes]:
        return {str(file.name): file.read_bytes() for file in (folder / "map").rglob("*") if file.is_file()}

    make()
    first = contents()
    assert set(first) == {"map.html", "map.csv", "projector_config.pbtxt", "tensors.tsv", "metadata.tsv", "sprite.png"}
    make()
    assert contents() == first


def test_map_csv_has_the_places_of_every_image(space: Workspace, make: Callable[..., MapResult]) -> None:
    folder = write_table(space, blobs(per_blob=4))
    make()
    rows = files.read_csv(folder / "map" / "map.csv")
    assert [row["image"] for row in rows] == sorted(blobs(per_blob=4))
    assert all(np.isfinite([float(row[name]) for name in ("tsne_x", "tsne_y", "pca_x", "pca_y")]).all() for row in rows)


def test_of_more_images_than_a_page_takes_some_are_shown_and_all_have_a_place(
    space: Workspace, make: Callable[..., MapResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_table(space, blobs())
    monkeypatch.setattr(mapping, "MAX_IMAGES", 8)
    monkeypatch.setattr(mapping, "_BLOCK", 10)
    result = make()
    assert (result.num_images, result.num_shown) == (36, 8)
    names = sorted(blobs())
    assert page_data(folder / "map" / "map.html", "names") == [names[place] for place in range(0, 36, 5)]
    assert "Shown are 8 of 36" in (folder / "map" / "map.html").read_text(encoding="utf-8")
    assert sorted(page_data(folder / "map" / "map.html", "groups")["folder"][0]) == ["cats", "dogs", "owls"]
    rows = files.read_csv(folder / "map" / "map.csv")
    assert len(rows) == 36
    assert [place for place, row in enumerate(rows) if row["tsne_x"]] == list(range(0, 36, 5))
    assert all(row["pca_x"] for row in rows)


def test_colours_stand_for_folders_and_for_clusters_where_they_are_known(
    space: Workspace, make: Callable[..., MapResult], tiny: Tiny
) -> None:
    folder = write_table(space, blobs(per_blob=4))
    make()
    file = folder / "map" / "map.html"
    assert page_data(file, "groups") == {"folder": [["cats", "dogs", "owls"], [0] * 4 + [1] * 4 + [2] * 4]}
    cluster(space, tiny(num_processors=1), folder, QUIET, 3)
    make()
    found = page_data(file, "groups")["cluster"]
    assert sorted(found[0]) == ["0", "1", "2"]
    assert [len(set(found[1][start : start + 4])) for start in (0, 4, 8)] == [1, 1, 1]


@pytest.mark.parametrize("change", ["a row", "an image less", "an old summary", "no summary"])
def test_clusters_of_an_earlier_table_are_left_out_and_that_is_said(space: Workspace, tiny: Tiny, change: str) -> None:
    rows = blobs(per_blob=4)
    folder = write_table(space, rows)
    cluster(space, tiny(num_processors=1), folder, QUIET, 3)
    summary = folder / "clusters" / "summary.json"
    if change == "a row":
        write_table(space, rows | {"cats/00.png": rows["dogs/00.png"]})
    elif change == "an image less":
        write_table(space, {name: row for name, row in rows.items() if name != "cats/00.png"})
    elif change == "an old summary":
        files.write_json(summary, {key: value for key, value in files.read_json(summary).items() if "sha" not in key})
    else:
        summary.unlink()
    warnings: list[str] = []

    class Noting(SilentReporter):
        def warning(self, text: str) -> None:
            warnings.append(text)

    lay_out(space, tiny(num_processors=1), folder, Noting())
    assert "cluster" not in page_data(folder / "map" / "map.html", "groups")
    assert ["are of an earlier table and are left out" in text for text in warnings] == [True]


def test_the_most_frequent_group_has_the_first_colour_and_none_is_no_group() -> None:
    found = by_frequency(["b", None, "a", "b", "c", "c", "b"])
    assert found.names == ["b", "c", "a"]
    assert found.of.tolist() == [0, -1, 2, 0, 1, 1, 0]


def test_names_that_are_code_are_shown_as_text(tmp_path: Path) -> None:
    names = ['</script><script>alert("1")</script>.png', "two\nlines' & <b>.png"]
    groups = {"folder": by_frequency(["</script><script>", "b"])}
    page = map_page("Title", "", names, {"t-SNE": np.eye(2)}, groups, [])
    files.write_text_chunks(tmp_path / "map.html", page)
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert page_data(tmp_path / "map.html", "names") == names
    assert 'alert("1")' not in text
    assert "</script><script>alert" not in text
    assert "innerHTML" not in text
    assert "default-src 'none'" in text


def test_images_that_vanished_keep_their_place_and_have_the_reason(
    space: Workspace, make: Callable[..., MapResult]
) -> None:
    folder = write_table(space, blobs(per_blob=2))
    (space.images / "cats" / "00.png").unlink()
    assert make().num_without_picture == 1
    assert page_data(folder / "map" / "map.html", "images-0")[0] == ["", "the file is not there"]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_images_are_laid_out_by_principal_components_alone(
    space: Workspace, make: Callable[..., MapResult], count: int
) -> None:
    folder = write_table(space, {f"{number}.png": [float(number), number**2] for number in range(count)})
    make()
    layouts = page_data(folder / "map" / "map.html", "layouts")
    assert [(name, len(places)) for name, places in layouts.items()] == [("principal components", count)]


def test_rows_of_one_value_make_a_map(space: Workspace, make: Callable[..., MapResult]) -> None:
    write_table(space, {f"{number}.png": [float(number)] for number in range(6)})
    assert make().num_shown == 6


def test_what_makes_no_map_is_told_in_a_line(space: Workspace, make: Callable[..., MapResult]) -> None:
    folder = write_table(space, {"a.png": [1, 2]})
    with pytest.raises(
        ExtractionError, match="has one image alone: a map takes at least two: extract from more images"
    ):
        make()
    (folder / "manifest.json").unlink()
    with pytest.raises(ExtractionError, match="is not finished"):
        make()


def test_rows_that_are_all_equal_are_said_to_be(space: Workspace, make: Callable[..., MapResult]) -> None:
    write_table(space, {f"{number}.png": [3, 4] for number in range(9)})
    with pytest.raises(ExtractionError, match="are equal: nothing tells them apart"):
        make()


# ---------------------------------------------------------------- TensorBoard's projector


def test_tensorboard_finds_a_vector_words_and_a_thumbnail_of_each_image(
    space: Workspace, make: Callable[..., MapResult]
) -> None:
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    write_table(space, blobs(per_blob=3))
    make()
    folder = space.find_map("table")
    assert space.map_names() == ["table"]
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(encoding="utf-8"), ProjectorConfig())
    (info,) = config.embeddings
    vectors = np.loadtxt(folder / info.tensor_path, delimiter="\t")
    with (folder / info.metadata_path).open(encoding="utf-8", newline="") as stream:
        words = list(csv.DictReader(stream, delimiter="\t"))
    assert vectors.shape == (9, 8)
    assert [(row["name"], row["label"], row["cluster"]) for row in words] == [
        (name, name.partition("/")[0], "none") for name in sorted(blobs(per_blob=3))
    ]
    with Image.open(folder / info.sprite.image_path) as sprite:
        assert sprite.size == (3 * THUMBNAIL_SIDE, 3 * THUMBNAIL_SIDE)


def test_an_extraction_without_a_map_has_none_to_open(space: Workspace) -> None:
    write_table(space, blobs(per_blob=2))
    assert space.map_names() == []
    with pytest.raises(ExtractionError, match="table has no map: make one with 'explore map' first"):
        space.find_map("table")


@pytest.mark.usefixtures("wide")
def test_the_command_and_the_entry_of_the_menu_write_the_map(
    space: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    write_configurations(space.root, num_processors=1)
    folder = write_table(space, blobs(per_blob=3))
    assert main(space.root, ["explore", "map"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("\\", "/").split())
    assert "9 images of table in" in shown
    assert "inference/table/map/map.html" in shown
    assert "'tensorboard table'" in shown
    (folder / "map" / "map.html").unlink()
    maps.from_menu(Screen(make_console(), space))
    assert (folder / "map" / "map.html").is_file()


def test_the_menu_offers_tensorboard_on_maps_where_there_are_any(
    space: Workspace, make: Callable[..., MapResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(menu, "ask", lambda question: asked.append(question) or answers.pop())
    opened = menu.Menu(Screen(make_console(), space))
    assert opened._folder_for_tensorboard() == space.checkpoints
    assert not asked
    folder = write_table(space, blobs(per_blob=1))
    make()
    answers = ["", "table"]
    assert opened._folder_for_tensorboard() == folder / "map"
    assert opened._folder_for_tensorboard() == space.checkpoints

"""Similar images: what is nearest, an index that follows its extraction and is never trusted blindly, pictures from
elsewhere, and what is said where there is nothing to find."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, write_images
from handmade import write_extraction
from rich.console import Console

from fext.compute import vector_index
from fext.compute.vector_index import Probes, VectorIndex
from fext.errors import CheckpointError, ExtractionError, SourceError, UsageError
from fext.jobs import indexing
from fext.jobs.clusters import cluster
from fext.jobs.extract import extract
from fext.jobs.indexing import ids_of, open_index
from fext.jobs.map import lay_out
from fext.jobs.near_copies import find_near_copies
from fext.jobs.pretrain import pretrain
from fext.jobs.similar import find_all_neighbours, find_similar
from fext.jobs.similar_references import compare_precision
from fext.jobs.view import view
from fext.reporting import SilentReporter
from fext.screen import program
from fext.screen.actions import Screen
from fext.screen.explorations import common, similar
from fext.settings import Settings
from fext.store import files
from fext.store.extractions import IMAGES_COLUMNS
from fext.store.kept_indexes import index_files
from fext.store.workspace import Workspace

pytestmark = pytest.mark.usefixtures("small_model")
QUIET = SilentReporter()
Tiny = Callable[..., Settings]
Rows = dict[str, list[float]]

# By angle b is nearest to a; by distance c is.
ROWS: Rows = {"cat/a.png": [1, 0], "cat/b.png": [9, 1], "dog/c.png": [1, 1], "dog/d.png": [-1, 3]}


class Listener(SilentReporter):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def message(self, text: str) -> None:
        self.told.append(text)

    warning = message


def write_table(folder: Path, rows: Rows, **changes: Any) -> Path:
    """A finished extraction by hand, of images that are nowhere; what was found in it before is gone."""
    shutil.rmtree(folder / "similar", ignore_errors=True)
    return write_extraction(folder, folder.parent / "nowhere", rows, **changes)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "inference" / "table", ROWS)


def random_rows(count: int, num_values: int = 16, seed: int = 3) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=(count, num_values)).astype(np.float32)


# ---------------------------------------------------------------- the nearest


def nearest(table: Path, settings: Settings, picture: str, count: int = 10) -> list[tuple[str, float]]:
    space = Workspace(table.parents[1])
    return list(find_similar(space, settings, table, picture, count, QUIET).nearest)


def test_the_setting_similarity_decides_what_is_near(table: Path, tiny: Tiny) -> None:
    by_angle = nearest(table, tiny(), "cat/a.png")
    assert [name for name, _ in by_angle] == ["cat/b.png", "dog/c.png", "dog/d.png"]
    assert [score for _, score in by_angle] == pytest.approx([9 / 82**0.5, 0.5**0.5, -(0.1**0.5)])
    by_distance = nearest(table, tiny(similarity="euclidean"), "cat/a.png")
    assert [name for name, _ in by_distance] == ["dog/c.png", "dog/d.png", "cat/b.png"]
    assert [score for _, score in by_distance] == pytest.approx([1, 13**0.5, 65**0.5])


def test_what_is_found_stands_in_a_table_and_on_a_page(table: Path, tiny: Tiny) -> None:
    nearest(table, tiny(), "cat/a.png", count=2)
    rows = files.read_csv(table / "similar" / "nearest.csv")
    assert [(row["query"], row["rank"], row["image"]) for row in rows] == [
        ("cat/a.png", "1", "cat/b.png"),
        ("cat/a.png", "2", "dog/c.png"),
    ]
    assert float(rows[0]["similarity"]) == pytest.approx(9 / 82**0.5, abs=1e-6)
    page = (table / "similar" / "nearest.html").read_text(encoding="utf-8")
    assert page.index("searched for") < page.index("1: similarity 0.9939") < page.index("2: similarity 0.7071")
    assert "approximate" not in page


def test_every_image_has_its_neighbours_in_one_table_and_labels_are_counted(table: Path, tiny: Tiny) -> None:
    result = find_all_neighbours(table, tiny(), 1, QUIET)
    rows = files.read_csv(result.table)
    expected = {"cat/a.png": "cat/b.png", "cat/b.png": "cat/a.png", "dog/c.png": "cat/b.png", "dog/d.png": "dog/c.png"}
    assert {row["image"]: row["neighbour"] for row in rows} == expected
    assert result.precision is not None
    assert (result.precision.mean, result.chance) == (0.75, pytest.approx(1 / 3))


def test_more_than_there_are_gives_all_there_are(table: Path, tiny: Tiny) -> None:
    assert len(nearest(table, tiny(), "dog/c.png", count=1000)) == 3
    result = find_all_neighbours(table, tiny(), 1000, QUIET)
    assert (result.count, len(files.read_csv(result.table))) == (3, 12)


def test_tiles_of_one_photograph_count_as_one_in_the_interval_of_the_precision(tmp_path: Path, tiny: Tiny) -> None:
    random = np.random.default_rng(8)
    rows = {
        f"{label}/{name}{label}_{row}_{column}.png": (np.eye(4)[place] * 4 + random.normal(0, 2, 4)).tolist()
        for place, label in enumerate(("cats", "dogs"))
        for name in "abcdefgh"
        for row in range(2)
        for column in range(3)
    }
    folder = write_table(tmp_path, rows)
    grouped, alone = (find_all_neighbours(folder, tiny(interval_groups=way), 3, QUIET) for way in ("auto", "none"))
    assert "count 16 groups, not 96 images" in grouped.groups
    assert "independent of each other" in alone.groups
    assert grouped.precision is not None
    assert alone.precision is not None
    assert grouped.precision.mean == alone.precision.mean
    assert grouped.precision != alone.precision


def test_where_folders_are_no_labels_nothing_is_counted_and_encoders_are_not_compared(
    tmp_path: Path, tiny: Tiny
) -> None:
    space = Workspace(tmp_path)
    for number, names in enumerate((("a.png", "b.png"), ("x/a.png", "y/b.png"))):  # one label; one image of each
        folder = write_table(space.inference / f"table_{number}", {names[0]: [1, 0], names[1]: [0, 1]})
        assert find_all_neighbours(folder, tiny(), 1, QUIET).precision is None
        with pytest.raises(ExtractionError, match="are no labels"):
            compare_precision(space, tiny(), folder, 1, QUIET)


# ---------------------------------------------------------------- what cannot be found


def test_one_image_alone_has_nothing_near(tmp_path: Path, tiny: Tiny) -> None:
    folder = write_table(tmp_path / "inference" / "table", {"a.png": [1, 0]})
    for find in (lambda: nearest(folder, tiny(), "a.png"), lambda: find_all_neighbours(folder, tiny(), 3, QUIET)):
        with pytest.raises(ExtractionError, match=r"table has one image .*: extract from more images"):
            find()


def test_where_all_images_were_rejected_the_way_to_the_reasons_is_told(tmp_path: Path, tiny: Tiny) -> None:
    counts = {"found": 2, "written": 0, "rejected": 2}
    folder = write_table(tmp_path / "inference" / "table", ROWS, counts=counts)
    files.write_csv(
        folder / "images.csv", IMAGES_COLUMNS, [(name, "rejected", 1, 1, 0, 0, "", "") for name in ("a", "b")]
    )
    files.write_csv(folder / "rejected.csv", ("image", "reason"), [("a", "no image"), ("b", "no image")])
    space, settings = Workspace(tmp_path), tiny()
    explorations: list[Callable[[], object]] = [
        lambda: find_all_neighbours(folder, settings, 3, QUIET),
        lambda: nearest(folder, settings, "a"),
        lambda: compare_precision(space, settings, folder, 3, QUIET),
        lambda: find_near_copies(space, settings, folder, QUIET),
        lambda: cluster(space, settings, folder, QUIET),
        lambda: lay_out(space, settings, folder, QUIET),
        lambda: view(space, settings, folder, QUIET),
    ]
    for explore in explorations:
        with pytest.raises(ExtractionError, match=r"table has no image with features: its rejected\.csv says why"):
            explore()


def test_an_extraction_without_rows_or_not_finished_is_said_to_be_so(table: Path, tiny: Tiny) -> None:
    (table / "features.npy").write_bytes((table / "features.npy").read_bytes()[:130])
    with pytest.raises(ExtractionError, match="no rows that can be read"):
        find_all_neighbours(table, tiny(), 3, QUIET)
    (table / "manifest.json").unlink()
    with pytest.raises(ExtractionError, match="not finished"):
        find_all_neighbours(table, tiny(), 3, QUIET)


def test_a_picture_that_is_nowhere_or_none_is_told_in_a_line(table: Path, tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.png cannot be searched for: the file is not there; name an image"):
        nearest(table, tiny(), "nowhere.png")


def test_counts_out_of_range_and_words_that_do_not_go_together_are_refused(table: Path) -> None:
    from fext.screen.commands import make_parser

    for words, message in ((("--count", "0"), "from 1 to 1,000"), (("--references", "--picture", "a"), "leave --pict")):
        parsed = make_parser().parse_args(["explore", "similar", *words])
        with pytest.raises(UsageError, match=message):
            parsed.run(program, parsed)


def shown_by_menu(table: Path, exploration: ModuleType, monkeypatch: pytest.MonkeyPatch, *answers: object) -> str:
    """What the entry of the menu shows where these answers are given."""
    shutil.copy(REPOSITORY / "configurations.py", table.parents[1])
    remaining = iter(answers)
    for module in {exploration, common}:
        monkeypatch.setattr(module, "ask", lambda question: next(remaining), raising=False)
    console = Console(file=io.StringIO(), width=120)
    exploration.from_menu(Screen(console, Workspace(table.parents[1])))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_menu_asks_for_a_picture_or_finds_the_nearest_of_all(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = shown_by_menu(table, similar, monkeypatch, "cat/a.png")
    assert "among 4 images of table" in shown
    assert "there are 3 to find, fewer than the 10 asked for" in shown
    shown = shown_by_menu(table, similar, monkeypatch, "", False)
    assert "the 3 nearest of each of 4 images" in shown
    assert "have the label of the image (its folder)" in shown


# ---------------------------------------------------------------- the index


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The places of the rows that are read from a table."""
    places: list[int] = []
    averaged = indexing.averaged

    def watched(row: Any, grid: int, new_grid: int) -> Any:
        places.append(len(places))
        return averaged(row, grid, new_grid)

    monkeypatch.setattr(indexing, "averaged", watched)
    return places


def test_only_new_and_changed_rows_are_read_and_removed_ones_are_taken_out(
    table: Path, tiny: Tiny, read: list[int]
) -> None:
    open_index(table, tiny(), "cosine", QUIET)
    assert len(read) == 4
    open_index(table, tiny(), "cosine", QUIET)
    assert len(read) == 4
    changed: Rows = {"bird/e.png": [0, 1], "cat/a.png": [1, 0], "cat/b.png": [0, -1], "dog/d.png": [-1, 3]}
    write_table(table, changed)
    told = Listener()
    indexed = open_index(table, tiny(), "cosine", told)
    assert len(read) == 6
    assert told.told == ["the index is brought up to date: 2 added, 2 removed"]
    assert [name for name, _ in nearest(table, tiny(), "bird/e.png")] == ["dog/d.png", "cat/a.png", "cat/b.png"]
    rows = np.array(list(changed.values()), np.float32)
    assert np.allclose(indexed.rows(0, 4), rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_equal_rows_are_as_many_in_the_index_as_in_the_table(table: Path, tiny: Tiny) -> None:
    for rows in (
        {"a": [1, 0], "b": [1, 0], "c": [0, 1]},
        {"a": [1, 0], "b": [1, 0], "c": [1, 0]},
        {"b": [1, 0], "c": [2, 1]},
    ):
        write_table(table, rows)  # type: ignore[arg-type]
        indexed = open_index(table, tiny(), "cosine", QUIET)
        assert len(indexed.index) == len(rows) == len(set(indexed.ids.tolist()))


def test_checksums_are_matched_each_once() -> None:
    known = np.array([b"x", b"y", b"", b"x"], "S32")
    assert ids_of(np.array([b"x", b"x", b"x", b"z", b"y"], "S32"), known).tolist() == [0, 3, -1, -1, 1]


@pytest.mark.parametrize("ending", [0, 1, 2])
def test_an_index_that_is_not_what_was_written_is_made_anew(table: Path, tiny: Tiny, ending: int) -> None:
    expected = nearest(table, tiny(), "cat/a.png")
    file = index_files(table, "cosine", 1)[ending]
    whole = file.read_bytes()
    for damaged in (whole[:-9], whole.replace(whole[20:24], b"\xff\xff\xff\xff"), b"", b"{}"):
        file.write_bytes(damaged)
        told = Listener()
        open_index(table, tiny(), "cosine", told)
        assert "cannot be relied on and is made anew" in told.told[0]
        assert nearest(table, tiny(), "cat/a.png") == expected
        assert file.read_bytes() == whole


def test_an_index_of_another_extraction_is_not_taken_for_this_one(table: Path, tiny: Tiny) -> None:
    open_index(table, tiny(), "cosine", QUIET)
    other = write_table(table.with_name("other"), {"a": [1, 0, 0], "b": [1, 1, 0]})
    shutil.copytree(table / "index", other / "index")
    told = Listener()
    assert len(open_index(other, tiny(), "cosine", told).index) == 2
    assert "it is of other rows" in told.told[0]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_equal_images_come_by_name_whether_the_index_grew_or_is_new(tmp_path: Path, tiny: Tiny, metric: str) -> None:
    rows = {f"{number:02}.png": row.tolist() for number, row in enumerate(random_rows(60, 64))}
    folder, settings = tmp_path / "inference" / "table", tiny(similarity=metric)
    find_all_neighbours(write_table(folder, rows), settings, 10, QUIET)
    rows["+like_07.png"] = rows["07.png"]
    grown = find_all_neighbours(write_table(folder, rows), settings, 10, QUIET).table.read_text(encoding="utf-8")
    shutil.rmtree(folder / "index")
    new = find_all_neighbours(folder, settings, 10, QUIET).table.read_text(encoding="utf-8")
    assert grown == new


def test_a_damaged_row_is_left_out_and_told_of(table: Path, tiny: Tiny) -> None:
    data = bytearray((table / "features.npy").read_bytes())
    data[-1] ^= 1
    (table / "features.npy").write_bytes(data)
    told = Listener()
    indexed = open_index(table, tiny(), "cosine", told)
    assert list(indexed.images) == ["cat/a.png", "cat/b.png", "dog/c.png"]
    assert told.told == ["1 row of table is damaged and left out: verify it, or extract again"]


def test_distances_of_near_rows_are_exact_however_many_are_asked_for_at_a_time() -> None:
    rows = 100 + random_rows(64) / 1000
    index = VectorIndex.exact(16, "euclidean")
    index.add(np.arange(64), rows)
    found = index.search(rows, 2)
    assert np.array_equal(found.ids[:, 0], np.arange(64))
    assert not found.scores[:, 0].any()
    assert np.allclose(found.scores[:, 1], np.linalg.norm(rows[found.ids[:, 1]] - rows, axis=1))


# ---------------------------------------------------------------- many rows


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_an_approximate_index_finds_nearly_all_and_gives_rows_up(
    metric: Any, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(3000)
    ids = np.arange(3000)
    exact, approximate = VectorIndex.exact(16, metric), VectorIndex.approximate(rows[::2], 3000, metric)
    for index in (exact, approximate):
        index.add(ids, rows)
    probes = Probes(ids[::30], rows[::30], 10, metric)
    probes.see(ids[:1000], rows[:1000])
    probes.see(ids[1000:], rows[1000:])
    assert probes.recall(exact) > 0.999
    assert 0.95 < approximate.choose_effort(probes) <= 1
    before = exact.search(rows[:5], 3)
    assert np.array_equal(approximate.search(rows[:5], 3).ids, before.ids)
    approximate.remove(before.ids[:, 1])
    assert not np.isin(approximate.search(rows[:5], 10).ids, before.ids[:, 1]).any()
    some = np.zeros(3000, bool)
    some[[7, 9]] = True
    assert set(approximate.search(rows[:1], 2, some).ids[0].tolist()) <= {7, 9, -1}


def test_the_same_rows_make_the_same_approximate_index_and_it_is_told_of(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_index, "MAX_EXACT_ROWS", 100)
    rows = {f"{number:04}.png": row.tolist() for number, row in enumerate(random_rows(600))}
    tables = [write_table(tmp_path / "inference" / name, rows) for name in ("one", "two")]
    told = Listener()
    indexes = [open_index(table, tiny(), "cosine", told) for table in tables]
    kept, again = (index_files(table, "cosine", 1, normalized=True)[0].read_bytes() for table in tables)
    assert kept == again
    assert indexes[0].recall is not None
    assert indexes[0].recall > 0.9
    assert told.told[0].startswith("600 images are searched approximately")
    result = find_similar(Workspace(tmp_path), tiny(), tables[0], "0000.png", 5, QUIET)
    assert result.recall == indexes[0].recall
    assert "The search is approximate" in result.page.read_text(encoding="utf-8")
    assert find_all_neighbours(tables[0], tiny(), 3, QUIET).recall == indexes[0].recall


def test_lists_are_learned_again_where_there_are_far_more_rows(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_index, "MAX_EXACT_ROWS", 100)
    rows = {f"{number:04}.png": row.tolist() for number, row in enumerate(random_rows(600))}
    table = tmp_path / "inference" / "table"
    for count, message in (
        (300, "learning from"),
        (310, "brought up to date: 10 added"),
        (600, "learning from"),
        (90, ""),
    ):
        write_table(table, dict(list(rows.items())[:count]))
        told = Listener()
        assert len(open_index(table, tiny(), "cosine", told).index) == count
        assert message in "".join(told.told)


def test_an_index_larger_than_memory_is_refused(table: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "free_memory", lambda: 10)
    with pytest.raises(ExtractionError, match=r"an index of 4 images takes .* GB of memory"):
        open_index(table, tiny(), "cosine", QUIET)


# ---------------------------------------------------------------- pictures from elsewhere


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, small_model: None) -> Workspace:
    """A workspace with a model and its extraction 'table' of images in two folders; tests must not change it."""
    space = Workspace(tmp_path_factory.mktemp("extracted"))
    for label in ("dark", "light"):
        write_images(space.images / label, 6)
    pretrain(space, tiny(), space.images, "model", QUIET)
    extract(space, tiny(feature_grid=2), space.checkpoints / "model", space.images, "table", QUIET)
    stages = tiny(feature_grid=2, feature_stages="all", reconstruction_error=True)
    extract(space, stages, space.checkpoints / "model", space.images, "all_stages", QUIET)
    return space


@pytest.mark.parametrize(("grid", "table"), [(2, "table"), (1, "table"), (1, "all_stages")])
def test_a_picture_from_elsewhere_is_encoded_as_the_rows_were(
    extracted: Workspace, tiny: Tiny, tmp_path: Path, grid: int, table: str
) -> None:
    other = tmp_path / "other.png"
    other.write_bytes((extracted.images / "dark" / "image_002.png").read_bytes())
    folder = extracted.inference / table
    found = find_similar(extracted, tiny(explore_grid=grid), folder, str(other), 2, QUIET)
    assert [name for name, _ in found.nearest] == ["dark/image_002.png", "light/image_002.png"]
    assert [score for _, score in found.nearest] == pytest.approx([1, 1], abs=1e-5)
    assert found.query == "other.png"


def test_a_name_that_a_file_here_has_too_is_said_to_be_the_images(
    table: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = Listener()
    find_similar(Workspace(tmp_path), tiny(), table, "cat/a.png", 1, told)
    assert told.told == []
    write_images(tmp_path / "cat", 1)
    (tmp_path / "cat" / "image_000.png").rename(tmp_path / "cat" / "a.png")
    find_similar(Workspace(tmp_path), tiny(), table, "cat/a.png", 1, told)
    assert told.told == [
        "cat/a.png is searched for as the image of that name in table, not as the file here: for that give its whole "
        "path"
    ]


def test_the_path_of_an_image_of_the_extraction_needs_no_model(
    extracted: Workspace, tiny: Tiny, tmp_path: Path
) -> None:
    space = Workspace(tmp_path / "copy")
    shutil.copytree(extracted.inference, space.inference)
    manifest = space.inference / "table" / "manifest.json"
    described = json.loads(manifest.read_text(encoding="utf-8"))
    described["checkpoint"]["folder"] = "gone"
    manifest.write_text(json.dumps(described), encoding="utf-8")
    folder = space.inference / "table"
    inside = str(extracted.images / "dark" / "image_002.png")
    found = find_similar(space, tiny(), folder, inside, 3, QUIET)
    assert found.query == "dark/image_002.png"
    assert found.nearest[0][0] == "light/image_002.png"
    shutil.copy(inside, tmp_path / "other.png")
    with pytest.raises(CheckpointError, match="checkpoint model is gone"):
        find_similar(space, tiny(), folder, str(tmp_path / "other.png"), 3, QUIET)


def test_a_picture_that_cannot_be_read_has_its_reason(extracted: Workspace, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"broken\.png cannot be searched for: not an image in a format"):
        find_similar(extracted, tiny(), extracted.inference / "table", str(tmp_path / "broken.png"), 3, QUIET)


def test_other_encoders_are_judged_by_the_same_labels(extracted: Workspace, tiny: Tiny) -> None:
    result = compare_precision(extracted, tiny(), extracted.inference / "table", 3, QUIET)
    encoders = {encoder.encoder: encoder for encoder in result.encoders}
    assert list(encoders) == ["model", "untrained", "linear_map", "pixels"]
    assert (result.num_images, result.num_labels, result.chance) == (12, 2, pytest.approx(5 / 11))
    # Each image has its equal in the other folder, which comes first.
    assert all(encoder.precision.mean <= 2 / 3 for encoder in encoders.values())
    assert encoders["untrained"].above_untrained is None
    rows = files.read_csv(result.table)
    assert [row["encoder"] for row in rows] == list(encoders)
    assert set(result.verdict.model_minus) == {"untrained", "linear_map", "pixels"}
    gain = result.verdict.model_minus["pixels"].mean
    assert gain == pytest.approx(encoders["model"].precision.mean - encoders["pixels"].precision.mean)
    assert float(rows[3]["below_model"]) == pytest.approx(gain, abs=1e-6)


def test_images_that_are_gone_are_said_to_be_so(extracted: Workspace, tiny: Tiny, tmp_path: Path) -> None:
    space = Workspace(tmp_path / "copy")
    shutil.copytree(extracted.root, space.root)
    manifest = space.inference / "table" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(str(extracted.root.resolve()), str(space.root.resolve())))
    shutil.rmtree(space.images)
    folder = space.inference / "table"
    found = find_similar(space, tiny(), folder, "dark/image_002.png", 2, QUIET)
    assert "the file is not there" in found.page.read_text(encoding="utf-8")
    with pytest.raises(SourceError):
        compare_precision(space, tiny(), folder, 3, QUIET)

"""How rows are made comparable: one answer everywhere, learned once and kept, and right where little can be learned."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from handmade import page_data, write_extraction, write_table
from numpy.typing import NDArray

from fext.compute.normalization import Normalization, described, learn_normalization, of_length_one
from fext.compute.row_classifiers import nearest_labels, row_classifier_from
from fext.jobs import normalizing
from fext.jobs.clusters import cluster
from fext.jobs.indexing import open_index
from fext.jobs.map import lay_out
from fext.jobs.normalizing import normalization_of
from fext.jobs.similar import find_all_neighbours, find_similar
from fext.jobs.view import view
from fext.reporting import SilentReporter
from fext.settings import Settings
from fext.store import files
from fext.store.kept_indexes import load_normalization, normalization_files
from fext.store.workspace import Workspace

QUIET = SilentReporter()
Tiny = Callable[..., Settings]
Rows = NDArray[np.float32]


class Heard(SilentReporter):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def correlated(count: int, num_values: int = 24, seed: int = 4) -> Rows:
    """Rows that few components hold nearly all of."""
    random = np.random.default_rng(seed)
    parts = random.normal(size=(count, 8)) * 0.6 ** np.arange(8)
    rows = 2 + parts @ random.normal(size=(8, num_values)) + random.normal(0, 0.02, (count, num_values))
    return rows.astype(np.float32)


def assert_equal(one: Normalization, other: Normalization) -> None:
    for left, right in zip(one.levels, other.levels, strict=True):
        assert np.array_equal(left.mean, right.mean)
        assert np.array_equal(left.directions, right.directions)


def named(rows: Rows) -> dict[str, list[float]]:
    return {f"{'ab'[place % 2]}/{place:03}.png": row for place, row in enumerate(rows.tolist())}


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def table(space: Workspace) -> Path:
    return write_table(space, named(correlated(70)))


def neighbours(folder: Path, settings: Settings, count: int = 8) -> dict[str, list[tuple[str, float]]]:
    """What `similar` says of each image."""
    found: dict[str, list[tuple[str, float]]] = {}
    result = find_all_neighbours(folder, settings, count, QUIET)
    for image, _, other, score in (row.values() for row in files.iter_csv(result.table)):
        found.setdefault(image, []).append((other, float(score)))
    return found


# ---------------------------------------------------------------- what it does


def by_the_books(rows: Rows, count: int) -> NDArray[np.float64]:
    """Square roots of rows of the length 1, their whitened components, of the length 1 again."""
    rooted = np.sign(rows) * np.sqrt(np.abs(rows.astype(np.float64)))
    rooted /= np.linalg.norm(rooted, axis=1, keepdims=True)
    centred = rooted - rooted.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    whitened = centred @ directions[:count].T / (singular[:count] / (len(rows) - 1) ** 0.5) ** 0.75
    points: NDArray[np.float64] = whitened / np.linalg.norm(whitened, axis=1, keepdims=True)
    return points


def test_it_is_the_root_the_components_and_the_partial_whitening_by_the_books() -> None:
    rows = correlated(96, 20)
    normalization = learn_normalization(rows, 1)
    assert normalization is not None
    expected = by_the_books(rows, normalization.num_values)
    points = of_length_one(normalization.of(rows))
    assert np.allclose(points @ points.T, expected @ expected.T, atol=2e-3)
    assert np.allclose(normalization.of(3 * rows), normalization.of(rows), atol=1e-6)  # the length plays no role


def test_features_of_a_grid_are_compared_place_by_place_and_in_the_mean_which_counts_half_as_much() -> None:
    rows = correlated(96, 24)
    normalization = learn_normalization(rows, 2)
    assert normalization is not None
    averages = rows.reshape(96, 4, 6).mean(axis=1)
    placed = by_the_books(rows, len(normalization.levels[0].directions))
    averaged = by_the_books(averages, len(normalization.levels[1].directions))
    points = of_length_one(normalization.of(rows))
    expected = (2 * placed @ placed.T + averaged @ averaged.T) / 3
    assert np.allclose(points @ points.T, expected, atol=2e-3)
    assert described(normalization, 2).startswith("features of a 2×2 grid and their mean, as ")


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_same_comes_of_the_same_rows_in_blocks_of_any_size(size: int) -> None:
    rows = correlated(200, 130)
    first, again = learn_normalization(rows, 1), learn_normalization(rows, 1)
    assert first is not None
    assert again is not None
    assert_equal(first, again)
    in_blocks = np.concatenate([first.of(rows[start : start + size]) for start in range(0, 200, size)])
    assert np.array_equal(in_blocks, first.of(rows))


@pytest.mark.parametrize(
    "rows",
    [
        correlated(1),
        correlated(63),
        np.ones((100, 9), np.float32),
        np.zeros((100, 9), np.float32),
        np.linspace(1, 2, 100, dtype=np.float32)[:, None],
        np.repeat(correlated(2), 50, axis=0),  # one direction tells all
        np.random.default_rng(1).normal(size=(300, 900)).astype(np.float32),  # nothing is correlated
    ],
)
def test_rows_that_teach_too_little_are_left_as_they_are(rows: Rows) -> None:
    assert learn_normalization(rows, 1) is None
    assert "as they are (too few, or too little correlated" in described(None, 2)


def test_extreme_and_equal_rows_stay_finite_and_equal_rows_stay_equal() -> None:
    rows = correlated(80)
    rows[3] = rows[7]
    rows[5] = 0
    rows[9] = 3e38
    normalization = learn_normalization(rows, 1)
    assert normalization is not None
    points = normalization.of(rows)
    assert np.isfinite(points).all()
    assert np.array_equal(points[3], points[7])


# ---------------------------------------------------------------- one answer


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_similar_and_the_viewer_have_the_same_neighbours_and_say_what_is_compared(
    space: Workspace, table: Path, tiny: Tiny, metric: str
) -> None:
    settings = tiny(similarity=metric)
    expected = neighbours(table, settings)
    page = view(space, settings, table, QUIET).file
    names, pairs = page_data(page, "names"), page_data(page, "neighbours")
    for name, near in zip(names, pairs, strict=True):
        assert [names[place] for place, _ in near] == [other for other, _ in expected[name]]
        assert [score for _, score in near] == pytest.approx([score for _, score in expected[name]], abs=1e-4)
    words = "features, as signed square roots on 17 partially whitened principal components"
    assert page_data(page, "nearest-by").endswith(f" of {words}")
    result = find_similar(space, settings, table, "a/000.png", 8, QUIET)
    assert [name for name, _ in result.nearest] == [name for name, _ in expected["a/000.png"]]
    assert f"Compared are {words}." in result.page.read_text(encoding="utf-8")
    assert cluster(space, settings, table, QUIET, count=3).summary["compared"] == words
    assert words in (lay_out(space, settings, table, QUIET).folder / "map.html").read_text(encoding="utf-8")


def test_none_is_the_cosine_of_the_rows_as_they_are(space: Workspace, table: Path, tiny: Tiny) -> None:
    rows = correlated(70).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similar = rows @ rows.T
    np.fill_diagonal(similar, -1)
    names = list(named(correlated(70)))
    found = neighbours(table, tiny(similarity_normalization="none"), 3)
    for name, row in zip(names, similar, strict=True):
        assert [score for _, score in found[name]] == pytest.approx(np.sort(row)[:-4:-1], abs=1e-5)
    assert neighbours(table, tiny(), 3) != found


# ---------------------------------------------------------------- what is kept


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each normalization was learned from."""
    counts: list[int] = []

    def watched(rows: Rows, grid: int) -> Normalization | None:
        counts.append(len(rows))
        return learn_normalization(rows, grid)

    monkeypatch.setattr(normalizing, "learn_normalization", watched)
    return counts


def test_it_is_learned_once_and_all_use_what_is_kept(
    space: Workspace, table: Path, tiny: Tiny, learned: list[int]
) -> None:
    cluster(space, tiny(), table, QUIET, count=3)
    lay_out(space, tiny(), table, QUIET)
    for metric in ("cosine", "euclidean"):
        view(space, tiny(similarity=metric), table, QUIET)
        find_all_neighbours(table, tiny(similarity=metric), 3, QUIET)
    assert learned == [70]


def test_it_stays_while_few_images_come_and_go_and_is_learned_anew_where_most_are_others(
    space: Workspace, table: Path, tiny: Tiny, learned: list[int]
) -> None:
    rows = named(correlated(70))
    open_index(table, tiny(), "cosine", QUIET)
    up_to_date = "the index is brought up to date: 1 added, 3 removed"
    for change, told in (
        (dict(list(rows.items())[3:]) | {"c/new.png": [1.0] * 24}, [up_to_date]),
        (rows | {f"c/{place:03}.png": row for place, row in enumerate(correlated(60, seed=9).tolist())}, []),
        (named(correlated(130, seed=9)), []),  # as many, but others
    ):  # fmt: skip
        heard = Heard()
        write_table(space, change)
        assert len(open_index(table, tiny(), "cosine", heard).images) == len(change)
        assert heard.lines == told
    assert learned == [70, 130, 130]


def test_an_index_of_rows_that_were_normalized_otherwise_is_made_anew(
    space: Workspace, table: Path, tiny: Tiny
) -> None:
    plain = neighbours(table, tiny(similarity_normalization="none"))
    expected = neighbours(table, tiny())
    assert neighbours(table, tiny(similarity_normalization="none")) == plain
    other = write_extraction(space.inference / "other", space.images, named(correlated(70, seed=6)))
    open_index(other, tiny(), "cosine", QUIET)
    for kept, taken in zip(normalization_files(other, 1), normalization_files(table, 1), strict=True):
        taken.write_bytes(kept.read_bytes())  # it was learned from rows that are not there
    assert neighbours(table, tiny()) == expected


@pytest.mark.parametrize("number", [0, 1])
def test_one_that_is_not_what_was_written_is_learned_anew(table: Path, tiny: Tiny, number: int) -> None:
    expected = neighbours(table, tiny())
    file = normalization_files(table, 1)[number]
    whole = file.read_bytes()
    for damaged in (whole[:-9], b"", whole.replace(whole[20:24], b"\xff\xff\xff\xff")):
        file.write_bytes(damaged)
        heard = Heard()
        open_index(table, tiny(), "cosine", heard)
        assert "cannot be relied on and is learned anew" in heard.lines[0]
        assert neighbours(table, tiny()) == expected
        assert file.read_bytes() == whole
    with pytest.raises(ValueError, match="of other rows"):
        load_normalization(table, 1, 7)


# ---------------------------------------------------------------- the nearest labels


@pytest.mark.parametrize("grid", [1, 2])
def test_the_nearest_labels_keep_their_normalization_and_older_ones_have_none(grid: int) -> None:
    rows = correlated(120)
    places, codes = np.arange(90), np.arange(90, dtype=np.int32) % 3
    normalization = learn_normalization(rows[:90], grid)
    assert normalization is not None
    classifier = nearest_labels(rows, places, codes, 3, 5, normalization)
    points = normalization.of(rows)
    plain = nearest_labels(points, places, codes, 3, 5)
    assert np.array_equal(classifier.probabilities(rows[90:]), plain.probabilities(points[90:]))
    for one, given in ((classifier, rows), (plain, points)):
        read = row_classifier_from(one.tensors())
        assert np.array_equal(read.probabilities(given[90:]), classifier.probabilities(rows[90:]))


def test_only_the_rows_that_it_is_to_learn_from_teach_it(tiny: Tiny) -> None:
    rows, places = correlated(150), np.arange(0, 150, 2)
    first = normalization_of(tiny(), rows, 1, places)
    rows[1::2] = 7
    again = normalization_of(tiny(), rows, 1, places)
    assert first is not None
    assert again is not None
    assert_equal(first, again)
    assert normalization_of(tiny(similarity_normalization="none"), rows, 1, places) is None

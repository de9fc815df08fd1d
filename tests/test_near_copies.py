"""Near copies by features: all are found and nothing else, groups are no chains, and what needs the model or images."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import write_images
from PIL import Image
from test_similar import Rows, write_table

from fext.compute.near_groups import near_groups
from fext.compute.vector_index import VectorIndex
from fext.data.images import MAX_SIDE, decode_small
from fext.data.near_copies import MIN_CORRELATION, correlation_when_aligned
from fext.errors import CheckpointError, ExtractionError, SourceError
from fext.jobs.extract import extract
from fext.jobs.near_copies import NearCopiesResult, find_near_copies
from fext.jobs.pretrain import pretrain
from fext.reporting import SilentReporter
from fext.settings import Settings
from fext.store.workspace import Workspace

pytestmark = pytest.mark.usefixtures("small_model")
QUIET = SilentReporter()
Tiny = Callable[..., Settings]


def groups_of(result: NearCopiesResult) -> list[dict[str, str]]:
    """Of each group what each image is."""
    groups: dict[str, dict[str, str]] = {}
    with result.table.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            groups.setdefault(row["group"], {})[row["image"]] = row["likeness"]
    return list(groups.values())


# ---------------------------------------------------------------- groups


def grouped(angles: list[float], threshold: float) -> list[list[int]]:
    """Groups of directions that differ by at most `threshold` degrees, linked each with the next."""
    links = [(one, one + 1) for one in range(len(angles) - 1) if angles[one + 1] - angles[one] <= threshold]
    similarities = [1 - (angles[other] - angles[one]) / 180 for one, other in links]

    def is_near(one: int, others: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return np.abs(np.array(angles)[others] - angles[one]) <= threshold

    pairs = np.array(links, np.int64).reshape(-1, 2)
    return near_groups(pairs, np.array(similarities, np.float32), np.arange(len(angles)), is_near)


def test_a_chain_is_no_group() -> None:
    """What is near to a neighbour alone is not taken in: the ends of a film have nothing in common."""
    groups = grouped([float(angle) for angle in range(0, 90, 2)], threshold=5)
    assert sorted(place for group in groups for place in group) == list(range(45))
    for first, *others in groups:
        assert max(abs(place - first) for place in others) * 2 <= 5


def test_the_first_is_the_one_that_most_are_near_to() -> None:
    assert grouped([0, 4, 8], threshold=5) == [[1, 0, 2]]


def test_what_would_be_left_alone_joins_its_nearest_neighbour() -> None:
    (group,) = grouped([0, 4, 8, 12], threshold=5)
    assert group == [1, 0, 2, 3]
    assert grouped([0, 20, 40], threshold=5) == []


def test_a_link_counts_where_rounding_says_otherwise() -> None:
    links, similarities = np.array([[0, 1]]), np.ones(1, np.float32)
    assert near_groups(links, similarities, np.arange(2), lambda one, others: np.zeros(len(others), bool)) == [[0, 1]]


def test_a_group_grows_beyond_its_links_among_equals() -> None:
    assert [sorted(group) for group in grouped([0.1 * number for number in range(40)], threshold=5)] == [
        list(range(40))
    ]


# ---------------------------------------------------------------- a chosen similarity


ROWS: Rows = {
    "a.png": [1, 0],
    "b.png": [1, 0.01],
    "c.png": [1, 0],
    "d.png": [0, 1],
    "e.png": [0.02, 1],
    "f.png": [-1, 0],
}


def test_with_a_number_that_cosine_decides_and_nothing_else_is_needed(tmp_path: Path, tiny: Tiny) -> None:
    folder = write_table(tmp_path / "inference" / "table", ROWS)
    found = {}
    for threshold in (0.99999, 0.9999, 0.9):
        settings = tiny(duplicate_similarity=threshold)
        found[threshold] = groups_of(find_near_copies(Workspace(tmp_path), settings, folder, QUIET))
    assert [list(group) for group in found[0.99999]] == [["a.png", "c.png"]]
    assert [list(group) for group in found[0.9999]] == [["a.png", "c.png", "b.png"]]
    assert [sorted(group) for group in found[0.9]] == [["a.png", "b.png", "c.png"], ["d.png", "e.png"]]


def test_rows_of_one_direction_are_copies_at_a_similarity_of_one(tmp_path: Path, tiny: Tiny) -> None:
    """Their cosine is 1 but for rounding, which comes out differently from one computation to the next."""
    random = np.random.default_rng(0)
    rows: Rows = {}
    for number in range(60):
        row = random.normal(size=64)
        rows |= {f"{number}_a.png": row.tolist(), f"{number}_b.png": (3 * row).tolist()}
    folder = write_table(tmp_path / "inference" / "table", rows)
    groups = groups_of(find_near_copies(Workspace(tmp_path), tiny(duplicate_similarity=1.0), folder, QUIET))
    assert all({name.split("_")[0] for name in group} == {next(iter(group)).split("_")[0]} for group in groups)
    assert len(groups) == 60


def test_many_equal_rows_hide_no_near_one(tmp_path: Path, tiny: Tiny) -> None:
    rows: Rows = {f"{number:03}.png": [1, 0] for number in range(40)} | {"near.png": [1, 0.01], "far.png": [0, 1]}
    folder = write_table(tmp_path / "inference" / "table", rows)
    result = find_near_copies(Workspace(tmp_path), tiny(duplicate_similarity=0.99), folder, QUIET)
    (group,) = groups_of(result)
    assert set(group) == rows.keys() - {"far.png"}
    assert list(group)[-1] == "near.png"


def test_one_image_has_no_copies_and_an_unfinished_extraction_none_yet(tmp_path: Path, tiny: Tiny) -> None:
    folder = write_table(tmp_path / "inference" / "table", {"a.png": [1.0, 0.0]})
    for similarity in (0.9, "auto"):
        with pytest.raises(ExtractionError, match=r"table has one image .*: extract from more images"):
            find_near_copies(Workspace(tmp_path), tiny(duplicate_similarity=similarity), folder, QUIET)
    (folder / "manifest.json").unlink()
    with pytest.raises(ExtractionError, match="not finished"):
        find_near_copies(Workspace(tmp_path), tiny(), folder, QUIET)


# ---------------------------------------------------------------- pictures that go together


def small(picture: Image.Image, file: Path) -> np.ndarray:  # type: ignore[type-arg]
    picture.save(file)
    return decode_small(file.read_bytes(), MAX_SIDE).astype(np.float64)


def test_pictures_are_aligned_before_they_are_compared(tmp_path: Path) -> None:
    write_images(tmp_path, 2, size=(400, 300))
    one, other = (Image.open(tmp_path / f"image_{number:03}.png").convert("RGB") for number in (0, 1))
    whole = small(one, tmp_path / "whole.png")
    for box in ((0, 0, 380, 300), (16, 12, 384, 288), (0, 12, 380, 290)):
        part = small(one.crop(box), tmp_path / "part.png")
        assert min(correlation_when_aligned(whole, part), correlation_when_aligned(part, whole)) > 0.99
        assert np.corrcoef(whole.ravel(), part.ravel())[0, 1] < 0.995
    assert correlation_when_aligned(whole, small(other, tmp_path / "other.png")) < MIN_CORRELATION
    plain = np.full((32, 32), 77.0)
    assert correlation_when_aligned(whole, plain) == correlation_when_aligned(plain, plain) == -1


# ---------------------------------------------------------------- learned from copies


def photographs(folder: Path, count: int) -> list[str]:
    """Pictures with large shapes and fine grain, all different, as JPEG."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(5)
    names = []
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, size=(5, 6, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((240, 180), Image.Resampling.BICUBIC), np.float64)
        grain = random.normal(0, 6, pixels.shape)
        names.append(f"photo_{number:02}.jpg")
        Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(folder / names[-1], quality=92)
    return names


COPIES = {
    "exact.jpg": "photo_03.jpg",
    "half.jpg": "photo_05.jpg",
    "low.jpg": "photo_09.jpg",
    "part.png": "photo_12.jpg",
}


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, small_model: None) -> Workspace:
    """A workspace with a model and the extraction 'table' of 20 pictures and 4 copies; tests must not change it."""
    space = Workspace(tmp_path_factory.mktemp("extracted"))
    photographs(space.images, 20)
    shutil.copy(space.images / "photo_03.jpg", space.images / "exact.jpg")
    half, low, part = (Image.open(space.images / COPIES[name]) for name in ("half.jpg", "low.jpg", "part.png"))
    half.resize((120, 90)).save(space.images / "half.jpg", quality=80)
    low.save(space.images / "low.jpg", quality=30)
    part.crop((5, 4, 236, 177)).save(space.images / "part.png")
    pretrain(space, tiny(), space.images, "model", QUIET)
    extract(space, tiny(feature_grid=2), space.checkpoints / "model", space.images, "table", QUIET)
    return space


@pytest.fixture
def copy(extracted: Workspace, tmp_path: Path) -> Workspace:
    """The same workspace for a test to change."""
    space = Workspace(tmp_path / "copy")
    shutil.copytree(extracted.root, space.root)
    manifest = space.inference / "table" / "manifest.json"
    old, new = (json.dumps(str(folder.resolve()))[1:-1] for folder in (extracted.root, space.root))
    manifest.write_text(manifest.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return space


def find(space: Workspace, settings: Settings) -> NearCopiesResult:
    return find_near_copies(space, settings, space.inference / "table", QUIET)


def test_exact_and_near_copies_are_found_and_nothing_else(extracted: Workspace, tiny: Tiny) -> None:
    before = sorted(extracted.images.iterdir())
    result = find(extracted, tiny())
    groups = groups_of(result)
    assert {frozenset(group) for group in groups} == {frozenset(pair) for pair in COPIES.items()}
    likeness = {name: kind for group in groups for name, kind in group.items() if kind != "first"}
    assert sorted(likeness.values()) == ["exact", "near", "near", "near"]
    assert "half.jpg" in likeness  # the larger file comes first
    assert (result.num_groups, result.num_exact, result.num_near, result.num_gone) == (4, 1, 3, 0)
    assert sorted(extracted.images.iterdir()) == before
    page = result.page.read_text(encoding="utf-8")
    assert "Group 4" in page
    assert "copies of 24 of the images" in page
    assert find(extracted, tiny()).table.read_bytes() == result.table.read_bytes()


def test_features_of_all_stages_with_the_error_find_the_copies_too(copy: Workspace, tiny: Tiny) -> None:
    settings = tiny(feature_grid=2, feature_stages="all", reconstruction_error=True)
    extract(copy, settings, copy.checkpoints / "model", copy.images, "stages", QUIET)
    result = find_near_copies(copy, tiny(), copy.inference / "stages", QUIET)
    assert {frozenset(group) for group in groups_of(result)} == {frozenset(pair) for pair in COPIES.items()}


def test_damaged_rows_are_not_counted_among_the_images(copy: Workspace, tiny: Tiny) -> None:
    table = copy.inference / "table" / "features.csv"
    table.write_bytes(table.read_bytes()[:-20])
    assert find(copy, tiny()).num_images == find(copy, tiny(duplicate_similarity=0.9)).num_images == 23


def test_the_same_is_found_where_the_search_is_approximate(
    extracted: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fext.compute import vector_index

    monkeypatch.setattr(vector_index, "MAX_EXACT_ROWS", 10)
    made: list[bool] = []
    add = VectorIndex.add
    monkeypatch.setattr(VectorIndex, "add", lambda index, *rows: (made.append(index.is_exact), add(index, *rows))[1])
    result = find(extracted, tiny())
    assert made == [False]
    assert result.recall is not None
    assert {frozenset(group) for group in groups_of(result)} == {frozenset(pair) for pair in COPIES.items()}


def test_without_the_model_a_number_does(copy: Workspace, tiny: Tiny) -> None:
    shutil.rmtree(copy.checkpoints)
    with pytest.raises(CheckpointError, match="set duplicate_similarity to a number"):
        find(copy, tiny())
    assert find(copy, tiny(duplicate_similarity=0.999)).num_groups >= 1


def test_images_that_are_gone_are_told_of(copy: Workspace, tiny: Tiny) -> None:
    (copy.images / "exact.jpg").unlink()
    (copy.images / "low.jpg").unlink()
    result = find(copy, tiny())
    groups = groups_of(result)
    assert result.num_gone + sum(kind == "gone" for group in groups for kind in [next(iter(group.values()))]) == 1
    assert {frozenset(group) for group in groups} == {
        frozenset(pair) for pair in COPIES.items() if pair[0] != "low.jpg"
    }
    shutil.rmtree(copy.images)
    with pytest.raises(
        SourceError, match=r"no image of .* can be read any more.* set duplicate_similarity to a number"
    ):
        find(copy, tiny())

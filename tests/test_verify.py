"""Verifying: a good table is said to be whole, and each thing that can be wrong with one is named."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import write_images

from fext.errors import ExtractionError
from fext.jobs.extract import extract
from fext.jobs.pretrain import pretrain
from fext.jobs.verify import Verification, verify
from fext.reporting import SilentReporter
from fext.settings import Settings
from fext.store.workspace import Workspace

pytestmark = pytest.mark.usefixtures("small_model")
QUIET = SilentReporter()
Tiny = Callable[..., Settings]


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, small_model: None) -> Workspace:
    """A workspace with an extraction 'table' in every format; tests must not change it."""
    space = Workspace(tmp_path_factory.mktemp("extracted"))
    write_images(space.images, 12)
    (space.images / 'comma, "quote"\nline.png').write_bytes((space.images / "image_003.png").read_bytes())
    (space.images / "zz_broken.png").write_bytes(b"no image")
    pretrain(space, tiny(), space.images, "model", QUIET)
    settings = tiny(feature_grid=1, feature_formats=("csv", "npy", "parquet"), reconstruction_error=True)
    extract(space, settings, space.checkpoints / "model", space.images, "table", QUIET)
    return space


@pytest.fixture
def copy(extracted: Workspace, tmp_path: Path) -> Workspace:
    """The same workspace for a test to change; its manifest names the copy's images and checkpoint."""
    space = Workspace(tmp_path / "copy")
    shutil.copytree(extracted.root, space.root)
    manifest = space.inference / "table" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(str(extracted.root.resolve()), str(space.root.resolve())))
    return space


def check(space: Workspace, settings: Settings, everything: bool = True) -> Verification:
    return verify(space, settings, space.inference / "table", everything, QUIET)


def lines_of(space: Workspace) -> list[bytes]:
    """The lines of features.csv; a name of theirs takes two."""
    return (space.inference / "table" / "features.csv").read_bytes().split(b"\n")


def write_lines(space: Workspace, lines: list[bytes]) -> None:
    (space.inference / "table" / "features.csv").write_bytes(b"\n".join(lines))


def number_of(lines: list[bytes], name: str) -> int:
    return next(number for number, line in enumerate(lines) if line.startswith(name.encode() + b","))


@pytest.mark.parametrize("everything", [False, True])
def test_a_good_table_is_whole(copy: Workspace, tiny: Tiny, everything: bool) -> None:
    result = check(copy, tiny(), everything)
    assert (result.problems, result.num_problems, result.notes) == ((), 0, ())
    assert (result.num_rows, result.num_recomputed, result.formats) == (13, 13, ("csv", "npy", "parquet"))


def test_a_changed_digit_is_found_even_where_it_stands_for_the_same_float(copy: Workspace, tiny: Tiny) -> None:
    lines = lines_of(copy)
    number = number_of(lines, "image_005.png")
    head, _, tail = lines[number].rpartition(b",")
    last = tail[-1:]
    for digit in b"0123456789".replace(last, b""):
        lines[number] = head + b"," + tail[:-1] + bytes([digit])
        write_lines(copy, lines)
        assert check(copy, tiny(), False).problems == ("csv: the row of image_005.png is not what was written",)


def test_a_removed_line_is_found(copy: Workspace, tiny: Tiny) -> None:
    lines = lines_of(copy)
    del lines[number_of(lines, "image_005.png")]
    write_lines(copy, lines)
    assert check(copy, tiny()).problems == ("csv: the row of image_005.png is missing",)
    del lines[-2]
    write_lines(copy, lines)
    assert check(copy, tiny()).problems[1] == "csv: the row of image_011.png is missing"


def test_a_doubled_line_is_found(copy: Workspace, tiny: Tiny) -> None:
    lines = lines_of(copy)
    number = number_of(lines, "image_005.png")
    write_lines(copy, [*lines[:number], lines[number], *lines[number:]])
    assert check(copy, tiny()).problems == ("csv: the row of image_005.png stands there twice",)


def test_two_names_swapped_are_found(copy: Workspace, tiny: Tiny) -> None:
    lines = lines_of(copy)
    one, two = number_of(lines, "image_005.png"), number_of(lines, "image_006.png")
    lines[one] = lines[one].replace(b"image_005", b"image_006")
    lines[two] = lines[two].replace(b"image_006", b"image_005")
    write_lines(copy, lines)
    problems = "; ".join(check(copy, tiny()).problems)
    assert "the row of image_006.png is not what was written" in problems
    assert "the row of image_005.png" in problems


def test_a_line_cut_off_and_a_line_that_is_none_are_found(copy: Workspace, tiny: Tiny) -> None:
    lines = lines_of(copy)
    write_lines(copy, [*lines[:-2], lines[-2][:100]])
    assert check(copy, tiny()).problems == ("csv: the row of image_011.png is not what was written",)
    write_lines(copy, [*lines[:-1], b"more", b""])
    assert check(copy, tiny()).problems == ("csv: the table cannot be read (a row has no name)",)


@pytest.mark.parametrize("name", ["features.npy", "features.parquet", "reconstruction_error.npy"])
def test_a_changed_byte_of_another_format_is_found(copy: Workspace, tiny: Tiny, name: str) -> None:
    path = copy.inference / "table" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if name != "reconstruction_error.npy" else -3] ^= 64
    path.write_bytes(data)
    assert check(copy, tiny(), False).num_problems >= 1


def test_a_stray_quote_does_not_swallow_the_table(copy: Workspace, tiny: Tiny) -> None:
    lines = lines_of(copy)
    number = number_of(lines, "image_005.png")
    lines[number] = lines[number][:-3] + b'"' + lines[number][-2:]
    write_lines(copy, lines)
    assert check(copy, tiny(), False).problems == ("csv: the row of image_005.png is not what was written",)


@pytest.mark.parametrize("name", ["features.npy", "features_names.csv", "reconstruction_error.npy", "images.csv"])
def test_any_damage_to_the_beginning_of_a_file_is_named(copy: Workspace, tiny: Tiny, name: str) -> None:
    path = copy.inference / "table" / name
    whole = path.read_bytes()
    for place in range(0, 120, 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 7)
        path.write_bytes(damaged)
        result = check(copy, tiny(), False)
        assert result.num_problems >= 1 or name.endswith(".npy")  # some bytes of that header mean nothing


def test_more_lines_in_rejected_csv_are_found(copy: Workspace, tiny: Tiny) -> None:
    with (copy.inference / "table" / "rejected.csv").open("a") as stream:
        stream.write("another.png,no reason\n")
    assert "rejected.csv has more images" in check(copy, tiny(), False).problems[0]


def test_a_row_more_or_less_in_npy_is_found(copy: Workspace, tiny: Tiny) -> None:
    path = copy.inference / "table" / "features.npy"
    table = np.load(path)
    np.save(path, table[:-1])
    assert check(copy, tiny()).problems[0] == "npy: the row of image_011.png is not what was written"
    np.save(path, np.concatenate([table, table[:1]]))
    assert "npy: the table cannot be read (features_names.csv has 13 images" in check(copy, tiny()).problems[0]


def test_a_table_that_is_gone_is_found(copy: Workspace, tiny: Tiny) -> None:
    (copy.inference / "table" / "features.parquet").unlink()
    assert "parquet: the table cannot be read" in check(copy, tiny()).problems[0]


def test_a_replaced_checkpoint_is_found(copy: Workspace, tiny: Tiny) -> None:
    shutil.rmtree(copy.checkpoints / "model")
    assert check(copy, tiny()).problems == ("its checkpoint model is gone, and this needs it: bring its folder back",)
    pretrain(copy, tiny(seed=9), copy.images, "model", QUIET)
    assert check(copy, tiny()).problems == (
        "the table was not made with model as it is now: its weights are others",
    )  # fmt: skip


def test_a_changed_and_a_deleted_image_are_found_and_a_new_one_is_told(copy: Workspace, tiny: Tiny) -> None:
    (copy.images / "image_001.png").write_bytes((copy.images / "image_002.png").read_bytes())
    (copy.images / "image_007.png").unlink()
    shutil.copy(copy.images / "image_002.png", copy.images / "image_002_more.png")
    result = check(copy, tiny())
    assert result.problems == (
        "image image_001.png is not the file any more that was encoded",
        "image image_007.png is gone",
    )
    assert result.notes == ("1 image is new since: extract again to add it",)
    shutil.rmtree(copy.images)
    assert "the images cannot be compared" in check(copy, tiny()).problems[0]


def test_an_image_whose_content_changed_behind_its_time_and_size_is_found_by_its_row(
    copy: Workspace, tiny: Tiny
) -> None:
    image, other = copy.images / "image_001.png", copy.images / "image_002.png"
    before = image.stat()
    data = other.read_bytes()[: before.st_size]
    image.write_bytes(data + bytes(before.st_size - len(data)))
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    problems = check(copy, tiny()).problems
    assert len(problems) == 1
    assert "image_001.png" in problems[0]


@pytest.mark.parametrize("change", [("written", "rejected"), ("image_004.png", "image_00.png"), ("image_004", "")])
def test_a_list_of_images_that_was_changed_is_found(copy: Workspace, tiny: Tiny, change: tuple[str, str]) -> None:
    path = copy.inference / "table" / "images.csv"
    path.write_text(path.read_text().replace(*change, 1))
    assert check(copy, tiny(), False).num_problems >= 1


def test_where_the_table_was_computed_in_another_way_rows_are_compared_by_similarity(
    copy: Workspace, tiny: Tiny
) -> None:
    path = copy.inference / "table" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["computed_by"]["engine_version"] = "1.0"
    path.write_text(json.dumps(manifest))
    result = check(copy, tiny(use_mixed_precision=True))
    assert result.problems == ()
    assert "rows are compared by similarity, not to the bit" in result.notes[0]


def test_what_is_no_finished_extraction_is_refused(copy: Workspace, tiny: Tiny) -> None:
    (copy.inference / "table" / "manifest.json").write_text('{"format_version": 1}')
    with pytest.raises(ExtractionError, match="another version"):
        check(copy, tiny())
    (copy.inference / "table" / "manifest.json").unlink()
    with pytest.raises(ExtractionError, match="table is not finished"):
        check(copy, tiny())

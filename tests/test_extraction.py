"""Extraction: every row right, every image accounted for, nothing computed lost."""

import csv
import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars
import pytest
import torch
from conftest import write_images
from PIL import Image

from fext.compute import engines
from fext.compute.engines import RowShape, feature_rows
from fext.data.images import DECODERS, load_image
from fext.errors import ExtractionError, FextError, OtherWayError
from fext.jobs import forecast
from fext.jobs.extract import ExtractionResult, _same_here, extract
from fext.jobs.extraction import Ways
from fext.jobs.pretrain import pretrain
from fext.jobs.verify import verify
from fext.reporting import SilentReporter, StopRequested
from fext.screen import menu
from fext.screen.actions import Screen
from fext.screen.console import make_console
from fext.screen.guard import LeftQuestion
from fext.settings import Settings
from fext.store import extractions, parts
from fext.store.checkpoints import load_checkpoint
from fext.store.workspace import Workspace

pytestmark = pytest.mark.usefixtures("small_model")
QUIET = SilentReporter()
Tiny = Callable[..., Settings]
EVERY_FORMAT = ("csv", "npy", "parquet")
TABLE = ("features.csv", "features.npy", "features.parquet", "features_names.csv", "images.csv", "rejected.csv")


class Remembering(SilentReporter):
    """Keeps what a job says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    warning = message


class Stopping(SilentReporter):
    """Asks to stop once a number of images is done, as Ctrl-C does."""

    def __init__(self, num_images: int, title: str = "extracting") -> None:
        self._left, self._title = num_images, title

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator["Stopping | _Silent"]:
        yield self if title == self._title else _Silent()

    def advance(self, count: int = 1, note: str = "") -> None:
        self._left -= count
        if self._left <= 0:
            raise StopRequested


class _Silent:
    def advance(self, count: int = 1, note: str = "") -> None:
        pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, small_model: None) -> Workspace:
    """A workspace with a checkpoint 'model'; tests must not change it."""
    space = Workspace(tmp_path_factory.mktemp("trained"))
    write_images(space.images, 12)
    pretrain(space, tiny(), space.images, "model", QUIET)
    return space


@pytest.fixture
def copy(trained: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the trained workspace for a test to change."""
    shutil.copytree(trained.root, tmp_path / "copy")
    return Workspace(tmp_path / "copy")


def run(
    space: Workspace,
    settings: Settings,
    name: str | None = "table",
    reporter: SilentReporter = QUIET,
    ways: Ways = "stop",
) -> ExtractionResult:
    """Extract data/images with the model."""
    result = extract(space, settings, space.checkpoints / "model", space.images, name, reporter, ways)
    assert result is not None
    assert result.num_found == result.num_written + result.num_rejected
    return result


def table_of(folder: Path) -> dict[str, bytes]:
    """The files of a table that do not tell of times."""
    return {name: (folder / name).read_bytes() for name in TABLE if (folder / name).exists()}


def count_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list to which the number of images of every batch that is encoded is added."""
    counts: list[int] = []
    start = engines.TorchEngine.start

    def counted(engine: engines.TorchEngine, images: torch.Tensor) -> Callable[[], engines.Rows]:
        counts.append(len(images))
        return start(engine, images)

    monkeypatch.setattr(engines.TorchEngine, "start", counted)
    return counts


# ---------------------------------------------------------------- every row is right


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is an extra")
def test_openvino_computes_a_linear_shortcut_in_float32_and_goes_on_so(workspace: Workspace, tiny: Tiny) -> None:
    settings = tiny(
        linear_shortcut=True, use_mixed_precision=True, inference_engine="openvino", picture_shape=(64, 64, 1)
    )
    pretrain(workspace, settings, workspace.images, "model", QUIET)
    first = run(workspace, settings)
    again = run(workspace, settings)
    assert json.loads((first.folder / "manifest.json").read_text())["computed_by"]["precision"] == "float32"
    assert (again.folder, again.num_kept) == (first.folder, 12)


def test_a_row_is_what_the_encoder_makes_of_that_image_bit_for_bit(copy: Workspace, tiny: Tiny) -> None:
    result = run(copy, tiny(use_mixed_precision=False))
    frame = pd.read_csv(result.folder / "features.csv", dtype={f"feature_{k}": np.float32 for k in range(2048)})
    assert list(frame["image"]) == sorted(path.name for path in copy.images.iterdir())
    checkpoint = load_checkpoint(copy.checkpoints / "model")
    encoder = checkpoint.model.encoder.to(memory_format=torch.channels_last)
    batch = torch.zeros(4, 3, 64, 64).to(memory_format=torch.channels_last)  # the manifest's batch shape
    for _, row in frame.iterrows():
        batch[0] = torch.from_numpy(load_image(copy.images / row["image"], checkpoint.preprocessing)).permute(2, 0, 1)
        with torch.inference_mode():
            latent = encoder(batch)[0]
        expected = latent.permute(1, 2, 0).flatten().numpy()  # height, width, channel
        assert np.array_equal(row.iloc[1:].to_numpy(dtype=np.float32).view(np.uint32), expected.view(np.uint32))


def test_every_format_holds_the_same_numbers_for_pandas_polars_and_numpy(copy: Workspace, tiny: Tiny) -> None:
    folder = run(copy, tiny(feature_formats=EVERY_FORMAT, reconstruction_error=True)).folder
    by_pandas = pd.read_csv(folder / "features.csv", index_col="image")
    errors = by_pandas.pop("reconstruction_error").to_numpy(dtype=np.float32)
    features = by_pandas.to_numpy(dtype=np.float32)
    assert features.shape == (12, 2048)
    assert np.array_equal(np.load(folder / "features.npy", mmap_mode="r"), features)
    assert np.array_equal(np.load(folder / "reconstruction_error.npy"), errors)
    parquet = pd.read_parquet(folder / "features.parquet")
    assert np.array_equal(np.stack(parquet["features"].to_list()), features)
    assert np.array_equal(parquet["reconstruction_error"].to_numpy(), errors)
    with_polars = polars.read_parquet(folder / "features.parquet")
    assert with_polars.schema["features"] == polars.Array(polars.Float32, 2048)
    assert np.array_equal(with_polars["features"].to_numpy(), features)
    csv_with_polars = polars.read_csv(folder / "features.csv").drop("image", "reconstruction_error")
    assert np.array_equal(csv_with_polars.to_numpy().astype(np.float32), features)
    names = list(by_pandas.index)
    assert list(parquet["image"]) == with_polars["image"].to_list() == names
    assert list(pd.read_csv(folder / "features_names.csv")["image"]) == names


def test_the_error_in_a_row_is_that_of_the_images_reconstruction(copy: Workspace, tiny: Tiny) -> None:
    folder = run(copy, tiny(reconstruction_error=True)).folder
    errors = pd.read_csv(folder / "features.csv", index_col="image")["reconstruction_error"]
    checkpoint = load_checkpoint(copy.checkpoints / "model")
    for name, error in errors.items():
        image = load_image(copy.images / str(name), checkpoint.preprocessing)
        with torch.inference_mode():
            made = checkpoint.model(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).clamp(0, 1)
        assert error == pytest.approx(float(((made.numpy() - image) ** 2).mean()), rel=1e-4)


def test_extraction_preprocesses_as_the_model_was_trained_whatever_the_settings_say_today(
    copy: Workspace, tiny: Tiny
) -> None:
    one = run(copy, tiny(), "one").folder
    two = run(copy, tiny(picture_shape=(128, 128, 1), resize_mode="pad"), "two").folder
    assert table_of(one) == table_of(two)


def test_a_smaller_grid_is_the_average_of_the_latent(copy: Workspace, tiny: Tiny) -> None:
    whole = pd.read_csv(run(copy, tiny(), "whole").folder / "features.csv", index_col="image")
    averaged = pd.read_csv(run(copy, tiny(feature_grid=1), "averaged").folder / "features.csv", index_col="image")
    expected = whole.to_numpy().reshape(12, 2, 2, 512).mean(axis=(1, 2))
    np.testing.assert_allclose(averaged.to_numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_grid_that_does_not_divide_the_latent_averages_neighbours_that_share_a_row_or_a_column() -> None:
    latent = torch.arange(9.0).reshape(1, 1, 3, 3)
    rows = feature_rows(RowShape(2, has_error=False), [latent], latent, None)
    assert rows.tolist() == [[2.0, 3.0, 5.0, 6.0]]


def test_a_grid_that_the_latent_cannot_give_is_refused(trained: Workspace, tiny: Tiny) -> None:
    with pytest.raises(ExtractionError, match="feature_grid = 8 does not fit the 2x2 latent of model"):
        run(trained, tiny(feature_grid=8))


# ---------------------------------------------------------------- every image is accounted for


def test_every_image_found_is_written_or_rejected_with_a_reason(copy: Workspace, tiny: Tiny) -> None:
    (copy.images / "image_003b.jpg").write_bytes(b"")
    (copy.images / "zzz.png").write_bytes((copy.images / "image_000.png").read_bytes()[:200])
    (copy.images / "notes.txt").write_text("not an image")
    for name in ("image_001.png", "image_004.png"):
        with Image.open(copy.images / name) as image:
            image.save(copy.images / name, exif=b"this is no EXIF")
    said = Remembering()
    result = run(copy, tiny(), reporter=said)
    assert [line for line in said.lines if "orientation" in line] == [
        "image_001.png and 1 other image: its orientation cannot be read: taken as upright"
    ]
    assert (result.num_found, result.num_written, result.num_rejected, result.num_not_images) == (14, 12, 2, 1)
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert manifest["counts"] == {"found": 14, "written": 12, "rejected": 2, "not_images": 1}
    images = pd.read_csv(result.folder / "images.csv")
    assert list(images["image"]) == sorted(images["image"])
    assert images["status"].value_counts().to_dict() == {"written": 12, "rejected": 2}
    rejected = pd.read_csv(result.folder / "rejected.csv")
    assert list(rejected["image"]) == ["image_003b.jpg", "zzz.png"]
    assert rejected["reason"][0] == "the file is empty"
    assert "damaged" in rejected["reason"][1]


def spoil(monkeypatch: pytest.MonkeyPatch, in_each_batch: int) -> None:
    """Let the model give features that are not finite for the first images of each batch."""
    rows_of = engines.feature_rows

    def spoiled(*arguments: object) -> torch.Tensor:
        rows = rows_of(*arguments).clone()  # type: ignore[arg-type]
        rows[:in_each_batch, 5] = float("nan")
        return rows

    monkeypatch.setattr(engines, "feature_rows", spoiled)


def test_features_that_are_not_finite_are_a_reason_to_reject(
    copy: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, in_each_batch=1)
    result = run(copy, tiny())
    assert (result.num_written, result.num_rejected) == (9, 3)
    assert set(pd.read_csv(result.folder / "rejected.csv")["reason"]) == {"its features are not finite"}


def test_a_model_whose_features_are_mostly_not_finite_is_given_up(
    copy: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, in_each_batch=3)
    for _ in range(2):  # starting again does not get round it
        with pytest.raises(ExtractionError, match="the features of 9 of 12 images are not finite"):
            run(copy, tiny())
    assert not (copy.inference / "table" / "features.csv").exists()


def test_a_single_new_image_without_features_does_not_stop_an_update(
    copy: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(copy, tiny())
    shutil.copy(copy.images / "image_000.png", copy.images / "zzz.png")
    spoil(monkeypatch, in_each_batch=1)
    result = run(copy, tiny())
    assert (result.num_written, result.num_rejected) == (12, 1)


def test_the_manifest_says_how_the_table_was_made(copy: Workspace, tiny: Tiny) -> None:
    result = run(copy, tiny())
    manifest = json.loads((result.folder / "manifest.json").read_text())
    checkpoint = load_checkpoint(copy.checkpoints / "model")
    assert manifest["checkpoint"]["sha256"] == checkpoint.sha256
    assert manifest["source"] == str(copy.images.resolve())
    assert manifest["flatten_order"] == "row, column, channel"
    assert manifest["preprocessing"]["height"] == 64
    assert manifest["computed_by"] == {
        "device": manifest["computed_by"]["device"],
        "precision": "float32",
        "convolutions": "direct",
        "engine": "torch",
        "engine_version": torch.__version__,
        "decoders": f"{DECODERS}, preprocessing 1",
        "batch_shape": [4, 3, 64, 64],
        "threads_per_batch": 1,
    }
    assert manifest["settings"] == json.loads(tiny().to_json())
    images = pd.read_csv(result.folder / "images.csv")
    row = pd.read_csv(result.folder / "features.csv", index_col=0).iloc[3].to_numpy(dtype="<f4")
    assert images["row_sha256"][3] == hashlib.sha256(row.tobytes()).hexdigest()


def test_a_list_of_paths_is_a_source_and_its_paths_are_the_names(copy: Workspace, tiny: Tiny) -> None:
    listing = copy.root / "list.csv"
    with listing.open("w", newline="") as stream:
        csv.writer(stream).writerows([["image", "label"], ["data/images/image_002.png", "b"], ["missing.png", "c"]])
    for _ in range(2):  # again: what is missing is looked for again
        result = extract(copy, tiny(), copy.checkpoints / "model", listing, "table", QUIET)
        assert result is not None
        assert (result.num_written, result.num_rejected) == (1, 1)
        assert list(pd.read_csv(result.folder / "features.csv")["image"]) == ["data/images/image_002.png"]


# ---------------------------------------------------------------- going on


@pytest.mark.parametrize("stop_after", [1, 5, 8, 12])
def test_a_stopped_extraction_goes_on_and_ends_as_one_left_alone(
    copy: Workspace, tiny: Tiny, stop_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy.images / "image_004b.jpg").write_bytes(b"not an image")
    settings = tiny(feature_formats=EVERY_FORMAT)
    alone = table_of(run(copy, settings, "alone").folder)
    with pytest.raises(StopRequested):
        run(copy, settings, "stopped", Stopping(stop_after))
    assert not (copy.inference / "stopped" / "features.csv").exists()
    encoded = count_encoded(monkeypatch)
    result = run(copy, settings, "stopped")
    assert table_of(result.folder) == alone
    assert result.num_kept == 13 - result.num_new
    assert result.num_kept >= stop_after
    assert sum(encoded) <= 12 - stop_after + 1
    assert {path.name for path in result.folder.iterdir()} == {*TABLE, "manifest.json"}


def test_a_stop_while_the_table_is_put_together_loses_no_encoding(
    copy: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = table_of(run(copy, tiny(), "alone").folder)
    with pytest.raises(StopRequested):
        run(copy, tiny(), "stopped", Stopping(3, "writing the table"))
    encoded = count_encoded(monkeypatch)
    assert table_of(run(copy, tiny(), "stopped").folder) == alone
    assert encoded == []


def test_a_kill_while_the_files_are_put_in_place_is_made_good(
    copy: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny(feature_formats=EVERY_FORMAT)
    alone = table_of(run(copy, settings, "alone").folder)
    replace = extractions.files.replace
    for number in range(7):  # killed before each of the files in turn
        moved: list[Path] = []

        def killed(path: Path, target: Path, number: int = number, moved: list[Path] = moved) -> None:
            if path.parent.name == "ready":
                if len(moved) == number:
                    raise KeyboardInterrupt
                moved.append(path)
            replace(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(extractions.files, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                run(copy, settings, f"killed {number}")
        with monkeypatch.context() as patch:
            encoded = count_encoded(patch)
            assert table_of(run(copy, settings, f"killed {number}").folder) == alone
            assert encoded == []


def test_a_journal_cut_off_anywhere_costs_no_more_than_what_was_cut(copy: Workspace, tiny: Tiny) -> None:
    (copy.images / 'comma, "quote"\nline.png').write_bytes((copy.images / "image_000.png").read_bytes())
    (copy.images / "image_004b.jpg").write_bytes(b"not an image")
    settings = tiny(feature_grid=1)
    alone = table_of(run(copy, settings, "alone").folder)
    with pytest.raises(StopRequested):
        run(copy, settings, "stopped", Stopping(8))
    stopped = copy.inference / "stopped"
    journal, rows = parts.part_files(stopped / "unfinished", 1, 0)
    whole, all_rows = journal.read_bytes(), rows.read_bytes()
    shutil.copytree(stopped, copy.root / "kept")
    for length in range(0, len(whole), 13):
        shutil.rmtree(stopped)
        shutil.copytree(copy.root / "kept", stopped)
        journal.write_bytes(whole[:length])
        rows.write_bytes(all_rows + b"half a row")
        assert table_of(run(copy, settings, "stopped").folder) == alone, length


def test_rows_that_did_not_survive_are_encoded_again(copy: Workspace, tiny: Tiny) -> None:
    alone = table_of(run(copy, tiny(), "alone").folder)
    for spoiled in (lambda data: data[: len(data) // 2], lambda data: b"\0" + data[1:]):
        with pytest.raises(StopRequested):
            run(copy, tiny(), "stopped", Stopping(8))
        rows = parts.part_files(copy.inference / "stopped" / "unfinished", 1, 0)[1]
        rows.write_bytes(spoiled(rows.read_bytes()))
        reporter = Remembering()
        assert table_of(run(copy, tiny(), "stopped", reporter).folder) == alone
        assert any("written before" in line and line.endswith("damaged: encoded again") for line in reporter.lines)
        shutil.rmtree(copy.inference / "stopped")


def test_a_part_of_which_half_is_there_blocks_nothing(copy: Workspace, tiny: Tiny) -> None:
    alone = table_of(run(copy, tiny(), "alone").folder)
    for half in (0, 1):
        with pytest.raises(StopRequested):
            run(copy, tiny(), f"half {half}", Stopping(8))
        parts.part_files(copy.inference / f"half {half}" / "unfinished", 1, 0)[half].unlink()
        assert table_of(run(copy, tiny(), f"half {half}").folder) == alone


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_disk_that_fails_once_costs_no_more_than_what_it_did_not_take(
    copy: Workspace, tiny: Tiny, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = table_of(run(copy, tiny(), "alone").folder)
    to_disk, calls = parts._to_disk, [0]

    def fails_once(stream: Any) -> None:
        calls[0] += 1
        to_disk(stream)
        if calls[0] == fails_at:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(parts, "_to_disk", fails_once)
        patch.setattr(parts, "_SECONDS_BETWEEN_COMMITS", 0.0)
        with pytest.raises(FextError, match="No space left on device"):
            run(copy, tiny())
    assert table_of(run(copy, tiny()).folder) == alone


# ---------------------------------------------------------------- only what is new


def change_the_folder(images: Path) -> None:
    """Five images more, three changed, two deleted."""
    for number in (0, 3, 5, 7, 11):
        shutil.copy(images / f"image_{number:03}.png", images / f"image_{number:03}_more.png")
    for number in (1, 2, 9):
        with Image.open(images / f"image_{number:03}.png") as picture:
            picture.transpose(Image.Transpose.ROTATE_180).save(images / f"image_{number:03}.png")
    for number in (4, 10):
        (images / f"image_{number:03}.png").unlink()


@pytest.mark.parametrize("file_format", EVERY_FORMAT)
def test_only_new_and_changed_images_are_encoded_and_deleted_ones_leave(
    copy: Workspace, tiny: Tiny, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny(feature_formats=(file_format,), reconstruction_error=True)
    run(copy, settings)
    change_the_folder(copy.images)
    encoded, reporter = count_encoded(monkeypatch), Remembering()
    result = run(copy, settings, reporter=reporter)
    assert sum(encoded) == 8
    assert (result.num_kept, result.num_new, result.num_changed, result.num_removed) == (7, 5, 3, 2)
    assert "going on with inference/table: 7 done, 5 new, 3 changed, 2 removed" in reporter.lines
    assert table_of(result.folder) == table_of(run(copy, settings, "fresh").folder)


def test_where_nothing_is_new_nothing_is_written(copy: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy.images / "image_004b.jpg").write_bytes(b"not an image")
    folder = run(copy, tiny()).folder
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    encoded, reporter = count_encoded(monkeypatch), Remembering()
    result = run(copy, tiny(), reporter=reporter)
    assert encoded == []
    assert (result.num_kept, result.num_rejected) == (13, 1)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert "nothing is new: the table is as it was" in reporter.lines


def test_a_stopped_update_leaves_the_old_table_whole_and_goes_on(copy: Workspace, tiny: Tiny) -> None:
    folder = run(copy, tiny()).folder
    before = table_of(folder)
    change_the_folder(copy.images)
    with pytest.raises(StopRequested):
        run(copy, tiny(), reporter=Stopping(4))
    assert table_of(folder) == before
    assert run(copy, tiny()).num_kept > 7
    assert table_of(folder) == table_of(run(copy, tiny(), "fresh").folder)


def test_a_format_asked_for_later_needs_no_encoding_and_one_that_is_there_is_kept_up_to_date(
    copy: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(copy, tiny()).folder
    encoded = count_encoded(monkeypatch)
    assert run(copy, tiny(feature_formats=("npy", "parquet"))).files == (
        "features.csv", "features.npy", "features.parquet"
    )  # fmt: skip
    assert encoded == []
    change_the_folder(copy.images)
    run(copy, tiny(feature_formats="parquet"))
    assert table_of(folder) == table_of(run(copy, tiny(feature_formats=EVERY_FORMAT), "fresh").folder)


def test_a_damaged_row_of_the_old_table_is_not_taken_over(copy: Workspace, tiny: Tiny) -> None:
    folder = run(copy, tiny()).folder
    whole = table_of(folder)
    table = (folder / "features.csv").read_text()
    (folder / "features.csv").write_text(table.replace(",0.", ",1.", 1))
    (copy.images / "zzz.png").write_bytes((copy.images / "image_000.png").read_bytes())
    reporter = Remembering()
    run(copy, tiny(), reporter=reporter)
    assert "1 row written before is damaged: encoded again" in reporter.lines
    (copy.images / "zzz.png").unlink()
    run(copy, tiny())
    assert table_of(folder) == whole


@pytest.mark.parametrize("file_format", ["npy", "parquet"])
def test_a_table_cut_off_or_overwritten_in_the_middle_is_mended(copy: Workspace, tiny: Tiny, file_format: str) -> None:
    settings = tiny(feature_formats=file_format)
    folder = run(copy, settings).folder
    whole = table_of(folder)
    path = folder / f"features.{file_format}"
    data = path.read_bytes()
    middle = len(data) // 2
    for damaged in (data[:middle], data[:middle] + bytes(1000) + data[middle + 1000 :]):
        path.write_bytes(damaged)
        shutil.copy(copy.images / "image_000.png", copy.images / "zzz.png")
        run(copy, settings)
        (copy.images / "zzz.png").unlink()
        run(copy, settings)
        assert table_of(folder) == whole


def test_a_line_that_is_missing_is_encoded_again_and_no_other(
    copy: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(copy, tiny()).folder
    whole = table_of(folder)
    lines = (folder / "features.csv").read_bytes().splitlines(keepends=True)
    (folder / "features.csv").write_bytes(b"".join(lines[:3] + lines[4:]))
    (copy.images / "zzz.png").write_bytes(b"not an image")
    encoded = count_encoded(monkeypatch)
    run(copy, tiny())
    assert sum(encoded) == 1
    (copy.images / "zzz.png").unlink()
    run(copy, tiny())
    assert table_of(folder) == whole


def test_a_bad_file_that_is_deleted_leaves_the_lists(copy: Workspace, tiny: Tiny) -> None:
    whole = table_of(run(copy, tiny(), "fresh").folder)
    (copy.images / "empty.png").write_bytes(b"")
    assert run(copy, tiny()).num_rejected == 1
    (copy.images / "empty.png").unlink()
    assert table_of(run(copy, tiny()).folder) == whole


def test_a_table_whose_file_is_gone_is_made_again(copy: Workspace, tiny: Tiny) -> None:
    folder = run(copy, tiny()).folder
    whole = table_of(folder)
    (folder / "features.csv").unlink()
    run(copy, tiny())
    assert table_of(folder) == whole


# ---------------------------------------------------------------- which extraction it is


def test_the_same_checkpoint_source_and_settings_are_the_same_extraction(copy: Workspace, tiny: Tiny) -> None:
    assert run(copy, tiny(), None).name == "model_images"
    assert run(copy, tiny(), None).name == "model_images"
    assert run(copy, tiny(feature_grid=1), None).name == "model_images_2"
    assert run(copy, tiny(reconstruction_error=True), None).name == "model_images_3"
    assert run(copy, tiny(use_mixed_precision=True), None).name == "model_images_4"
    assert run(copy, tiny(), None).name == "model_images"


def test_a_name_that_another_extraction_has_is_refused_and_nothing_is_overwritten(copy: Workspace, tiny: Tiny) -> None:
    folder = run(copy, tiny()).folder
    before = table_of(folder)
    with pytest.raises(ExtractionError, match="inference/table is another extraction"):
        run(copy, tiny(feature_grid=1))
    (copy.inference / "mine").mkdir()
    (copy.inference / "mine" / "notes.txt").write_text("my own")
    with pytest.raises(ExtractionError, match="inference/mine is another extraction"):
        run(copy, tiny(), "mine")
    assert table_of(folder) == before


def test_another_checkpoint_is_another_extraction(copy: Workspace, tiny: Tiny) -> None:
    run(copy, tiny(), None)
    pretrain(copy, tiny(seed=7), copy.images, "other", QUIET)
    shutil.rmtree(copy.checkpoints / "model")
    (copy.checkpoints / "other").rename(copy.checkpoints / "model")
    assert run(copy, tiny(), None).name == "model_images_2"


def test_a_table_goes_on_in_the_way_it_was_begun(copy: Workspace, tiny: Tiny) -> None:
    folder = run(copy, tiny()).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["computed_by"]["batch_shape"][0] = 8  # as an earlier version computed them
    (folder / "manifest.json").write_text(json.dumps(manifest))
    change_the_folder(copy.images)
    run(copy, tiny(use_mixed_precision="auto", inference_engine="auto"))
    manifest = json.loads((folder / "manifest.json").read_text())["computed_by"]
    assert (manifest["batch_shape"][0], manifest["precision"], manifest["engine"]) == (8, "float32", "torch")
    assert table_of(folder) == table_of(run(copy, tiny(), "fresh").folder)


@pytest.mark.parametrize(
    ("key", "value"), [("engine_version", "1.0"), ("device", "GPU (of another machine)"), ("convolutions", "winograd")]
)
def test_where_it_cannot_go_on_in_that_way_it_says_so_and_stops(
    copy: Workspace, tiny: Tiny, key: str, value: str
) -> None:
    folder = run(copy, tiny()).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["computed_by"][key] = value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    change_the_folder(copy.images)
    words = f"its {key.replace('_', ' ')} is {value}"
    with pytest.raises(ExtractionError, match="cannot go on in the way in which it was begun") as caught:
        run(copy, tiny(training_device="auto"))
    assert words.split("(")[0] in str(caught.value)
    for option in ("--ways anew", "--ways mixed", "--name"):
        assert option in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def say_made_by(folder: Path, version: str) -> dict[str, Any]:
    """Let a finished table say that another version of torch made it; gives its manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["computed_by"]["engine_version"] = version
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def made_by(folder: Path) -> list[tuple[str, int | None]]:
    """The ways that a manifest tells of: version of the engine, and rows."""
    ways = json.loads((folder / "manifest.json").read_text())["ways"]
    return [(way["computed_by"]["engine_version"], way["rows"]) for way in ways]


def test_where_it_goes_on_knowingly_the_manifest_tells_how_many_rows_were_made_in_which_way(
    copy: Workspace, tiny: Tiny
) -> None:
    folder = run(copy, tiny()).folder
    say_made_by(folder, "1.0")
    shutil.copy(copy.images / "image_003.png", copy.images / "new.png")
    reporter = Remembering()
    result = run(copy, tiny(), reporter=reporter, ways="mixed")
    assert (result.num_kept, result.num_new) == (12, 1)
    assert made_by(folder) == [("1.0", 12), (torch.__version__, 1)]
    assert any("its rows were made in 2 ways (12 by torch 1.0" in line for line in reporter.lines)
    assert table_of(folder) == table_of(run(copy, tiny(), "fresh").folder)
    found = verify(copy, tiny(), folder, True, QUIET)
    assert found.problems == ()
    assert "its rows were made in 2 ways" in found.notes[0]

    (copy.images / "image_002.png").unlink()  # whose row that was is known to nobody
    assert run(copy, tiny()).num_kept == 12
    assert made_by(folder) == [("1.0", None), (torch.__version__, None)]
    run(copy, tiny(), ways="anew")
    assert "ways" not in json.loads((folder / "manifest.json").read_text())


def test_a_row_that_is_not_near_is_found_among_rows_of_several_ways(copy: Workspace, tiny: Tiny) -> None:
    folder = run(copy, tiny(feature_formats=("npy",))).folder
    manifest = say_made_by(folder, "1.0")
    ways = [{"computed_by": manifest["computed_by"], "rows": 11}, {"computed_by": manifest["computed_by"], "rows": 1}]
    (folder / "manifest.json").write_text(json.dumps(manifest | {"ways": ways}))
    rows = np.load(folder / "features.npy")
    rows[4] += 100
    np.save(folder / "features.npy", rows)
    text = (folder / "images.csv").read_text().splitlines()
    text[5] = text[5].rpartition(",")[0] + "," + parts.row_checksum(rows[4])
    (folder / "images.csv").write_text("\n".join(text) + "\n")
    problems = verify(copy, tiny(), folder, True, QUIET).problems
    assert [problem for problem in problems if "images.csv" not in problem] == [problems[-1]]
    assert "image_004.png is not near" in problems[-1]


def test_where_all_is_encoded_anew_the_table_stays_until_the_new_one_is_whole(copy: Workspace, tiny: Tiny) -> None:
    folder = run(copy, tiny()).folder
    say_made_by(folder, "1.0")
    before = table_of(folder), (folder / "manifest.json").read_bytes()
    reporter = Stopping(8)
    told: list[str] = []
    reporter.message = told.append  # type: ignore[method-assign]
    with pytest.raises(StopRequested):
        run(copy, tiny(), reporter=reporter, ways="anew")
    assert any("its table stays until the new one is whole" in line for line in told)
    assert (table_of(folder), (folder / "manifest.json").read_bytes()) == before
    result = run(copy, tiny())  # goes on with what was begun
    assert (result.num_kept, result.num_new) == (8, 4)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["computed_by"]["engine_version"] == torch.__version__
    assert "ways" not in manifest
    assert table_of(folder) == before[0]
    assert run(copy, tiny(), ways="anew").num_kept == 12  # nothing differs any more


def test_what_was_begun_in_another_way_does_not_count_where_all_is_encoded_anew(
    copy: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StopRequested):
        run(copy, tiny(), reporter=Stopping(8))
    description = copy.inference / "table" / "unfinished" / "extraction.json"
    told = json.loads(description.read_text())
    told["computed_by"]["device"] = "CPU (of another machine)"
    description.write_text(json.dumps(told))
    with pytest.raises(OtherWayError):
        run(copy, tiny())
    other = copy.inference / "other"
    shutil.copytree(copy.inference / "table", other)
    counts = count_encoded(monkeypatch)
    run(copy, tiny(), "other", ways="mixed")
    assert (sum(counts), [rows for _, rows in made_by(other)]) == (4, [8, 4])
    run(copy, tiny(), ways="anew")
    assert sum(counts) == 4 + 12


@pytest.mark.parametrize("answer", ["stop", "anew", "mixed"])
def test_the_menu_asks_how_to_go_on(copy: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    folder = run(copy, tiny()).folder
    say_made_by(folder, "1.0")
    shutil.copy(copy.images / "image_003.png", copy.images / "new.png")
    monkeypatch.setattr(Screen, "settings", lambda self, overrides=(): tiny())
    monkeypatch.setattr(menu, "choose_checkpoint", lambda screen: copy.checkpoints / "model")
    monkeypatch.setattr(menu, "choose_source", lambda screen: copy.images)
    monkeypatch.setattr(menu, "ask", lambda question: answer)
    entry = menu.Menu(Screen(make_console(), copy))._extract
    if answer == "stop":
        with pytest.raises(LeftQuestion):
            entry()
    else:
        entry()
    manifest = json.loads((folder / "manifest.json").read_text())
    rows = {"stop": 12, "anew": 13, "mixed": 13}[answer]
    assert (manifest["counts"]["written"], len(manifest.get("ways", []))) == (rows, 2 if answer == "mixed" else 0)


def test_other_processes_join_the_first_ones_decision_and_compute_as_it_does(copy: Workspace, tiny: Tiny) -> None:
    folder = run(copy, tiny()).folder
    description = json.loads((folder / "manifest.json").read_text())
    words = {"folder": str(folder), "location": str(copy.images), "root": str(copy.images), "description": description}
    checkpoint = load_checkpoint(copy.checkpoints / "model")
    assert _same_here(words, checkpoint).folder == folder
    with pytest.raises(ExtractionError, match="another way than the first one"):
        _same_here(words | {"description": say_made_by(folder, "1.0")}, checkpoint)


def test_a_description_that_was_tampered_with_is_refused_in_one_line(copy: Workspace, tiny: Tiny) -> None:
    folder = run(copy, tiny()).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    strange: list[object] = [None, -1, "", [], {}, 1.5, "x"]
    for name in ("checkpoint", "source", "computed_by", "counts", "feature_grid", "formats", "num_features"):
        for value in strange:
            if (value == "" and name == "source") or (value == "x" and name == "source"):
                continue
            (folder / "manifest.json").write_text(json.dumps(manifest | {name: value}))
            with pytest.raises(ExtractionError) as caught:
                run(copy, tiny())
            assert len(str(caught.value).splitlines()) == 1


def test_a_long_name_of_checkpoint_and_folder_still_makes_a_folder(copy: Workspace) -> None:
    name = copy.free_extraction_name("模" * 80, Path("型" * 80))
    assert len(name.encode()) <= 200
    assert len(copy.free_extraction_name("m", Path("images"))) == len("m_images")


def test_two_processes_do_not_work_on_one_extraction(copy: Workspace, tiny: Tiny) -> None:
    class Again(Stopping):
        def advance(self, count: int = 1, note: str = "") -> None:
            with pytest.raises(ExtractionError, match="inference/table is being worked on by another process"):
                run(copy, tiny())
            raise StopRequested

    with pytest.raises(StopRequested):
        run(copy, tiny(), reporter=Again(1))


# ---------------------------------------------------------------- space


def test_it_tells_how_long_it_will_take_and_how_much_space(copy: Workspace, tiny: Tiny) -> None:
    write_images(copy.images, 30)
    reporter = Remembering()
    run(copy, tiny(), reporter=reporter)
    assert reporter.lines[0].startswith("extracting 30 images x 2,048 features with model, CPU")
    assert "images/s; the table will take 1 MB, and" in reporter.lines[1]


def test_a_disk_that_is_too_small_stops_it_before_it_starts_and_what_would_fit_is_named(
    copy: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = count_encoded(monkeypatch)
    monkeypatch.setattr(forecast, "free_bytes", lambda _: 100_000)
    with pytest.raises(ExtractionError, match="make space, or set") as caught:
        run(copy, tiny())
    assert "feature_formats = 'parquet'" in str(caught.value)
    assert "feature_grid = 1" in str(caught.value)
    assert encoded == []


def test_a_disk_that_the_measured_rows_do_not_fit_stops_it_early(
    copy: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(copy.images, 60)
    encoded = count_encoded(monkeypatch)
    monkeypatch.setattr(forecast, "free_bytes", lambda _: 60 * 2048 * 9)  # enough for zeros, not for features
    with pytest.raises(ExtractionError, match="make space"):
        run(copy, tiny())
    assert 0 < sum(encoded) <= 24


# ---------------------------------------------------------------- names


def test_a_name_that_is_not_utf8_is_rejected_each_time_and_disturbs_nothing(copy: Workspace, tiny: Tiny) -> None:
    odd = os.fsencode(copy.images) + b"/image_00\xff.png"
    try:
        with open(odd, "wb") as stream:
            stream.write(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(StopRequested):
        run(copy, tiny(), reporter=Stopping(8))
    first = run(copy, tiny())
    assert (first.num_written, first.num_rejected) == (12, 1)
    whole = table_of(first.folder)
    again = run(copy, tiny())
    assert (again.num_kept, again.num_removed, again.num_rejected) == (12, 0, 1)
    assert table_of(again.folder) == whole


def test_an_error_in_the_thread_that_writes_is_not_lost(
    copy: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = table_of(run(copy, tiny(), "alone").folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(parts, "_to_disk", full)
        with pytest.raises(FextError, match=r"No space left on device.*start again"):
            run(copy, tiny())
    assert table_of(run(copy, tiny()).folder) == alone

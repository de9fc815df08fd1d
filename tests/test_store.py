"""The store room: files that are whole or not there, checkpoints that cannot be tampered with, rows that read back."""

import csv
import io
import json
import os
import pickle
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fext.data.images import FileState, Preprocessing, checksum, file_state
from fext.data.names import name_to_bytes
from fext.data.split import Split
from fext.errors import CheckpointError, ExtractionError, FextError, UsageError
from fext.model.autoencoder import build_autoencoder
from fext.model.plans import make_plan
from fext.settings import Settings
from fext.store import checkpoints, files
from fext.store.index import CheckedImage, CheckedImages
from fext.store.samples import write_samples
from fext.store.tables import FORMATS, Columns, csv_row, make_writer, open_table, read_rows, table_files
from fext.store.workspace import Workspace, checked_name

ODD_NAMES = [
    "plain.png",
    'comma, "quote".png',
    "new\nline.png",
    "=1+1.png",
    "süß/日本.png",
    " space .png",
    "re\rturn.png",
]


# --- files


def test_a_write_that_fails_keeps_what_was_there_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    files.write_text(path, "before")

    def write(stream: io.BufferedIOBase) -> None:
        stream.write(b"half of it")
        raise OSError(28, "No space left on device")

    with pytest.raises(FextError, match="No space left on device"):
        files.write_whole(path, write)  # type: ignore[arg-type]
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["table.csv"]


# --- names and folders


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "-x", "x" * 101, "end.", "a\nb", "C:x"])
def test_a_name_that_cannot_be_a_folder_everywhere_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a name"):
        checked_name(name)


def test_without_a_name_the_only_checkpoint_is_meant_and_else_the_names_are_listed(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        workspace.find_checkpoint(None)
    with pytest.raises(CheckpointError, match=r"^there is no checkpoint three: none is trained yet$"):
        workspace.find_checkpoint("three")
    for name in ("one", "two"):
        files.write_text(workspace.checkpoints / name / "model.json", "{}")
        if name == "one":
            assert workspace.find_checkpoint(None) == workspace.checkpoints / "one"
    with pytest.raises(CheckpointError, match="one, two"):
        workspace.find_checkpoint(None)
    with pytest.raises(CheckpointError, match="there is no checkpoint three; name a checkpoint: one, two"):
        workspace.find_checkpoint("three")
    assert workspace.find_checkpoint(str(workspace.checkpoints / "two")) == workspace.checkpoints / "two"


def test_a_folder_that_is_still_being_filled_is_no_checkpoint(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with files.new_folder(workspace.checkpoints / "model") as draft:
        files.write_text(draft / "model.json", "{}")
        assert workspace.checkpoint_names() == []
    assert workspace.checkpoint_names() == ["model"]


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (workspace.checkpoints / "taken").mkdir(parents=True)
    (workspace.inference / "taken").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="already a checkpoint taken"):
        workspace.new_checkpoint("taken")
    with pytest.raises(ExtractionError, match="holds the images to extract from"):
        workspace.extraction_folder("images")
    assert workspace.free_extraction_name("model", Path("data/images")) == "model_images"


# --- checkpoints


SPLIT = Split(("a.png", "b.png"), ("d.png",), ("c.png",))
CHECKSUMS = {name: checksum(name.encode()) for name in SPLIT.names()}


@pytest.fixture
def checkpoint_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    model = build_autoencoder(make_plan("redux", (64, 64, 3)), seed=5)
    checkpoints.start_checkpoint(folder, Settings(), SPLIT, CHECKSUMS)
    weights = checkpoints.weights_to_bytes(model)
    preprocessing = Preprocessing(64, 64, 3, "crop")
    description = checkpoints.Description(model.plan, preprocessing, "images", {"epochs": 1}, checksum(weights))
    checkpoints.save_model(folder, weights, description)
    checkpoints.save_resume(folder, {"model": model.state_dict()})
    return folder


def test_a_checkpoint_loads_as_it_was_saved(checkpoint_folder: Path) -> None:
    loaded = checkpoints.load_checkpoint(checkpoint_folder)
    expected = build_autoencoder(make_plan("redux", (64, 64, 3)), seed=5).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.model.state_dict().items())
    assert loaded.preprocessing == Preprocessing(64, 64, 3, "crop")
    assert loaded.split() == SPLIT
    assert checkpoints.load_checksums(loaded.folder) == b"".join(map(bytes.fromhex, CHECKSUMS.values()))
    assert not loaded.model.training


@pytest.mark.parametrize("missing", ["model.safetensors", "configurations.json"])
def test_an_incomplete_checkpoint_is_refused_and_the_missing_file_named(checkpoint_folder: Path, missing: str) -> None:
    (checkpoint_folder / missing).unlink()
    with pytest.raises(CheckpointError, match=f"incomplete: {missing}"):
        checkpoints.load_checkpoint(checkpoint_folder)


def test_a_checkpoint_of_a_later_version_is_refused(checkpoint_folder: Path) -> None:
    path = checkpoint_folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 3}))
    with pytest.raises(CheckpointError, match="format version 3, this FeXT reads 2"):
        checkpoints.load_checkpoint(checkpoint_folder)


def test_damaged_weights_are_refused(checkpoint_folder: Path) -> None:
    path = checkpoint_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load_checkpoint(checkpoint_folder)


def test_nothing_stored_in_a_tampered_resume_file_is_run(checkpoint_folder: Path, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"format_version": 1, "model": Harmful()}, checkpoint_folder / "resume.pt", pickle_module=pickle)
    with pytest.raises(CheckpointError, match="damaged or not FeXT's"):
        checkpoints.load_resume(checkpoint_folder)
    assert not (tmp_path / "harm").exists()


def test_scores_that_a_spreadsheet_saved_again_are_read(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("checkpoint,test_psnr\r\nb,1.0\r\n", encoding="utf-8-sig")
    path = checkpoints.record_scores(tmp_path, {"checkpoint": "a", "test_psnr": 2.0})
    assert path.read_text() == "checkpoint,test_psnr\na,2.0\nb,1.0\n"


def test_scores_hold_one_row_for_each_model_the_latest(tmp_path: Path) -> None:
    for name, psnr in (("b", 1.0), ("a", 2.0), ("b", 3.0)):
        path = checkpoints.record_scores(tmp_path, {"checkpoint": name, "test_psnr": psnr})
    assert path.read_text() == "checkpoint,test_psnr\na,2.0\nb,3.0\n"


# --- feature tables


def test_every_float32_reads_back_to_the_same_bits() -> None:
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**32, size=200_000, dtype=np.uint32)
    values = bits.view(np.float32)
    edges = [0.0, -0.0, 1.0, 0.1, struct.unpack("f", b"\x01\0\0\0")[0], np.finfo(np.float32).max, -1e-7, 16777216.0]
    values = np.concatenate([values[np.isfinite(values)], np.array(edges, dtype=np.float32)])
    text = csv_row("x", values).decode().removeprefix("x,").rstrip("\n").split(",")
    read = np.array([np.float32(cell) for cell in text])
    assert np.array_equal(read.view(np.uint32), values.view(np.uint32))
    for cell, value in zip(text[:2000], values, strict=False):
        assert num_digits(cell) == num_digits(np.format_float_scientific(value))  # NumPy's is the shortest, too


def num_digits(number: str) -> int:
    return len(number.lower().split("e")[0].replace(".", "").lstrip("-0").rstrip("0"))


def test_rows_of_odd_names_are_read_back_by_pandas_and_the_csv_module(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(len(ODD_NAMES), 3)).astype(np.float32)
    writer = make_writer("csv", tmp_path, Columns(3, False))
    writer.begin()
    for name, row in zip(ODD_NAMES, rows, strict=True):
        writer.add(name, row)
    writer.close()
    path = tmp_path / "features.csv"
    frame = pd.read_csv(path, dtype={f"feature_{number}": np.float32 for number in range(3)})
    assert list(frame["image"]) == ODD_NAMES
    assert np.array_equal(frame.iloc[:, 1:].to_numpy(), rows)
    with path.open(encoding="utf-8", newline="") as stream:
        assert [row[0] for row in csv.reader(stream)] == ["image", *ODD_NAMES]


@pytest.mark.parametrize("has_error", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_back_names_and_rows_to_the_bit(name: str, has_error: bool, tmp_path: Path) -> None:
    columns = Columns(5, has_error)
    names = sorted(ODD_NAMES, key=name_to_bytes)
    rows = np.random.default_rng(2).normal(size=(len(ODD_NAMES), columns.num_values)).astype(np.float32)
    writer = make_writer(name, tmp_path, columns)
    writer.begin()
    for image, row in zip(names, rows, strict=True):
        writer.add(image, row)
    writer.close()
    assert {path.name for path in tmp_path.iterdir()} == set(table_files(name, columns))
    read = list(read_rows(name, tmp_path, columns))
    assert [image for image, _ in read] == names
    assert all(row is not None and row.tobytes() == rows[number].tobytes() for number, (_, row) in enumerate(read))
    source = open_table(name, tmp_path, columns)
    for number in (1, 4):  # forward only, and not all of them
        row = source.row(number, names[number])
        assert row is not None
        assert row.tobytes() == rows[number].tobytes()
    assert source.row(len(names), "\U0010ffff") is None
    source.close()


@pytest.mark.parametrize("name", FORMATS)
def test_a_table_of_other_columns_is_not_read(name: str, tmp_path: Path) -> None:
    writer = make_writer(name, tmp_path, Columns(5, False))
    writer.begin()
    writer.add("a.png", np.zeros(5, dtype=np.float32))
    writer.close()
    with pytest.raises(ValueError, match="has"):
        open_table(name, tmp_path, Columns(6, False))


# --- what is remembered of images


def test_an_unchanged_image_is_remembered_and_a_changed_one_is_not(tmp_path: Path) -> None:
    image, memory_file = tmp_path / "a.png", tmp_path / "memory" / "checked.sqlite"
    image.write_bytes(b"one")
    memory = CheckedImages(memory_file)
    memory.remember([(image, file_state(image), CheckedImage("abc", ""))])
    memory.close()
    memory = CheckedImages(memory_file)
    assert memory.recall(image) == CheckedImage("abc", "")
    image.write_bytes(b"another")
    assert memory.recall(image) is None
    memory.close()


def test_a_damaged_memory_is_made_anew(tmp_path: Path) -> None:
    image, memory_file = tmp_path / "a.png", tmp_path / "checked.sqlite"
    image.write_bytes(b"one")
    memory_file.write_text("no database at all, " * 100)
    memory = CheckedImages(memory_file)
    assert memory.recall(image) is None
    memory.remember([(image, file_state(image), CheckedImage("abc", ""))])
    assert memory.recall(image) == CheckedImage("abc", "")
    memory.close()
    assert not memory_file.exists()


def test_a_memory_with_other_columns_of_an_older_version_is_made_anew(tmp_path: Path) -> None:
    image, memory_file = tmp_path / "a.png", tmp_path / "checked.sqlite"
    image.write_bytes(b"one")
    older = sqlite3.connect(memory_file)
    older.execute("CREATE TABLE checked_images (path BLOB PRIMARY KEY, state TEXT, sha256, reason) WITHOUT ROWID")
    older.execute("INSERT INTO checked_images VALUES (?, '1 1 older', 'abc', '')", (bytes(image.absolute()),))
    older.commit()
    older.close()
    for known in (None, CheckedImage("abc", "", b"12345678", b"small")):
        memory = CheckedImages(memory_file)
        assert memory.recall(image) == known
        memory.remember([(image, file_state(image), CheckedImage("abc", "", b"12345678", b"small"))])
        assert memory.small(image) == b"small"
        memory.close()


def test_a_memory_that_another_process_is_using_is_left_alone(tmp_path: Path) -> None:
    image, memory_file = tmp_path / "a.png", tmp_path / "checked.sqlite"
    image.write_bytes(b"one")
    first = CheckedImages(memory_file)
    first.remember([(image, file_state(image), CheckedImage("abc", ""))])
    other = sqlite3.connect(memory_file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    first._files._database.execute("PRAGMA busy_timeout = 0")
    assert first.recall(image) is None
    first.close()
    other.execute("ROLLBACK")
    other.close()
    memory = CheckedImages(memory_file)
    assert memory.recall(image) == CheckedImage("abc", "")
    memory.close()


def test_a_file_from_the_far_future_is_remembered_too(tmp_path: Path) -> None:
    memory = CheckedImages(tmp_path / "checked.sqlite")
    memory.remember([(tmp_path / "a.png", FileState(1, 2**70), CheckedImage("abc", ""))])
    memory.close()


# --- samples


def test_samples_are_written_with_their_sources_and_never_among_strange_files(tmp_path: Path) -> None:
    count = write_samples(tmp_path / "samples")
    assert count == len(list((tmp_path / "samples").glob("*.png"))) >= 60
    assert "CC0" in (tmp_path / "samples" / "SOURCES.md").read_text(encoding="utf-8")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.jpg").touch()
    with pytest.raises(UsageError, match=r"mine\.jpg"):
        write_samples(tmp_path / "own")


def test_a_name_that_is_not_utf_8_leaves_json_that_can_be_read(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"image": "caf\udce9.png"})
    assert files.read_json(tmp_path / "a.json") == {"image": "caf\\xe9.png"}

"""What the main job withstands: odd and damaged images, stops at any moment, full disks, processes that die."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, Acting, Said, history_without_times, read_history, same_tensors, write_images
from filelock import FileLock
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fext.data.images import FileState, Preprocessing, load_image
from fext.data.source import find_images
from fext.errors import CheckpointError, FextError, ReaderDiedError, SourceError, TooFewImagesError, TrainingError
from fext.jobs import pretrain as pretraining
from fext.jobs import training_state
from fext.jobs.evaluate import evaluate
from fext.jobs.extract import ExtractionResult, extract
from fext.jobs.pretrain import PretrainResult, pretrain, resume
from fext.reporting import SilentReporter, StopRequested
from fext.settings import Settings
from fext.store import files
from fext.store.checkpoints import load_checkpoint, load_resume, save_resume
from fext.store.locks import locked
from fext.store.workspace import Workspace

Tiny = Callable[..., Settings]
QUIET = SilentReporter()
pytestmark = pytest.mark.usefixtures("small_model")
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, small_model: None) -> Workspace:
    """A workspace with a checkpoint 'model'; tests must not change it."""
    space = Workspace(tmp_path_factory.mktemp("trained"))
    write_images(space.images, 12)
    pretrain(space, tiny(), space.images, "model", QUIET)
    return space


def extracted(trained: Workspace, tiny: Tiny, images: Path, into: Path) -> ExtractionResult:
    """Extract a folder with the trained model into a workspace of its own; the counts must add up."""
    space = Workspace(into)
    result = extract(space, tiny(feature_grid=1), trained.checkpoints / "model", images, "table", QUIET)
    assert result is not None
    assert result.num_found == result.num_written + result.num_rejected
    rows = pd.read_csv(result.folder / "images.csv")
    assert len(rows) == result.num_found
    assert (rows["status"] == "written").sum() == result.num_written
    assert len(pd.read_csv(result.folder / "rejected.csv")) == result.num_rejected
    assert len(pd.read_csv(result.folder / "features.csv", usecols=["image"])) == result.num_written
    return result


def reasons(result: ExtractionResult) -> dict[str, str]:
    """Why each rejected image was."""
    frame = pd.read_csv(result.folder / "rejected.csv", keep_default_na=False)
    return dict(zip(frame["image"], frame["reason"], strict=True))


def rows_of(result: ExtractionResult) -> dict[str, np.ndarray]:
    """The features of each image as pandas reads them."""
    types = {f"feature_{number}": np.float32 for number in range(result.num_features)}
    frame = pd.read_csv(result.folder / "features.csv", dtype=types, keep_default_na=False)
    return {str(row.iloc[0]): row.iloc[1:].to_numpy(dtype=np.float32) for _, row in frame.iterrows()}


# ---------------------------------------------------------------- bad images


def huge_png() -> bytes:
    """The header of a PNG of 60,000 x 60,000 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def test_bad_files_are_rejected_with_their_reasons_and_every_other_image_is_done(
    trained: Workspace, tiny: Tiny, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    good = write_images(images, 3)
    photograph = images / good[0]
    Image.open(photograph).save(images / "cut.jpg")
    (images / "cut.jpg").write_bytes((images / "cut.jpg").read_bytes()[:500])
    (images / "empty.png").touch()
    (images / "text.jpg").write_text("only a text")
    (images / "bomb.png").write_bytes(huge_png())
    (images / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (images / "nowhere.png").symlink_to(tmp_path / "nothing")
    result = extracted(trained, tiny, images, tmp_path / "space")
    assert sorted(rows_of(result)) == good
    found = reasons(result)
    assert found.keys() == {"cut.jpg", "empty.png", "text.jpg", "bomb.png", "phone.heic", "nowhere.png"}
    assert "truncated" in found["cut.jpg"].lower()
    assert found["empty.png"] == "the file is empty"
    assert found["text.jpg"] == "not an image in a format that Pillow opens"
    assert found["phone.heic"] == "HEIC or HEIF, which Pillow does not open: save it as JPEG or PNG"
    assert "limit of 178,956,970" in found["bomb.png"]
    assert found["nowhere.png"] == "the file is not there"


@POSIX
def test_a_file_that_may_not_be_read_is_rejected_with_that_reason(
    trained: Workspace, tiny: Tiny, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    write_images(images, 3)
    (images / "image_001.png").chmod(0)
    with as_somebody_else(tmp_path, trained.root):
        result = extracted(trained, tiny, images, tmp_path / "space")
    assert result.num_written == 2
    assert reasons(result) == {"image_001.png": "the file cannot be read: Permission denied"}


@contextmanager
def as_somebody_else(*folders: Path) -> Iterator[None]:
    """Run as a user without special rights, who owns these folders; as this user where that is no superuser."""
    if os.geteuid() != 0:
        yield
        return
    # The tests of another copy of FeXT may run here, too, and close again what these have opened.
    with FileLock(Path(tempfile.gettempdir()) / "fext_tests_open_folders.lock"):
        closed = {parent for folder in folders for parent in folder.parents if not parent.stat().st_mode & 0o001}
        modes = {parent: parent.stat().st_mode for parent in closed}
        for parent, mode in modes.items():
            parent.chmod(mode | 0o001)
        for folder in folders:
            os.chown(folder, 65534, 65534)
        os.setegid(65534)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)
            for parent, mode in modes.items():
                parent.chmod(mode)


def test_rows_of_a_folder_that_cannot_be_read_for_a_while_stay_and_new_images_come_to_them(
    trained: Workspace, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, share = tmp_path / "images", tmp_path / "images" / "share"
    names = write_images(images, 3)
    share.mkdir()
    for name in names[1:]:
        (images / name).rename(share / name)
    extracted(trained, tiny, images, tmp_path / "space")
    (images / "new.png").write_bytes((images / names[0]).read_bytes())

    def stale(path: str | int, scandir: Callable[[str | int], Any] = os.scandir) -> Any:
        if path == str(share):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return scandir(path)

    share.rename(tmp_path / "elsewhere")
    share.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", stale)
        stood = extracted(trained, tiny, images, tmp_path / "space")
    assert (stood.num_found, stood.num_kept, stood.num_new, stood.num_removed) == (4, 3, 1, 0)
    manifest = json.loads((stood.folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["left_out"]["unreadable_folders"] == ["share/"]
    share.rmdir()
    assert extracted(trained, tiny, images, tmp_path / "space").num_removed == 2  # the folder itself is gone


@POSIX
def test_the_folder_that_is_named_has_to_be_readable(tmp_path: Path) -> None:
    write_images(tmp_path / "private", 1)
    (tmp_path / "private").chmod(0)
    try:
        with as_somebody_else(tmp_path), pytest.raises(SourceError, match="private cannot be read: Permission denied"):
            find_images(tmp_path / "private")
    finally:
        (tmp_path / "private").chmod(0o755)


def test_names_of_every_kind_have_a_right_row_each(trained: Workspace, tiny: Tiny, tmp_path: Path) -> None:
    images = tmp_path / "images"
    names = ["a/001.png", "b/001.png", "süß/日本.png", "=1+1.png", " space .png", "nan.png"]
    if sys.platform != "win32":
        names += ['comma, "quote".png', "new\nline.png", "re\rturn.png", "\x1b[31mred.png"]
    pictures = write_images(tmp_path / "pictures", len(names))
    for name, picture in zip(names, pictures, strict=True):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes((tmp_path / "pictures" / picture).read_bytes())
    rows = rows_of(extracted(trained, tiny, images, tmp_path / "space"))
    plain = rows_of(extracted(trained, tiny, tmp_path / "pictures", tmp_path / "other"))
    assert list(rows) == sorted(names, key=str.encode)
    for name, picture in zip(names, pictures, strict=True):
        assert np.array_equal(rows[name], plain[picture])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf8_is_rejected_and_written_so_that_the_file_can_be_found(
    trained: Workspace, tiny: Tiny, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    (picture,) = write_images(images, 1)
    with open(os.fsencode(images) + b"/caf\xe9.png", "wb") as stream:
        stream.write((images / picture).read_bytes())
    result = extracted(trained, tiny, images, tmp_path / "space")
    assert list(rows_of(result)) == [picture]
    assert reasons(result) == {r"caf\xe9.png": "its name is not UTF-8: give the file another name"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_folder_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    with pytest.raises(SourceError, match="is not UTF-8"):
        find_images(folder)


@POSIX
def test_a_pipe_in_a_list_is_rejected_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(FextError, match="a pipe or a device"):
        load_image(tmp_path / "pipe.png", Preprocessing(32, 32, 3, "stretch"))


def test_a_file_that_somebody_is_writing_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (name,) = write_images(tmp_path, 1)
    monkeypatch.setattr("fext.data.images._read", lambda _: (b"half", FileState(4, 1), FileState(4, 2)))
    with pytest.raises(FextError, match="changed while it was read"):
        load_image(tmp_path / name, Preprocessing(32, 32, 3, "stretch"))


MORE_THAN_UNDER_WAY = 80  # images that one thread computes, and reads before it has done the first of them


def test_a_file_deleted_while_the_job_runs_is_rejected(trained: Workspace, tiny: Tiny, tmp_path: Path) -> None:
    images = tmp_path / "images"
    names = write_images(images, MORE_THAN_UNDER_WAY)
    reporter = Acting(4, (images / names[-1]).unlink)
    settings = tiny(num_threads=1)
    result = extract(Workspace(tmp_path), settings, trained.checkpoints / "model", images, "table", reporter)
    assert result is not None
    assert (result.num_found, result.num_written) == (len(names), len(names) - 1)
    assert reasons(result) == {names[-1]: "the file is not there"}


def test_a_row_is_recorded_with_the_state_of_the_file_that_was_read(
    trained: Workspace, tiny: Tiny, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    names = write_images(images, 12)
    before = (images / names[0]).stat()
    reporter = Acting(4, lambda: (images / names[0]).write_bytes(b"replaced after it was read"))
    result = extract(Workspace(tmp_path), tiny(), trained.checkpoints / "model", images, "table", reporter)
    assert result is not None
    row = pd.read_csv(result.folder / "images.csv").iloc[0]
    assert (row["status"], row["size"], row["modified"]) == ("written", before.st_size, before.st_mtime_ns)


def test_a_share_that_goes_away_stops_an_extraction_and_an_evaluation(
    trained: Workspace, tiny: Tiny, tmp_path: Path
) -> None:
    images = tmp_path / "share" / "images"
    write_images(images, MORE_THAN_UNDER_WAY)
    model = trained.checkpoints / "model"

    def gone() -> None:
        images.rename(tmp_path / "gone")

    space, settings, reporter = Workspace(tmp_path), tiny(num_threads=1), Acting(4, gone)
    with pytest.raises(SourceError, match="is gone or empty now: bring its images back and start again"):
        extract(space, settings, model, images, "table", reporter)
    (tmp_path / "gone").rename(images)
    reporter = Acting(4, gone)
    with pytest.raises(SourceError, match="is gone or empty now: bring its images back and start again"):
        evaluate(space, settings, model, images, reporter)


def train(space: Workspace, settings: Settings, name: str, reporter: SilentReporter = QUIET) -> PretrainResult:
    return pretrain(space, settings, space.images, name, reporter)


def test_a_share_that_goes_away_stops_training_which_goes_on_when_it_is_back(workspace: Workspace, tiny: Tiny) -> None:
    straight = train(workspace, tiny(epochs=2), "straight").folder
    gone = workspace.root / "gone"
    reporter = Acting(8 + 4, lambda: workspace.images.rename(gone))
    with pytest.raises(TrainingError, match=r"the folder .* can no longer be used .*put it back and resume stopped"):
        train(workspace, tiny(epochs=2), "stopped", reporter)
    gone.rename(workspace.images)
    stopped = workspace.checkpoints / "stopped"
    resume(tiny(), stopped, None, QUIET)
    assert same_tensors(straight, stopped)
    assert history_without_times(straight) == history_without_times(stopped)


@pytest.mark.parametrize("subset", ["train", "validation"])
def test_an_image_that_is_replaced_while_a_model_trains_is_noticed(
    workspace: Workspace, tiny: Tiny, subset: str
) -> None:
    folder = train(workspace, tiny(), "model").folder
    name = getattr(load_checkpoint(folder).split(), subset)[0]
    Image.new("RGB", (50, 50), (1, 2, 3)).save(workspace.images / name)
    with pytest.raises(TrainingError, match=rf"{name} can no longer be used \(it is not the file any more"):
        resume(tiny(), folder, 2, QUIET)


# ---------------------------------------------------------------- few images, equal images, the user's own split


def test_three_images_are_enough_and_equal_ones_are_not(tmp_path: Path, tiny: Tiny) -> None:
    space = Workspace(tmp_path)
    write_images(space.images, 3)
    result = train(space, tiny(), "three")
    assert (result.num_train, result.num_validation, result.num_test) == (1, 1, 1)
    first, second, _ = sorted(space.images.iterdir())
    second.write_bytes(first.read_bytes())
    with pytest.raises(TooFewImagesError, match="3 images with 2 different contents"):
        train(space, tiny(), "same")


def test_copies_do_not_hide_images_that_differ(tmp_path: Path, tiny: Tiny) -> None:
    space = Workspace(tmp_path)
    first, *others = write_images(space.images, 3)
    for number in range(60):
        (space.images / f"copy_{number}.png").write_bytes((space.images / first).read_bytes())
    split = load_checkpoint(train(space, tiny(num_train_samples=3, num_test_samples=1), "model").folder).split()
    assert (len(split.train), len(split.validation), len(split.test)) == (2, 1, 1)
    assert set(others) < set(split.names())


def test_the_users_own_train_and_test_folders_are_the_split(tmp_path: Path, tiny: Tiny) -> None:
    space = Workspace(tmp_path)
    train_names = write_images(space.images / "train" / "cats", 6)
    write_images(space.images / "test", 9)
    for name in train_names[:2]:  # these two are byte for byte the first two of the test folder
        assert (space.images / "train" / "cats" / name).read_bytes() == (space.images / "test" / name).read_bytes()
    for name in train_names[2:]:
        Image.open(space.images / "train" / "cats" / name).rotate(180).save(space.images / "train" / "cats" / name)
    write_images(space.images / "elsewhere", 1)
    said = Said()
    settings = tiny(split="folders", num_train_samples=100, num_test_samples=100)
    split = load_checkpoint(train(space, settings, "model", said).folder).split()
    assert tuple(sorted(split.train + split.validation)) == tuple(f"train/cats/{name}" for name in train_names[2:])
    assert len(split.validation) == 1
    assert split.test == tuple(f"test/image_{number:03}.png" for number in range(9))
    assert sum(line.startswith("left out: train/cats/") for line in said.lines) == 2
    assert any("1 images are in none of the folders train, validation and test" in line for line in said.lines)


def test_a_split_by_folders_needs_both_folders(workspace: Workspace, tiny: Tiny) -> None:
    with pytest.raises(SourceError, match=r"split = 'folders', but there are no images in .*train"):
        train(workspace, tiny(split="folders"), "model")


# ---------------------------------------------------------------- numbers that are not finite


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    workspace: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = iter([1.0, 1.0, 1.0, float("inf")])
    monkeypatch.setattr("torch.nn.utils.get_total_norm", lambda _: torch.tensor(next(norms)))
    with pytest.raises(TrainingError, match="the gradient is inf: training stops with the last good state kept"):
        train(workspace, tiny(epochs=5), "model")
    folder = workspace.checkpoints / "model"
    assert len(read_history(folder)) == 1
    monkeypatch.undo()
    assert resume(tiny(), folder, 2, QUIET).epochs == 2


# ---------------------------------------------------------------- checkpoints that cannot be trusted


@pytest.fixture
def copy(trained: Workspace, tmp_path: Path) -> Path:
    """A copy of the trained checkpoint for a test to spoil."""
    import shutil

    return Path(shutil.copytree(trained.checkpoints / "model", tmp_path / "model"))


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_weights_with_a_changed_bit_are_refused(copy: Path) -> None:
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not the file that model\.json describes"):
        load_checkpoint(copy)


def test_weights_that_are_a_pickle_are_refused_and_not_run(copy: Path, tmp_path: Path) -> None:
    import pickle

    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "harm",))

    (copy / "model.safetensors").write_bytes(pickle.dumps(Harmful()))
    change_json(copy / "model.json", weights_sha256="")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(copy)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": None},
        {"plan": {"architecture": "redux"}},
        {"preprocessing": {"height": 64}},
        {"preprocessing": [1, 2]},
        {"training": 5},
        {"format_version": "1; import os"},
    ],
)
def test_a_tampered_description_is_refused_in_one_line(copy: Path, changes: dict[str, object]) -> None:
    change_json(copy / "model.json", **changes)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(copy)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "stages", [[[10**9]], [[512]] * 1000, [[0]], [[16], [32], [64, 64], [128, 128], [512.9, 512]], "stages", [[True]]]
)
def test_a_plan_of_senseless_stages_is_refused_before_memory_is_taken(copy: Path, stages: object) -> None:
    description = json.loads((copy / "model.json").read_text())
    change_json(copy / "model.json", plan=description["plan"] | {"stages": stages})
    with pytest.raises(CheckpointError):
        load_checkpoint(copy)


def test_a_plan_that_the_weights_do_not_fit_is_refused(copy: Path) -> None:
    description = json.loads((copy / "model.json").read_text())
    change_json(copy / "model.json", plan=description["plan"] | {"stages": [[65536, 65536]] * 5})
    with pytest.raises(CheckpointError, match="its weights do not fit its plan"):
        load_checkpoint(copy)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"format_version": 1}', "[" * 100_000, "{" * 10])
def test_a_description_that_is_none_is_refused(copy: Path, text: str) -> None:
    (copy / "model.json").write_text(text)
    with pytest.raises(CheckpointError):
        load_checkpoint(copy)


@pytest.mark.parametrize("part", ["model", "optimizer", "checksums", "history", "train"])
@pytest.mark.parametrize("value", [None, 5, "text", [1, 2]])
def test_a_tampered_resume_file_is_refused_in_one_line(copy: Path, tiny: Tiny, part: str, value: object) -> None:
    state = load_resume(copy)
    if value is None:
        del state[part]
    else:
        state[part] = value
    save_resume(copy, state)
    with pytest.raises(CheckpointError, match="does not fit its checkpoint: it cannot be resumed"):
        resume(tiny(), copy, 9, QUIET)


def another_shape(state: dict[str, Any]) -> None:
    moments = state["optimizer"]["state"][0]
    moments["exp_avg"] = torch.zeros(1, 1)


def no_moments(state: dict[str, Any]) -> None:
    state["optimizer"]["state"] = {}


def another_decay(state: dict[str, Any]) -> None:
    state["optimizer"]["param_groups"][0]["weight_decay"] = 0.5


def a_best_epoch_to_come(state: dict[str, Any]) -> None:
    state["best_epoch"] = 99


def a_row_without_columns(state: dict[str, Any]) -> None:
    state["history"] = [{"epoch": 1}]


def batches_below_zero(state: dict[str, Any]) -> None:
    state["train"]["num_batches"] = -2


def images_without_batches(state: dict[str, Any]) -> None:
    state["train"]["num_images"] = 4


CHANGES = [
    another_shape, no_moments, another_decay, a_best_epoch_to_come, a_row_without_columns, batches_below_zero,
    images_without_batches,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_resume_file_that_only_looks_right_is_refused(
    copy: Path, tiny: Tiny, change: Callable[[dict[str, Any]], None]
) -> None:
    state = load_resume(copy)
    change(state)
    save_resume(copy, state)
    with pytest.raises(CheckpointError, match="does not fit its checkpoint: it cannot be resumed"):
        resume(tiny(), copy, 9, QUIET)


def test_preprocessing_that_does_not_fit_the_plan_is_refused(copy: Path) -> None:
    description = json.loads((copy / "model.json").read_text())
    change_json(copy / "model.json", preprocessing=description["preprocessing"] | {"height": 32, "width": 32})
    with pytest.raises(CheckpointError, match="its preprocessing does not fit its plan"):
        load_checkpoint(copy)


def test_two_processes_do_not_train_one_checkpoint(copy: Path, tiny: Tiny) -> None:
    code = (
        "import sys, time; from pathlib import Path; from fext.store.locks import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(copy)], stdout=subprocess.PIPE, cwd=REPOSITORY)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"held"
        with pytest.raises(CheckpointError, match="is being trained by another process"):
            resume(tiny(), copy, 2, QUIET)
    finally:
        holder.kill()
        holder.communicate()
    with locked(copy):  # freed by the system
        pass


# ---------------------------------------------------------------- full disks


class FullDisk:
    """A disk that is full after a number of bytes, seen by everything that FeXT's files write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
        real = Path.open

        def opened(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            stream = real(path, mode, *arguments, **options)
            if ("w" in mode or "x" in mode) and file in path.name:
                return _FullStream(stream)
            return stream

        monkeypatch.setattr(Path, "open", opened)


class _FullStream:
    """Takes a little and then fails, as writing to a full disk does."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._room = stream, 100

    def write(self, data: Any) -> int:
        self._room -= len(memoryview(data).cast("B"))
        if self._room < 0:
            raise OSError(28, "No space left on device")
        return int(self._stream.write(data))

    def close(self) -> None:
        self._stream.close()
        raise OSError(28, "No space left on device")  # what the buffer still held

    def __enter__(self) -> "_FullStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "file", ["model.safetensors", "model.json", "history.csv", "resume.pt", "history.png", "reconstructions_test.png"]
)
def test_a_full_disk_stops_training_in_one_line_and_what_was_there_is_whole(
    copy: Path, trained: Workspace, tiny: Tiny, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_json(copy / "model.json", source=str(trained.images))
    with monkeypatch.context() as patch:
        FullDisk(patch, file)
        with pytest.raises(FextError, match="No space left on device; what was there is kept") as caught:
            resume(tiny(), copy, 2, QUIET)
    assert len(str(caught.value).splitlines()) == 1
    assert not [name for name in contents(copy) if name.endswith(".partial")]
    load_checkpoint(copy)
    with Image.open(copy / "history.png") as picture:
        picture.load()
    assert resume(tiny(), copy, 2, QUIET).epochs == 2


@pytest.mark.parametrize("file", ["part-000001-000000.rows", "features.csv", "images.csv"])
def test_a_full_disk_stops_an_extraction_in_one_line_and_with_space_it_goes_on(
    trained: Workspace, tiny: Tiny, tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, model = Workspace(tmp_path), trained.checkpoints / "model"
    with monkeypatch.context() as patch:
        FullDisk(patch, file)
        with pytest.raises(FextError, match=r"cannot be written: No space left on device; .*make space") as caught:
            extract(space, tiny(), model, trained.images, "table", QUIET)
    assert len(str(caught.value).splitlines()) == 1
    tables = [extract(space, tiny(), model, trained.images, name, QUIET) for name in ("table", "fresh")]
    one, two = (table.folder / "features.csv" for table in tables if table is not None)
    assert one.read_bytes() == two.read_bytes()


def test_a_full_disk_for_tensorboard_is_one_line(
    workspace: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    with pytest.raises(FextError, match="tensorboard cannot be written: No space left on device"):
        train(workspace, tiny(use_tensorboard=True), "model")
    assert "Traceback" not in "".join(capfd.readouterr())


# ---------------------------------------------------------------- stops


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 7])
def test_a_run_stopped_between_any_two_batches_goes_on_to_the_same_end(
    workspace: Workspace, tiny: Tiny, batch: int
) -> None:
    """Two batches of four images train in an epoch; the third, of two, and the fourth, of one, judge it."""
    settings = tiny(
        epochs=2, lr_schedule="cosine", batch_size=4, inference_batch_size=2, num_train_samples=11,
        num_validation_samples=3, num_test_samples=1,
    )  # fmt: skip
    straight = train(workspace, settings, "straight").folder

    def stop() -> None:
        raise StopRequested

    with pytest.raises(StopRequested):
        train(workspace, settings, "stopped", Acting(batch // 4 * 11 + [0, 4, 8, 10][batch % 4], stop))
    stopped = workspace.checkpoints / "stopped"
    state = load_resume(stopped)
    assert state["train"]["num_batches"] + state["validation"]["num_batches"] == batch % 4
    resume(tiny(), stopped, None, QUIET)
    assert same_tensors(straight, stopped)
    assert history_without_times(straight) == history_without_times(stopped)


def test_within_an_epoch_the_state_is_saved_every_few_minutes(
    workspace: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "SECONDS_BETWEEN_SAVES", 0.0)

    def die() -> None:
        raise KeyboardInterrupt  # as the second Ctrl-C: at once, and nothing is saved any more

    with pytest.raises(KeyboardInterrupt):
        train(workspace, tiny(), "model", Acting(12 + 8, die))
    assert load_resume(workspace.checkpoints / "model")["train"]["num_batches"] == 2


KILLED_RUN = """
import sys
from pathlib import Path
from fext.jobs import pretrain as job, starting
from fext.reporting import SilentReporter
from conftest import small_plan
from fext.settings import settings_from_json
from fext.store.workspace import Workspace

if __name__ == "__main__":
    starting.make_plan = small_plan
    job.SECONDS_BETWEEN_SAVES = 0.05
    space = Workspace(Path(sys.argv[1]))
    settings = settings_from_json(sys.argv[2], "test")
    if (space.checkpoints / "killed").exists():
        job.resume(settings, space.checkpoints / "killed", None, SilentReporter())
    else:
        job.pretrain(space, settings, space.images, "killed", SilentReporter())
"""


@POSIX
def test_a_run_killed_twice_ends_at_the_weights_of_one_left_alone(
    workspace: Workspace, tiny: Tiny, tmp_path: Path
) -> None:
    settings = tiny(
        epochs=12, batch_size=2, ema_decay=0.9, input_noise=0.1, dropout_rate=0.1, gradient_accumulation=2,
        checkpoint_every=1,
    )  # fmt: skip
    straight = train(workspace, settings, "straight").folder
    script = tmp_path / "run.py"
    script.write_text(KILLED_RUN)
    killed, shown = workspace.checkpoints / "killed", settings.model_copy(update={"use_tensorboard": True})
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    environment = os.environ | {"PYTHONPATH": paths}
    for kill_after in (2, 6, None):
        process = subprocess.Popen([sys.executable, script, workspace.root, shown.to_json()], env=environment)
        while process.poll() is None:
            if kill_after is not None and killed.exists() and len(read_history(killed)) >= kill_after:
                time.sleep(0.03)
                process.send_signal(signal.SIGKILL)
            time.sleep(0.01)
        assert process.returncode == (0 if kill_after is None else -signal.SIGKILL)
    assert same_tensors(straight, killed)
    assert history_without_times(straight) == history_without_times(killed)
    events = EventAccumulator(str(killed / "tensorboard")).Reload()
    num_epochs = len(read_history(straight))
    assert [event.step for event in events.Scalars("loss/validation")] == list(range(1, num_epochs + 1))
    assert [event.step for event in events.Scalars("step/loss")] == list(range(1, num_epochs * 4 + 1))
    assert not [path for path in killed.iterdir() if path.name.endswith(".partial")]
    for one, other in zip(*(sorted((folder / "epochs").iterdir()) for folder in (straight, killed)), strict=True):
        assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


class KilledError(BaseException):
    """Stands for a kill: nobody catches it."""


@contextmanager
def killed_at(function: str, call: int = 1) -> Iterator[None]:
    """Die when a function of the job is called for the n-th time, and clear nothing away."""
    calls = 0
    module = training_state if hasattr(training_state, function) else pretraining
    real = getattr(module, function)

    def dying(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KilledError
        return real(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "remove_folder", lambda _: None)
        for place in (training_state, pretraining):
            if hasattr(place, function):
                patch.setattr(place, function, dying)
        with pytest.raises(KilledError):
            yield


@pytest.mark.parametrize("function", ["model_summary", "publish"])
def test_a_start_that_was_killed_leaves_no_half_checkpoint(workspace: Workspace, tiny: Tiny, function: str) -> None:
    with killed_at(function):
        train(workspace, tiny(), "model")
    assert workspace.checkpoint_names() == []
    assert files.unfinished_folders(workspace.checkpoints) == ["model"]
    train(workspace, tiny(), "another")
    assert files.unfinished_folders(workspace.checkpoints) == []
    train(workspace, tiny(), "model")


@pytest.mark.parametrize(("function", "call"), [("publish", 2), ("publish", 3), ("publish", 4), ("_draw_pictures", 1)])
def test_a_run_killed_between_its_files_is_mended_by_resuming(
    workspace: Workspace, tiny: Tiny, function: str, call: int
) -> None:
    """resume.pt is written first: the weights, the description and the history are made again from it."""
    settings = tiny(epochs=2)
    straight = train(workspace, settings, "straight").folder
    with killed_at(function, call):
        train(workspace, settings, "killed")
    killed = workspace.checkpoints / "killed"
    resume(tiny(), killed, None, QUIET)
    assert same_tensors(straight, killed)
    assert history_without_times(straight) == history_without_times(killed)
    assert load_checkpoint(killed).summary == load_checkpoint(straight).summary


def test_an_early_stopped_run_that_is_extended_goes_on(workspace: Workspace, tiny: Tiny) -> None:
    settings = tiny(epochs=9, early_stopping_patience=1, early_stopping_delta=10.0)
    stopped = train(workspace, settings, "model")
    assert (stopped.epochs, stopped.stopped_early) == (2, True)
    assert resume(tiny(), stopped.folder, 9, QUIET).epochs == 3


# ---------------------------------------------------------------- processes that read images


@POSIX
def test_a_reading_process_that_is_killed_is_told_and_nothing_hangs(workspace: Workspace, tiny: Tiny) -> None:
    def kill_one() -> None:
        import multiprocessing

        multiprocessing.active_children()[0].kill()

    settings = tiny(num_processors=2, epochs=500)
    with pytest.raises(ReaderDiedError, match="set num_processors to a lower number"):
        train(workspace, settings, "model", Acting(24, kill_one))
    folder = workspace.checkpoints / "model"
    result = resume(tiny(num_processors=1), folder, len(read_history(folder)) + 1, QUIET)
    assert result.epochs >= 1


# ---------------------------------------------------------------- mutated images


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """The bytes of a file with some flipped, cut out, repeated or overwritten."""
    changed = bytearray(data)
    for _ in range(random.integers(1, 4)):
        position, length = int(random.integers(len(changed))), int(random.integers(1, 400))
        match int(random.integers(5)):
            case 0:
                changed[position] ^= 1 << int(random.integers(8))
            case 1:
                del changed[position : position + length]
            case 2:
                changed[position:position] = changed[position : position + length]
            case 3:
                changed[position : position + length] = random.bytes(length)
            case _:
                changed = changed[: max(1, position)]
        if not changed:
            break
    return bytes(changed)


FORMATS = {
    "jpg": {}, "png": {}, "gif": {}, "bmp": {}, "webp": {}, "tif": {"compression": "tiff_lzw"}, "jp2": {}, "ppm": {},
    "ico": {}, "tga": {}, "avif": {},
}  # fmt: skip


def test_mutated_images_are_written_or_rejected_and_never_end_the_job(
    trained: Workspace, tiny: Tiny, tmp_path: Path
) -> None:
    random = np.random.default_rng(3)
    images = tmp_path / "images"
    images.mkdir()
    picture = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((96, 72))
    for extension, options in FORMATS.items():
        picture.save(tmp_path / f"whole.{extension}", **options)
        data = (tmp_path / f"whole.{extension}").read_bytes()
        for number in range(20):
            (images / f"{number:03}.{extension}").write_bytes(mutated(data, random))
    result = extracted(trained, tiny, images, tmp_path / "space")
    assert result.num_found == 20 * len(FORMATS)
    assert result.num_rejected > 0
    assert all(np.isfinite(row).all() for row in rows_of(result).values())
    with (result.folder / "rejected.csv").open(newline="", encoding="utf-8") as stream:
        assert all(row["reason"] for row in csv.DictReader(stream))

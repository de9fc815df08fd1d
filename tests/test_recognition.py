"""A model knows its images again by what the files hold: copied, renamed, moved or changed; and older checkpoints."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Said, read_history, same_tensors, write_images
from PIL import Image

from fext.data.images import checksum
from fext.data.source import find_images
from fext.data.split import Split
from fext.errors import CheckpointError
from fext.jobs.analyze import analyze
from fext.jobs.compare import compare_checkpoints
from fext.jobs.evaluate import evaluate
from fext.jobs.pretrain import pretrain, resume
from fext.jobs.recognition import recognize
from fext.pictures.evaluation_report import verdicts
from fext.reporting import SilentReporter
from fext.settings import Settings
from fext.store import files
from fext.store.checkpoints import load_checkpoint, load_split
from fext.store.workspace import Workspace

pytestmark = pytest.mark.usefixtures("no_pictures_in_module")
QUIET = SilentReporter()
Tiny = Callable[..., Settings]
SMALL: dict[str, object] = {
    "architecture": "cifar", "picture_shape": (32, 32, 1), "num_train_samples": 8, "num_validation_samples": 2,
    "num_test_samples": 4, "epochs": 2,
}  # fmt: skip
SIDES = {"train": 6, "validation": 2, "test": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, no_pictures_in_module: None) -> Workspace:
    """A workspace with a checkpoint 'model' and an image that it has not seen; tests must not change it."""
    space = Workspace(tmp_path_factory.mktemp("trained"))
    write_images(space.images, 12)
    pretrain(space, tiny(**SMALL), space.images, "model", QUIET)
    return space


@pytest.fixture
def space(trained: Workspace, tmp_path: Path) -> Workspace:
    """A workspace for a test to change, with images and checkpoint."""
    shutil.copytree(trained.root, tmp_path / "space")
    space = Workspace(tmp_path / "space")
    change_json(space.checkpoints / "model" / "model.json", source=str(space.images))
    return space


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def renamed_copy(folder: Path, target: Path) -> Path:
    """The pictures of a folder in another one, each with a name that another of them had, or a new one."""
    target.mkdir()
    paths = sorted(folder.iterdir())
    for path, other in zip(paths, [*paths[1:], folder / "new.png"], strict=True):
        shutil.copy(path, target / other.name)
    return target


def sides(space: Workspace, folder: Path, reporter: SilentReporter = QUIET, name: str = "model") -> dict[str, str]:
    """Of each image of a folder what it is to the checkpoint."""
    source = find_images(folder)
    found = recognize(space, load_checkpoint(space.checkpoints / name), source, reporter)
    return dict(zip(source.names, found.tolist(), strict=True))


def sides_in_split(space: Workspace, name: str = "model") -> dict[str, str]:
    return {image: side for side, names in load_split(space.checkpoints / name).sides() for image in names}


# ---------------------------------------------------------------- copied, renamed, moved, changed


def test_the_split_names_each_image_with_the_checksum_of_its_file(trained: Workspace) -> None:
    rows = files.read_csv(trained.checkpoints / "model" / "split.csv")
    assert list(rows[0]) == ["image", "subset", "sha256"]
    assert Counter(row["subset"] for row in rows) == SIDES
    assert all(checksum((trained.images / row["image"]).read_bytes()) == row["sha256"] for row in rows)


def test_a_copied_and_renamed_folder_is_scored_as_what_its_images_are(
    space: Workspace, tiny: Tiny, tmp_path: Path
) -> None:
    copy = renamed_copy(space.images, tmp_path / "copy")
    write_images(tmp_path / "others", 3, seed=9)
    for number, path in enumerate(sorted((tmp_path / "others").iterdir())):
        path.rename(copy / f"other {number}.png")
    said = Said()
    own, of_copy = (
        evaluate(space, tiny(**SMALL), space.checkpoints / "model", images, said).summary for images in (None, copy)
    )
    assert {subset: found["num_images"] for subset, found in of_copy["subsets"].items()} == {**SIDES, "new": 3}
    for subset in SIDES:
        for score in ("psnr", "ssim"):
            one, other = (found["subsets"][subset]["model"][score]["mean"] for found in (own, of_copy))
            assert one == pytest.approx(other, rel=1e-6)
    assert "model knows images of its own here: 6 train, 2 validation, 4 test; 3 are new" in said.lines
    rows = files.read_csv(space.checkpoints / "model" / "evaluation" / "per_image.csv")
    assert {row["image"] for row in rows if row["subset"] == "new"} == {f"other {number}.png" for number in range(3)}


def test_a_moved_folder_and_a_list_of_the_files_are_known_too(space: Workspace, tmp_path: Path) -> None:
    expected = sides_in_split(space)
    moved = tmp_path / "elsewhere"
    space.images.rename(moved)
    assert sides(space, moved) == expected
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{moved / name}\n" for name in expected), encoding="utf-8")
    assert sides(space, listed) == {str(moved / name): side for name, side in expected.items()}


def test_a_file_changed_under_the_name_of_a_train_image_is_new_and_that_is_told(space: Workspace, tiny: Tiny) -> None:
    name = load_split(space.checkpoints / "model").train[0]
    write_images(space.root / "others", 1, seed=9)
    shutil.copy(space.root / "others" / "image_000.png", space.images / name)
    said = Said()
    summary = evaluate(space, tiny(**SMALL), space.checkpoints / "model", None, said).summary
    assert {subset: found["num_images"] for subset, found in summary["subsets"].items()} == {
        **SIDES, "train": 5, "new": 1
    }  # fmt: skip
    assert (
        f"{name}: the name of an image that model was trained or tested on, but not its content any more: new"
        in said.lines
    )


def test_no_train_image_is_compared_on_in_a_copy_of_the_folder(space: Workspace, tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(space.checkpoints / "model", space.checkpoints / "twin")
    copy = renamed_copy(space.images, tmp_path / "copy")
    folders = [space.checkpoints / name for name in ("model", "twin")]
    found = compare_checkpoints(space, tiny(**SMALL), folders, copy, QUIET).comparison.names
    test = {checksum((space.images / name).read_bytes()) for name in load_split(folders[0]).test}
    assert {checksum((copy / name).read_bytes()) for name in found} == test


# ---------------------------------------------------------------- near copies


def test_a_near_copy_counts_as_what_it_is_a_copy_of_once_both_were_looked_at(
    space: Workspace, tiny: Tiny, tmp_path: Path
) -> None:
    copy = renamed_copy(space.images, tmp_path / "copy")
    split = load_split(space.checkpoints / "model")
    expected = {}
    for side, names in split.sides():
        with Image.open(space.images / names[0]) as image:
            image.resize((70, 60)).save(copy / f"smaller {side}.png")
            expected[f"smaller {side}.png"] = side
    write_images(tmp_path / "other", 1, seed=9)
    shutil.copy(tmp_path / "other" / "image_000.png", copy / "smaller other.png")
    found = sides(space, copy)  # choosing has seen the one, nobody the other
    assert {found[name] for name in expected} == {"new"}
    analyze(space, tiny(num_processors=1), copy, QUIET)
    shutil.rmtree(space.images)  # what was seen once is known by its content
    said = Said()
    found = sides(space, copy, said)
    assert {name: found[name] for name in (*expected, "smaller other.png")} == {**expected, "smaller other.png": "new"}
    assert [line for line in said.lines if "near cop" in line] == [
        f"1 image looks like a near copy of {side} images of model: counted as such" for side in SIDES
    ]


# ---------------------------------------------------------------- checkpoints of earlier FeXT


def as_earlier_fext_left_it(space: Workspace, name: str) -> Path:
    """A copy of the checkpoint in the format of version 1: its validation images are its test images, and chose."""
    folder = Path(shutil.copytree(space.checkpoints / "model", space.checkpoints / name))
    split = load_split(folder)
    rows = [(image, "train") for image in split.train] + [(image, "test") for image in split.validation]
    files.write_csv(folder / "split.csv", ("image", "subset"), rows)
    history = folder / "history.csv"
    history.write_text(history.read_text(encoding="utf-8").replace("validation_", "test_"), encoding="utf-8")
    settings = json.loads((folder / "configurations.json").read_text())
    del settings["num_validation_samples"]
    (folder / "configurations.json").write_text(json.dumps(settings))
    described = json.loads((folder / "model.json").read_text())
    described["training"] = {
        key: value for key, value in described["training"].items()
        if key not in ("epoch_chosen_by", "num_validation_images") and not key.startswith("validation_")
    } | {f"test_{score}": described["training"][f"validation_{score}"] for score in ("loss", "psnr")}  # fmt: skip
    (folder / "model.json").write_text(json.dumps(described | {"format_version": 1}))
    state = torch.load(folder / "resume.pt", weights_only=True)
    state |= {"format_version": 3, "test": state.pop("validation"), "checksums": state["checksums"][:8].clone()}
    state["history"] = [
        {key.replace("validation_", "test_"): value for key, value in row.items()} for row in state["history"]
    ]
    torch.save(state, folder / "resume.pt")
    return folder


def test_an_earlier_checkpoint_says_that_its_test_scores_are_kind(space: Workspace, tiny: Tiny) -> None:
    folder = as_earlier_fext_left_it(space, "old")
    assert load_checkpoint(folder).chosen_by == "test"
    assert load_checkpoint(space.checkpoints / "model").chosen_by == "validation"
    summaries = {
        name: evaluate(space, tiny(**SMALL), space.checkpoints / name, None, QUIET).summary for name in ("old", "model")
    }
    assert {name: summary["epoch_chosen_by"] for name, summary in summaries.items()} == {
        "old": "test", "model": "validation"
    }  # fmt: skip
    assert set(summaries["old"]["subsets"]) == {"train", "test"}
    kind = {name: any("scores are kind" in line for line in verdicts(found)) for name, found in summaries.items()}
    assert kind == {"old": True, "model": False}
    scores = {row["checkpoint"]: row["epoch_chosen_by"] for row in files.read_csv(space.checkpoints / "scores.csv")}
    assert scores == {"old": "test", "model": "validation"}
    shutil.copytree(folder, space.checkpoints / "twin")
    result = compare_checkpoints(space, tiny(**SMALL), [folder, space.checkpoints / "twin"], None, QUIET)
    assert result.verdicts[-1] == (
        "The epoch of old and of twin was chosen on their own test images: their scores are kind."
    )


def test_an_earlier_checkpoint_knows_its_images_by_content_or_by_name_where_it_has_no_checksums(
    space: Workspace, tmp_path: Path
) -> None:
    folder = as_earlier_fext_left_it(space, "old")
    copy = renamed_copy(space.images, tmp_path / "copy")
    assert Counter(sides(space, copy, name="old").values()) == {"train": 6, "test": 2, "new": 4}
    (folder / "resume.pt").unlink()
    said = Said()
    assert set(sides(space, copy, said, "old").values()) == {"new"}
    assert "old was made by an earlier FeXT, without checksums: its images are known by their names alone" in said.lines
    assert Counter(sides(space, space.images, name="old").values()) == {"train": 6, "test": 2, "new": 4}
    space.images.rename(tmp_path / "moved")
    assert Counter(sides(space, tmp_path / "moved", name="old").values()) == {"train": 6, "test": 2, "new": 4}


def test_an_earlier_run_is_extended_the_way_it_was_begun_to_the_same_weights(space: Workspace, tiny: Tiny) -> None:
    folder, said = as_earlier_fext_left_it(space, "old"), Said()
    new = resume(tiny(**SMALL), space.checkpoints / "model", 4, QUIET)
    old = resume(tiny(**SMALL), folder, 4, said)
    assert new is not None
    assert old is not None
    assert (old.chosen_by, old.best_epoch) == ("test", new.best_epoch)
    assert same_tensors(folder, space.checkpoints / "model")
    losses = {
        side: [row[f"{side}_loss"] for row in read_history(space.checkpoints / name)]
        for name, side in (("old", "test"), ("model", "validation"))
    }
    assert losses["test"] == losses["validation"]
    assert any("its epoch is chosen by the test images as before" in line for line in said.lines)
    assert not any("num_validation_samples" in line for line in said.lines)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.chosen_by == "test"
    split = checkpoint.split()
    assert split == Split(split.train, (), split.test)
    assert all(len(row["sha256"]) == 64 for row in files.read_csv(folder / "split.csv"))
    resume(tiny(**SMALL), folder, 5, QUIET)  # and once more, from what this FeXT wrote


@pytest.mark.parametrize(
    "rows",
    [
        [("a.png", "train", "0" * 64), ("b.png", "held back", "0" * 64)],
        [("a.png", "train", "0" * 64)],
        [("a.png", "train", "no checksum"), ("b.png", "test", "0" * 64)],
        [("a.png", "train", "00"), ("b.png", "test", "0" * 64)],
    ],
)
def test_a_split_that_is_none_is_refused(space: Workspace, rows: list[tuple[str, str, str]]) -> None:
    files.write_csv(space.checkpoints / "model" / "split.csv", ("image", "subset", "sha256"), rows)
    with pytest.raises(CheckpointError, match="checkpoint model is damaged"):
        sides(space, space.images)

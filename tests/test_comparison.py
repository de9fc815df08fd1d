"""Checkpoints side by side: the better one is named, with the interval of the difference, or that none can be told."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_images

from fext.errors import CheckpointError, UsageError
from fext.jobs.compare import ComparisonResult, compare_checkpoints
from fext.jobs.evaluate import evaluate
from fext.jobs.pretrain import pretrain
from fext.model.intervals import mean_interval
from fext.reporting import SilentReporter
from fext.settings import Settings
from fext.store.workspace import Workspace

QUIET = SilentReporter()
Tiny = Callable[..., Settings]
# Random weights: a model that starts from its images is good at once, and a short training is no worse than a long one.
SMALL: dict[str, object] = {
    "architecture": "cifar", "picture_shape": (32, 32, 3), "num_test_samples": 6, "encoder_weights": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, no_pictures_in_module: None) -> Workspace:
    """'long' was trained for longer than 'short'; 'twin' is a copy of 'long'; 'other' has another split."""
    space = Workspace(tmp_path_factory.mktemp("compared"))
    write_images(space.images, 14)
    for name, changes in (
        ("short", {"epochs": 1, "learning_rate": 1e-6}),
        ("long", {"epochs": 20, "learning_rate": 3e-3}),
        ("other", {"epochs": 1, "split_seed": 5}),
    ):
        pretrain(space, tiny(**SMALL, **changes), space.images, name, QUIET)
        evaluate(space, tiny(**SMALL), space.checkpoints / name, None, QUIET)
    shutil.copytree(space.checkpoints / "long", space.checkpoints / "twin")
    return space


@pytest.fixture
def space(trained: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(trained.checkpoints, tmp_path / "training" / "checkpoints")
    return Workspace(tmp_path)


def compare(space: Workspace, tiny: Tiny, *names: str, images: Path | None = None) -> ComparisonResult:
    folders = [space.checkpoints / name for name in names]
    return compare_checkpoints(space, tiny(**SMALL), folders, images, QUIET)


def test_the_better_one_is_named_with_the_interval_of_the_difference(space: Workspace, tiny: Tiny) -> None:
    result = compare(space, tiny, "short", "long")
    table = pd.read_csv(result.table)
    assert table["checkpoint"].tolist() == ["long", "short"]
    scores = {
        name: pd.read_csv(space.checkpoints / name / "evaluation" / "per_image.csv").set_index("image")
        for name in ("short", "long")
    }
    test = scores["long"]["subset"] == "test"
    assert table["images"].tolist() == [6, 6]
    difference = mean_interval((scores["short"]["psnr"] - scores["long"]["psnr"])[test].to_numpy())
    found = table.loc[1, ["psnr_minus_best", "psnr_minus_best_low", "psnr_minus_best_high"]].tolist()
    assert found == pytest.approx(list(difference))
    assert result.verdicts == [
        f"long is better than short: {difference.negated().text('dB')} PSNR on 6 images that none of them was trained "
        f"on."
    ]
    assert result.verdicts[0] in result.report.read_text(encoding="utf-8")


def test_of_two_equal_ones_neither_is_called_better(space: Workspace, tiny: Tiny) -> None:
    result = compare(space, tiny, "long", "twin")
    assert result.verdicts == [
        "long and twin cannot be told apart: +0.00 dB (+0.00 to +0.00) PSNR on 6 images that none of them was trained "
        "on."
    ]


def test_images_that_one_of_them_was_trained_on_do_not_count(space: Workspace, tiny: Tiny) -> None:
    result = compare(space, tiny, "long", "other")
    splits = [
        pd.read_csv(space.checkpoints / name / "split.csv").set_index("image")["subset"] for name in ("long", "other")
    ]
    in_common = set.intersection(*(set(split[split == "test"].index) for split in splits))
    assert set(result.comparison.names) == in_common
    assert 2 <= len(in_common) < 6


def test_checkpoints_are_compared_on_new_images_where_asked(space: Workspace, tiny: Tiny, tmp_path: Path) -> None:
    names = write_images(tmp_path / "new", 5, seed=8)  # of names that the images trained on have, too
    result = compare(space, tiny, "short", "long", "other", images=tmp_path / "new")
    assert list(result.comparison.names) == sorted(names)
    assert len(result.verdicts) == 2


def test_of_more_than_two_the_intervals_are_wider_so_that_all_of_them_hold(space: Workspace, tiny: Tiny) -> None:
    shutil.copytree(space.checkpoints / "short", space.checkpoints / "third")
    two, three = (compare(space, tiny, *names) for names in (("long", "short"), ("long", "short", "third")))
    narrow, wide = (result.comparison.checkpoints[1].psnr_minus_best for result in (two, three))
    assert narrow is not None
    assert wide is not None
    assert wide.mean == narrow.mean
    assert wide.low < narrow.low < narrow.high < wide.high  # type: ignore[operator]


def test_an_evaluation_of_these_weights_is_used_and_one_of_others_is_made_again(
    space: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def remembering(workspace: Workspace, settings: Settings, folder: Path, *rest: object) -> object:
        asked.append(folder.name)
        return evaluate(workspace, settings, folder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("fext.jobs.compare.evaluate", remembering)
    compare(space, tiny, "short", "long")
    assert asked == []
    for name in ("model.safetensors", "model.json"):
        shutil.copy(space.checkpoints / "long" / name, space.checkpoints / "short" / name)
    result = compare(space, tiny, "short", "long")
    assert asked == ["short"]
    assert np.ptp([checkpoint.psnr.mean for checkpoint in result.comparison.checkpoints]) == 0


def test_what_cannot_be_compared_is_refused_with_what_to_do(space: Workspace, tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least two different checkpoints"):
        compare(space, tiny, "long", "long")
    shutil.copytree(space.checkpoints / "long", tmp_path / "elsewhere" / "long")
    with pytest.raises(UsageError, match="have the same name: rename"):
        compare(space, tiny, "long", str(tmp_path / "elsewhere" / "long"))
    write_images(tmp_path / "new", 5)
    pretrain(space, tiny(**SMALL, epochs=1, num_train_samples=3), tmp_path / "new", "far", QUIET)
    with pytest.raises(CheckpointError, match=r"different folders .*--images"):
        compare(space, tiny, "short", "far")

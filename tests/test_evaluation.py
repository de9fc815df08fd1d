"""Evaluation in depth: how sure the scores are, where errors lie, what the latent holds, whether training helped."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_images
from PIL import Image
from scipy import stats

from fext.data.labels import are_labels, label_of
from fext.jobs.evaluate import evaluate
from fext.jobs.pretrain import pretrain
from fext.model.autoencoder import build_autoencoder
from fext.model.intervals import difference_interval, mean_interval
from fext.model.latent_statistics import LatentStatistics
from fext.model.linear_map import LinearMap
from fext.model.linear_readout import LinearReadout
from fext.model.plans import make_plan
from fext.model.scores import compare, reconstruction_scores
from fext.reporting import SilentReporter
from fext.settings import Settings
from fext.store.workspace import Workspace

# Random weights, which go by light: patches of the images go by what is in them, be it dark or bright.
SMALL: dict[str, object] = {"architecture": "cifar", "picture_shape": (32, 32, 3), "encoder_weights": "none"}
QUIET = SilentReporter()
Tiny = Callable[..., Settings]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Workspace:
    """A model of images in two folders, evaluated."""
    space = Workspace(tmp_path_factory.mktemp("evaluated"))
    for label, colour in (("dark", 40), ("bright", 215)):
        folder = space.images / label
        write_images(folder, 10)
        for path in folder.iterdir():
            with Image.open(path) as image:
                Image.blend(image.convert("RGB"), Image.new("RGB", image.size, (colour,) * 3), 0.8).save(path)
    settings = tiny(num_train_samples=14, num_test_samples=6, **SMALL)
    model = pretrain(space, settings, space.images, "model", QUIET).folder
    evaluate(space, settings, model, None, QUIET)
    return space


@pytest.fixture(scope="module")
def folder(evaluated: Workspace) -> Path:
    return evaluated.checkpoints / "model" / "evaluation"


@pytest.fixture(scope="module")
def summary(folder: Path) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


# ---------------------------------------------------------------- how sure


def test_every_mean_has_its_95_percent_interval(folder: Path, summary: dict) -> None:
    rows = pd.read_csv(folder / "per_image.csv")
    psnr = rows[rows["subset"] == "test"]["psnr"]
    low, high = stats.t.interval(0.95, len(psnr) - 1, psnr.mean(), psnr.std(ddof=1) / len(psnr) ** 0.5)
    found = summary["subsets"]["test"]["model"]["psnr"]
    assert (found["mean_low"], found["mean_high"]) == pytest.approx((low, high))


def test_train_is_held_against_test_and_the_model_against_the_linear_map(folder: Path, summary: dict) -> None:
    rows = pd.read_csv(folder / "per_image.csv")
    means = rows.groupby("subset")["psnr"].mean()
    gap = summary["train_minus_test"]["psnr"]
    assert gap["mean"] == pytest.approx(means["train"] - means["test"])
    assert gap["mean_low"] < gap["mean"] < gap["mean_high"]
    test = rows[rows["subset"] == "test"]
    gain = summary["subsets"]["test"]["model_minus_linear_map"]["psnr"]
    assert gain["mean"] == pytest.approx((test["psnr"] - test["linear_map_psnr"]).mean())
    assert gain["mean_low"] < gain["mean"] < gain["mean_high"]


def test_it_is_said_what_intervals_take_for_independent(folder: Path, summary: dict) -> None:
    assert summary["interval_groups"] == {
        "by": "none", "num_groups": 20, "sentence": "Intervals take the images for independent of each other.",
    }  # fmt: skip
    assert summary["interval_groups"]["sentence"] in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_pictures")
def test_an_evaluation_of_tiles_and_copies_counts_photographs(evaluated: Workspace, tiny: Tiny, tmp_path: Path) -> None:
    new = tmp_path / "new"
    for number, name in enumerate(write_images(tmp_path / "pictures", 8)):
        (new / "a").mkdir(parents=True, exist_ok=True)
        with Image.open(tmp_path / "pictures" / name) as image:
            for column in range(2):
                image.crop((40 * column, 0, 40 * column + 40, 64)).save(
                    new / "a" / f"{chr(97 + number)}x_0_{column}.png"
                )
    (new / "copy.png").write_bytes((new / "a" / "ax_0_0.png").read_bytes())
    model = shutil.copytree(evaluated.checkpoints / "model", tmp_path / "model")
    means = {}
    for way in ("auto", "none"):
        found = evaluate(Workspace(tmp_path), tiny(interval_groups=way, **SMALL), model, new, QUIET).summary
        means[way] = found["subsets"]["new"]["model"]["psnr"]
        assert found["subsets"]["new"]["num_groups"] == {"auto": 8, "none": 17}[way]
    assert means["auto"]["mean"] == means["none"]["mean"]
    assert means["auto"]["mean_low"] != means["none"]["mean_low"]


def test_intervals_as_worked_out_by_hand() -> None:
    found = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert found.mean == 2
    assert (found.low, found.high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-3)
    assert not found.excludes_zero or found.low > 0
    assert mean_interval(np.array([1.0])) == (1.0, None, None)
    assert mean_interval(np.array([2.0, 2.0])) == (2.0, 2.0, 2.0)
    apart = difference_interval(np.array([5.0, 5.1, 4.9]), np.array([1.0, 1.1, 0.9]))
    assert apart.mean == pytest.approx(4)
    assert apart.excludes_zero
    assert not difference_interval(np.array([1.0]), np.array([2.0, 3.0])).excludes_zero


# ---------------------------------------------------------------- where the errors lie


def test_maps_of_error_and_ssim_show_where_a_reconstruction_is_wrong() -> None:
    image = np.random.default_rng(1).random((32, 32, 3)).astype(np.float32)
    wrong = image.copy()
    wrong[:8, :8] = 1 - wrong[:8, :8]
    found = compare(image, wrong)
    assert found.error_map.shape == found.ssim_map.shape == (32, 32)
    np.testing.assert_allclose(found.error_map, np.abs(image - wrong).mean(axis=2), atol=1e-6)
    assert found.error_map[8:].max() == 0
    assert found.ssim_map[:8, :8].mean() < 0.5 < 0.999 < found.ssim_map[20:, 20:].min()
    assert found.scores == reconstruction_scores(image, wrong)


def test_regions_are_those_of_the_latent_and_agree_with_the_scores(folder: Path, summary: dict) -> None:
    rows = pd.read_csv(folder / "per_image.csv")
    errors = np.array(summary["regions"]["test"]["mae"])
    assert errors.shape == (8, 8)
    assert errors.mean() == pytest.approx(rows[rows["subset"] == "test"]["mae"].mean(), abs=1e-5)
    assert np.array(summary["regions"]["train"]["ssim"]).max() <= 1


@pytest.mark.parametrize("name", ["psnr", "best", "typical", "worst", "regions", "latent", "neighbours", "latent_maps"])
def test_every_picture_is_drawn(folder: Path, name: str) -> None:
    with Image.open(folder / f"{name}.png") as image:
        assert min(image.size) > 200


# ---------------------------------------------------------------- the latent


def latents(num_images: int = 40) -> torch.Tensor:
    """Six channels of 4x4 positions: independent, independent, a copy of the first, its negative, dead, independent."""
    values = torch.randn(num_images, 6, 4, 4, generator=torch.Generator().manual_seed(3))
    values[:, 2] = 5 * values[:, 0] + 1
    values[:, 3] = -values[:, 0]
    values[:, 4] = 0
    return values


def test_dead_and_redundant_channels_are_named() -> None:
    statistics = LatentStatistics(6)
    for batch in latents().split(7):
        statistics.add(batch)
    found = statistics.summarize()
    assert found.dead_channels == (4,)
    assert found.redundant_channels == (2, 3)
    assert found.num_vectors == 40 * 16
    assert found.share_of_zeros == pytest.approx(1 / 6)


def test_latent_statistics_agree_with_numpy_even_far_from_zero() -> None:
    values = latents() + 1000
    statistics = LatentStatistics(6)
    for batch in values.split(7):
        statistics.add(batch)
    vectors = values.permute(0, 2, 3, 1).reshape(-1, 6).double().numpy()
    np.testing.assert_allclose(statistics.covariance().numpy(), np.cov(vectors.T, ddof=0), atol=1e-3)
    found = statistics.summarize()
    np.testing.assert_allclose(found.channel_means, vectors.mean(axis=0), rtol=1e-6)
    assert (found.mean, found.std) == pytest.approx((vectors.mean(), vectors.std()), rel=1e-4)


def test_the_effective_rank_counts_directions_that_vary_as_much() -> None:
    generator = torch.Generator().manual_seed(4)
    basis = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q[:, :3]
    vectors = torch.randn(500, 3, generator=generator) @ basis.T  # three directions of eight
    statistics = LatentStatistics(8)
    statistics.add(vectors.reshape(500, 8, 1, 1))
    found = statistics.summarize()
    assert found.effective_rank == pytest.approx(3, abs=0.05)
    assert found.components_for_99_percent == 3
    constant = LatentStatistics(2)
    constant.add(torch.ones(4, 2, 1, 1))
    assert constant.summarize().effective_rank == 0


def test_the_table_of_channels_has_one_row_for_each(folder: Path, summary: dict) -> None:
    channels = pd.read_csv(folder / "channels.csv")
    assert channels["channel"].tolist() == list(range(128))
    assert (channels["kind"] == "dead").sum() == len(summary["latent"]["dead_channels"])


def test_nearest_neighbours_are_the_nearest_and_never_the_image_itself(folder: Path) -> None:
    found = pd.read_csv(folder / "neighbours.csv")
    subsets = pd.read_csv(folder / "per_image.csv").set_index("image")["subset"]
    assert set(subsets[found["image"]]) == {"validation", "test"}
    assert (found["image"] != found["neighbour"]).all()
    for _, rows in found.groupby("image"):
        assert rows["rank"].tolist() == [1, 2, 3, 4, 5]
        assert rows["similarity"].is_monotonic_decreasing
        own = rows["image"].iloc[0].split("/")[0]
        assert rows["neighbour"].iloc[0].split("/")[0] == own  # the dark are next to the dark


def test_the_maps_give_every_image_a_place_its_subset_and_its_label(folder: Path) -> None:
    places = pd.read_csv(folder / "latent_map.csv")
    assert len(places) == 20
    assert set(places["label"]) == {"dark", "bright"}
    centres = places.groupby("label")["pca_1"].mean()
    within = places.groupby("label")["pca_1"].std().max()
    assert abs(centres["dark"] - centres["bright"]) > within


def test_an_evaluation_made_again_is_the_same_to_the_byte(evaluated: Workspace, folder: Path, tiny: Tiny) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    evaluate(evaluated, tiny(**SMALL), evaluated.checkpoints / "model", None, QUIET)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# ---------------------------------------------------------------- did training help


def test_a_linear_readout_of_a_latent_that_holds_everything_is_the_image() -> None:
    images = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    linear_map = LinearMap((8, 8, 3), (2, 2, 48))  # as many components as a square has values
    linear_map.learn(images)
    linear_map.finish()
    readout = LinearReadout((8, 8, 3), (2, 2, 48))
    readout.learn(linear_map.encode(images[:12]), images[:12])
    readout.learn(linear_map.encode(images[12:]), images[12:])
    readout.finish()
    torch.testing.assert_close(readout.reconstruct(linear_map.encode(images)), images, atol=0.02, rtol=0)


def test_a_linear_readout_of_a_latent_that_holds_nothing_is_the_mean() -> None:
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(6))
    readout = LinearReadout((8, 8, 1), (2, 2, 3))
    readout.learn(torch.ones(12, 3, 2, 2), images)
    readout.finish()
    mean = images.unfold(2, 4, 4).unfold(3, 4, 4).mean(dim=(0, 2, 3))[0]  # of all squares
    torch.testing.assert_close(readout.reconstruct(torch.ones(1, 3, 2, 2))[0, 0], mean.repeat(2, 2))


def test_the_encoder_is_held_against_an_untrained_one_and_the_linear_map(summary: dict) -> None:
    found = summary["encoders"]
    assert (found["num_train"], found["num_test"], found["num_labels"]) == (13, 6, 2)
    assert list(found["encoders"]) == ["model", "untrained", "linear_map", "pixels"]
    assert found["encoders"]["untrained"]["gain_over_untrained"] is None
    gain = found["encoders"]["linear_map"]["gain_over_untrained"]
    assert found["encoders"]["pixels"]["readout_psnr"] is None
    assert set(summary["verdict"]["features"]["model_minus"]) == {"untrained", "linear_map", "pixels"}
    assert list(summary["verdict"]["reconstruction"]["model_minus"]) == ["linear_map"]
    psnr = {name: encoder["readout_psnr"] for name, encoder in found["encoders"].items()}
    assert gain["mean"] == pytest.approx(psnr["linear_map"] - psnr["untrained"])
    assert 0.3 < found["label_chance"] < 0.8
    assert found["encoders"]["model"]["label_accuracy"] == 1.0  # dark and bright are easily told apart


def test_labels_are_the_folders_of_images_below_train_and_test() -> None:
    assert label_of("cat/1.jpg") == label_of("train/cat/1.jpg") == label_of("test/cat/2.jpg") == "cat"
    assert label_of("1.jpg") == label_of("train/1.jpg") == ""
    assert label_of("pets/cat/1.jpg") == "pets/cat"
    assert are_labels(["cat", "cat", "dog", "dog"])
    assert not are_labels(["cat", "cat"])
    assert not are_labels(["a", "b", "c"])  # a folder for each image says nothing


@pytest.mark.usefixtures("no_pictures")
def test_an_imagenet_encoder_that_cannot_be_had_is_told_and_left_out(
    evaluated: Workspace, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Workspace(tmp_path)
    shutil.copytree(evaluated.checkpoints, space.checkpoints)

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "nothing"))
    warnings: list[str] = []

    class Listening(SilentReporter):
        def warning(self, text: str) -> None:
            warnings.append(text)

    settings = tiny(imagenet_reference=True, **SMALL)
    result = evaluate(space, settings, space.checkpoints / "model", None, Listening())
    assert any("evaluating without the ImageNet encoder" in text for text in warnings)
    assert list(result.summary["encoders"]["encoders"]) == ["model", "untrained", "linear_map", "pixels"]


@pytest.mark.usefixtures("no_pictures")
def test_an_imagenet_encoder_whose_weights_are_here_stands_beside_the_others(
    evaluated: Workspace, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    vgg16 = build_autoencoder(make_plan("vgg16", (32, 32, 3)), seed=1)
    monkeypatch.setattr("fext.jobs.encoders.has_imagenet_weights", lambda _: True)
    monkeypatch.setattr("fext.jobs.encoders.imagenet_encoder_weights", lambda *_: vgg16.encoder.state_dict())
    result = evaluate(evaluated, tiny(**SMALL), evaluated.checkpoints / "model", None, QUIET)
    found = result.summary["encoders"]["encoders"]
    assert list(found) == ["model", "untrained", "linear_map", "imagenet_vgg16", "pixels"]
    assert 0 < found["imagenet_vgg16"]["readout_psnr"] < 120
    assert "VGG16 trained on ImageNet" in (result.folder / "report.html").read_text(encoding="utf-8")

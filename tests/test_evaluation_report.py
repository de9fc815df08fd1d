"""The page of an evaluation says in words what the numbers say, and shows any file name as text."""

from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from fext.model.latent_statistics import LatentSummary
from fext.pictures.evaluation_report import EvaluationReport, Placed, evaluation_page, verdicts
from fext.pictures.figures import Pair

EVIL = '<script>alert(1)</script>.png\n",'


def value(mean: float, margin: float = 0.1) -> dict[str, float]:
    return {
        "mean": mean,
        "mean_low": mean - margin,
        "mean_high": mean + margin,
        "std": 1.0,
        "min": 0.0,
        "max": 1.0,
    }


def scores(psnr: float) -> dict[str, dict[str, float]]:
    return {"mse": value(0.001), "mae": value(0.02), "psnr": value(psnr), "ssim": value(0.9, 0.01)}


def make_summary(gain: float = 1.0, gap: float = 0.05, **latent: Any) -> dict[str, Any]:
    subset = {
        "num_images": 2,
        "model": scores(30),
        "linear_map": scores(30 - gain),
        "mean_image": scores(12),
        "model_minus_linear_map": {"psnr": value(gain)},
    }
    found = {"dead_channels": [], "redundant_channels": [], "num_channels": 4, "effective_rank": 3.2} | latent
    return {
        "checkpoint": "model",
        "architecture": "redux",
        "source": "/data/images",
        "num_images": 4,
        "interval_groups": {"by": "none", "num_groups": 4, "sentence": "Intervals take the images for independent."},
        "subsets": {"train": subset, "test": subset},
        "train_minus_test": {"psnr": value(gap)},
        "latent": found,
        "rejected": [],
    }


def encoders(gain: float, accuracy: float | None = None, above: float = 0.2) -> dict[str, Any]:
    """What an evaluation says of encoders; by labels the model is `above` pixels, and 0.3 above the untrained one."""
    told = None if accuracy is None else value(accuracy)
    judged = {
        "readout_psnr": 25.0, "effective_rank": 3.0, "label_accuracy": accuracy, "label_accuracy_interval": told,
        "label_accuracy_model_minus": None if accuracy is None else value(0.3),
    }  # fmt: skip
    return {
        "num_train": 2,
        "num_test": 2,
        "num_labels": 0 if accuracy is None else 2,
        "label_chance": None if accuracy is None else 0.5,
        "encoders": {
            "model": judged | {"gain_over_untrained": value(gain)},
            "untrained": judged | {"gain_over_untrained": None, "label_accuracy": None if accuracy is None else 0.6},
        }
        | ({} if accuracy is None else {"pixels": _pixels(above)}),
    }


def _pixels(above: float) -> dict[str, Any]:
    nothing = dict.fromkeys(("readout_psnr", "gain_over_untrained", "effective_rank"))
    return nothing | {"label_accuracy": 0.5, "label_accuracy_model_minus": value(above)}


def test_it_begins_with_the_reconstruction_beside_the_linear_map() -> None:
    first, _, third, *_ = verdicts(make_summary(gain=1.0))
    assert first == (
        "Training helped reconstruction: 30.00 dB PSNR of test images, 1.00 dB (0.90 to 1.10) more than a linear map."
    )
    assert third == (
        "Test images are reconstructed at 30.00 dB (29.90 to 30.10) PSNR and an SSIM of 0.900 (0.890 to 0.910)."
    )


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (-1.0, "did not help reconstruction: 30.00 dB PSNR of test images, 1.00 dB (0.90 to 1.10) less than a linear"),
        (0.05, "cannot be told: 30.00 dB PSNR of test images, +0.05 dB (-0.05 to +0.15) compared with a linear map"),
    ],
)
def test_a_difference_that_cannot_be_told_is_not_called_one(gain: float, said: str) -> None:
    assert said in verdicts(make_summary(gain=gain))[0]


def test_a_gap_between_train_and_test_is_named_only_where_there_is_one() -> None:
    assert "no difference can be told" in verdicts(make_summary(gap=0.05))[3]
    assert "one of up to 0.15 dB cannot be ruled out" in verdicts(make_summary(gap=0.05))[3]
    assert "better than train images, by +1.00 dB" in verdicts(make_summary(gap=-1.0))[3]
    assert "learned them by heart" in verdicts(make_summary(gap=1.0))[3]


def test_of_too_few_images_nothing_is_claimed() -> None:
    summary = make_summary()
    summary["train_minus_test"] = {"psnr": {"mean": 15.0, "mean_low": None, "mean_high": None}}
    assert verdicts(summary)[3].startswith("There are too few images to tell")


def test_then_comes_whether_training_helped_the_features() -> None:
    assert verdicts(make_summary())[1].startswith("Nothing says whether training helped the features:")
    assert verdicts(make_summary() | {"encoders": encoders(2.0)})[1] == (
        "Training helped the features: 25.00 dB PSNR of what a linear readout gets out of the latent, 2.00 dB (1.90 to "
        "2.10) more than before training."
    )
    assert verdicts(make_summary() | {"encoders": encoders(2.0, 0.9)})[1:3] == [
        "Training helped the features: 90.0 % of test images have the label of the nearest train images, 30.0 points "
        "(20.0 to 40.0) more than before training.",
        "Pixels are behind by 20.0 points (10.0 to 30.0).",
    ]
    ahead = verdicts(make_summary() | {"encoders": encoders(2.0, 0.5, above=-0.2)})
    assert ahead[1] == (
        "Pixels are better than this model by 20.0 points (10.0 to 30.0): its features are not worth using for telling "
        "folders apart."
    )
    assert ahead[2].startswith("Training did not help the features enough: 50.0 % of")


def test_an_evaluation_of_an_earlier_version_is_judged_by_the_readout() -> None:
    old = encoders(2.0, 0.9)
    del old["encoders"]["pixels"]
    for encoder in old["encoders"].values():
        del encoder["label_accuracy_interval"], encoder["label_accuracy_model_minus"]
    assert "linear readout" in verdicts(make_summary() | {"encoders": old})[1]


def test_dead_and_redundant_channels_and_rejected_images_are_told() -> None:
    lines = verdicts(make_summary(dead_channels=[1], redundant_channels=[2, 3]))
    assert "Of the 4 latent channels 1 are dead and 2 redundant; their effective rank is 3 of 4." in lines
    rejected = [{"image": "a.jpg", "reason": "truncated"}, {"image": "b.jpg", "reason": "empty"}]
    assert any("a.jpg (truncated) and 1 others" in line for line in verdicts(make_summary() | {"rejected": rejected}))


class Text(HTMLParser):
    """What a page shows, and what it would load or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.shown: list[str] = []
        self.links: list[str] = []
        self.num_scripts = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.num_scripts += tag == "script"
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


def make_report() -> EvaluationReport:
    image = np.full((16, 16, 1), 0.5, np.float32)
    thumbnail = np.zeros((8, 8, 3), np.uint8)
    names = [EVIL, "b.png", "c.png", "d.png"]
    subsets = np.array(["train", "test", "train", "test"])
    return EvaluationReport(
        summary=make_summary() | {"encoders": encoders(1.0, 0.9), "kept_channels": {1: 20.0, 4: 30.0}},
        training={"architecture": "redux"},
        history=[{"epoch": 1, "train_loss": 0.1, "validation_loss": 0.2}],
        names=names,
        subsets=subsets,
        scores={"model": np.arange(16.0).reshape(4, 4), "linear_map": np.arange(16.0).reshape(4, 4) / 2},
        shown="test",
        pairs={"worst": [Pair(EVIL, "PSNR 12 dB", image, image)]},
        error_map=np.ones((16, 16)),
        region_errors=np.ones((2, 2)),
        region_ssim=np.ones((2, 2)),
        latent=LatentSummary(4, 9, (), (), 3.0, 3, 0.0, 0.0, 1.0, (0.0,) * 4, (1.0,) * 4, (0.25,) * 4),
        neighbours=[[(thumbnail, EVIL, "test image"), (thumbnail, "b.png", "train, 0.9")]],
        placed=Placed(names, subsets, ["cat", "cat", "dog", ""], np.stack([thumbnail] * 4), {"PCA": np.eye(4)[:, :2]}),
    )


def test_the_page_has_every_section_and_loads_nothing() -> None:
    page = Text("".join(evaluation_page(make_report())))
    shown = "".join(page.shown)
    for section in (
        "In short", "Scores", "Reconstructions", "Where the errors lie", "Every image", "Did training help?",
        "The latent", "Nearest neighbours", "Maps of the latent", "Fewer channels", "How it was trained",
    ):  # fmt: skip
        assert section in shown
    assert all(link.startswith(("#", "data:image/")) for link in page.links)


def test_a_file_name_is_text_whatever_it_holds() -> None:
    text = "".join(evaluation_page(make_report()))
    assert "<script>alert" not in text
    assert "<script>alert(1)</script>.png" in "".join(Text(text).shown)


def test_the_same_findings_make_the_same_page() -> None:
    assert "".join(evaluation_page(make_report())) == "".join(evaluation_page(make_report()))

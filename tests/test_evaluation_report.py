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


def encoders(gain: float, accuracy: float | None = None) -> dict[str, Any]:
    judged = {"readout_psnr": 25.0, "effective_rank": 3.0, "label_accuracy": accuracy}
    return {
        "num_train": 2,
        "num_test": 2,
        "num_labels": 0 if accuracy is None else 2,
        "label_chance": None if accuracy is None else 0.5,
        "encoders": {
            "model": judged | {"gain_over_untrained": value(gain)},
            "untrained": judged | {"gain_over_untrained": None, "label_accuracy": None if accuracy is None else 0.6},
        },
    }


def test_the_scores_stand_with_their_intervals_and_beside_the_linear_map() -> None:
    first, second, *_ = verdicts(make_summary(gain=1.0))
    assert first == (
        "Test images are reconstructed at 30.00 dB (29.90 to 30.10) PSNR and an SSIM of 0.900 (0.890 to 0.910)."
    )
    assert second == "Beside the linear map of equal latent size the model is better by +1.00 dB (+0.90 to +1.10)."


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (-1.0, "the model is worse by -1.00 dB (-1.10 to -0.90)."),
        (0.001, "the model is as good, to 0.01 dB."),
        (0.05, "the model is neither better nor worse, as far as can be told (+0.05 dB (-0.05 to +0.15))."),
    ],
)
def test_a_difference_that_cannot_be_told_is_not_called_one(gain: float, said: str) -> None:
    assert verdicts(make_summary(gain=gain))[1].endswith(said)


def test_a_gap_between_train_and_test_is_named_only_where_there_is_one() -> None:
    assert "no difference can be told" in verdicts(make_summary(gap=0.05))[2]
    assert "one of up to 0.15 dB cannot be ruled out" in verdicts(make_summary(gap=0.05))[2]
    assert "better than train images, by +1.00 dB" in verdicts(make_summary(gap=-1.0))[2]
    assert "learned them by heart" in verdicts(make_summary(gap=1.0))[2]


def test_of_too_few_images_nothing_is_claimed() -> None:
    summary = make_summary()
    summary["train_minus_test"] = {"psnr": {"mean": 15.0, "mean_low": None, "mean_high": None}}
    assert verdicts(summary)[2].startswith("There are too few images to tell")


def test_it_says_whether_training_helped_and_whether_labels_are_told_apart() -> None:
    lines = verdicts(make_summary() | {"encoders": encoders(2.0, 0.9)})
    assert (
        "Beside the same encoder before training, what a linear readout gets out of its latent is better by +2.00 dB "
        "(+1.90 to +2.10)." in lines
    )
    assert any("in 90% of cases; before training 60%, and 50% by always naming the commonest" in line for line in lines)
    assert not any("label" in line for line in verdicts(make_summary() | {"encoders": encoders(2.0)}))


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

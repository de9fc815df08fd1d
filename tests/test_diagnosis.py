"""Hints: what a history says about a run, and silence where all is well."""

import pytest

from fext.jobs.diagnosis import Outlook, hints
from fext.pictures.figures import history_figure
from fext.reporting import SilentReporter
from fext.settings import Settings

Row = dict[str, float]


def history(train: list[float], test: list[float], **last: float) -> list[Row]:
    rows: list[Row] = [
        {
            "epoch": number, "train_loss": loss, "validation_loss": other, "dead_channels": 0.0, "waiting_seconds": 0.1,
            "seconds": 10.0,
        }
        for number, (loss, other) in enumerate(zip(train, test, strict=True), start=1)
    ]  # fmt: skip
    rows[-1] |= last
    return rows


FLAT = [0.05, 0.04, 0.031, 0.0301, 0.03, 0.03]


def test_a_run_that_went_well_gets_no_hint() -> None:
    assert hints(history(FLAT, FLAT), Settings()) == []


def test_a_validation_loss_that_rises_while_the_train_loss_falls_is_overfitting() -> None:
    found = hints(history([0.05, 0.04, 0.03, 0.02, 0.01, 0.005], [0.05, 0.04, 0.035, 0.04, 0.045, 0.05]), Settings())
    assert len(found) == 1
    assert found[0].startswith("overfitting: since epoch 3")


def test_a_validation_loss_that_still_falls_at_the_end_wants_more_epochs() -> None:
    falling = [0.06, 0.05, 0.04, 0.03, 0.02, 0.01]
    assert hints(history(falling, falling), Settings())[0].startswith("not done yet")


def test_few_epochs_say_nothing_about_a_trend() -> None:
    assert hints(history([0.06, 0.01], [0.06, 0.01]), Settings()) == []


def test_dead_channels_and_waiting_for_images_are_told() -> None:
    dead = hints(history(FLAT, FLAT, dead_channels=0.25), Settings())
    assert len(dead) == 1
    assert dead[0].startswith("25% of the latent channels are dead")
    waiting = hints(history(FLAT, FLAT, waiting_seconds=40.0), Settings())
    assert len(waiting) == 1
    assert "waiting for images: cache_images = True may help" in waiting[0]


@pytest.mark.parametrize(
    ("changes", "remedies"),
    [
        ({}, "a lower learning_rate or fewer latent_channels may help"),
        ({"activity_l1": 0.1}, "a lower learning_rate, less activity_l1 or fewer latent_channels may help"),
        ({"architecture": "cifar"}, "a lower learning_rate may help"),
        ({"architecture": "custom", "activity_l1": 0.1}, "a lower learning_rate or less activity_l1 may help"),
    ],
    ids=str,
)
def test_against_dead_channels_only_what_is_in_use_is_named(changes: dict[str, object], remedies: str) -> None:
    (hint,) = hints(history(FLAT, FLAT, dead_channels=0.25), Settings.model_validate(changes))
    assert hint.endswith(remedies)


@pytest.mark.parametrize("changes", [{"epochs": 1}, {"cache_images": True}], ids=str)
def test_a_cache_is_not_advised_where_it_cannot_help(changes: dict[str, object]) -> None:
    (hint,) = hints(history(FLAT, FLAT, waiting_seconds=40.0), Settings.model_validate(changes))
    assert hint.endswith("waiting for images: a higher num_processors may help")


# ---------------------------------------------------------------- the outlook


class Clock:
    """A time that passes as a test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("fext.jobs.diagnosis.time.perf_counter", lambda: self.now)


class Remembering(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def told(clock: Clock, *, seconds_per_batch: float, waited_per_batch: float, batches_per_epoch: int) -> list[str]:
    """What is told of a run of 4,000 images in batches of 10."""
    reporter = Remembering()
    outlook = Outlook(4000, Settings(), reporter)
    for number in range(100):
        clock.now += seconds_per_batch
        outlook.see(10, (number % batches_per_epoch + 1) * waited_per_batch)
    return reporter.lines


def test_the_time_to_go_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = told(Clock(monkeypatch), seconds_per_batch=2.0, waited_per_batch=0.1, batches_per_epoch=400)
    assert lines == ["about 13 min to go at 5.0 images/s"]


def test_a_run_that_is_soon_over_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(Clock(monkeypatch), seconds_per_batch=0.1, waited_per_batch=0.0, batches_per_epoch=400) == []


@pytest.mark.parametrize("batches_per_epoch", [3, 400])
def test_waiting_for_images_is_told_with_what_may_help(monkeypatch: pytest.MonkeyPatch, batches_per_epoch: int) -> None:
    lines = told(Clock(monkeypatch), seconds_per_batch=2.0, waited_per_batch=1.0, batches_per_epoch=batches_per_epoch)
    assert lines[1:] == [
        "50% of the time goes by waiting for images: cache_images = True may help, or a higher num_processors"
    ]


# ---------------------------------------------------------------- the picture


def test_a_short_and_flat_history_can_be_read_off_its_picture() -> None:
    row = {"epoch": 1, "learning_rate": 0.001}
    row |= {"train_loss": 0.00109, "validation_loss": 0.00091, "train_psnr": 29.6, "validation_psnr": 30.4}
    losses, *_ = history_figure([row], "mse").axes
    low, high = losses.get_ylim()
    assert sum(low <= place <= high for place in losses.yaxis.get_majorticklocs()) >= 4
    left, right = losses.get_xlim()
    assert [place for place in losses.xaxis.get_majorticklocs() if left <= place <= right] == [1]

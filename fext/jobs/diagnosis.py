"""What a run says about itself, in words for a person: how long it will take, and how training went."""

import time
from collections.abc import Mapping, Sequence

from fext.data.split import chosen_by
from fext.jobs.forecast import duration
from fext.reporting import Reporter
from fext.settings import Settings

_MANY_DEAD, _MUCH_WAITING = 0.1, 0.25
_RISEN, _STILL_FALLING = 1.03, 0.01
_MIN_EPOCHS = 5  # fewer say nothing about a trend
_SECONDS_TO_MEASURE = 15.0


class Outlook:
    """Tells once, when training has gone on for a while, how long the rest will take and whether it waits for images.

    It only measures: nothing about the run follows from it. A run that is over before then needs no outlook.
    """

    def __init__(self, num_images: int, settings: Settings, reporter: Reporter) -> None:
        self._num_left, self._settings, self._reporter = num_images, settings, reporter
        self._num_images = 0
        self._began_at: float | None = None
        self._waited = self._waited_in_epoch = 0.0
        self._told = False

    def see(self, num_images: int, waited_in_epoch: float) -> None:
        """Take note of a batch of so many images and of the seconds its epoch has waited; the first does not count."""
        self._num_left -= num_images
        begins = waited_in_epoch < self._waited_in_epoch
        waited = waited_in_epoch - (0.0 if begins else self._waited_in_epoch)
        self._waited_in_epoch = waited_in_epoch
        if self._began_at is None:
            self._began_at = time.perf_counter()
            return
        self._num_images, self._waited = self._num_images + num_images, self._waited + waited
        if not self._told and time.perf_counter() - self._began_at >= _SECONDS_TO_MEASURE:
            self._told = True
            self._tell(time.perf_counter() - self._began_at)

    def _tell(self, seconds: float) -> None:
        rate = self._num_images / seconds
        self._reporter.message(f"about {duration(self._num_left / rate)} to go at {rate:.1f} images/s")
        if self._waited > _MUCH_WAITING * seconds:
            remedy = _against_waiting(self._settings)
            self._reporter.message(f"{self._waited / seconds:.0%} of the time goes by waiting for images: {remedy}")


def hints(history: Sequence[Mapping[str, float]], settings: Settings) -> list[str]:
    """Lines about overfitting, underfitting, dead latent channels and waiting for images; none where all is well."""
    last = history[-1]
    found = [*_fit_hints(history)]
    if last["dead_channels"] > _MANY_DEAD:
        found.append(
            f"{last['dead_channels']:.0%} of the latent channels are dead, always of one value: "
            f"{_against_dead_channels(settings)} may help"
        )
    waiting = sum(row["waiting_seconds"] for row in history) / max(sum(row["seconds"] for row in history), 1e-9)
    if waiting > _MUCH_WAITING:
        found.append(f"{waiting:.0%} of the time went by waiting for images: {_against_waiting(settings)}")
    return found


def _against_dead_channels(settings: Settings) -> str:
    remedies = ["a lower learning_rate"]
    remedies += ["less activity_l1"] if settings.activity_l1 else []
    remedies += ["fewer latent_channels"] if settings.architecture not in ("cifar", "custom") else []
    return " or ".join([", ".join(remedies[:-1]), remedies[-1]] if len(remedies) > 1 else remedies)


def _against_waiting(settings: Settings) -> str:
    """A cache is of no use to a single epoch."""
    if settings.cache_images or settings.epochs == 1:
        return "a higher num_processors may help"
    return "cache_images = True may help, or a higher num_processors"


def _fit_hints(history: Sequence[Mapping[str, float]]) -> list[str]:
    if len(history) < _MIN_EPOCHS:
        return []
    side = chosen_by(history[-1])
    column = f"{side}_loss"
    best = min(history, key=lambda row: row[column])
    last = history[-1]
    if last[column] > _RISEN * best[column] and last["train_loss"] < best["train_loss"]:
        return [
            f"overfitting: since epoch {best['epoch']:.0f} the {side} loss has risen while the train loss fell; more "
            f"images, augmentation, weight_decay or dropout_rate may help"
        ]
    before = history[-1 - max(1, len(history) // 10)]
    if last is best and last[column] < (1 - _STILL_FALLING) * before[column]:
        return [
            f"not done yet: the {side} loss was still falling at the end; more epochs may help (resume extends a run)"
        ]
    return []

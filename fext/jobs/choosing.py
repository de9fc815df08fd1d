"""Choosing the images to train and test on: good ones, in the seeded order, the rejected named and counted."""

from dataclasses import dataclass

from fext.data.dataset import ImageStream
from fext.data.images import Preprocessing
from fext.data.source import ImageSource
from fext.data.split import Split, sampling_order
from fext.errors import SourceError
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store.index import CheckedImages
from fext.store.workspace import Workspace

_BATCH_SIZE = 16


@dataclass(frozen=True)
class Chosen:
    """Good images as (name, checksum), in sampling order, and how many were rejected on the way."""

    images: list[tuple[str, str]]
    num_rejected: int


@dataclass(frozen=True)
class _Search:
    """Where images are looked for, and what is remembered of them."""

    source: ImageSource
    preprocessing: Preprocessing
    num_processors: int
    memory: CheckedImages
    reporter: Reporter

    def look_at(self, names: list[str]) -> None:
        """Decode images not seen before and remember whether they are good."""
        paths = [self.source.path(name) for name in names]
        processors = self.num_processors if len(names) > _BATCH_SIZE else 1
        stream = ImageStream(paths, self.preprocessing, batch_size=_BATCH_SIZE, num_processors=processors)
        with self.reporter.progress("looking at images", len(names)) as progress:
            for batch in stream.epoch():
                for position, sha256 in zip(batch.positions, batch.checksums, strict=True):
                    self.memory.remember(paths[position], sha256, "")
                for position, reason in batch.rejected:
                    self.memory.remember(paths[position], "", reason)
                progress.advance(len(batch.positions) + len(batch.rejected))

    def walk(self, names: list[str], wanted: int) -> Chosen:
        """Go through the names until enough are good; one that replaces a rejected one is looked at when it comes."""
        good: list[tuple[str, str]] = []
        num_rejected = 0
        for name in names:
            if len(good) == wanted:
                break
            path = self.source.path(name)
            if self.memory.recall(path) is None:
                self.look_at([name])
            checked = self.memory.recall(path)
            if checked is None or checked.reason:
                num_rejected += 1
                reason = checked.reason if checked else "it changed while it was read"
                self.reporter.warning(f"rejected: {name} ({reason})")
            else:
                good.append((name, checked.sha256))
        return Chosen(good, num_rejected)


def choose_images(
    workspace: Workspace,
    settings: Settings,
    source: ImageSource,
    preprocessing: Preprocessing,
    num_processors: int,
    reporter: Reporter,
) -> Chosen:
    """Walk the seeded order until as many images are good as the settings ask for.

    Unchanged files that were looked at before are not decoded again. Raises SourceError where there are no images.
    """
    if not source.names:
        raise SourceError(
            f"{source.describe_empty()}: put pictures there, or make sample images with 'python featext.py samples' "
            f"and name them with --images data/samples"
        )
    search = _Search(source, preprocessing, num_processors, CheckedImages(workspace.checked_images), reporter)
    order = sampling_order(source.names, settings.split_seed)
    wanted = settings.num_train_samples + settings.num_test_samples
    unknown = [name for name in order[:wanted] if search.memory.recall(source.path(name)) is None]
    if unknown:
        search.look_at(unknown)
    chosen = search.walk(order, wanted)
    search.memory.save()
    return chosen


def say_split(split: Split, settings: Settings, source: ImageSource, reporter: Reporter) -> None:
    """Tell how many images stand on each side, and where that differs from what was asked."""
    asked = settings.num_train_samples + settings.num_test_samples
    reporter.message(f"{len(split.train)} images to train on, {len(split.test)} to test on, from {source.location}")
    if len(split.train) + len(split.test) < asked:
        reporter.message(f"(fewer than the {asked} that num_train_samples + num_test_samples ask for: all are used)")
    if source.num_not_images:
        reporter.message(f"{source.num_not_images} other files are not images")

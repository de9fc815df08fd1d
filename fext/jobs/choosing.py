"""Choosing the images to train and test on: good ones, in the seeded order, the rejected named and counted."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fext.data.images import Preprocessing
from fext.data.source import ImageSource
from fext.data.split import TEST_FOLDER, TRAIN_FOLDER, Split, sampling_order, split_by_folder, split_images
from fext.errors import SourceError
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store.index import CheckedImage, CheckedImages
from fext.store.workspace import Workspace

if TYPE_CHECKING:
    from fext.data.dataset import Batch

WHERE_TO_GET_IMAGES = (
    "put pictures there, or make sample images with 'python featext.py samples' and name "
    "them with --images data/samples"
)
_BATCH_SIZE = 16


@dataclass(frozen=True)
class Chosen:
    """The split, the SHA-256 of each of its images, and how many images were rejected on the way."""

    split: Split
    checksums: dict[str, str]
    num_rejected: int


@dataclass
class _Search:
    """Where images are looked for, what is remembered of them, and what was met on the way."""

    source: ImageSource
    preprocessing: Preprocessing
    num_processors: int
    memory: CheckedImages
    reporter: Reporter
    num_rejected: int = 0
    rejected: dict[str, str] = field(default_factory=dict)  # name -> reason: one without a file is not remembered

    def choose(self, names: list[str], wanted: int, num_contents: int = 1) -> list[tuple[str, str]]:
        """The first `wanted` good images as (name, checksum); all good ones where there are fewer.

        Where these have fewer than num_contents different contents, the last place is for the next image that differs.
        """
        self._look_at([name for name in names[:wanted] if self._known(name) is None])
        good: list[tuple[str, str]] = []
        contents: set[str] = set()
        for name in names:
            if len(good) >= wanted and len(contents) >= num_contents:
                break
            if sha256 := self._checksum(name):
                good.append((name, sha256))
                contents.add(sha256)
        return good if len(good) <= wanted else [*good[: wanted - 1], good[-1]]

    def _look_at(self, names: list[str]) -> None:
        """Decode images not seen before and remember whether they are good."""
        if not names:
            return
        from fext.data.dataset import ImageStream  # torch takes seconds to load, and most often all is known

        processors = self.num_processors if len(names) > _BATCH_SIZE else 1
        stream = ImageStream(
            self.source.root, names, self.preprocessing, batch_size=_BATCH_SIZE, num_processors=processors
        )
        with self.reporter.progress("looking at images", len(names)) as progress:
            for batch in stream.epoch():
                refuse_vanished(self.source, names, batch)
                self.memory.remember(
                    (self.source.path(names[file.position]), file.state, CheckedImage(file.sha256, file.reason))
                    for file in (*batch.files, *batch.rejected)
                )
                self.rejected |= {names[file.position]: file.reason for file in batch.rejected}
                progress.advance(batch.num_files)

    def _checksum(self, name: str) -> str:
        """The checksum of a good image, empty for a rejected one; looked at where it replaces a rejected one."""
        checked = self._known(name)
        if checked is None:
            self._look_at([name])
            checked = self._known(name) or CheckedImage("", "the file changed while it was read")
        if checked.reason:
            self.num_rejected += 1
            self.reporter.warning(f"rejected: {name} ({checked.reason})")
            return ""
        return checked.sha256

    def _known(self, name: str) -> CheckedImage | None:
        if name in self.rejected:
            return CheckedImage("", self.rejected[name])
        return self.memory.recall(self.source.path(name))


def refuse_vanished(source: ImageSource, names: Sequence[str], batch: "Batch") -> None:
    """Raise SourceError where images are missing because their folder is: they are not bad, and may come back."""
    for file in batch.rejected:
        if not source.is_there(names[file.position]):
            folder = source.path(names[file.position]).parent
            raise SourceError(f"{folder} is gone or empty now: bring its images back and start again")


def choose_split(
    workspace: Workspace,
    settings: Settings,
    source: ImageSource,
    preprocessing: Preprocessing,
    num_processors: int,
    reporter: Reporter,
) -> Chosen:
    """Walk the seeded order until as many images are good as the settings ask for, and divide them.

    Unchanged files that were looked at before are not decoded again. Raises SourceError where there are no images or,
    with split = 'folders', not those folders; TooFewImagesError where one side would be empty.
    """
    if not source.names:
        raise SourceError(f"{source.describe_empty()}: {WHERE_TO_GET_IMAGES}")
    memory = CheckedImages(workspace.checked_images)
    search = _Search(source, preprocessing, num_processors, memory, reporter)
    try:
        divide = _choose_by_folder if settings.split == "folders" else _choose_at_random
        split, images = divide(search, settings)
    finally:
        memory.close()
    return Chosen(split, dict(images), search.num_rejected)


def _choose_at_random(search: _Search, settings: Settings) -> tuple[Split, list[tuple[str, str]]]:
    order = sampling_order(search.source.names, settings.split_seed)
    images = search.choose(order, settings.num_train_samples + settings.num_test_samples, num_contents=2)
    return split_images(images, settings.num_train_samples, settings.num_test_samples), images


def _choose_by_folder(search: _Search, settings: Settings) -> tuple[Split, list[tuple[str, str]]]:
    sides = []
    for folder, wanted in ((TRAIN_FOLDER, settings.num_train_samples), (TEST_FOLDER, settings.num_test_samples)):
        names = [name for name in search.source.names if name.startswith(folder)]
        if not names:
            raise SourceError(
                f"split = 'folders', but there are no images in {search.source.path(folder)}: put them into the "
                f"folders train and test, or set split to 'random'"
            )
        sides.append(search.choose(sampling_order(names, settings.split_seed), wanted))
    split, copies = split_by_folder(*sides)
    for name in copies:
        search.reporter.warning(f"left out: {name} (the same file is in {TEST_FOLDER})")
    num_elsewhere = sum(not name.startswith((TRAIN_FOLDER, TEST_FOLDER)) for name in search.source.names)
    if num_elsewhere:
        search.reporter.warning(f"{num_elsewhere} images are neither in train nor in test: they are not used")
    return split, [*sides[0], *sides[1]]


def say_split(split: Split, settings: Settings, source: ImageSource, reporter: Reporter) -> None:
    """Tell how many images stand on each side, and where that differs from what was asked."""
    asked = settings.num_train_samples + settings.num_test_samples
    reporter.message(f"{len(split.train)} images to train on, {len(split.test)} to test on, from {source.location}")
    if len(split.train) + len(split.test) < asked:
        reporter.message(f"(fewer than the {asked} that num_train_samples + num_test_samples ask for: all are used)")
    if source.num_not_images:
        reporter.message(f"other files, which are not images: {source.num_not_images}")

"""Choosing the images to train and test on: good ones, in the seeded order, the rejected named and counted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fext.data.duplicates import group_copies, hashes_from_bytes, small_pictures
from fext.data.looks import look_at_file
from fext.data.names import Names
from fext.data.readers import map_in_processes, num_processes
from fext.data.source import ImageSource
from fext.data.split import TEST_FOLDER, TRAIN_FOLDER, Split, num_across, sampling_order, split_by_folder, split_images
from fext.errors import SourceError
from fext.reporting import Reporter, counted, counting
from fext.settings import Settings
from fext.store.index import CheckedImage, CheckedImages
from fext.store.workspace import Workspace

if TYPE_CHECKING:
    from fext.data.dataset import Batch

WHERE_TO_GET_IMAGES = (
    "put pictures there, or make sample images with 'python featext.py samples' and name "
    "them with --images data/samples"
)
_BATCH_SIZE = 16  # images that are looked at between two saves
_MANY = 256  # images that are worth the start of processes


class _Images(NamedTuple):
    """Good images: their names, and of each a SHA-256 of 32 bytes and a perceptual hash of 8, one behind the other."""

    names: Names
    digests: bytes
    hashes: bytes

    @property
    def checksums(self) -> NDArray[np.bytes_]:
        return np.frombuffer(self.digests, "S32")

    def followed_by(self, others: "_Images") -> "_Images":
        names = Names((*self.names.iter_bytes(), *others.names.iter_bytes()))
        return _Images(names, self.digests + others.digests, self.hashes + others.hashes)


@dataclass(frozen=True)
class Chosen:
    """The split, the images it was made of, and those that were rejected on the way, each with the reason."""

    split: Split
    images: _Images
    rejected: list[tuple[str, str]]

    def checksums(self) -> dict[str, str]:
        """The SHA-256 of each image by its name."""
        digests = (self.images.digests[start : start + 32] for start in range(0, len(self.images.digests), 32))
        return {name: digest.hex() for name, digest in zip(self.images.names, digests, strict=True)}


@dataclass
class _Search:
    """Where images are looked for, what is remembered of them, and what was met on the way."""

    source: ImageSource
    num_processors: int
    memory: CheckedImages
    reporter: Reporter
    rejected: list[tuple[str, str]] = field(default_factory=list)  # name and reason, in the order they were met
    reasons: dict[str, str] = field(default_factory=dict)  # by name: an image without a file is not remembered

    def choose(self, names: Names, wanted: int, num_contents: int = 1) -> _Images:
        """The first `wanted` good images; all good ones where there are fewer.

        Where these have fewer than num_contents different contents, the last place is for the next image that differs.
        """
        self._look_at_unknown(names[:wanted])
        places: list[int] = []
        digests, hashes = bytearray(), bytearray()
        contents: set[str] = set()  # as many as are asked for
        for place, name in enumerate(names):
            if len(places) >= wanted and len(contents) >= num_contents:
                break
            checked = self._checked(name)
            if checked.reason:
                continue
            if len(places) == wanted:
                del places[-1], digests[-32:], hashes[-8:]
            places.append(place)
            digests += bytes.fromhex(checked.sha256)
            hashes += checked.perceptual_hash or bytes(8)
            if len(contents) < num_contents:
                contents.add(checked.sha256)
        return _Images(names.select(places), bytes(digests), bytes(hashes))

    def _look_at_unknown(self, names: Names) -> None:
        """Look at those of which nothing is known that holds."""
        unknown = []
        with self.reporter.progress("comparing images", len(names)) as progress:
            known = counting(self.memory.knows(map(self.source.path, names)), progress)
            for name, is_known in zip(names, known, strict=True):
                if not is_known and name not in self.reasons:
                    unknown.append(name)
        self._look_at(unknown)

    def _look_at(self, names: list[str]) -> None:
        """Decode images not seen before and remember whether they are good."""
        if not names:
            return
        processors = self.num_processors if len(names) >= _MANY else 1
        seen = zip(names, map_in_processes(look_at_file, map(self.source.path, names), processors), strict=True)
        with self.reporter.progress("looking at images", len(names)) as progress:
            while batch := list(islice(seen, _BATCH_SIZE)):
                rejected = {name: looks.reason for name, looks in batch if looks.reason}
                refuse_missing(self.source, rejected)
                self.memory.remember(
                    (self.source.path(name), looks.state, CheckedImage(*looks[1:])) for name, looks in batch
                )
                self.reasons |= rejected
                progress.advance(len(batch))

    def copies(self, images: _Images) -> list[list[int]]:
        """The places of those that are copies of one another; small pictures are read only where hashes are near."""

        def pictures_of(places: NDArray[np.intp]) -> NDArray[np.uint8]:
            return small_pictures([self.memory.small(self.source.path(images.names[place])) for place in places])

        return group_copies(images.checksums, hashes_from_bytes(images.hashes), pictures_of)

    def _checked(self, name: str) -> CheckedImage:
        """What is known of an image; looked at where it replaces a rejected one."""
        checked = self._known(name)
        if checked is None:
            self._look_at([name])
            checked = self._known(name) or CheckedImage("", "the file changed while it was read")
        if checked.reason:
            self.rejected.append((name, checked.reason))
            self.reporter.warning(f"rejected: {name} ({checked.reason})")
        return checked

    def _known(self, name: str) -> CheckedImage | None:
        if name in self.reasons:
            return CheckedImage("", self.reasons[name])
        return self.memory.recall(self.source.path(name))


def refuse_vanished(source: ImageSource, names: Sequence[str], batch: "Batch") -> None:
    """Raise SourceError where images of a batch are missing because their folder is."""
    refuse_missing(source, (names[file.position] for file in batch.rejected))


def refuse_missing(source: ImageSource, rejected: Iterable[str]) -> None:
    """Raise SourceError where images are missing because their folder is: they are not bad, and may come back."""
    for name in rejected:
        if not source.is_there(name):
            folder = source.path(name).parent
            raise SourceError(f"{folder} is gone or empty now: bring its images back and start again")


def choose_split(workspace: Workspace, settings: Settings, source: ImageSource, reporter: Reporter) -> Chosen:
    """Walk the seeded order until as many images are good as the settings ask for, and divide them.

    Unchanged files that were looked at before are not decoded again. Raises SourceError where there are no images or,
    with split = 'folders', not those folders; TooFewImagesError where one side would be empty.
    """
    if not source.names:
        raise SourceError(f"{source.describe_empty()}: {WHERE_TO_GET_IMAGES}")
    memory = CheckedImages(workspace.checked_images, settings.check_contents)
    search = _Search(source, num_processes(settings.num_processors), memory, reporter)
    try:
        divide = _choose_by_folder if settings.split == "folders" else _choose_at_random
        split, images = divide(search, settings)
    finally:
        memory.close()
    return Chosen(split, images, search.rejected)


def _choose_at_random(search: _Search, settings: Settings) -> tuple[Split, _Images]:
    order = sampling_order(search.source.names, settings.split_seed)
    images = search.choose(order, settings.num_train_samples + settings.num_test_samples, num_contents=2)
    copies = search.copies(images)
    split = split_images(images.names, images.checksums, settings.num_train_samples, settings.num_test_samples, copies)
    _warn_of_copies(search, images, copies, split)
    return split, images


def _choose_by_folder(search: _Search, settings: Settings) -> tuple[Split, _Images]:
    sides: list[_Images] = []
    for folder, wanted in ((TRAIN_FOLDER, settings.num_train_samples), (TEST_FOLDER, settings.num_test_samples)):
        names = [name for name in search.source.names if name.startswith(folder)]
        if not names:
            raise SourceError(
                f"split = 'folders', but there are no images in {search.source.path(folder)}: put them into the "
                f"folders train and test, or set split to 'random'"
            )
        sides.append(search.choose(sampling_order(names, settings.split_seed), wanted))
    train, test = sides
    images = train.followed_by(test)
    copies = search.copies(images)
    split, exact, near = split_by_folder(images.names, images.checksums, len(train.names), copies)
    for left_out, why in ((exact, "the same file is"), (near, "a near copy is")):
        for name in left_out:
            search.reporter.warning(f"left out: {name} ({why} in {TEST_FOLDER})")
    _warn_of_copies(search, images, copies, split)
    num_elsewhere = sum(not name.startswith((TRAIN_FOLDER, TEST_FOLDER)) for name in search.source.names)
    if num_elsewhere:
        search.reporter.warning(f"{num_elsewhere} images are neither in train nor in test: they are not used")
    return split, images


def _warn_of_copies(search: _Search, images: _Images, copies: Sequence[Sequence[int]], split: Split) -> None:
    if count := num_across(copies, images.names, split):
        search.reporter.warning(
            f"{count} images belong to groups of near copies that stand on both sides of the split: kept together, "
            f"they would leave too few images on one side"
        )


def say_split(split: Split, settings: Settings, source: ImageSource, reporter: Reporter) -> None:
    """Tell how many images stand on each side, and where that differs from what was asked."""
    asked = settings.num_train_samples + settings.num_test_samples
    num_train, num_test = counted(len(split.train), "image"), f"{len(split.test):,}"
    reporter.message(f"{num_train} to train on, {num_test} to test on, from {source.location}")
    if len(split.train) + len(split.test) < asked:
        reporter.message(f"(fewer than the {asked} that num_train_samples + num_test_samples ask for: all are used)")
    if source.num_not_images:
        reporter.message(f"other files, which are not images: {source.num_not_images}")

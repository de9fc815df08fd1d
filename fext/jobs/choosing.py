"""Choosing the images to train, choose the epoch by and test on: good ones, in the seeded order, the rejected named."""

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
from fext.data.split import (
    SIDES,
    TEST_FOLDER,
    TRAIN_FOLDER,
    VALIDATION_FOLDER,
    Split,
    num_across,
    sampling_order,
    split_by_folder,
    split_images,
)
from fext.errors import SettingsError, SourceError
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
_AUTO_SHARE = 0.1  # of the images for training, to choose the epoch by


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

        Where these have fewer than num_contents different contents, images that repeat one, the last first, give their
        places to the next ones that differ.
        """
        self._look_at_unknown(names[:wanted])
        places: list[int] = []
        digests, hashes = bytearray(), bytearray()
        contents: set[str] = set()  # as many as are asked for
        repeated: list[int] = []  # where a content stands that was there before, until there are so many
        for place, name in enumerate(names):
            if len(places) >= wanted and len(contents) >= num_contents:
                break
            checked = self._checked(name)
            if checked.reason:
                continue
            is_repeated = checked.sha256 in contents
            if len(places) == wanted:
                if is_repeated or not repeated:
                    continue
                least = repeated.pop()
                del places[least], digests[32 * least : 32 * least + 32], hashes[8 * least : 8 * least + 8]
            if len(contents) < num_contents:
                contents.add(checked.sha256)
                repeated += [len(places)] if is_repeated else []
            places.append(place)
            digests += bytes.fromhex(checked.sha256)
            hashes += checked.perceptual_hash or bytes(8)
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
    num_train, num_test = settings.num_train_samples, settings.num_test_samples
    share = _num_for_validation(settings) / num_train
    images = search.choose(order, num_train + num_test, num_contents=len(SIDES))
    copies = search.copies(images)
    split = split_images(images.names, images.checksums, num_train, num_test, share, copies)
    _warn_of_copies(search, images, copies, split)
    return split, images


def _num_for_validation(settings: Settings) -> int:
    """How many of num_train_samples are to choose the epoch by; raises SettingsError where none is left to train on."""
    num_train, asked = settings.num_train_samples, settings.num_validation_samples
    count = max(1, round(_AUTO_SHARE * num_train)) if asked == "auto" else asked
    if count >= num_train:
        raise SettingsError(
            f"num_validation_samples = {asked!r} takes {count} of num_train_samples = {num_train} images to choose the "
            f"epoch by, and none is left to train on: set num_train_samples to {count + 1} at least"
        )
    return count


def _choose_by_folder(search: _Search, settings: Settings) -> tuple[Split, _Images]:
    num_validation = _num_for_validation(settings)
    train, validation, test = (
        [name for name in search.source.names if name.startswith(folder)]
        for folder in (TRAIN_FOLDER, VALIDATION_FOLDER, TEST_FOLDER)
    )
    for names, folder in ((train, TRAIN_FOLDER), (test, TEST_FOLDER)):
        if not names:
            raise SourceError(
                f"split = 'folders', but there are no images in {search.source.path(folder)}: put them into the "
                f"folders train and test, or set split to 'random'"
            )

    def chosen(names: list[str], wanted: int) -> _Images:
        return search.choose(sampling_order(names, settings.split_seed), wanted)

    to_choose_by = chosen(validation, num_validation)
    to_train_on = chosen(train, settings.num_train_samples - len(to_choose_by.names))
    to_test_on = chosen(test, settings.num_test_samples)
    images = to_train_on.followed_by(to_choose_by).followed_by(to_test_on)
    copies = search.copies(images)
    num_each = len(to_train_on.names), len(to_choose_by.names), len(to_test_on.names)
    share = num_validation / settings.num_train_samples
    found = split_by_folder(images.names, images.checksums, num_each, share, copies)
    for left_out, why in ((found.exact, "the same file is"), (found.near, "a near copy is")):
        for name, folder in sorted(left_out.items()):
            search.reporter.warning(f"left out: {name} ({why} in {folder})")
    _warn_of_copies(search, images, copies, found.split)
    if num_elsewhere := len(search.source.names) - len(train) - len(validation) - len(test):
        search.reporter.warning(
            f"{num_elsewhere} images are in none of the folders train, validation and test: they are not used"
        )
    return found.split, images


def _warn_of_copies(search: _Search, images: _Images, copies: Sequence[Sequence[int]], split: Split) -> None:
    if count := num_across(copies, images.names, split):
        search.reporter.warning(
            f"{count} images belong to groups of near copies that stand on several sides of the split: kept together, "
            f"they would leave too few images on one side"
        )


def say_split(split: Split, settings: Settings, source: ImageSource, reporter: Reporter) -> None:
    """Tell how many images stand on each side, and where that differs from what was asked."""
    asked = settings.num_train_samples + settings.num_test_samples
    num_train = counted(len(split.train), "image")
    reporter.message(
        f"{num_train} to train on, {len(split.validation):,} to choose the epoch by, {len(split.test):,} to test on, "
        f"from {source.location}"
    )
    if len(split.names()) < asked:
        reporter.message(f"(fewer than the {asked} that num_train_samples + num_test_samples ask for: all are used)")
    if source.num_not_images:
        reporter.message(f"other files, which are not images: {source.num_not_images}")

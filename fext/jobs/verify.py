"""Verification: is a table whole, and does it belong to its checkpoint and its images? What is wrong is named."""

import random
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fext.compute.device import keeping_freed_memory
from fext.compute.memory import LESS_TO_EVALUATE, lowering
from fext.data.images import NO_FILE, file_state
from fext.data.names import Names, name_to_bytes
from fext.data.source import ImageSource, find_images
from fext.data.unchanged import Remembered, look_again
from fext.errors import CheckpointError, ExtractionError, FextError, SourceError
from fext.jobs.encoding import encoded_batches
from fext.jobs.extraction import Extraction, remade_extraction
from fext.reporting import Reporter, counted
from fext.settings import Settings
from fext.store import extractions
from fext.store.extractions import Description
from fext.store.parts import WRITTEN, Record, Row, row_checksum
from fext.store.tables import Columns, read_rows
from fext.store.workspace import Workspace

NUM_SAMPLED = 32
_MAX_NAMED = 20
_LEAST_SIMILARITY = 0.999
_CHECKSUM = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Verification:
    """What a verification found; `problems` names the first of num_problems, `notes` what is no fault of the table."""

    name: str
    formats: tuple[str, ...]
    num_rows: int
    num_recomputed: int
    problems: tuple[str, ...]
    num_problems: int
    notes: tuple[str, ...]
    seconds: float


@dataclass
class _Findings:
    problems: list[str] = field(default_factory=list)
    num_problems: int = 0
    notes: list[str] = field(default_factory=list)

    def problem(self, text: str) -> None:
        self.num_problems += 1
        if len(self.problems) < _MAX_NAMED:
            self.problems.append(text)


@lowering(LESS_TO_EVALUATE)
@keeping_freed_memory()
def verify(
    workspace: Workspace, settings: Settings, folder: Path, everything: bool, reporter: Reporter
) -> Verification:
    """Check every row and every image against its checksum, and rows against the model.

    `everything` recomputes all rows, else a sample. Raises ExtractionError where there is no finished extraction of
    this version.
    """
    started = time.perf_counter()
    manifest = extractions.read_finished(folder)
    columns = Columns(manifest["num_features"], manifest["reconstruction_error"])
    findings = _Findings()
    if extractions.is_stopped(folder):
        findings.notes.append("an extraction into it was stopped: start it again to bring the table up to date")
    chosen = _Chosen(None if everything else _sample(manifest["counts"]["written"], settings.seed))
    try:
        _check_list(folder, manifest, findings)
        for name in manifest["formats"]:
            _check_table(folder, name, columns, manifest["counts"]["written"], findings, reporter)
        _check_files(folder, manifest, chosen, findings, reporter)
        _recompute(workspace, settings, folder, manifest, chosen, findings, reporter)
    except ExtractionError as error:
        findings.problem(str(error))
    return Verification(
        name=folder.name,
        formats=tuple(manifest["formats"]),
        num_rows=manifest["counts"]["written"],
        num_recomputed=len(chosen.names),
        problems=tuple(findings.problems),
        num_problems=findings.num_problems,
        notes=tuple(findings.notes),
        seconds=time.perf_counter() - started,
    )


def _check_list(folder: Path, manifest: Description, findings: _Findings) -> None:
    """Whether images.csv is sorted, and as long as the manifest says."""
    num_written = num_rejected = 0
    before = b""
    for record in extractions.read_records(folder):
        num_written += record.status == WRITTEN
        num_rejected += record.status != WRITTEN
        name = name_to_bytes(record.image)
        if name <= before and record.lasts:
            findings.problem(f"images.csv: {record.image} stands twice or in the wrong place")
        before = max(before, name)
    if manifest.get("images_sha256", "") not in ("", extractions.list_checksum(folder)):
        findings.problem("images.csv is not what was written")
    counts = manifest["counts"]
    if (num_written, num_rejected) != (counts["written"], counts["rejected"]):
        findings.problem(
            f"images.csv has {num_written} written and {num_rejected} rejected images, the manifest says "
            f"{counts['written']} and {counts['rejected']}"
        )
    if counts["found"] != counts["written"] + counts["rejected"]:
        findings.problem("manifest.json: images found are not rows written and images rejected")


def _written(folder: Path) -> Iterator[Record]:
    return (record for record in extractions.read_records(folder) if record.status == WRITTEN)


def _check_table(
    folder: Path, name: str, columns: Columns, num_rows: int, findings: _Findings, reporter: Reporter
) -> None:
    """Walk the rows of a table beside the images that should be there."""
    expected = _written(folder)
    due = next(expected, None)
    before = b""
    try:
        with reporter.progress(f"checking {name}", num_rows) as progress:
            for image, row in read_rows(name, folder, columns):
                key = name_to_bytes(image)
                while due is not None and name_to_bytes(due.image) < key:
                    findings.problem(f"{name}: the row of {due.image} is missing")
                    due = next(expected, None)
                if due is not None and due.image == image:
                    _check_row(name, due, row, findings)
                    due = next(expected, None)
                elif key == before:
                    findings.problem(f"{name}: the row of {image} stands there twice")
                else:
                    findings.problem(f"{name}: the row of {image} stands where it does not belong")
                before = key
                progress.advance(1)
        while due is not None:
            findings.problem(f"{name}: the row of {due.image} is missing")
            due = next(expected, None)
    except (OSError, ValueError) as error:
        findings.problem(f"{name}: the table cannot be read ({error})")


def _check_row(name: str, record: Record, row: Row | None, findings: _Findings) -> None:
    if row is None or row_checksum(row) != record.row_sha256:
        findings.problem(f"{name}: the row of {record.image} is not what was written")


def _check_files(
    folder: Path, manifest: Description, chosen: "_Chosen", findings: _Findings, reporter: Reporter
) -> None:
    """Choose among the written images whose files hold what they held.

    One that is gone or has changed is a problem, one that is new is not.
    """
    try:
        source = find_images(Path(manifest["source"]))
    except SourceError as error:
        findings.problem(f"the images cannot be compared: {error}")
        return
    num_known = number = num_unproven = 0
    with reporter.progress("checking images", manifest["counts"]["found"]) as progress:
        for record, is_there, is_same in _files(folder, source):
            progress.advance()
            num_known += is_there or not record.lasts
            num_unproven += not record.sha256 and record.lasts
            if not is_same:
                what = "not the file any more that was encoded" if is_there else "gone"
                findings.problem(f"image {record.image} is {what}")
            elif record.status == WRITTEN and _CHECKSUM.fullmatch(record.row_sha256):
                chosen.add(number, record)
            elif record.status == WRITTEN:
                findings.problem(f"images.csv: the checksum of {record.image} is none")
            number += record.status == WRITTEN
    if num_unproven:
        findings.notes.append(
            f"an earlier version kept no checksum of {counted(num_unproven, 'image')}: compared by size and time alone"
        )
    if len(source) > num_known:
        count = len(source) - num_known
        new = "1 image is new since: extract again to add it"
        findings.notes.append(new if count == 1 else f"{count} images are new since: extract again to add them")


def _files(folder: Path, source: ImageSource) -> Iterator[tuple[Record, bool, bool]]:
    """Each image of the list, whether there is a file, and whether it is the one that was encoded, if one was."""
    records = extractions.read_records(folder)
    known = (
        Remembered(record, source.path(record.image) if record.sha256 else None, record.state, record.sha256, True)
        for record in records
    )
    for record, state in look_again(known):
        path = source.path(record.image)
        is_same = state is not None or not record.lasts or (not record.sha256 and record.is_of(path))
        yield record, state is not None or file_state(path) != NO_FILE, is_same


def _sample(num_rows: int, seed: int) -> set[int]:
    return set(random.Random(seed).sample(range(num_rows), min(NUM_SAMPLED, num_rows)))


class _Chosen:
    """Images to encode again, with the checksums of their rows; those at some places, or all."""

    def __init__(self, places: set[int] | None) -> None:
        self._places = places
        self._names: list[bytes] = []
        self._checksums = bytearray()

    def add(self, place: int, record: Record) -> None:
        if self._places is None or place in self._places:
            self._names.append(name_to_bytes(record.image))
            self._checksums += bytes.fromhex(record.row_sha256)

    @property
    def names(self) -> Names:
        return Names(self._names)

    def checksum(self, place: int) -> str:
        return self._checksums[32 * place : 32 * place + 32].hex()


def _recompute(
    workspace: Workspace,
    settings: Settings,
    folder: Path,
    manifest: Description,
    chosen: "_Chosen",
    findings: _Findings,
    reporter: Reporter,
) -> None:
    """Encode images again and compare: to the bit where the table's way of computing is there, else by similarity."""
    try:
        extraction, exactly = _extraction(workspace, settings, folder, manifest, findings)
    except CheckpointError as error:
        findings.problem(str(error))
        return
    except FextError as error:
        findings.problem(f"rows cannot be computed again: {error}")
        return
    names = chosen.names
    num_same, least = 0, 1.0
    stored = _Stored(folder, manifest)
    with reporter.progress("computing rows again", len(names)) as progress:
        for place, row in _rows_again(extraction, names):
            image = names[place]
            if row is None:
                findings.problem(f"image {image} cannot be encoded again")
            elif row_checksum(row) == chosen.checksum(place):
                num_same += 1
            elif exactly:
                findings.problem(f"the row of {image} is not what {extraction.checkpoint.name} makes of it")
            elif not (similarity := _similarity(row, stored.row(image))) >= _LEAST_SIMILARITY:  # nor where it is NaN
                findings.problem(f"the row of {image} is not near what {extraction.checkpoint.name} makes of it")
            else:
                least = min(least, similarity)
            progress.advance(1)
    if not exactly:
        others = f", the others are near (least cosine similarity {least:.6f})" if least < 1 else ""
        findings.notes.append(f"{num_same} of {len(names)} rows computed again have the same bits{others}")


def _extraction(
    workspace: Workspace, settings: Settings, folder: Path, manifest: Description, findings: _Findings
) -> tuple[Extraction, bool]:
    """The extraction as it was made, and whether this machine computes it in the same way."""
    extraction, why_not_exactly = remade_extraction(workspace, settings, folder, manifest)
    if why_not_exactly:
        findings.notes.append(f"rows are compared by similarity, not to the bit ({why_not_exactly})")
    return extraction, not why_not_exactly


def _rows_again(extraction: Extraction, names: Names) -> Iterator[tuple[int, Row | None]]:
    """(place, row) of each image, encoded again; no row where it cannot be read or has none."""
    for batch, rows in encoded_batches(extraction, names):
        found = {file.position: row for file, row in zip(batch.files, rows, strict=True)}
        for position in sorted([*found, *(file.position for file in batch.rejected)]):
            yield position, found.get(position)


class _Stored:
    """The rows of a table, asked for in the order of its images; one at a time in memory."""

    def __init__(self, folder: Path, manifest: Description) -> None:
        columns = Columns(manifest["num_features"], manifest["reconstruction_error"])
        self._rows = read_rows(manifest["formats"][0], folder, columns)
        self._current: tuple[str, Row | None] = ("", None)

    def row(self, image: str) -> Row | None:
        with suppress(OSError, ValueError):  # what is wrong with the table was named before
            while name_to_bytes(self._current[0]) < name_to_bytes(image):
                self._current = next(self._rows, (image, None))
        return self._current[1] if self._current[0] == image else None


def _similarity(one: Row, other: Row | None) -> float:
    """Cosine similarity; 1 for two rows of zeros."""
    if other is None:
        return 0.0
    left, right = one.astype(np.float64), other.astype(np.float64)
    lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / lengths if lengths else float(np.array_equal(left, right))

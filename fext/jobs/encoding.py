"""Encoding a list of images into a part: read, compute and write, each while the others are at it."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from fext.compute.engines import Rows, encode_all, make_engine
from fext.data.dataset import Batch
from fext.data.names import Names
from fext.errors import ExtractionError
from fext.jobs.choosing import refuse_vanished
from fext.jobs.extraction import Extraction
from fext.jobs.streams import stream_for
from fext.reporting import Reporter
from fext.store.extractions import parts_folder
from fext.store.parts import NOT_FINITE, REJECTED, WRITTEN, Record, Row, row_checksum, writing_part

_ENOUGH_TO_JUDGE = 32  # images after which a model that gives mostly features that are not finite is given up

Results = list[tuple[Record, Row | None]]


def encode(
    extraction: Extraction,
    names: Names,
    part: tuple[int, int],
    reporter: Reporter,
    after_batch: Callable[[Results], None],
) -> float:
    """Encode images of the source, in order, into the part of that (start, rank); returns seconds to start the engine.

    What is raised on the way, a stop among it, loses no batch that after_batch has seen. Raises ExtractionError where
    most features are not finite, SourceError where the folder is gone.
    """
    began = time.perf_counter()
    batches = encoded_batches(extraction, names)
    start_seconds = time.perf_counter() - began
    num_written = num_not_finite = 0
    with writing_part(parts_folder(extraction.folder), *part) as write, _telling_of_notes(names, reporter) as see_notes:
        for batch, rows in batches:
            refuse_vanished(extraction.source, names, batch)
            see_notes(batch)
            results = _results(names, batch, rows)
            write(results)
            for record, _ in results:
                num_written += record.status == WRITTEN
                num_not_finite += record.reason == NOT_FINITE
                if record.status == REJECTED:
                    reporter.warning(f"rejected: {record.image} ({record.reason})")
            if num_written + num_not_finite >= _ENOUGH_TO_JUDGE:
                refuse_mostly_not_finite(extraction, num_written, num_not_finite)
            after_batch(results)
    return start_seconds


@contextmanager
def _telling_of_notes(names: Names, reporter: Reporter) -> Iterator[Callable[[Batch], None]]:
    """What there is to tell of good images, in one line for all that have it, however it ends."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}

    def see(batch: Batch) -> None:
        for file in batch.files:
            if file.note:
                counts[file.note] += 1
                first.setdefault(file.note, names[file.position])

    try:
        yield see
    finally:
        for note, count in counts.items():
            others = f" and {count - 1} other image{'s' if count > 2 else ''}" if count > 1 else ""
            reporter.warning(f"{first[note]}{others}: {note}")


def encoded_batches(extraction: Extraction, names: Names) -> Iterator[tuple[Batch, Rows]]:
    """Start the engine; gives each batch of the named images, in order, with the rows of those that could be read."""
    stream = stream_for(
        extraction.checkpoint, extraction.source, names, extraction.batch_size, extraction.computation, as_bytes=True
    )
    engine = make_engine(
        extraction.engine,
        extraction.checkpoint.model,
        extraction.computation,
        extraction.num_together,
        extraction.shape,
    )
    return encode_all(engine, stream.epoch())


def _results(names: Names, batch: Batch, rows: Rows) -> Results:
    """What came of each file of a batch, in order."""
    found: list[tuple[int, Record, Row | None]] = []
    for file in batch.rejected:
        record = Record(names[file.position], REJECTED, file.state, "", file.reason, file.sha256)
        found.append((file.position, record, None))
    for file, row in zip(batch.files, rows, strict=True):
        name = names[file.position]
        if np.isfinite(row).all():
            record = Record(name, WRITTEN, file.state, row_checksum(row), sha256=file.sha256)
            found.append((file.position, record, row))
        else:
            found.append((file.position, Record(name, REJECTED, file.state, "", NOT_FINITE, file.sha256), None))
    return [(record, row) for _, record, row in sorted(found, key=lambda item: item[0])]


def refuse_mostly_not_finite(extraction: Extraction, num_written: int, num_not_finite: int) -> None:
    """Raise ExtractionError where most features are not finite: the model is of no use."""
    if num_not_finite > num_written:
        raise ExtractionError(
            f"the features of {num_not_finite} of {num_written + num_not_finite} images are not finite: the model "
            f"{extraction.checkpoint.name} is of no use; train it with a lower learning_rate, or try "
            f"use_mixed_precision = False"
        )

"""The rows of an extraction as points of few dimensions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fext.compute.components import Components, Rows, add_points, learn_components
from fext.errors import ExtractionError
from fext.reporting import Reporter
from fext.store.scratch import scratch_rows


@contextmanager
def open_points(folder: Path, rows: Rows, seed: int, reporter: Reporter) -> Iterator[tuple[Components, Rows] | None]:
    """The principal components of rows (N, D), and what each row is by them, (N, K); None where all rows are equal.

    Many of them stay on the disk, in the folder, until the block ends.
    """
    components = learn_components(rows, seed)
    if components is None:
        yield None
        return
    with scratch_rows(folder, len(rows), len(components.directions)) as scratch:
        with reporter.progress("principal components", len(rows)) as progress:
            add_points(components, rows, scratch.add, progress.advance)
        yield components, scratch.rows()


def all_equal(folder: Path) -> ExtractionError:
    """What to raise where all rows are equal."""
    return ExtractionError(f"the features of all images of {folder.name} are equal: nothing tells them apart")

"""The rows of an extraction as points of few dimensions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fext.compute.components import Rows, described_components, in_blocks, learn_components
from fext.compute.normalization import Normalization, described, of_length_one
from fext.errors import ExtractionError
from fext.reporting import Reporter
from fext.store.scratch import scratch_rows


@contextmanager
def open_points(
    folder: Path, rows: Rows, normalization: Normalization | None, seed: int, reporter: Reporter
) -> Iterator[Rows | None]:
    """What each of the rows (N, D) is by principal components, (N, K); None where all rows are equal.

    Normalized and of the length 1, so that their distances go by cosine; without a normalization by components of their
    directions from the mean. Many of them stay on the disk, in the folder, until the block ends.
    """
    components = normalization or learn_components(rows, seed)
    if components is None:
        yield None
        return
    with scratch_rows(folder, len(rows), components.num_values) as scratch:
        with reporter.progress("principal components", len(rows)) as progress:
            for block in in_blocks(rows):
                points = components.of(block)
                for point in points if normalization is None else of_length_one(points):
                    scratch.add(point)
                progress.advance(len(block))
        yield scratch.rows()


def told_of_points(normalization: Normalization | None, grid: int) -> str:
    """In words what the points are."""
    return described(normalization, grid) if normalization is not None else described_components(grid)


def all_equal(folder: Path) -> ExtractionError:
    """What to raise where all rows are equal."""
    return ExtractionError(f"the features of all images of {folder.name} are equal: nothing tells them apart")

"""Pictures that are not in an extraction, encoded as its rows were, to be compared with them."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fext.compute.engines import encode_all, make_engine
from fext.data.dataset import Batch, FileRead
from fext.data.images import NO_FILE, preprocess
from fext.jobs.extraction import remade_extraction
from fext.jobs.features import averaged
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store.extractions import Description
from fext.store.workspace import Workspace

Row = NDArray[np.float32]


class OutsideEncoder:
    """The model of an extraction, with its preprocessing and engine."""

    def __init__(
        self, workspace: Workspace, settings: Settings, folder: Path, manifest: Description, reporter: Reporter
    ) -> None:
        """Raises CheckpointError where the model is gone."""
        extraction, why_not_exactly = remade_extraction(workspace, settings, folder, manifest)
        if why_not_exactly:
            reporter.message(
                f"computed in another way than the table, which makes a small difference: {why_not_exactly}"
            )
        self._grid, self._batch_size = extraction.settings.feature_grid, extraction.batch_size
        self._preprocessing = extraction.checkpoint.preprocessing
        self._engine = make_engine(
            extraction.engine,
            extraction.checkpoint.model,
            extraction.computation,
            extraction.num_together,
            replace(extraction.shape, has_error=False),
        )

    def rows(self, pictures: Iterable[bytes], grid: int) -> Iterator[Row]:
        """The rows (D,) of image files, given as their bytes, averaged to grid x grid positions, in order.

        Raises ImageRejected where one cannot be read.
        """
        for _, rows in encode_all(self._engine, self._batches(iter(pictures))):
            for row in rows:
                yield averaged(row, self._grid, grid)

    def _batches(self, pictures: Iterator[bytes]) -> Iterator[Batch]:
        while images := [preprocess(data, self._preprocessing) for data in islice(pictures, self._batch_size)]:
            stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)  # in memory the channels stay last
            yield Batch(stacked, [FileRead(place, NO_FILE) for place in range(len(images))], [])

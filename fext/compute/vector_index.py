"""Indexes that find the nearest rows to a row: exact ones for few rows, approximate ones for many. FAISS does the work.

FAISS (Douze et al., 'The Faiss library', 2024) and torch each bring an OpenMP of their own. On Linux the two work side
by side. On macOS two LLVM runtimes in one process abort or crash, so there FAISS gets one thread and is let in.
"""

import math
import os
import sys
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fext.data.readers import num_usable_cores
from fext.errors import is_out_of_memory
from fext.settings import Settings

Metric = Literal["cosine", "euclidean"]
Rows = NDArray[np.float32]
Ids = NDArray[np.int64]

TOLD_METRICS: dict[Metric, str] = {"cosine": "cosine similarity", "euclidean": "distance"}
NO_ID = -1
QUERIES_AT_A_TIME = 256  # that are worth a call, and let the progress move on
# Exact up to here: 50,000 rows of 512 values are searched in 16 ms on one core, and take 100 MB.
MAX_EXACT_ROWS, _MAX_EXACT_BYTES = 50_000, 2**30
# An approximate index has 2 sqrt(N) lists: one of a million rows of 512 values was made in 164 s on one core, with
# 4 sqrt(N) lists in 393 s, and found 99 % of the ten nearest in 0.2 ms. FAISS advises at least 39 rows for each list.
_ROWS_PER_LIST, _MIN_ROWS_PER_LIST, _MAX_LEARNING_BYTES = 40, 10, 2**29
_ITERATIONS, _SEED = 10, 1
_ENOUGH_RECALL, _LITTLE_GAIN = 0.98, 0.002


class SupportsWrite(Protocol):
    """What an index is written to."""

    def write(self, data: bytes, /) -> int:
        """Take the bytes; gives how many were taken."""


class Found(NamedTuple):
    """Of each query the ids of the nearest rows, the nearest first, and how near: (Q, K); NO_ID where there is none.

    By 'cosine' the similarity from -1 to 1, by 'euclidean' the distance from 0.
    """

    ids: Ids
    scores: NDArray[np.float32]


@cache
def _faiss() -> Any:
    if sys.platform == "darwin":
        os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its SWIG wrapper is not ready for Python 3.12
        import faiss
    return faiss


def faiss_version() -> str:
    """What writes and reads the index."""
    return f"faiss {_faiss().__version__}"


def set_num_threads(settings: Settings) -> None:
    """Give FAISS the threads of the settings."""
    asked = num_usable_cores() if settings.num_threads == "auto" else settings.num_threads
    _faiss().omp_set_num_threads(1 if sys.platform == "darwin" else asked)


def is_exact(num_rows: int, num_values: int) -> bool:
    """Whether so many rows are few enough to be searched one by one."""
    return num_rows <= MAX_EXACT_ROWS and 4 * num_rows * num_values <= _MAX_EXACT_BYTES


def num_bytes(num_rows: int, num_values: int) -> int:
    """About what the index of so many rows takes in memory while it is made."""
    if is_exact(num_rows, num_values):
        return 2 * 4 * num_rows * num_values  # it grows by doubling
    return 2 * num_rows * num_values * 5 // 4 + 4 * num_values * num_to_learn_from(num_rows, num_values)


def num_to_learn_from(num_rows: int, num_values: int) -> int:
    """How many of the rows an approximate index is to learn its lists from; none for an exact one."""
    if is_exact(num_rows, num_values):
        return 0
    affordable = max(_MIN_ROWS_PER_LIST, _MAX_LEARNING_BYTES // (4 * num_values))
    return min(num_rows, _ROWS_PER_LIST * _num_lists(num_rows), affordable)


def _num_lists(num_rows: int) -> int:
    return max(1, round(2 * math.sqrt(num_rows)))


class VectorIndex:
    """Rows of float32 by ids from 0, each id used once.

    An exact index holds them as they are; an approximate one holds each, in half precision, in the list of the mean
    that is nearest to it (an inverted file), and a search visits some of the lists. Unlike a graph (HNSW) such an index
    gives rows up again, is as good after that, and takes no more than two bytes for each value. Rows are searched by
    cosine as rows of the length 1.
    """

    def __init__(self, index: Any, metric: Metric) -> None:
        """`index` is what FAISS has; use one of the makers."""
        self._index, self._metric = index, metric
        self._knows_places = False

    @classmethod
    def exact(cls, num_values: int, metric: Metric) -> "VectorIndex":
        """An empty one that searches row by row."""
        faiss = _faiss()
        return cls(faiss.IndexIDMap2(faiss.IndexFlat(num_values, _kind(metric))), metric)

    @classmethod
    def approximate(cls, sample: Rows, num_rows: int, metric: Metric) -> "VectorIndex":
        """An empty one for about num_rows rows, some of which, evenly chosen, are the sample (N, D) to learn from.

        k-means by FAISS from a fixed seed: the same sample makes the same lists.
        """
        faiss = _faiss()
        num_values = sample.shape[1]
        num_lists = min(_num_lists(num_rows), max(1, len(sample) // _MIN_ROWS_PER_LIST))
        coarse = faiss.IndexFlat(num_values, _kind(metric))
        half_precision = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexIVFScalarQuantizer(coarse, num_values, num_lists, half_precision, _kind(metric))
        index.cp.seed, index.cp.niter = _SEED, _ITERATIONS
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _ROWS_PER_LIST
        index.cp.spherical = metric == "cosine"
        index.train(_as_searched(sample, metric))
        return cls(index, metric)

    @classmethod
    def read(cls, data: Callable[[int], bytes]) -> "VectorIndex":
        """One that `write` has written; raises ValueError where it is none.

        FAISS's format is binary and not made for files from strangers: whoever reads one makes sure first whose it is.
        """
        faiss = _faiss()
        try:
            index = faiss.read_index(faiss.PyCallbackIOReader(data))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise ValueError("FAISS cannot read it") from error
        if not isinstance(index, faiss.IndexIDMap2 | faiss.IndexIVFScalarQuantizer):
            raise ValueError("it is another kind of index")
        return cls(index, "cosine" if index.metric_type == faiss.METRIC_INNER_PRODUCT else "euclidean")

    def write(self, stream: SupportsWrite) -> None:
        """Write it, a megabyte at a time."""
        self._forget_places()
        faiss = _faiss()
        faiss.write_index(self._index, faiss.PyCallbackIOWriter(stream.write))

    @property
    def metric(self) -> Metric:
        """What near means here: 'cosine' or 'euclidean'."""
        return self._metric

    @property
    def is_exact(self) -> bool:
        """Whether a search compares with every row."""
        return isinstance(self._index, _faiss().IndexIDMap2)

    @property
    def num_values(self) -> int:
        """The length D of a row."""
        return int(self._index.d)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, ids: Ids, rows: Rows) -> None:
        """Put in rows (N, D) under new ids (N,)."""
        self._forget_places()
        self._index.add_with_ids(_as_searched(rows, self._metric), ids)

    def remove(self, ids: Ids) -> None:
        """Take out the rows of these ids."""
        if len(ids):
            self._forget_places()
            self._index.remove_ids(_faiss().IDSelectorBatch(ids))

    def rows(self, ids: Ids) -> Rows:
        """The rows of ids that are in it, (N, D), as they are searched: of the length 1 by cosine, maybe rounded."""
        if not self.is_exact and not self._knows_places:
            self._index.set_direct_map_type(_faiss().DirectMap.Hashtable)
            self._knows_places = True
        found: Rows = self._index.reconstruct_batch(ids)
        return found

    def _forget_places(self) -> None:
        """What finds a row by its id is for searching alone: it cannot be written, and costs when rows change."""
        if self._knows_places:
            self._index.set_direct_map_type(_faiss().DirectMap.NoMap)
            self._knows_places = False

    def search(self, queries: Rows, count: int, among: NDArray[np.bool_] | None = None) -> Found:
        """The nearest rows to each query (Q, D); with `among`, a flag for each id, only among these.

        Equally near ones come in the order of their ids.
        """
        wanted = _faiss().IDSelectorBitmap(np.packbits(among, bitorder="little")) if among is not None else None
        scores, ids = self._index.search(_as_searched(queries, self._metric), count, params=self._parameters(wanted))
        if self._metric == "euclidean":
            scores = self._distances(queries, ids) if self.is_exact else np.sqrt(np.maximum(scores, 0))
        order = np.lexsort((ids, np.where(ids == NO_ID, np.inf, -scores if self._metric == "cosine" else scores)))
        return Found(np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1))

    def _distances(self, queries: Rows, ids: Ids) -> NDArray[np.float32]:
        """Of each query to the rows found: FAISS takes them from products where there are many queries, and loses there
        what makes the distance between near rows."""
        distances = np.full(ids.shape, np.inf, np.float32)
        for query, found, own in zip(queries, ids, distances, strict=True):
            is_there = found != NO_ID
            own[is_there] = np.linalg.norm(self.rows(found[is_there]) - query, axis=1)
        return distances

    def _parameters(self, wanted: Any) -> Any:
        faiss = _faiss()
        if self.is_exact:
            return faiss.SearchParameters(sel=wanted) if wanted is not None else None
        return faiss.SearchParametersIVF(sel=wanted, nprobe=self._index.nprobe)

    def choose_effort(self, probes: "Probes") -> float:
        """Let a search visit as many lists as it takes to find what the probes have found; returns the recall.

        Doubled until 98 % are found or doubling it twice finds hardly any more: the rest is lost to rounding.
        """
        recalls: list[float] = []
        num_lists = int(self._index.nlist)
        for power in range(num_lists.bit_length() + 1):
            self._index.nprobe = min(2**power, num_lists)
            recalls.append(probes.recall(self))
            gains_little = len(recalls) > 2 and recalls[-1] - recalls[-3] < _LITTLE_GAIN
            if recalls[-1] >= _ENOUGH_RECALL or gains_little:
                break
        return recalls[-1]


class Probes:
    """Some rows that are searched for exactly while all rows pass by: what an approximate index is measured by."""

    def __init__(self, ids: Ids, rows: Rows, count: int, metric: Metric) -> None:
        """The nearest `count` others of each of the rows (N, D), which have these ids, are sought."""
        self._ids, self._rows, self._count, self._metric = ids, _as_searched(rows, metric), count, metric
        self._found = np.empty((len(ids), 0), np.int64)
        self._scores = np.empty((len(ids), 0), np.float32)

    def see(self, ids: Ids, rows: Rows) -> None:
        """Compare with some rows (M, D)."""
        others = _as_searched(rows, self._metric)
        scores = self._rows @ others.T
        if self._metric == "euclidean":
            scores = 2 * scores - np.square(others).sum(axis=1)
        scores[self._ids[:, None] == ids] = -np.inf
        found = np.concatenate([self._found, np.broadcast_to(ids, scores.shape)], axis=1)
        scores = np.concatenate([self._scores, scores], axis=1)
        nearest = np.argsort(-scores, axis=1, kind="stable")[:, : self._count]
        self._found, self._scores = (np.take_along_axis(values, nearest, axis=1) for values in (found, scores))

    def recall(self, index: VectorIndex) -> float:
        """The share of the nearest others that the index finds."""
        found = index.search(self._rows, self._count + 1).ids
        hits = [
            len(set(nearest) & (set(ids) - {own}))
            for nearest, ids, own in zip(self._found.tolist(), found.tolist(), self._ids.tolist(), strict=True)
        ]
        return sum(hits) / max(1, self._found.size)


def _kind(metric: Metric) -> int:
    faiss = _faiss()
    return int(faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2)


def _as_searched(rows: Rows, metric: Metric) -> Rows:
    rows = np.ascontiguousarray(rows, np.float32)
    if metric == "euclidean":
        return rows
    lengths = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1, keepdims=True))
    scaled: Rows = np.divide(rows, np.where(lengths > 0, lengths, 1), dtype=np.float32, casting="same_kind")
    return scaled

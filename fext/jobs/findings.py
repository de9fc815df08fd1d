"""What the measures of a dataset say: odd pictures, outliers, and how train and test differ."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fext.data.statistics import MEASURES

Measures = Mapping[str, NDArray[np.float32]]

# What a picture is that hardly shows anything.
_MOST_PIXELS = 0.95
_UNIFORM_STD = 0.01
_FAR_OUT = 3.0  # interquartile ranges beyond the quartiles: 'far out' in Tukey, 'Exploratory data analysis' (1977)
_QUARTILES = (25, 75)


class _Finding(NamedTuple):
    image: str
    kind: str
    detail: str


class Finding(_Finding):
    """Something about an image that a person should look at."""

    KINDS: ClassVar = (
        "damaged", "exact copy", "near copy", "nearly black", "nearly white", "nearly uniform", "unread orientation",
    )  # fmt: skip


class Outlier(NamedTuple):
    """An image whose measure is far out of what is usual in this dataset."""

    image: str
    measure: str
    value: float
    low: float
    high: float


class Distance(NamedTuple):
    """How a measure is distributed in train and test: the Kolmogorov-Smirnov distance (0 alike to 1) and its p-value,
    and the Wasserstein distance in standard deviations of all."""

    measure: str
    train_mean: float
    test_mean: float
    kolmogorov_smirnov: float
    p_value: float
    wasserstein: float


def find_odd_pictures(names: Sequence[str], measures: Measures) -> Iterator[Finding]:
    """Pictures that are nearly black, white or of one colour; each is named once."""
    dark, bright = measures["underexposed"] >= _MOST_PIXELS, measures["overexposed"] >= _MOST_PIXELS
    uniform = (measures["std"] < _UNIFORM_STD) & ~dark & ~bright
    for kind, chosen, measure in (
        ("nearly black", dark, "mean"),
        ("nearly white", bright, "mean"),
        ("nearly uniform", uniform, "std"),
    ):
        for place in np.flatnonzero(chosen).tolist():
            yield Finding(names[place], kind, f"{measure} {measures[measure][place]:.3f}")


def find_outliers(names: Sequence[str], measures: Measures) -> list[Outlier]:
    """For each measure the images beyond Tukey's outer fences, the farthest first."""
    outliers = []
    for measure, column in measures.items():
        values = column.astype(np.float64)
        low, high = np.percentile(values, _QUARTILES)
        low, high = float(low - _FAR_OUT * (high - low)), float(high + _FAR_OUT * (high - low))
        beyond = np.maximum(low - values, values - high)
        for place in np.argsort(-beyond, kind="stable")[: int((beyond > 0).sum())]:
            outliers.append(Outlier(names[place], measure, float(f"{values[place]:.6g}"), low, high))
    return outliers


def likeness(first: int, place: int, checksums: NDArray[np.bytes_]) -> str:
    """What an image is to the first of its group: the first itself, an exact copy or a near one."""
    if place == first:
        return "first"
    return "exact" if checksums[place] == checksums[first] else "near"


def compare_sides(measures: Measures, sides: NDArray[np.str_]) -> list[Distance]:
    """Train beside test, measure by measure (scipy.stats.ks_2samp and wasserstein_distance)."""
    distances = []
    for measure, column in measures.items():
        values = column.astype(np.float64)
        train, test = values[sides == "train"], values[sides == "test"]
        found = stats.ks_2samp(train, test)
        spread = values.std() or 1.0
        moved = stats.wasserstein_distance(train, test) / spread
        means = float(train.mean()), float(test.mean())
        distances.append(Distance(measure, *means, float(found.statistic), float(found.pvalue), float(moved)))
    return distances


def summarize(measures: Measures) -> dict[str, dict[str, float]]:
    """Mean, spread and quartiles of each measure."""
    summary = {}
    for measure in MEASURES:
        values = measures[measure.name].astype(np.float64)
        low, middle, high = np.percentile(values, (_QUARTILES[0], 50, _QUARTILES[1]))
        summary[measure.name] = {
            "mean": float(values.mean()),
            "std": float(values.std()),
            "min": float(values.min()),
            "quartile_1": float(low),
            "median": float(middle),
            "quartile_3": float(high),
            "max": float(values.max()),
        }
    return summary

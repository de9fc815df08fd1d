"""How sure a mean is: 95 % confidence intervals by Student's t, of images taken as independent."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean, and the ends of its confidence interval; these are None where there are too few values for one."""

    mean: float
    low: float | None
    high: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign of the mean can be trusted."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def text(self, unit: str = "", *, digits: int = 2, signed: bool = True) -> str:
        """As in '+0.36 dB (-0.59 to +1.30)'."""
        sign = "+" if signed else ""
        mean = f"{self.mean:{sign}.{digits}f}{' ' + unit if unit else ''}"
        if self.low is None:
            return mean
        return f"{mean} ({self.low:{sign}.{digits}f} to {self.high:{sign}.{digits}f})"

    def negated(self) -> "Interval":
        """Of the difference the other way round."""
        if self.low is None or self.high is None:
            return Interval(0 - self.mean, None, None)
        return Interval(0 - self.mean, 0 - self.high, 0 - self.low)  # 0 - 0 is 0, where -0 is shown as such


def mean_interval(values: NDArray[np.float64], confidence: float = CONFIDENCE) -> Interval:
    """Of one mean, or, given the differences of pairs, of the mean difference (scipy.stats.ttest_1samp)."""
    from scipy import stats

    mean = float(values.mean())
    if len(values) < 2 or values.min() == values.max():
        ends = (mean, mean) if len(values) >= 2 else (None, None)
        return Interval(mean, *ends)
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    return Interval(mean, float(interval.low), float(interval.high))


def difference_interval(left: NDArray[np.float64], right: NDArray[np.float64]) -> Interval:
    """Of the mean of `left` less that of `right`, of different images (Welch's, scipy.stats.ttest_ind)."""
    from scipy import stats

    mean = float(left.mean() - right.mean())
    if min(len(left), len(right)) < 2 or left.std() == right.std() == 0:
        return Interval(mean, None, None)
    interval = stats.ttest_ind(left, right, equal_var=False).confidence_interval(CONFIDENCE)
    return Interval(mean, float(interval.low), float(interval.high))

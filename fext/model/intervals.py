"""How sure a mean is: 95 % confidence intervals, of images that are independent or belong together in groups."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95

Groups = NDArray[np.int64]


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


def mean_interval(
    values: NDArray[np.float64], groups: Groups | None = None, confidence: float = CONFIDENCE
) -> Interval:
    """Of one mean, or, given the differences of pairs, of the mean difference, by Student's t.

    `groups` (N,) numbers what belongs together; without them all values are independent (scipy.stats.ttest_1samp).
    """
    return _student(float(values.mean()), *_spread_of_mean(values, groups), confidence)


def difference_interval(
    left: NDArray[np.float64],
    right: NDArray[np.float64],
    left_groups: Groups | None = None,
    right_groups: Groups | None = None,
) -> Interval:
    """Of the mean of `left` less that of `right`, of different images (Welch's, scipy.stats.ttest_ind).

    Groups that have images on both sides make it wider than it need be.
    """
    mean = float(left.mean() - right.mean())
    (one, one_freedom), (other, other_freedom) = (
        _spread_of_mean(values, groups) for values, groups in ((left, left_groups), (right, right_groups))
    )
    if min(one_freedom, other_freedom) <= 0 or one == other == 0:
        return Interval(mean, None, None)
    freedom = (one + other) ** 2 / (one**2 / one_freedom + other**2 / other_freedom)
    return _student(mean, one + other, freedom, CONFIDENCE)


def share_interval(is_right: NDArray[np.bool_], groups: Groups | None = None) -> Interval:
    """Of the share of what is right (Wilson, 1927), for as many images as count where some belong together.

    The number that counts follows from the variance over groups and their number: Korn and Graubard, 'Confidence
    intervals for proportions with small expected number of positive counts estimated from survey data', 1998.
    """
    share, normal = float(is_right.mean()), _normal()
    number = _number_that_counts(is_right.astype(np.float64), groups)
    if number is None:
        return Interval(share, None, None)
    centre = share + normal**2 / (2 * number)
    width = normal * (share * (1 - share) / number + normal**2 / (4 * number**2)) ** 0.5
    scale = 1 + normal**2 / number
    return Interval(share, max(0.0, (centre - width) / scale), min(1.0, (centre + width) / scale))


def paired_share_interval(
    is_right: NDArray[np.bool_], other_is_right: NDArray[np.bool_], groups: Groups | None = None
) -> Interval:
    """Of the share of what is right less that of another way, of the same images.

    Bonett and Price, 'Adjusted Wald confidence interval for a difference of binomial proportions based on paired data',
    2012, for as many images as count (see share_interval): of few images that all are told alike it claims little.
    """
    differences = is_right.astype(np.float64) - other_is_right
    mean, number = float(differences.mean()), _number_that_counts(differences, groups)
    if number is None:
        return Interval(mean, None, None)
    ahead, behind = ((float((differences == sign).mean()) * number + 1) / (number + 2) for sign in (1, -1))
    centre = ahead - behind
    width = _normal() * ((ahead + behind - centre**2) / (number + 2)) ** 0.5
    return Interval(mean, max(-1.0, centre - width), min(1.0, centre + width))


def left_out_interval(mean: float, without: NDArray[np.float64], variance: float) -> Interval:
    """Of a mean of which `without` (B,) are what it is without each of B equal blocks of images: the delete-a-group
    jackknife (Kott, 2001); `variance` is that of what else it depends on, such as seeds."""
    count = len(without)
    if count < 2:
        return Interval(mean, None, None)
    spread = (count - 1) / count * float(np.square(without - without.mean()).sum())
    return _student(mean, spread + variance, count - 1, CONFIDENCE)


def _normal() -> float:
    from scipy import stats

    return float(stats.norm.ppf((1 + CONFIDENCE) / 2))


def _number_that_counts(values: NDArray[np.float64], groups: Groups | None) -> float | None:
    """How many independent images say as much of the mean as these; None where there are too few groups."""
    from scipy import stats

    number = float(len(values))
    if groups is None or len(np.unique(groups)) == len(groups):
        return number
    variance, freedom = _spread_of_mean(values, groups)
    if freedom <= 0:
        return None
    counting = float(values.var()) / variance if variance > 0 else freedom + 1
    return min(number, counting * (_normal() / float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))) ** 2)


def _spread_of_mean(values: NDArray[np.float64], groups: Groups | None) -> tuple[float, float]:
    """The variance of the mean, and its degrees of freedom: over groups, each of which counts as one.

    The cluster-robust ('sandwich') variance of Liang and Zeger, 'Longitudinal data analysis using generalized linear
    models', 1986, with G / (G - 1) for G groups (Cameron and Miller, 'A practitioner's guide to cluster-robust
    inference', 2015): with one image in each it is the usual one. The degrees of freedom are those of as many groups of
    equal size as weigh as much (Carter, Schnepel and Steigerwald, 2017), so that a large group is not taken for many.
    """
    errors, sizes = values - values.mean(), np.ones(len(values))
    if values.min() == values.max():
        errors = np.zeros(len(values))
    if groups is not None:
        _, number = np.unique(groups, return_inverse=True)
        errors, sizes = np.bincount(number, errors), np.bincount(number).astype(np.float64)
    count = len(errors)
    freedom = float(sizes.sum() ** 2 / np.square(sizes).sum()) - 1
    if count < 2 or freedom <= 0:
        return 0.0, 0.0
    return float(count / (count - 1) * np.square(errors).sum() / len(values) ** 2), freedom


def _student(mean: float, variance: float, freedom: float, confidence: float) -> Interval:
    from scipy import stats

    if freedom <= 0:
        return Interval(mean, None, None)
    width = float(stats.t.ppf((1 + confidence) / 2, freedom) * np.sqrt(variance))
    return Interval(mean, mean - width, mean + width)

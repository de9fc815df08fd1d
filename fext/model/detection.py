"""From scores to a decision: scores on one scale, a threshold, and how well labelled images are told apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fext.model.intervals import Groups, Interval, difference_interval

Values = NDArray[np.float64]
_LEAST_DEVIATION = 1e-6  # of the logarithm of a score, where normal images all have the same one


@dataclass(frozen=True)
class Curves:
    """How well a score tells anomalous images (more) from normal ones, at every threshold."""

    auroc: float
    average_precision: float
    best_f1: float
    best_threshold: float  # above it an image is anomalous
    false_alarms: Values  # the receiver operating characteristic
    found: Values
    precision: Values
    recall: Values


def standardized(scores: Values, normal: Values) -> Values:
    """Scores (N,) on the scale of normal ones: logarithms less their mean, by their deviation.

    Distances and errors are positive and have long tails; their logarithms are about as far on either side.
    """
    tiny = np.finfo(np.float64).tiny
    logarithms = np.log(np.maximum(normal, tiny))
    spread = max(float(logarithms.std()), _LEAST_DEVIATION)
    result: Values = (np.log(np.maximum(scores, tiny)) - logarithms.mean()) / spread
    return result


def combined(scores: Mapping[str, Values], normal: Mapping[str, Values], names: Sequence[str]) -> Values:
    """(N,) the mean of the named scores, each standardized on normal images."""
    result: Values = np.mean([standardized(scores[name], normal[name]) for name in names], axis=0)
    return result


def false_alarm_threshold(normal: Values, share: float) -> float:
    """The lowest of the normal scores above which at most that share of them lies."""
    ordered = np.sort(normal)
    allowed = int(np.floor(share * len(ordered) + 1e-9))
    return float(ordered[len(ordered) - 1 - min(allowed, len(ordered) - 1)])


def f1_score(is_found: NDArray[np.bool_], is_anomalous: NDArray[np.bool_]) -> float:
    """2 * hits / (found + anomalous): the harmonic mean of precision and recall; 0 where nothing is right."""
    hits, total = int((is_found & is_anomalous).sum()), int(is_found.sum() + is_anomalous.sum())
    return 2 * hits / total if total else 0.0


def auroc_above(scores: Values, others: Values, is_anomalous: NDArray[np.bool_], groups: Groups | None) -> Interval:
    """By how much the area under the curve of scores is above that of others, of the same images.

    DeLong, DeLong and Clarke-Pearson, 'Comparing the areas under two or more correlated receiver operating
    characteristic curves', 1988; of groups as Obuchowski, 1997, but for those that have images of both kinds.
    """
    anomalous, normal = (
        one - other for one, other in zip(_placed(scores, is_anomalous), _placed(others, is_anomalous), strict=True)
    )
    sides = (None, None) if groups is None else (groups[is_anomalous], groups[~is_anomalous])
    # The mean over either kind is the same difference: the second is only to say how much it varies.
    return difference_interval(anomalous, normal - normal.mean(), *sides)


def _placed(scores: Values, is_anomalous: NDArray[np.bool_]) -> tuple[Values, Values]:
    """Of each anomalous image the share of normal ones below it, of each normal one that of anomalous ones above."""
    from scipy.stats import rankdata

    anomalous, normal = scores[is_anomalous], scores[~is_anomalous]
    ranks = rankdata(np.concatenate([anomalous, normal]))
    above = (ranks[: len(anomalous)] - rankdata(anomalous)) / len(normal)
    below = 1 - (ranks[len(anomalous) :] - rankdata(normal)) / len(anomalous)
    return above, below


def curves(scores: Values, is_anomalous: NDArray[np.bool_]) -> Curves | None:
    """Measures of scikit-learn; None where one of the two kinds of images is missing."""
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    if is_anomalous.all() or not is_anomalous.any():
        return None
    false_alarms, found, _ = roc_curve(is_anomalous, scores)
    precision, recall, thresholds = precision_recall_curve(is_anomalous, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1[:-1].argmax())
    below = scores[scores < thresholds[best]]
    return Curves(
        auroc=float(roc_auc_score(is_anomalous, scores)),
        average_precision=float(average_precision_score(is_anomalous, scores)),
        best_f1=float(f1[best]),
        # Half way to the next lower score, so that an image as strange as the last one found is found, too.
        best_threshold=float((thresholds[best] + below.max()) / 2) if len(below) else float(thresholds[best]) - 1.0,
        false_alarms=false_alarms,
        found=found,
        precision=precision,
        recall=recall,
    )

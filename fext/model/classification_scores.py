"""How well labels are told: counts, shares and their interval, as scikit-learn's metrics have them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fext.model.intervals import Groups, Interval, share_interval

Codes = NDArray[np.int32]


@dataclass(frozen=True)
class ClassScores:
    """Of one class: how many images are told to be of it that are (precision), how many of its own are found (recall),
    their harmonic mean, and how many images it has."""

    name: str
    precision: float
    recall: float
    f1: float
    num_images: int


@dataclass(frozen=True)
class ClassificationScores:
    """Scores of told labels; `confusion` (num_classes, num_classes) counts by true class in rows, told one in columns.

    The interval of the accuracy is Wilson's. `commonest` is what always telling the commonest class would get right.
    """

    accuracy: Interval
    balanced_accuracy: float
    commonest: float
    macro_f1: float
    classes: Sequence[ClassScores]
    confusion: NDArray[np.int64]

    def to_dict(self) -> dict[str, object]:
        """As JSON can hold it."""
        return {
            "accuracy": self.accuracy.mean,
            "accuracy_interval": [self.accuracy.low, self.accuracy.high],
            "balanced_accuracy": self.balanced_accuracy,
            "commonest_class": self.commonest,
            "macro_f1": self.macro_f1,
            "classes": [vars(one) for one in self.classes],
            "confusion": self.confusion.tolist(),
        }


def classification_scores(
    true: Codes, told: Codes, classes: Sequence[str], groups: Groups | None = None
) -> ClassificationScores:
    """Scores of told codes (N,) beside the true ones; classes without an image count in none of the means.

    `groups` (N,) numbers what belongs together, for the interval.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    codes = np.arange(len(classes))
    precision, recall, f1, counts = precision_recall_fscore_support(true, told, labels=codes, zero_division=0)
    seen = counts > 0
    by_class = [
        ClassScores(name, float(precision[code]), float(recall[code]), float(f1[code]), int(counts[code]))
        for code, name in enumerate(classes)
    ]
    return ClassificationScores(
        accuracy=share_interval(true == told, groups),
        balanced_accuracy=float(recall[seen].mean()),
        commonest=float(counts.max() / len(true)),
        macro_f1=float(f1[seen].mean()),
        classes=by_class,
        confusion=confusion_matrix(true, told, labels=codes).astype(np.int64),
    )

"""Classifiers that work on rows of features: a linear probe, and the labels of the nearest rows.

Tables may be larger than memory: they are gone through a block at a time.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fext.compute.normalization import Normalization, normalization_from
from fext.errors import ClassifierError
from fext.model.moments import Moments

Rows = NDArray[np.float32]
Places = NDArray[np.int64]
Codes = NDArray[np.int32]
Tensors = dict[str, torch.Tensor]

_BLOCK_BYTES = 64 * 2**20
_MAX_STEPS = 200  # of L-BFGS
_STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)  # of the pull towards zero, from the strongest on
_WITHOUT_CHOICE = 1e-2
# Of its deviation, by which a column is divided: by its root, columns that hardly vary stay smaller than the others.
_POWERS = (0.5, 1.0)
_STANDARDIZED = 1.0
_LEAST_DEVIATION = 1e-6
_LEAST_PROBABILITY = 1e-12


class RowClassifier(Protocol):
    """Tells how probable each class is for a row."""

    def probabilities(self, rows: Rows) -> NDArray[np.float32]:
        """(N, num_classes), each row of them adding up to 1, for rows (N, D)."""

    def tensors(self) -> Tensors:
        """All that it is made of."""


@dataclass(frozen=True)
class LinearProbe:
    """Multinomial logistic regression: scores are rows @ weights.T + biases; weights (num_classes, D)."""

    weights: torch.Tensor
    biases: torch.Tensor

    def probabilities(self, rows: Rows) -> NDArray[np.float32]:
        """The softmax of the scores: (N, num_classes) for rows (N, D)."""
        scores = torch.from_numpy(np.array(rows, np.float32)) @ self.weights.T + self.biases
        shares: NDArray[np.float32] = torch.softmax(scores, dim=1).numpy()
        return shares

    def tensors(self) -> Tensors:
        """weights and biases."""
        return {"weights": self.weights, "biases": self.biases}


@dataclass(frozen=True)
class NearestLabels:
    """The labels of the `count` rows nearest by cosine, (M, K) of length 1 with a code each.

    Rows are normalized before, where there is a normalization; the first classifiers have none. The probability of a
    class is its share of the nearest.
    """

    rows: torch.Tensor
    codes: torch.Tensor
    num_classes: int
    count: int
    normalization: Normalization | None = None

    def probabilities(self, rows: Rows) -> NDArray[np.float32]:
        """The share of each class among the nearest rows: (N, num_classes) for rows (N, D)."""
        wanted = _of_length_one(rows, self.normalization)
        nearest, codes = self._nearest(wanted)
        # What is nearer weighs a trifle more, so that of equal shares that of the nearest wins.
        votes = 1 + 1e-3 * nearest.clamp(min=0)
        shares = torch.zeros(len(rows), self.num_classes).scatter_add_(1, codes, votes)
        result: NDArray[np.float32] = (shares / shares.sum(dim=1, keepdim=True)).numpy()
        return result

    def _nearest(self, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Similarities and codes of the nearest rows, (N, count)."""
        nearest, codes = torch.empty(len(wanted), 0), torch.empty(len(wanted), 0, dtype=torch.int64)
        size = _rows_per_block(max(len(wanted), self.rows.shape[1]))
        for start in range(0, len(self.rows), size):
            similar = wanted @ self.rows[start : start + size].T
            nearest = torch.cat([nearest, similar], dim=1)
            codes = torch.cat([codes, self.codes[start : start + size].long().expand(len(wanted), -1)], dim=1)
            nearest, places = nearest.topk(min(self.count, nearest.shape[1]), dim=1)
            codes = codes.gather(1, places)
        return nearest, codes

    def tensors(self) -> Tensors:
        """rows, codes, num_classes and count, the two numbers as tensors of no dimension, and the normalization's."""
        numbers = {"num_classes": torch.tensor(self.num_classes), "count": torch.tensor(self.count)}
        normalization = {} if self.normalization is None else self.normalization.tensors()
        return {"rows": self.rows, "codes": self.codes, **numbers, **normalization}


def row_classifier_from(tensors: Mapping[str, torch.Tensor]) -> RowClassifier:
    """The classifier that these tensors are of; raises ClassifierError where they are of none."""
    try:
        if "count" in tensors:
            numbers = int(tensors["num_classes"]), int(tensors["count"])
            normalization = normalization_from(tensors) if "directions" in tensors else None
            return NearestLabels(tensors["rows"], tensors["codes"], *numbers, normalization)
        return LinearProbe(tensors["weights"], tensors["biases"])
    except KeyError as error:
        raise ClassifierError(f"the classifier is damaged: it has no {error.args[0]}") from error


def class_weights(codes: Codes, num_classes: int, *, balanced: bool) -> torch.Tensor:
    """How much an image of each class counts: all alike, or the less the more there are of it; of mean 1 over images.

    A class without an image has the weight 0.
    """
    counts = torch.from_numpy(np.bincount(codes, minlength=num_classes)).float()
    present = counts > 0
    if not balanced:
        return present.float()
    return torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), torch.zeros(()))


def nearest_labels(
    rows: Rows, places: Places, codes: Codes, num_classes: int, count: int, normalization: Normalization | None = None
) -> NearestLabels:
    """The classifier by the nearest of the rows at some places, whose codes are given, normalized."""
    kept = torch.empty(len(places), rows.shape[1] if normalization is None else normalization.num_values)
    for start, block in _blocks(rows, places):
        kept[start : start + len(block)] = _of_length_one(block, normalization)
    codes_kept = torch.from_numpy(codes.astype(np.int32))
    return NearestLabels(kept, codes_kept, num_classes, min(count, len(places)), normalization)


def _of_length_one(rows: Rows, normalization: Normalization | None) -> torch.Tensor:
    """Rows (N, D) as they are compared."""
    compared = np.array(rows, np.float32) if normalization is None else normalization.of(rows)
    return torch.nn.functional.normalize(torch.from_numpy(compared))


def choose_probe(
    rows: Rows,
    train: tuple[Places, Codes],
    validation: tuple[Places, Codes],
    weights: torch.Tensor,
    advance: Callable[[], None],
) -> tuple[LinearProbe, float]:
    """The linear probe of the scaling and the pull towards zero that serve best, and how strong the pull is.

    Those are chosen by the mean cross-entropy of the validation images, and the probe is fitted to these, too, in the
    end. Strengths are tried from the strongest on, until one serves worse; without validation images it is 0.01, of
    standardized rows. `advance` is called after each pass over the rows.
    """
    power, strength = _STANDARDIZED, _WITHOUT_CHOICE
    if len(validation[0]):
        power, strength = _best_choice(rows, train, validation, weights, advance)
    places, codes = np.concatenate([train[0], validation[0]]), np.concatenate([train[1], validation[1]])
    fitting = _Fitting(rows, places, codes, weights, advance, power)
    return fitting.probe(fitting.minimum(fitting.zeros(), strength)), strength


def _best_choice(
    rows: Rows,
    train: tuple[Places, Codes],
    validation: tuple[Places, Codes],
    weights: torch.Tensor,
    advance: Callable[[], None],
) -> tuple[float, float]:
    """The scaling and the strength that serve best on the validation images."""
    losses: dict[tuple[float, float], float] = {}
    for power in _POWERS:
        fitting = _Fitting(rows, train[0], train[1], weights, advance, power)
        found, least = fitting.zeros(), math.inf
        for strength in _STRENGTHS:
            found = fitting.minimum(found, strength)
            loss = losses[power, strength] = _cross_entropy(fitting.probe(found), rows, *validation, weights)
            if loss > least:
                break  # a weaker pull fits the training images ever more closely, and takes ever longer
            least = loss
    return min(losses, key=lambda choice: losses[choice])


def _cross_entropy(classifier: RowClassifier, rows: Rows, places: Places, codes: Codes, weights: torch.Tensor) -> float:
    """The mean over the rows at some places, each counted by its class's weight."""
    counted, total = weights.numpy()[codes].astype(np.float64), 0.0
    for start, shares in each_probabilities(classifier, rows, places):
        part = slice(start, start + len(shares))
        of_class = shares[np.arange(len(shares)), codes[part]].astype(np.float64)
        total -= float((counted[part] * np.log(of_class.clip(_LEAST_PROBABILITY))).sum())
    return total / max(float(counted.sum()), _LEAST_PROBABILITY)


def each_probabilities(
    classifier: RowClassifier, rows: Rows, places: Places
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The probabilities for the rows at some places, a block at a time, each with the number of its first."""
    for start, block in _blocks(rows, places):
        yield start, classifier.probabilities(block)


class _Fitting:
    """The sum that logistic regression makes least, and its gradient, over rows whose columns are scaled.

    With L-BFGS of scipy (Liu and Nocedal, 1989), which is what scikit-learn's LogisticRegression uses; that one wants
    the whole table in memory, several times.
    """

    def __init__(
        self,
        rows: Rows,
        places: Places,
        codes: Codes,
        weights: torch.Tensor,
        advance: Callable[[], None],
        power: float,
    ) -> None:
        self._rows, self._places, self._codes, self._advance = rows, places, torch.from_numpy(codes).long(), advance
        self._weights = weights
        self._total = float(weights[self._codes].sum())
        self._mean, self._scale = _mean_and_scale(rows, places, power)

    def zeros(self) -> NDArray[np.float64]:
        """Weights and biases to begin with."""
        return np.zeros((len(self._weights), self._rows.shape[1] + 1))

    def minimum(self, start: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
        """Weights and, in the last column, biases, (num_classes, D + 1), of the scaled rows."""
        from scipy.optimize import minimize

        found = minimize(
            lambda flat: self._value(flat.reshape(start.shape), strength),
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": _MAX_STEPS, "ftol": 1e-7, "gtol": 1e-5},
        )
        minimum: NDArray[np.float64] = found.x.reshape(start.shape)
        return minimum

    def probe(self, found: NDArray[np.float64]) -> LinearProbe:
        """The same for rows as they are."""
        weights = torch.from_numpy(found[:, :-1]) / self._scale.double()
        biases = torch.from_numpy(found[:, -1]) - weights @ self._mean.double()
        return LinearProbe(weights.float().contiguous(), biases.float().contiguous())

    def _value(self, found: NDArray[np.float64], strength: float) -> tuple[float, NDArray[np.float64]]:
        weights = torch.from_numpy(found[:, :-1]).float()
        biases = torch.from_numpy(found[:, -1]).float()
        gradient = torch.zeros(found.shape, dtype=torch.float64)
        loss = 0.0
        for start, block in _blocks(self._rows, self._places):
            standard = torch.from_numpy(block).sub_(self._mean).div_(self._scale)
            codes = self._codes[start : start + len(block)]
            logs = torch.log_softmax(standard @ weights.T + biases, dim=1)
            counted = self._weights[codes] / self._total
            loss -= float((logs.gather(1, codes[:, None])[:, 0] * counted).double().sum())
            slopes = logs.exp()
            slopes[torch.arange(len(codes)), codes] -= 1
            slopes *= counted[:, None]
            gradient[:, :-1] += (slopes.T @ standard).double()
            gradient[:, -1] += slopes.sum(dim=0).double()
        self._advance()
        loss += strength / 2 * float((weights.double() ** 2).sum())
        gradient[:, :-1] += strength * weights.double()
        return loss, gradient.numpy().ravel()


def _mean_and_scale(rows: Rows, places: Places, power: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of each column, and a power of its deviation; one that does not vary is not made larger.

    With a power below 1 the rest is of the deviation of all columns, so that rows are of the same size.
    """
    moments = Moments(rows.shape[1], each_alone=True)
    for _, block in _blocks(rows, places):
        moments.add(torch.from_numpy(block))
    variance = moments.covariance()
    deviation = variance.sqrt()
    scale = deviation**power * variance.mean().sqrt() ** (1 - power)
    scale[deviation < _LEAST_DEVIATION] = 1.0
    return moments.mean.float(), scale.float()


def _blocks(rows: Rows, places: Places | Sequence[int]) -> Iterator[tuple[int, Rows]]:
    """The rows at some places, a block at a time, each with the number of its first."""
    size = _rows_per_block(rows.shape[1])
    for start in range(0, len(places), size):
        yield start, np.array(rows[places[start : start + size]], np.float32)


def _rows_per_block(num_values: int) -> int:
    return max(1, _BLOCK_BYTES // (4 * num_values))

"""How far a model's outputs are from the dense model's, in numbers that add up over independent changes.

* Logits: Kullback-Leibler divergence from the dense model's distribution, in nats. Where training left the logits
  saturated, a temperature first brings the mean largest probability to 0.8: at 0.999 most samples would say nothing.
* Any other floats: relative L2, the squared error over the mean squared norm of the dense output. It is squared
  because, like KL, it then is of second order in a change, and what independent changes do adds up.
* Other types: the share of elements that differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Outputs = Sequence[Array]

_CONFIDENCE = 0.8  # mean largest probability above which logits count as saturated
_CLASSES = 1 << 17  # columns up to which a row is taken for one number per class
_LEAST = 1e-30


@dataclass(frozen=True, eq=False)
class Divergence:
    """Compares runs of a changed model with the same runs of the dense one.

    Attributes:
        dense: the dense model's outputs, one list a run.
        temperatures: what logits are divided by, for each output; 0 where an output is not taken for logits.
        scales: mean squared norm of a sample, for each output.
        applied: whether a softmax was applied to the logits already, for each output.
    """

    dense: Sequence[Outputs]
    temperatures: tuple[float, ...]
    scales: tuple[float, ...]
    applied: tuple[bool, ...]

    @classmethod
    def fit(cls, dense_outputs: Iterable[Outputs]) -> Divergence:
        """The divergence from these outputs: one list of arrays for each run, samples along their first axes."""
        dense = [[np.array(values) for values in run] for run in dense_outputs]
        columns = list(zip(*dense, strict=True))
        applied = tuple(map(_are_probabilities, columns))
        found = [
            _temperature([_logits(_samples(values), softmaxed) for values in column]) if _are_logits(column) else 0.0
            for column, softmaxed in zip(columns, applied, strict=True)
        ]
        return cls(dense, tuple(found), tuple(map(_scale, columns)), applied)

    @property
    def unit(self) -> str:
        """What the numbers are, in words."""
        names = dict.fromkeys("KL" if temperature else "relative L2" for temperature in self.temperatures)
        return " and ".join(names)

    def divergence(self, outputs: Iterable[Outputs]) -> float:
        """Mean over samples and outputs; `outputs` are of the same runs as were fitted on, and may be a generator."""
        total, count = 0.0, 0
        for reference, found in zip(self.dense, outputs, strict=True):
            rows = [self._rows(i, *pair) for i, pair in enumerate(zip(reference, found, strict=True))]
            total += float(np.mean([row.mean() for row in rows])) * len(rows[0])
            count += len(rows[0])
        return total / max(count, 1)

    def _rows(self, output: int, dense: Array, found: Array) -> NDArray[np.float64]:
        """The divergence of each sample in one output of one run."""
        if dense.shape != found.shape:  # the number of detections depends on data: nothing is left to compare
            return np.ones(max(len(dense), 1) if dense.ndim else 1)
        dense, found = _samples(dense), _samples(found)
        if dense.dtype.kind != "f":
            return np.asarray((dense != found).mean(axis=1, dtype=np.float64))
        if temperature := self.temperatures[output]:
            applied = self.applied[output]
            return _kl(_logits(dense, applied) / temperature, _logits(found, applied) / temperature)
        difference = np.square(_finite(found) - _finite(dense)).sum(axis=1)
        return np.asarray(difference / max(self.scales[output], _LEAST))


def _samples(values: Array) -> Array:
    """One row a sample, of at least one column; numpy does not know brain floats as floats."""
    rows = values.reshape(len(values) if values.ndim else 1, -1)
    known = rows if rows.dtype.kind in "fiubOSU" else rows.astype(np.float32)
    return known if known.size else np.zeros((max(len(known), 1), 1))


def _finite(values: Array) -> NDArray[np.float64]:
    """In double precision; what is not a number says nothing, and counts as zero."""
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=1e30, neginf=-1e30)


def _are_logits(column: Sequence[Array]) -> bool:
    """Whether an output has a row of a number per class for each sample.

    Numbers that all lie between 0 and 1 without adding up to 1 are answers to separate questions.
    """
    if any(values.ndim < 2 or values.size != values.shape[0] * values.shape[1] for values in column):
        return False
    if _samples(column[0]).dtype.kind != "f" or not 2 <= column[0].shape[1] <= _CLASSES:
        return False
    return _are_probabilities(column) or not all(_within_one(values) for values in column)


def _within_one(values: Array) -> bool:
    return bool(np.all((values >= 0) & (values <= 1)))


def _are_probabilities(column: Iterable[Array]) -> bool:
    """Whether a softmax was applied: no number is negative, and those of each sample add up to 1."""
    rows = [_samples(values) for values in column]
    if any(row.dtype.kind != "f" or not _within_one(row) for row in rows):
        return False
    return all(np.allclose(row.sum(axis=1, dtype=np.float64), 1, atol=1e-2) for row in rows)


def _logits(rows: Array, applied: bool) -> NDArray[np.float64]:
    """Numbers whose softmax is the row's distribution: the row, or its logarithm if a softmax was applied to it."""
    finite = _finite(rows)
    return np.asarray(np.log(np.maximum(finite, _LEAST))) if applied else finite


def _temperature(column: Sequence[NDArray[np.float64]]) -> float:
    """The least temperature, from 1 on, at which the mean largest probability is at most 0.8; by bisection."""
    logits = np.concatenate(column)

    def confidence(temperature: float) -> float:
        return float(np.exp(_log_softmax(logits / temperature).max(axis=1)).mean())

    if confidence(1.0) <= _CONFIDENCE:
        return 1.0
    low, high = 1.0, 2.0
    while confidence(high) > _CONFIDENCE and high < 1e6:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if confidence(middle) > _CONFIDENCE else (low, middle)
    return high


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _kl(dense: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of each row; rounding may make it negative, which it is not."""
    reference = _log_softmax(dense)
    divergence = (np.exp(reference) * (reference - _log_softmax(found))).sum(axis=1)
    return np.asarray(np.maximum(divergence, 0.0))


def _scale(column: Sequence[Array]) -> float:
    """Mean squared norm of a sample; zero for what are no floats."""
    rows = [_samples(values) for values in column]
    if any(row.dtype.kind != "f" for row in rows):
        return 0.0
    return float(np.mean([np.square(_finite(row)).sum(axis=1).mean() for row in rows]))

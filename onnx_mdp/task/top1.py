"""Accuracy by labels: the share of inputs whose largest logit is that of their class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_mdp.errors import EvaluationError
from onnx_mdp.inputs.base import Array, Inputs
from onnx_mdp.runtime.base import Runtime

_APART = 3  # one in so many inputs is set aside


@dataclass(frozen=True, eq=False)
class Top1:
    """The share of labelled inputs that a classifier gets right.

    Attributes:
        samples: the inputs, with labels.
        runtime: what models run on.
        held_out: whether nothing is fitted to these inputs.
    """

    samples: Inputs
    runtime: Runtime
    held_out: bool
    metric: str = "top-1"

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return self.samples.count

    def accuracy(self, model: str | bytes) -> float:
        """Top-1 of a model, from 0 to 1.

        Raises:
            EvaluationError: it is no classifier, or not of these classes.
        """
        session = self.runtime.open(model)
        found = np.concatenate([_answers(session.run(feeds), feeds, self._labels) for feeds in self.samples.batches()])
        return float(np.mean(found == self._labels))

    @property
    def _labels(self) -> Array:
        labels = self.samples.labels
        if labels is None:
            raise ValueError("inputs without labels")
        return labels


def set_aside(inputs: Inputs, seed: int) -> tuple[Inputs, Inputs]:
    """The inputs without a third of them, drawn at random, and that third.

    Raises:
        EvaluationError: there are too few.
    """
    batch = inputs.fixed_batch or 1
    count = inputs.count // _APART // batch * batch
    if not count:
        raise EvaluationError(
            f"--max-drop measures accuracy on a third of the labelled --inputs, and {inputs.count} are too few to set "
            f"{batch} aside; give more"
        )
    order = np.random.default_rng(seed).permutation(inputs.count)
    return _chosen(inputs, np.sort(order[count:])), _chosen(inputs, np.sort(order[:count]))


def _chosen(inputs: Inputs, places: Array) -> Inputs:
    return inputs.pick(places).take(0, len(places))


def _answers(outputs: Sequence[Array], feeds: dict[str, Array], labels: Array) -> Array:
    """The class of the largest number, of each sample, in the first output that has a row of them for each."""
    count = len(next(iter(feeds.values())))
    rows = next((values.reshape(count, -1) for values in outputs if _are_logits(values, count)), None)
    if rows is None:
        shown = ", ".join("x".join(map(str, values.shape)) or "one number" for values in outputs)
        raise EvaluationError(
            f"--labels: no output has a number per class for each of {count} inputs, they are {shown}; "
            "give --eval module:function"
        )
    if labels.min() < 0 or labels.max() >= rows.shape[1]:
        raise EvaluationError(
            f"--labels: are {labels.min()} to {labels.max()}, the model has {rows.shape[1]} classes, numbered from 0: "
            "give the labels that it was trained with"
        )
    return np.asarray(np.nan_to_num(rows.astype(np.float64), nan=-np.inf).argmax(axis=1))


def _are_logits(values: Array, count: int) -> bool:
    """Whether an output has one row of several numbers for each sample; axes of size 1 do not count."""
    return (
        values.ndim > 1
        and len(values) == count
        and values.size == count * max(values.shape[1:]) > count
        and values.dtype.kind not in "iubOSU"
    )

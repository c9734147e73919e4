"""How good weights are, on inputs that train none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_mdp.divergence import Divergence
from onnx_mdp.errors import OptionError
from onnx_mdp.inputs.base import Array, Column, Inputs
from onnx_mdp.runtime.base import Feeds

_RUN = 64  # inputs at a time, where the model leaves that free
_FITTED = 256  # inputs that scales and temperatures are taken from


@dataclass(frozen=True)
class Score:
    """How far outputs are from the dense model's, and with labels how accurate they are."""

    divergence: float
    accuracy: float | None = None

    def beats(self, other: Score) -> bool:
        """Whether it is more accurate, or as accurate (or without labels) and less far."""
        return (-(self.accuracy or 0.0), self.divergence) < (-(other.accuracy or 0.0), other.divergence)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Judges models by inputs held out from training.

    Attributes:
        inputs: those inputs.
        dense: what the dense model computes of them, by name.
        divergence: compares outputs; what it was fitted to is not kept.
        classes: the output that labels are classes of; None without labels.
    """

    inputs: Inputs
    dense: Mapping[str, Column]
    divergence: Divergence
    classes: int | None

    @classmethod
    def of(cls, inputs: Inputs, dense: Mapping[str, Column]) -> HeldOut:
        """A judge by these inputs and what the dense model computes of them.

        Raises:
            OptionError: there are labels, and no output has a number for each class.
        """
        places = np.arange(min(inputs.count, _FITTED))
        fitted = Divergence.fit([[column[places] for column in dense.values()]])
        classes = None if inputs.labels is None else _classes(inputs.labels, fitted)
        return cls(inputs, dense, replace(fitted, dense=[]), classes)

    def score(self, run: Callable[[Feeds], Sequence[Array]]) -> Score:
        """The score of what computes the outputs from feeds."""
        total, right, start = 0.0, 0, 0
        for feeds in self.inputs.batches(_RUN):
            places = np.arange(start, start + len(next(iter(feeds.values()))))
            start += len(places)
            reference, found = [column[places] for column in self.dense.values()], run(feeds)
            total += replace(self.divergence, dense=[reference]).divergence([found]) * len(places)
            if self.classes is not None and self.inputs.labels is not None:
                rows = np.nan_to_num(found[self.classes].reshape(len(places), -1), nan=-np.inf)
                right += int((rows.argmax(axis=1) == self.inputs.labels[places]).sum())
        return Score(total / start, None if self.classes is None else right / start)


def _classes(labels: Array, fitted: Divergence) -> int:
    """The first output of logits."""
    found = next((i for i, temperature in enumerate(fitted.temperatures) if temperature), None)
    if found is None:
        raise OptionError("--labels: no output has a number for each class of an input; leave them out")
    classes = fitted.dense[0][found].size // len(fitted.dense[0][found])
    if labels.min() < 0 or labels.max() >= classes:
        raise OptionError(
            f"--labels: are {labels.min()} to {labels.max()}, the model has {classes} classes, numbered from 0: give "
            "the labels that it was trained with"
        )
    return found

"""What training makes small: the distance from the dense model's outputs, and labels' cross-entropy.

* Logits: the Kullback-Leibler divergence from the dense model's distribution, both at a temperature T, times T^2, so
  that gradients are of one size whatever T is (Hinton, Vinyals, Dean: *Distilling the Knowledge in a Neural Network*).
* Any other floats: the squared error over the mean squared norm of the dense output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from onnx_mdp.divergence import Divergence

_LEAST = 1e-30
_SOFT = 2.0  # temperature where the user gives none


@dataclass(frozen=True)
class Loss:
    """The loss of a batch; outputs first, then features.

    Attributes:
        temperatures: of each output, 0 where it is not taken for logits.
        applied: whether a softmax was applied to an output already.
        scales: mean squared norm of a sample of each output.
        classes: the output that labels are classes of; None without labels.
    """

    temperatures: tuple[float, ...]
    applied: tuple[bool, ...]
    scales: tuple[float, ...]
    classes: int | None = None

    @classmethod
    def like(cls, divergence: Divergence, temperature: float | None, classes: int | None) -> Loss:
        """The loss that falls with a divergence."""
        found = (temperature or max(fitted, _SOFT) if fitted else 0.0 for fitted in divergence.temperatures)
        return cls(tuple(found), divergence.applied, divergence.scales, classes)

    def __call__(self, found: Sequence[Tensor], dense: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        """The mean over samples and outputs, features, and labels, added up."""
        count = len(self.scales)
        pairs = [(_rows(a), _rows(b)) for a, b in zip(found, dense, strict=True)]
        total = torch.stack([self._output(i, *pair) for i, pair in enumerate(pairs[:count])]).mean()
        if pairs[count:]:
            total = total + torch.stack([_relative(a, b, b.square().sum(1).mean()) for a, b in pairs[count:]]).mean()
        if labels is not None and self.classes is not None:
            total = total + functional.cross_entropy(self._logits(self.classes, pairs[self.classes][0]), labels)
        return total

    def _output(self, i: int, found: Tensor, dense: Tensor) -> Tensor:
        temperature = self.temperatures[i]
        if not temperature:
            return _relative(found, dense, torch.tensor(self.scales[i]))
        log_found, log_dense = (functional.log_softmax(self._logits(i, v) / temperature, 1) for v in (found, dense))
        return functional.kl_div(log_found, log_dense, reduction="batchmean", log_target=True) * temperature**2

    def _logits(self, i: int, rows: Tensor) -> Tensor:
        return rows.clamp_min(_LEAST).log() if self.applied[i] else rows


def _rows(values: Tensor) -> Tensor:
    """One row a sample, in single precision at least."""
    return (values if values.dtype == torch.float64 else values.float()).flatten(1)


def _relative(found: Tensor, dense: Tensor, scale: Tensor) -> Tensor:
    return (found - dense).square().sum(1).mean() / scale.clamp_min(_LEAST)

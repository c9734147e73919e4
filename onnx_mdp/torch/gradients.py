"""First-order estimates of what each weight is worth: the weight times the gradient of a loss, summed along its axes.

The loss of a batch is the mean over its samples of

* the cross-entropy of the labels, where there are labels and an output has a number per class;
* else the cross-entropy of classes drawn from the model's own predictions: the mean square of its gradient is the
  Fisher information. Saturated logits are first divided by the temperature of `onnx_mdp.divergence`;
* for any other output of floats its product with a vector of standard normal noise over the root of the output's mean
  squared norm, which is to the relative squared error what drawn classes are to the cross-entropy: the Fisher
  information of a Gaussian around the output.

Losses of several outputs are added up. All noise is seeded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from onnx_mdp.divergence import Divergence
from onnx_mdp.torch.module import to_module

Array = NDArray[Any]
Batch = tuple[Mapping[str, Array], Array | None]  # feeds, and labels


@dataclass(frozen=True)
class Products:
    """Weights times their gradients for one batch: the sum along all other axes, by weight and axis."""

    values: Mapping[str, torch.Tensor]

    def along(self, name: str, axis: int) -> NDArray[np.float64] | None:
        """The sum at each position of an axis; None for what is not trained."""
        if name not in self.values:
            return None
        product = self.values[name]
        others = [i for i in range(product.dim()) if i != axis]
        found: NDArray[np.float64] = (product.double().sum(others) if others else product.double()).numpy()
        return found


def products(model: onnx.ModelProto, batches: Iterable[Batch], seed: int = 0) -> Iterator[Products]:
    """The products for each batch, whose samples lie along the first axes."""
    module = to_module(model)
    parameters = dict(module.named_parameters())
    names = {name: parameters[key] for name, key in module.keys.items() if key in parameters}
    noise = torch.Generator().manual_seed(seed)
    for feeds, labels in batches:
        outputs = module({name: torch.from_numpy(np.asarray(value)) for name, value in feeds.items()})
        total = _loss(list(outputs.values()), labels, noise)
        gradients = torch.autograd.grad(total, list(names.values()), allow_unused=True)
        pairs = zip(names.items(), gradients, strict=True)
        yield Products({name: _product(w.detach(), g).cpu() for (name, w), g in pairs if g is not None})


def _product(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """In single precision at least: products of half precision vanish."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return weight.to(dtype) * gradient.to(dtype)


def _loss(outputs: Sequence[torch.Tensor], labels: Array | None, noise: torch.Generator) -> torch.Tensor:
    smooth = [v for v in outputs if v.is_floating_point() and v.requires_grad and v.numel()]
    kinds = Divergence.fit([[v.detach().float().numpy() for v in smooth]])
    found: list[torch.Tensor] = []
    drawn: list[torch.Tensor] = []
    for values, temperature, scale, applied in zip(
        smooth, kinds.temperatures, kinds.scales, kinds.applied, strict=True
    ):
        rows = values.float().reshape(values.shape[0] if values.dim() else 1, -1)
        if not temperature:
            drawn.append((rows * torch.randn(rows.shape, generator=noise)).sum(1).mean() / max(scale, 1e-30) ** 0.5)
            continue
        logits = rows.clamp(min=1e-30).log() if applied else rows
        if labels is not None and labels.max() < rows.shape[1]:
            found.append(torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)))
        logits = logits / temperature
        classes = torch.multinomial(torch.softmax(logits.detach(), 1), 1, generator=noise)[:, 0]
        drawn.append(torch.nn.functional.cross_entropy(logits, classes))
    return torch.stack(found or drawn).sum()

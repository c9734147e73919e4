"""Optimizers, by name.

What AdamW adds to a weight is about the learning rate, however large the weight is. In an exported graph sizes differ
a hundredfold, where a normalization was folded into a convolution that reads bytes, say. One rate for all would destroy
small weights or leave large ones as they are, so a tensor's rate is a share of its root mean square, as in LAMB (You et
al.: *Large Batch Optimization for Deep Learning*), taken once. Vectors, which are biases and scales, all have one rate.
"""

from __future__ import annotations

from typing import Any

import torch

from onnx_mdp.errors import OptionError

_RATES = {"adamw": 0.01, "sgd": 0.01}
_VECTOR = 0.05  # what stands for a vector's root mean square: the usual one of matrices
_LEAST = 1e-3  # a matrix of zeros is trained as well


def make_optimizer(name: str, module: torch.nn.Module, lr: float | None, weight_decay: float) -> Any:
    """An optimizer of a module's parameters; only those along at least two axes decay.

    That leaves out biases and the scales of normalizations, whatever axes of size 1 they have.

    Raises:
        OptionError: there is none of this name.
    """
    if name not in _RATES:
        raise OptionError(f"--optimizer {name}: choose from {', '.join(_RATES)}")
    rate = _RATES[name] if lr is None else lr
    if name == "sgd":
        return torch.optim.SGD(_groups(module, rate, weight_decay, relative=False), momentum=0.9, nesterov=True)
    return torch.optim.AdamW(_groups(module, rate, weight_decay, relative=True))


def _groups(module: torch.nn.Module, rate: float, weight_decay: float, *, relative: bool) -> list[dict[str, Any]]:
    """A group of the optimizer for every learning rate and decay."""
    groups: dict[tuple[float, float], list[torch.Tensor]] = {}
    for parameter in (parameter for parameter in module.parameters() if parameter.requires_grad):
        is_vector = sum(size > 1 for size in parameter.shape) < 2
        size = _VECTOR if is_vector else max(float(parameter.detach().square().mean().sqrt()), _LEAST)
        key = rate * size if relative else rate, 0.0 if is_vector else weight_decay
        groups.setdefault(key, []).append(parameter)
    return [{"params": members, "lr": lr, "weight_decay": decay} for (lr, decay), members in groups.items()]

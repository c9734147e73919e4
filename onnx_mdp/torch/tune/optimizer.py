"""Optimizers, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from onnx_mdp.errors import OptionError

_MAKERS: dict[str, tuple[float, Callable[..., Any]]] = {
    "adamw": (1e-3, torch.optim.AdamW),
    "sgd": (1e-2, lambda groups, **given: torch.optim.SGD(groups, momentum=0.9, nesterov=True, **given)),
}


def make_optimizer(name: str, module: torch.nn.Module, lr: float | None, weight_decay: float) -> Any:
    """An optimizer of a module's parameters; only those along at least two axes decay.

    That leaves out biases and the scales of normalizations, whatever ones are around their only axis.

    Raises:
        OptionError: there is none of this name.
    """
    if name not in _MAKERS:
        raise OptionError(f"--optimizer {name}: choose from {', '.join(_MAKERS)}")
    usual, make = _MAKERS[name]
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decaying = [p for p in trained if sum(size > 1 for size in p.shape) > 1]
    kept = [p for p in trained if sum(size > 1 for size in p.shape) < 2]
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return make([group for group in groups if group["params"]], lr=usual if lr is None else lr)

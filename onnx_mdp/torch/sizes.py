"""The sizes that PyTorch's own layers state beside their parameters, after the parameters were cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from onnx_mdp.errors import PlanError

Kept = Mapping[str, Mapping[int, torch.Tensor]]  # of each parameter's axes that were cut


def check_layer(layer: nn.Module, name: str) -> None:
    """Refuse layers that cannot lose anything.

    Raises:
        PlanError: it is one.
    """
    if isinstance(layer, nn.MultiheadAttention):
        raise PlanError(
            f"{name or 'the module'}: torch.nn.MultiheadAttention cannot lose heads or widths; prune with "
            f"--lock '{name}*', or write the attention out"
        )


def resize(layer: nn.Module, kept: Kept) -> None:
    """Let a layer's sizes follow its parameters."""
    for kind, change in _CHANGES:
        if isinstance(layer, kind):
            change(layer, kept)


def _left(kept: Kept, count: int, whole: int) -> int:
    """How many of `count` equal groups of the first axis are left."""
    axes = kept.get("weight", {})
    if 0 not in axes:
        return count
    return len(torch.unique(torch.div(axes[0], whole // count, rounding_mode="floor")))


def _linear(layer: Any, kept: Kept) -> None:
    layer.out_features, layer.in_features = layer.weight.shape


def _conv(layer: Any, kept: Kept) -> None:
    """Its groups follow where whole groups go; then the weight's second axis is as it was."""
    layer.groups = _left(kept, layer.groups, layer.in_channels if layer.transposed else layer.out_channels)
    first, second = layer.weight.shape[:2]
    sizes = first, second * layer.groups
    layer.in_channels, layer.out_channels = sizes if layer.transposed else sizes[::-1]


def _batch_norm(layer: Any, kept: Kept) -> None:
    layer.num_features = len(next(v for v in (layer.weight, layer.running_mean) if v is not None))


def _group_norm(layer: Any, kept: Kept) -> None:
    layer.num_groups = _left(kept, layer.num_groups, layer.num_channels)
    layer.num_channels = len(layer.weight)


def _layer_norm(layer: Any, kept: Kept) -> None:
    layer.normalized_shape = tuple(layer.weight.shape)


def _embedding(layer: Any, kept: Kept) -> None:
    layer.num_embeddings, layer.embedding_dim = layer.weight.shape


def _prelu(layer: Any, kept: Kept) -> None:
    layer.num_parameters = len(layer.weight)


_CHANGES: tuple[tuple[Any, Callable[[Any, Kept], None]], ...] = (
    (nn.Linear, _linear),
    (nn.modules.conv._ConvNd, _conv),
    (nn.modules.batchnorm._NormBase, _batch_norm),
    (nn.GroupNorm, _group_norm),
    (nn.LayerNorm, _layer_norm),
    (getattr(nn, "RMSNorm", nn.LayerNorm), _layer_norm),  # of PyTorch 2.4
    (nn.Embedding, _embedding),
    (nn.PReLU, _prelu),
)

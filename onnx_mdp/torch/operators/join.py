"""Operators that join tensors, and part them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from onnx_mdp.torch.registry import Call, operator


@operator("Concat", since=4)
def _concat(call: Call, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, call.attr("axis"))


@operator("Split", host=(1,), since=2)
def _split(call: Call, x: Tensor, sizes: Sequence[int] | None = None) -> tuple[Tensor, ...]:
    """Equal parts unless sizes are given; the last one may be smaller."""
    axis = call.attr("axis", 0)
    sizes = call.ints(sizes, "split")
    if sizes is None:
        count = call.attr("num_outputs", len(call.node.outputs))
        part = -(-x.shape[axis] // count)
        sizes = [part] * (count - 1) + [x.shape[axis] - part * (count - 1)]
    return tuple(torch.split(x, list(sizes), axis))

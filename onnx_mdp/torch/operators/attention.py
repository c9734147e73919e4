"""Attention as one operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onnx_mdp.errors import ModelError
from onnx_mdp.torch.registry import Call, operator


@operator("Attention", fixed=(3,))
def _attention(
    call: Call,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Any = None,
    past_k: Any = None,
    past_v: Any = None,
    *more: Any,
) -> Any:
    """Queries by keys, scaled, capped and masked, softmax, by values; keys and values of the past stand before."""
    if more or call.outputs > 3:
        raise ModelError(f"node {call.node.name!r}: lengths and scores of Attention have no form in PyTorch here")
    flat, heads = q.dim() == 3, call.attr("q_num_heads")
    own = call.attr("kv_num_heads")
    if flat:
        q, k, v = _split(q, heads), _split(k, own), _split(v, own)
    if past_k is not None:
        k, v = torch.cat([past_k, k], dim=2), torch.cat([past_v, v], dim=2)
    present = k, v
    repeats = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(repeats, dim=1) if repeats > 1 else t for t in (k, v))
    scores = q @ k.transpose(2, 3) * call.attr("scale", q.shape[-1] ** -0.5)
    past = 0 if past_k is None else past_k.shape[2]
    scores = _masked(call, scores, mask, past)
    unseen = (scores == -torch.inf).all(dim=-1, keepdim=True)  # what sees nothing is zero, as in ONNX Runtime
    y = torch.softmax(scores.masked_fill(unseen, 0.0), dim=-1).masked_fill(unseen, 0.0) @ v
    y = y.transpose(1, 2).flatten(2) if flat else y
    return (y, *present)[: call.outputs]


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _masked(call: Call, scores: Tensor, mask: Tensor | None, past: int) -> Tensor:
    if cap := call.attr("softcap", 0.0):
        scores = cap * torch.tanh(scores / cap)
    if call.attr("is_causal", 0):
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(past + 1)
        scores = scores.masked_fill(later, -torch.inf)
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask

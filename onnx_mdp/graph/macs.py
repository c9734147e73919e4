"""Multiply-accumulate operations of a network: the field's measure of work, beside latency and parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnx_mdp.graph.network import Network, Node

Sizes = Sequence[Any]
"""Dimensions: integers, or whatever else adds up and multiplies."""


def node_macs(network: Network) -> Mapping[int, int]:
    """Multiply-accumulates of each contracting node, by its index; other operators count nothing, as is usual."""
    return {node.index: macs for node in network.nodes if (macs := macs_of(node, network.shapes))}


def macs_of(node: Node, known: Mapping[str, Sizes]) -> Any:
    """Multiply-accumulates of a node by the shapes of tensors; polynomials if the sizes are (see `onnx_mdp.axes`)."""
    count = _COUNTS.get(node.op)
    names = [name for name in (*node.inputs[:2], node.outputs[0]) if name]
    if count is None or not all(name in known for name in names):
        return 0
    shapes = [known[name] for name in names]
    if len(shapes) < 3:
        return _packed_attention(shapes[-1]) if count is _attention else 0
    x, w, y = shapes
    return count(node, x, w, y)


def _conv(node: Node, x: Sizes, w: Sizes, y: Sizes) -> Any:
    return math.prod(y) * math.prod(w[1:])


def _conv_transpose(node: Node, x: Sizes, w: Sizes, y: Sizes) -> Any:
    return math.prod(x) * math.prod(w[1:])


def _matmul(node: Node, x: Sizes, w: Sizes, y: Sizes) -> Any:
    if not x:
        return math.prod(y)
    rows = 0 if node.attributes.get("transBatchA", 0) else max(len(x) - 2, 0)  # where the rows of x stand
    return math.prod(y) * x[rows if node.attributes.get("transA", 0) else -1]


def _einsum(node: Node, x: Sizes, w: Sizes, y: Sizes) -> Any:
    """The product of all letters' sizes; an ellipsis counts through the output."""
    left, _, right = str(node.attributes["equation"]).replace(" ", "").partition("->")
    sizes: dict[str, Any] = {}
    for letters, shape in zip(left.split(","), (x, w), strict=False):
        sizes |= _letter_sizes(letters, shape)
    return math.prod(y) * math.prod(size for letter, size in sizes.items() if letter not in right)


def _letter_sizes(letters: str, shape: Sizes) -> dict[str, Any]:
    before, _, after = letters.partition("...")
    return dict(zip(before, shape, strict=False)) | dict(zip(reversed(after), reversed(shape), strict=False))


def _attention(node: Node, x: Sizes, w: Sizes, y: Sizes) -> Any:
    """Queries times keys, and as much again for the values; what takes a matrix of weights projects all three first."""
    if len(w) > 2:
        return (math.prod(x) + math.prod(y)) * w[-2]
    widths: list[Any] = node.attributes.get("qkv_hidden_sizes") or [w[1] // 3] * 3
    return math.prod(x) * w[1] + math.prod(x[:2]) * x[1] * (widths[0] + widths[2])


def _packed_attention(y: Sizes) -> Any:
    """Queries, keys and values in one tensor have one width."""
    return 2 * math.prod(y) * y[1]


_COUNTS: dict[str, Callable[[Node, Sizes, Sizes, Sizes], Any]] = {
    **dict.fromkeys(("Conv", "FusedConv", "ConvInteger"), _conv),
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(("Gemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulInteger"), _matmul),
    "Einsum": _einsum,
    **dict.fromkeys(("Attention", "GroupQueryAttention", "MultiHeadAttention"), _attention),
}
